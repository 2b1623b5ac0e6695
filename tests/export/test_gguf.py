"""A GGUF file is the same model for llama.cpp and for us, the same bytes each time, or one line that says why not."""

import json

import gguf as library
import numpy as np
import pytest
import tokenizers
import torch
from pydantic import ValidationError

from llm.core.errors import UserError
from llm.export import gguf, names
from llm.export.gguf import (
    FILES,
    NAMES,
    export_gguf,
    to_gguf,
    write_gguf,
    write_modelfile,
)
from llm.export.llama_cpp import ask
from llm.export.params import ExportParams
from llm.finetune.shared.chat import TEMPLATE, chat_to_verify
from llm.tokens.bpe import train_bpe
from llm.tokens.special import SPECIAL_TOKENS
from llm.tokens.tokenizer import Tokenizer, read_library
from llm.tokens.words import train_chars, train_words

TEXTS = [
    "def walk(path):\n    return [name for name in path if name]\n\nThe river runs, the rain falls; 2024 déjà vu.\n"
]
FAMILIES = {
    "qwen3": {},
    "qwen2": {"family": "qwen2"},
    "llama": {"family": "llama"},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2},
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def _fields(path) -> dict:
    reader = library.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def _types(path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in library.GGUFReader(path).tensors}


def test_whole_words_without_merges_are_found_where_llama_cpp_looks_for_them(
    tmp_path, draw_gpt, tokenizer_of, other_process
):
    def with_word(path):
        content = json.loads(path.read_text())
        content["model"]["ignore_merges"] = True
        vocabulary = content["model"]["vocab"]
        # "zqx" stands for the last token that merges made; nothing makes it any more.
        made = "".join(content["model"]["merges"].pop())
        vocabulary["zqx"] = vocabulary.pop(made)
        path.write_text(json.dumps(content))
        return path

    known = with_word(tokenizer_of("llama3"))
    file = write_gguf(tmp_path, draw_gpt(), known, "gguf-f32")
    answered = other_process.submit(ask, str(file), 1, ["zqx zqx"], [], [], [], 1, 48, 320, 70).result().ids
    assert answered == [[0, *Tokenizer.load(known).encode("zqx zqx")]]
    assert answered[0][1] == 319
    with pytest.raises(UserError, match="wanted merges for each token with the split pattern qwen2"):
        write_gguf(tmp_path, draw_gpt(), with_word(tokenizer_of("qwen2")), "gguf-f16")


# -- what is in the file


@every_family
def test_the_names_are_those_of_the_library(draw_gpt, family):
    model = draw_gpt(**FAMILIES[family], tie_embeddings=False)
    weights = dict(model.named_parameters())
    architecture = {name: number for number, name in library.MODEL_ARCH_NAMES.items()}[family]
    theirs = library.get_tensor_name_map(architecture, model.config.n_layers)
    known = {theirs.get_name(name, try_suffixes=(".weight", ".bias")) for name in names.to_theirs(family, 2, weights)}
    assert set(to_gguf(model.config, weights)) == known
    ours = {name.format(0) for name in NAMES[family].values()}
    assert ours >= {name.rpartition(".")[0] for name in known if "blk.1" not in name}


def test_queries_and_keys_of_llama_are_reordered_and_nothing_else(draw_gpt):
    model = draw_gpt(family="llama", d_model=48, n_heads=6, n_kv_heads=2)
    weights = dict(model.named_parameters())
    of_llama = to_gguf(model.config, weights)
    plain = to_gguf(model.config.model_copy(update={"family": "qwen3"}), weights)
    moved = {name for name in plain if not torch.equal(plain[name], of_llama[name])}
    assert moved == {f"blk.{layer}.attn_{part}.weight" for layer in (0, 1) for part in ("q", "k")}
    key, before = of_llama["blk.0.attn_k.weight"], plain["blk.0.attn_k.weight"]
    assert torch.equal(key[8:16:2], before[8:12])
    assert torch.equal(key[9:16:2], before[12:16])


@every_family
@pytest.mark.parametrize("format_", FILES)
def test_a_second_file_has_the_same_bytes(tmp_path, draw_gpt, small_tokenizer_file, family, format_):
    written = [
        write_gguf(tmp_path / turn, draw_gpt(**FAMILIES[family]), small_tokenizer_file, format_).read_bytes()
        for turn in ("first", "second")
    ]
    assert written[0] == written[1]


