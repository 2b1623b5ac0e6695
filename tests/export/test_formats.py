"""An accepted shape and tokenizer can be exported; any other is refused beforehand, with its key."""

import importlib.util
import itertools
from functools import partial
from typing import get_args

import pytest
import tokenizers
from pydantic import ValidationError

from llm.core.errors import UserError
from llm.export.formats import PRE_TOKENIZERS, ExportParams, Format, export_problems, folder_problems
from llm.export.gguf import pre_tokenizer_of, write_gguf
from llm.export.hf.config import ARCHITECTURES
from llm.export.hf.folder import write_folder
from llm.export.hf.supported import FAMILIES
from llm.export.verify import compare_with_transformers
from llm.model.config import ModelConfig, ModelParams
from llm.tokens.bpe import PATTERNS, train_bpe
from llm.tokens.words import train_chars, train_words

TEXTS = ["def walk(path):", "The river runs, the rain falls; 2024 déjà vu."] * 3
TOKENIZERS = {
    pattern: ({"kind": "bpe", "pattern": pattern}, partial(train_bpe, TEXTS, 320, pattern))
    for pattern in ("qwen2", "gpt2", "llama3", "cl100k", r"\w+|\W")
} | {
    "word": ({"kind": "word"}, lambda: train_words(TEXTS, 320, 1, keep_whitespace=True)),
    "char": ({"kind": "char"}, lambda: train_chars(TEXTS, 320, 1)),
}


def _shapes():
    fields = ModelParams.model_fields
    choices = [get_args(fields[key].annotation) for key in ("family", "attention")]
    return itertools.product(*choices, ["none", "sinusoidal", "learned", "rope", None], [1, 2])


def test_a_shape_is_refused_exactly_if_it_cannot_be_written(tmp_path, draw_gpt, small_tokenizer_file, tokenize_params):
    assert set(FAMILIES) == {of.family for of in ARCHITECTURES}
    n_written = 0
    for family, attention, positions, n_kv_heads in _shapes():
        shape = {"family": family, "attention": attention, "positions": positions, "n_kv_heads": n_kv_heads}
        try:
            model = draw_gpt(n_layers=1, **shape)
        except ValidationError:
            continue  # refused by its own section
        problems = export_problems(["gguf-f32"], model.config, tokenize_params())
        assert [problem.startswith("export.formats: gguf-f32: expected model.") for problem in problems] in ([], [True])
        if problems:
            for write in (lambda *of: write_gguf(*of, "gguf-f32"), write_folder):
                with pytest.raises(UserError) as caught:
                    write(tmp_path / "none", model, small_tokenizer_file)
                assert str(caught.value) in problems[0]
            assert not (tmp_path / "none").exists()
        else:
            write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
            write_folder(tmp_path / "folder", model, small_tokenizer_file)
            n_written += 1
    assert n_written > 20


@pytest.mark.parametrize(
    ("family", "kind"),
    [("qwen2", kind) for kind in TOKENIZERS]
    + [(family, kind) for family in ("qwen3", "llama", "gpt2") for kind in ("gpt2", "char")],
)
def test_every_family_is_exported_with_every_tokenizer(tmp_path, draw_gpt, tokenize_params, family, kind):
    """AutoTokenizer's class for a family gives our ids, whatever tokenizer was trained."""
    changes, train = TOKENIZERS[kind]
    library = train()
    library.save(str(tmp_path / "tokenizer.json"))
    model = draw_gpt(n_layers=1, family=family, n_kv_heads=2, vocab_size=library.get_vocab_size())
    write_folder(tmp_path / "folder", model, tmp_path / "tokenizer.json")
    parity = compare_with_transformers(tmp_path / "folder", model, 1, text="".join(TEXTS))
    assert parity.agrees, parity
    problems = export_problems(["gguf-f16"], model.config, tokenize_params(**changes))
    if kind in PRE_TOKENIZERS:
        assert problems == []
        pre_tokenizer_of(library)
    else:
        assert "tokenize." in problems[0] and problems[0].endswith("; or leave the format out")
        with pytest.raises(UserError, match="expected a byte-level BPE"):
            pre_tokenizer_of(library)


def test_a_regular_expression_or_a_given_tokenizer_is_read(tmp_path, small_tokenizer_file, tokenize_params, config):
    for params in {"pattern": PATTERNS["gpt2"]}, {"pretrained": str(small_tokenizer_file)}:
        assert export_problems(["gguf-f16"], config, tokenize_params(**params)) == []
    tokenizer = tokenizers.Tokenizer.from_file(str(small_tokenizer_file))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    params = tokenize_params(pretrained=str(tmp_path / "tokenizer.json"))
    (problem,) = export_problems(["gguf-f16"], config, params)
    assert problem.startswith("export.formats: gguf-f16: tokenize.pretrained: expected a byte-level BPE")


@pytest.mark.parametrize(("package", "format_"), [("gguf", "gguf-f16"), ("onnx", "onnx"), ("onnxscript", "onnx")])
def test_a_missing_package_is_named(monkeypatch, tokenize_params, config, package, format_):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    (problem,) = export_problems([format_], config, tokenize_params())
    assert f"expected the package {package}, it is not installed (make " in problem


def test_onnx_needs_keys_and_values(config, tokenize_params):
    for shape in ({"family": "gru"}, {"attention": "simplified"}, {"attention": "trainable"}):
        changed = ModelConfig(**config.model_dump() | shape | {"positions": "none"})
        (problem,) = export_problems(["onnx"], changed, tokenize_params())
        assert "cache of keys and values" in problem and next(iter(shape.values())) in problem
    assert export_problems(["onnx"], config.model_copy(update={"positions": "none"}), tokenize_params()) == []


def test_a_base_is_checked_before_it_is_finetuned(tmp_path, exported_folder, draw_gpt):
    assert folder_problems(list(get_args(Format)), exported_folder) == []
    train_bpe(TEXTS, 300, "cl100k").save(str(tmp_path / "tokenizer.json"))
    write_folder(tmp_path / "other", draw_gpt(), tmp_path / "tokenizer.json")
    assert folder_problems(["onnx"], tmp_path / "other") == []
    (problem,) = folder_problems(["onnx", "gguf-q8_0"], tmp_path / "other")
    assert problem.startswith("export.formats: gguf-q8_0: expected a byte-level BPE")


def test_a_repeated_format_is_refused():
    with pytest.raises(ValidationError, match="expected each format once, got gguf-f16, gguf-f16"):
        ExportParams(formats=["gguf-f16", "gguf-f16"])
