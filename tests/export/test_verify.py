"""The check of an export finds what it is there to find."""

from math import nan

import pytest
import torch

from llm.export.huggingface import read_folder
from llm.export.verify import Parity, compare_with_transformers
from llm.text.tokenizer import Tokenizer


def test_an_export_is_the_model_that_it_was_made_of(exported_folder):
    parity = compare_with_transformers(exported_folder, read_folder(exported_folder), seed=1)
    assert parity.max_logit_difference < 1e-4
    assert parity.texts_with_other_ids == 0
    assert parity.texts > 0


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
    [(9e-5, 18, 0, True), (2e-4, 18, 0, False), (2e-4, 60, 0, True), (nan, 60, 0, False), (1e-5, 18, 1, False)],
)
def test_what_agrees(difference, largest, others, agrees):
    assert Parity(difference, largest, others, 5).agrees is agrees
