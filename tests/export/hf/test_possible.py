"""What params accept is exported; what cannot be exported is refused beforehand, with the key that is in the way."""

import importlib.util
import itertools
from typing import get_args

import pytest
import tokenizers
from pydantic import ValidationError

from llm.core.errors import UserError
from llm.export.check import export_problems
from llm.export.gguf import describe_vocabulary, write_gguf
from llm.export.hf import possible
from llm.export.hf.config import FORMATS
from llm.export.hf.folder import write_folder
from llm.export.hf.possible import FAMILIES, PRE_TOKENIZERS, incompatibility_reason
from llm.export.params import Format
from llm.export.verify import compare_with_transformers
from llm.finetune.shared.jobs import formats_problem
from llm.model.config import ModelConfig, ModelParams
from llm.tokens.bpe import PATTERNS, train_bpe
from llm.tokens.words import train_chars, train_words

TEXTS = ["def walk(path):", "The river runs, the rain falls; 2024 déjà vu."] * 3
TOKENIZERS = {
    "qwen2": ({"kind": "bpe", "pattern": "qwen2"}, lambda: train_bpe(TEXTS, 320, "qwen2")),
    "gpt2": ({"kind": "bpe", "pattern": "gpt2"}, lambda: train_bpe(TEXTS, 320, "gpt2")),
    "llama3": ({"kind": "bpe", "pattern": "llama3"}, lambda: train_bpe(TEXTS, 320, "llama3")),
    "cl100k": ({"kind": "bpe", "pattern": "cl100k"}, lambda: train_bpe(TEXTS, 320, "cl100k")),
    "own": ({"kind": "bpe", "pattern": r"\w+|\W"}, lambda: train_bpe(TEXTS, 320, r"\w+|\W")),
    "word": ({"kind": "word"}, lambda: train_words(TEXTS, 320, 1, keep_whitespace=True)),
    "char": ({"kind": "char"}, lambda: train_chars(TEXTS, 320, 1)),
}
ALL = list(get_args(Format))


def _shapes():
    fields = ModelParams.model_fields
    choices = [get_args(fields[key].annotation) for key in ("family", "attention")]
    return itertools.product(*choices, ["none", "sinusoidal", "learned", "rope", None], [1, 2])


def test_the_families_are_those_that_have_a_format():
    assert set(FAMILIES) == set(FORMATS)


def test_a_shape_is_refused_exactly_where_it_cannot_be_written(
    tmp_path, draw_gpt, small_tokenizer_file, tokenize_params
):
    n_written = 0
    for family, attention, positions, n_kv_heads in _shapes():
        shape = {"family": family, "attention": attention, "positions": positions, "n_kv_heads": n_kv_heads}
        try:
            model = draw_gpt(n_layers=1, **shape)
        except ValidationError:
            continue  # refused by its own section
        problems = export_problems(["gguf-f32"], model.config, tokenize_params())
        assert [problem.startswith("export.formats: gguf-f32: ") for problem in problems] in ([], [True])
        if problems:
            with pytest.raises(UserError) as caught:
                write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
            assert str(caught.value) in problems[0]
        else:
            write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
            n_written += 1
        write_folder(tmp_path / "folder", model, small_tokenizer_file)  # every one has a folder
    assert n_written > 20


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_family_is_exported_with_every_tokenizer(tmp_path, draw_gpt, tokenize_params, family, kind):
    """The class that AutoTokenizer takes for a family gives our ids, whatever tokenizer was trained."""
    changes, train = TOKENIZERS[kind]
    library = train()
    library.save(str(tmp_path / "tokenizer.json"))
    model = draw_gpt(n_layers=1, family=family, n_kv_heads=2, vocab_size=library.get_vocab_size())
    write_folder(tmp_path / "folder", model, tmp_path / "tokenizer.json")
    parity = compare_with_transformers(tmp_path / "folder", model, 1, text="".join(TEXTS))
    assert parity.agrees(), parity
    problems = export_problems(["gguf-f16"], model.config, tokenize_params(**changes))
    if kind in PRE_TOKENIZERS:
        assert problems == []
        describe_vocabulary(library)
    else:
        assert "tokenize." in problems[0] and problems[0].endswith("; or leave the format out")
        with pytest.raises(UserError):
            describe_vocabulary(library)


def test_a_pattern_may_be_written_out(tokenize_params, config):
    assert export_problems(["gguf-f16"], config, tokenize_params(pattern=PATTERNS["gpt2"])) == []


def test_a_tokenizer_that_is_brought_along_is_looked_at(tmp_path, small_tokenizer_file, tokenize_params, config):
    params = tokenize_params(**{"from": str(small_tokenizer_file)})
    assert export_problems(["gguf-f16"], config, params) == []
    tokenizer = tokenizers.Tokenizer.from_file(str(small_tokenizer_file))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (problem,) = export_problems(["gguf-f16"], config, tokenize_params(**{"from": str(tmp_path / "tokenizer.json")}))
    assert problem.startswith("export.formats: gguf-f16: tokenize.pretrained: wanted a byte-level BPE")


@pytest.mark.parametrize(("package", "format_"), [("gguf", "gguf-f16"), ("onnx", "onnx"), ("onnxscript", "onnx")])
def test_a_package_that_is_missing_is_told_beforehand(monkeypatch, tokenize_params, config, package, format_):
    find = importlib.util.find_spec
    monkeypatch.setattr(possible.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    (problem,) = export_problems([format_], config, tokenize_params())
    assert f"expected the package {package}, it is not installed (make " in problem


@pytest.mark.parametrize("shape", [{"family": "gru"}, {"attention": "simplified"}, {"attention": "trainable"}])
def test_onnx_wants_keys_and_values(config, shape):
    changed = ModelConfig(**config.model_dump() | shape | {"positions": "none"})
    assert "keeps keys and values" in incompatibility_reason("onnx", changed)
    assert incompatibility_reason("onnx", config.model_copy(update={"positions": "none"})) is None


def test_a_base_is_looked_at_before_it_is_finetuned(tmp_path, exported_folder, draw_gpt, small_tokenizer_file):
    assert formats_problem(exported_folder, ALL) is None
    write_folder(tmp_path / "gru", draw_gpt(family="gru"), small_tokenizer_file)
    assert formats_problem(tmp_path / "gru", []) is None
    assert "export.formats: gguf-f16: wanted a model" in formats_problem(tmp_path / "gru", ["gguf-f16"])
    assert "export.formats: onnx: expected a model that keeps" in formats_problem(tmp_path / "gru", ["onnx"])
    train_bpe(TEXTS, 300, "cl100k").save(str(tmp_path / "tokenizer.json"))
    write_folder(tmp_path / "other", draw_gpt(), tmp_path / "tokenizer.json")
    assert formats_problem(tmp_path / "other", ["onnx"]) is None
    assert "gguf-q8_0: wanted a byte-level BPE" in formats_problem(tmp_path / "other", ["onnx", "gguf-q8_0"])