def test_the_types_are_those_that_llama_cpp_can_compute_with(tmp_path, draw_gpt, small_tokenizer_file):
    model = draw_gpt(family="gpt2", n_kv_heads=2, d_model=64, d_ff=40)
    for format_, wanted in {"gguf-f32": "F32", "gguf-f16": "F16", "gguf-q8_0": "Q8_0"}.items():
        types = _types(write_gguf(tmp_path, model, small_tokenizer_file, format_))
        assert types["token_embd.weight"] == types["blk.1.attn_qkv.weight"] == wanted
        assert {types["position_embd.weight"], types["output_norm.weight"], types["blk.0.ffn_up.bias"]} == {"F32"}
        # Its rows of 40 are no multiple of 32.
        assert types["blk.0.ffn_down.weight"] == ("F16" if format_ == "gguf-q8_0" else wanted)


def test_the_tokenizer_stands_in_the_file(tmp_path, draw_gpt, small_tokenizer_file):
    tokenizer = Tokenizer.load(small_tokenizer_file)
    fields = _fields(write_gguf(tmp_path, draw_gpt(vocab_size=323), small_tokenizer_file, "gguf-f16"))
    vocabulary = {name: token for token, name in enumerate(fields["tokenizer.ggml.tokens"])}
    assert {name: vocabulary[name] for name in SPECIAL_TOKENS} == tokenizer.special
    assert len(vocabulary) == len(fields["tokenizer.ggml.tokens"]) == 323
    kinds = np.array(fields["tokenizer.ggml.token_type"])
    assert np.flatnonzero(kinds == library.TokenType.CONTROL).tolist() == sorted(tokenizer.special.values())
    assert np.flatnonzero(kinds == library.TokenType.UNUSED).tolist() == [320, 321, 322]
    merges = json.loads(read_library(small_tokenizer_file).to_str())["model"]["merges"]
    assert [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]] == merges
    ids = {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")}
    assert ids == {"bos": tokenizer.end_of_text, "eos": tokenizer.end_of_text, "padding": tokenizer.pad}
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert "tokenizer.chat_template" not in fields


def test_a_chat_template_goes_with_the_end_of_a_message(tmp_path, draw_gpt, small_tokenizer_file):
    fields = _fields(write_gguf(tmp_path, draw_gpt(), small_tokenizer_file, "gguf-f16", chat_template=TEMPLATE))
    assert fields["tokenizer.chat_template"] == TEMPLATE
    assert fields["tokenizer.ggml.eos_token_id"] == Tokenizer.load(small_tokenizer_file).special["<|im_end|>"]


def test_the_modelfile_of_a_text_model_and_of_a_chat_model(tmp_path, draw_gpt, small_tokenizer_file, tokenizer_of):
    config = draw_gpt().config
    write_modelfile(tmp_path, tmp_path / "model-f16.gguf", config, small_tokenizer_file)
    lines = (tmp_path / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model-f16.gguf"
    assert 'TEMPLATE """{{ .Prompt }}"""' in lines
    assert "PARAMETER num_ctx 48" in lines
    assert 'PARAMETER stop "<|endoftext|>"' in lines
    write_modelfile(tmp_path, tmp_path / "model-f16.gguf", config, small_tokenizer_file, chat=True)
    text = (tmp_path / "Modelfile").read_text()
    assert "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}" in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    with pytest.raises(UserError, match="wanted the split pattern qwen2"):
        write_modelfile(tmp_path, tmp_path / "model-f16.gguf", config, tokenizer_of("gpt2"))


# -- what llama.cpp cannot have


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        ({"family": "gru"}, "given gru"),
        ({"attention": "simplified"}, "model.attention .* given simplified"),
        ({"attention": "trainable"}, "model.attention .* given trainable"),
        ({"positions": "learned"}, "model.positions .* given learned"),
        ({"family": "gpt2", "n_kv_heads": 2, "positions": "sinusoidal"}, "model.positions .* given sinusoidal"),
        ({"family": "gpt2"}, "model.n_kv_heads 2 .* given 1"),
    ],
)
def test_a_shape_without_an_architecture_is_one_line_and_no_file(
    tmp_path, draw_gpt, small_tokenizer_file, shape, given
):
    with pytest.raises(UserError, match=given) as caught:
        write_gguf(tmp_path / "folder", draw_gpt(**shape), small_tokenizer_file, "gguf-f16")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("train", "given"),
    [
        (lambda: train_bpe(TEXTS, 320, "cl100k"), "cl100k"),
        (lambda: train_bpe(TEXTS, 320, r"\w+|\W"), "another one"),
        (lambda: train_words(TEXTS, 320, 1, keep_whitespace=True), "another one"),
        (lambda: train_chars(TEXTS, 320, 1), "another one"),
    ],
    ids=["cl100k", "a pattern of one's own", "words", "characters"],
)
def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused(tmp_path, draw_gpt, train, given):
    train().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=rf"export\.formats: gguf-f16: wanted a byte-level BPE .*, given {given}$"):
        export_gguf(tmp_path / "out", draw_gpt(), tmp_path / "tokenizer.json", ["gguf-f16", "gguf-q8_0"], 1)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tokenizer_that_composes_characters_is_written_without_that(
    tmp_path, draw_gpt, small_tokenizer_file, one_process
):
    tokenizer = tokenizers.Tokenizer.from_file(str(small_tokenizer_file))
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = export_gguf(tmp_path / "out", draw_gpt(), tmp_path / "tokenizer.json", ["gguf-f32"], 1)
    assert found["gguf-f32"]["tokenization_mismatches"] == 0


