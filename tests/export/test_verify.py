"""The check of an export finds what it is there to find."""

import shutil
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
import tokenizers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
from typer.testing import CliRunner

from llm.__main__ import app
from llm.export import llama_cpp, verify
from llm.export.gguf import write_gguf
from llm.export.hf.base import open_tokenizer
from llm.export.hf.folder import read_folder, write_folder
from llm.export.hf.possible import FAMILIES
from llm.export.verify import Parity, compare_with_transformers, count_other_continuations, draw_openings
from llm.tokens.templates import with_bos


def test_an_export_is_the_model_that_it_was_made_of(exported_folder):
    parity = compare_with_transformers(exported_folder, read_folder(exported_folder), seed=1)
    assert parity.max_logit_difference < 1e-4
    assert parity.tokenization_mismatches == 0
    assert parity.texts > 0
    assert (parity.generation_mismatches, parity.continuations) == (0, 25)
    assert parity.divergence < 1e-9 and parity.agrees()


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path, draw_gpt, small_tokenizer_file) -> Path:
    """An export of each family."""
    write_folder(tmp_path, draw_gpt(family=request.param, n_kv_heads=2), small_tokenizer_file)
    return tmp_path


@pytest.mark.parametrize("prompt", ["def walk(path):", "The ", ""])
def test_every_client_writes_the_same_greedy_text(folder, prompt, one_process, small_tokenizer_file):
    """`generate`, the card's snippet, the pipeline that many begin with, and llama.cpp, each given the prompt alone."""
    shown = CliRunner().invoke(
        app, ["generate", prompt, "--model", str(folder), "--temperature", "0", "--max-tokens", "12"]
    )
    (theirs,) = pipeline("text-generation", model=str(folder), dtype=torch.float32)(
        prompt, max_new_tokens=12, do_sample=False
    )
    assert shown.output == f"{theirs['generated_text']}\n"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=12)
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == theirs["generated_text"]
    file = write_gguf(folder / "gguf", read_folder(folder), small_tokenizer_file, "gguf-f32")
    answers = llama_cpp._in_own_process(file, [prompt], [], [prompt], [], 12, 48, 320, 70)
    assert answers.ids == [tokenizer(prompt)["input_ids"]] == [[0, *tokenizer.encode(prompt, add_special_tokens=False)]]
    assert prompt + tokenizer.decode(answers.continuations[0], skip_special_tokens=True) == theirs["generated_text"]


@pytest.mark.parametrize("begin", [None, "<|bos|>"])
def test_a_folder_of_others_is_read_as_transformers_reads_it(tmp_path, exported_folder, begin):
    folder = shutil.copytree(exported_folder, tmp_path / "export")
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.post_processor = None
    (library if begin is None else with_bos(library, begin)).save(str(folder / "tokenizer.json"))
    assert open_tokenizer(folder).prefix_ids == ([] if begin is None else [2])
    assert compare_with_transformers(folder, read_folder(folder), seed=1).agrees()
    assert open_tokenizer(folder).prompt("") == [0 if begin is None else 2]


def test_a_text_of_ones_own_is_read_too(exported_folder):
    model = read_folder(exported_folder)
    few, more = (compare_with_transformers(exported_folder, model, 1, text) for text in ("", "déjà <|eos|> vu " * 40))
    assert (more.texts, more.tokenization_mismatches) == (few.texts + 1, 0)


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
    ours = open_tokenizer(exported_folder)
    encode = ours.encode
    monkeypatch.setattr(verify, "open_tokenizer", lambda folder: ours)
    monkeypatch.setattr(ours, "encode", lambda text: encode(text.replace("The ", "Teh ")))
    parity = compare_with_transformers(exported_folder, read_folder(exported_folder), seed=1)
    assert (parity.tokenization_mismatches, parity.generation_mismatches) == (1, 1)


@pytest.mark.parametrize(
    ("change", "agrees"),
    [
        ({}, True),
        # Well trained small models have large logits: it is no other model for that.
        ({"max_logit_difference": 0.025}, True),
        ({"divergence": 2e-6}, False),
        ({"divergence": nan}, False),
        ({"tokenization_mismatches": 1}, False),
        ({"generation_mismatches": 1}, False),
    ],
)
def test_what_agrees(change, agrees):
    assert replace(Parity(1e-5, 1e-9, 0, 5, 0, 20), **change).agrees() is agrees
