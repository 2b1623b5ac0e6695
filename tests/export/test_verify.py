"""The check of an export finds what it is there to find."""

from math import nan

import pytest
import torch
from transformers import pipeline

from llm.export.huggingface import read_folder
from llm.export.verify import Parity, compare_with_transformers, count_other_continuations, draw_openings
from llm.model.generate import generate, greedy
from llm.text.tokenizer import Tokenizer


def test_an_export_is_the_model_that_it_was_made_of(exported_folder):
    parity = compare_with_transformers(exported_folder, read_folder(exported_folder), seed=1)
    assert parity.max_logit_difference < 1e-4
    assert parity.texts_with_other_ids == 0
    assert parity.texts > 0
    assert (parity.other_continuations, parity.continuations) == (0, 20)


def test_the_pipeline_that_many_begin_with_writes_what_our_model_writes(exported_folder):
    write = pipeline("text-generation", model=str(exported_folder), dtype=torch.float32)
    (found,) = write("def walk(path):", max_new_tokens=12, do_sample=False)
    tokenizer = Tokenizer.load(exported_folder / "tokenizer.json")
    ends = frozenset({tokenizer.end_of_text})
    ids = list(generate(read_folder(exported_folder), tokenizer.encode("def walk(path):"), 12, greedy, ends))
    shown = [id_ for id_ in ids if id_ not in tokenizer.special.values()]
    assert len(shown) > 5
    assert found["generated_text"] == "def walk(path):" + tokenizer.decode(shown)


def test_a_text_of_ones_own_is_read_too(exported_folder):
    model = read_folder(exported_folder)
    few, more = (compare_with_transformers(exported_folder, model, 1, text) for text in ("", "déjà <|eos|> vu " * 40))
    assert (more.texts, more.texts_with_other_ids) == (few.texts + 1, 0)


@torch.no_grad()
def test_a_continuation_of_another_model_is_noticed(draw_gpt):
    model, other = draw_gpt(), draw_gpt(seed=2)
    openings, n_new = draw_openings(model, torch.Generator().manual_seed(1))
    assert (openings.shape, n_new) == ((20, 4), 32)
    ids = openings
    for _ in range(n_new):
        ids = torch.cat([ids, model(ids)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    new = ids[:, 4:]
    assert count_other_continuations(model, openings, new, 0.0) == 0
    assert count_other_continuations(other, openings, new, 1e-3) == 20
    new[3, -1] = (new[3, -1] + 1) % 320
    assert count_other_continuations(model, openings, new, 1e-3) == 1
    assert count_other_continuations(model, openings, new, 1e3) == 0  # so that all is a tie


def test_one_changed_weight_is_noticed(exported_folder):
    model = read_folder(exported_folder)
    with torch.no_grad():
        model.blocks[1].attention.key.weight[0, 0] += 5
    assert compare_with_transformers(exported_folder, model, seed=1).max_logit_difference > 1e-3


def test_a_tokenizer_that_transformers_reads_otherwise_is_noticed(exported_folder, monkeypatch):
    ours = Tokenizer.load(exported_folder / "tokenizer.json")
    encode = ours.encode
    monkeypatch.setattr(Tokenizer, "load", lambda path: ours)
    monkeypatch.setattr(ours, "encode", lambda text: encode(text.replace("def ", "fed ")))
    assert compare_with_transformers(exported_folder, read_folder(exported_folder), seed=1).texts_with_other_ids == 1


@pytest.mark.parametrize(
    ("difference", "largest", "others", "agrees"),
    [
        (9e-5, 18, (0, 0), True),
        (2e-4, 18, (0, 0), False),
        (2e-4, 60, (0, 0), True),
        (nan, 60, (0, 0), False),
        (1e-5, 18, (1, 0), False),
        (1e-5, 18, (0, 1), False),
    ],
)
def test_what_agrees(difference, largest, others, agrees):
    ids, continuations = others
    assert Parity(difference, largest, ids, 5, continuations, 20).agrees is agrees