def test_without_llama_cpp_a_file_is_unverified_and_without_gguf_there_is_none(
    tmp_path, draw_gpt, small_tokenizer_file, monkeypatch, capsys
):
    find = gguf.importlib.util.find_spec
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
    found = export_gguf(tmp_path / "out", draw_gpt(), small_tokenizer_file, ["gguf-f16"], 1)
    reason = "wanted the package xllamacpp, it is not installed (make extras)"
    assert found["gguf-f16"]["unverified"] == reason
    assert capsys.readouterr().err == f"export: gguf-f16 unverified: {reason}\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model-f16.gguf", "Modelfile"}
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    with pytest.raises(UserError, match=r"expected the package gguf, it is not installed \(make setup\)"):
        export_gguf(tmp_path / "other", draw_gpt(), small_tokenizer_file, ["gguf-f16"], 1)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_format_that_is_named_twice_or_unknown_is_refused():
    with pytest.raises(ValidationError, match="wanted each of formats once, given gguf-f16, gguf-f16"):
        ExportParams(formats=["gguf-f16", "gguf-f16"])
    with pytest.raises(ValidationError):
        ExportParams(formats=["gguf-q4_0"])
    assert ExportParams(formats=[]).formats == []


# -- all of it


def test_an_export_has_its_files_and_their_figures(tmp_path, draw_gpt, small_tokenizer_file, one_process, capsys):
    found = export_gguf(tmp_path, draw_gpt(), small_tokenizer_file, ["gguf-q8_0", "gguf-f32"], 1)
    assert {path.name for path in tmp_path.iterdir()} == {"model-q8_0.gguf", "model-f32.gguf", "Modelfile"}
    assert (tmp_path / "Modelfile").read_text().startswith("FROM ./model-q8_0.gguf\n")
    assert found["gguf-f32"]["bytes"] == (tmp_path / "model-f32.gguf").stat().st_size
    assert found["gguf-f32"]["max_logprob_difference"] < 1e-4 < found["gguf-q8_0"]["max_logprob_difference"]
    assert capsys.readouterr().err == ""
    assert export_gguf(tmp_path / "again", draw_gpt(), small_tokenizer_file, ["gguf-q8_0", "gguf-f32"], 1) == found


def test_a_format_that_is_no_gguf_is_left_to_others(tmp_path, draw_gpt, small_tokenizer_file, capsys):
    assert export_gguf(tmp_path, draw_gpt(), small_tokenizer_file, ["onnx"], 1) == {}
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_a_file_that_answers_has_its_template(tmp_path, draw_gpt, small_tokenizer_file, one_process):
    chat = chat_to_verify(Tokenizer.load(small_tokenizer_file))
    found = export_gguf(tmp_path, draw_gpt(), small_tokenizer_file, ["gguf-f16"], 1, chat_template=TEMPLATE, chat=chat)
    assert found["gguf-f16"]["tokenization_mismatches"] == 0
    assert _fields(tmp_path / "model-f16.gguf")["tokenizer.chat_template"] == TEMPLATE
    assert "<|im_start|>assistant" in (tmp_path / "Modelfile").read_text()


def test_a_file_that_llama_cpp_reads_otherwise_ends_the_export(
    tmp_path, draw_gpt, small_tokenizer_file, one_process, monkeypatch
):
    monkeypatch.setattr(gguf, "halves_to_pairs", lambda weight, head_dim: weight)
    with pytest.raises(UserError, match=r"formats: gguf-f16: expected the same .* in llama\.cpp .* of at most 0\.001"):
        export_gguf(tmp_path, draw_gpt(family="llama"), small_tokenizer_file, ["gguf-f16"], 1)
    assert list(tmp_path.iterdir()) == []


def test_a_modelfile_that_ollama_would_read_otherwise_is_left_out(tmp_path, draw_gpt, tokenizer_of, one_process):
    found = export_gguf(tmp_path, draw_gpt(), tokenizer_of("gpt2"), ["gguf-f16"], 1)
    assert found["Modelfile"].keys() == {"skipped"}
    assert {path.name for path in tmp_path.iterdir()} == {"model-f16.gguf"}
