"""The comparison with Transformers finds a difference of each kind."""

import shutil
from dataclasses import replace
from math import nan

import pytest
import tokenizers
import torch

from llm.export import verify
from llm.export.gguf import FILES
from llm.export.hf.base import open_tokenizer
from llm.export.hf.folder import read_folder
from llm.export.llama_cpp import bounds_of
from llm.export.verify import Generation, Parity, compare_with_transformers, draw_tokens, is_mismatch
from llm.tokens.templates import with_bos


@pytest.mark.parametrize("begin", [None, "<|bos|>"])
def test_a_foreign_folder_is_read_as_in_transformers(tmp_path, exported_folder, begin):
    folder = shutil.copytree(exported_folder, tmp_path / "export")
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.post_processor = None
    (library if begin is None else with_bos(library, begin)).save(str(folder / "tokenizer.json"))
    parity = compare_with_transformers(folder, read_folder(folder), 1, "déjà <|eos|> vu " * 40)
    assert parity.agrees and parity.max_difference < 1e-4 and (parity.texts, parity.continuations) == (11, 25)
    assert open_tokenizer(folder).prompt("") == [0 if begin is None else 2]


@torch.no_grad()
def test_a_continuation_of_another_model_is_found(draw_gpt):
    model, other = draw_gpt(), draw_gpt(seed=2)
    texts, prompts, n_new = draw_tokens(model.config, 1)
    assert (texts.shape, prompts.shape, n_new) == ((4, 48), (20, 4), 32)
    ids = prompts
    for _ in range(n_new):
        ids = torch.cat([ids, model(ids)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    prompt, whole = prompts[0].tolist(), ids[0].tolist()
    assert not is_mismatch(model, Generation(prompt, whole), n_new, 0.0)
    assert is_mismatch(other, Generation(prompt, whole), n_new, 1e-3)
    changed = [*whole[:-1], (whole[-1] + 1) % 320]
    assert is_mismatch(model, Generation(prompt, changed), n_new, 1e-3)
    assert not is_mismatch(model, Generation(prompt, changed), n_new, 1e3)  # so that all is a tie
    # Of another prompt, without a token, too short, and ended too late.
    for other_prompt, text in ([5, *prompt[1:]], whole), (prompt, prompt), (prompt, whole[:-1]):
        assert is_mismatch(model, Generation(other_prompt, text), n_new, 1e3)
    ends = frozenset({whole[9]})
    assert is_mismatch(model, Generation(prompt, whole, ends), n_new, 0.0)
    assert not is_mismatch(model, Generation(prompt, whole[: whole.index(whole[9], 4) + 1], ends), n_new, 0.0)


def test_a_changed_weight_and_other_token_ids_are_found(exported_folder, monkeypatch):
    model, ours = read_folder(exported_folder), open_tokenizer(exported_folder)
    encode = ours.encode
    monkeypatch.setattr(verify, "open_tokenizer", lambda folder: ours)
    monkeypatch.setattr(ours, "encode", lambda text: encode(text.replace("The ", "Teh ")))
    with torch.no_grad():
        model.blocks[1].attention.key.weight[0, 0] += 5
    parity = compare_with_transformers(exported_folder, model, seed=1)
    assert parity.tokenization_mismatches == 1 and parity.generation_mismatches > 1 and parity.max_difference > 1e-3


@pytest.mark.parametrize(
    ("change", "format_", "agrees"),
    [
        ({"max_difference": 0.025}, "gguf-f32", True),  # of a well trained model, whose logits are large
        ({"divergence": 2e-6}, "gguf-f32", False),
        ({"divergence": 2e-3}, "gguf-f16", False),
        ({"divergence": 2e-3}, "gguf-q8_0", True),
        ({"divergence": nan}, "gguf-q8_0", False),
        ({"tokenization_mismatches": 1}, "gguf-q8_0", False),
    ],
)
def test_bounds_decide_on_agreement(change, format_, agrees):
    parity = Parity("llama.cpp", 1e-5, 1e-9, 0, 16, 0, 20, max_divergence=bounds_of("qwen3", FILES[format_]).divergence)
    assert replace(parity, **change).agrees is agrees
