"""A GGUF file is the same model for llama.cpp and for us, the same bytes each time, or one line that says why not."""

import json
import multiprocessing
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from math import inf, nan

import gguf as library
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from llm.__main__ import app
from llm.errors import UserError
from llm.export import gguf, names
from llm.export.gguf import (
    FILES,
    NAMES,
    compare_with_llama_cpp,
    export_gguf,
    most_difference,
    to_gguf,
    verify_export,
    write_gguf,
    write_modelfile,
)
from llm.export.params import ExportParams
from llm.finetune.chat import TEMPLATE
from llm.text.bpe import train_bpe
from llm.text.tokenizer import SPECIAL_TOKENS, Tokenizer, read_library
from llm.text.words import train_chars, train_words

TEXTS = [
    "def walk(path):\n    return [name for name in path if name]\n\nThe river runs, the rain falls; 2024 déjà vu.\n"
]
# Head counts, widths and layers that differ from each other, so that a swapped axis cannot pass.
SHAPES = {
    "tied": {},
    "untied": {"tie_embeddings": False},
    "grouped queries": {"d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3, "rope_theta": 500.0},
    "more rows than tokens": {"vocab_size": 333},
    "one wide head": {"attention": "causal"},
    "llama": {"family": "llama"},
    "llama, untied, grouped queries": {
        "family": "llama",
        "d_model": 48,
        "n_heads": 6,
        "n_kv_heads": 2,
        "n_layers": 3,
        "tie_embeddings": False,
    },
    "llama, many heads": {"family": "llama", "attention": "multi_head", "d_model": 30, "n_heads": 3},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2, "n_layers": 3, "norm_eps": 1e-3},
    "gpt2, untied": {"family": "gpt2", "d_model": 30, "n_heads": 3, "n_kv_heads": 3, "tie_embeddings": False},
}
FAMILIES = {"qwen3": {}, "llama": {"family": "llama"}, "gpt2": {"family": "gpt2", "n_kv_heads": 2}}
every_family = pytest.mark.parametrize("family", FAMILIES)
ALPHABET = [
    *"aZé你🙂 \n\r\t1½'-_!ſİא\0",
    "\u0301",
    "\u200d",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x85",
    "\x1c",
    "'LL",
    "<|pad|>",
]


@pytest.fixture(scope="module")
def other_process():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield process


@pytest.fixture
def one_process(other_process, monkeypatch):
    """llama.cpp in a process that the tests share: starting one takes longer than all that it is asked."""
    monkeypatch.setattr(
        gguf, "_in_own_process", lambda file, *asked: other_process.submit(gguf._ask, str(file), 1, *asked).result()
    )


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    """A writer of tokenizer.json files of 320 tokens with other split patterns."""

    def train(pattern: str):
        path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
        train_bpe(TEXTS * 4, 320, pattern).save(str(path))
        return path

    return train


def _fields(path) -> dict:
    reader = library.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def _types(path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in library.GGUFReader(path).tensors}


# -- the same model


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_llama_cpp_computes_the_same_in_float32(tmp_path, draw_gpt, small_tokenizer_file, one_process, shape):
    model, tokenizer = draw_gpt(**shape), Tokenizer.load(small_tokenizer_file)
    file = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
    most = most_difference(model.config.family, "gguf-f32")
    parity = compare_with_llama_cpp(file, model, tokenizer, 1, most)
    assert parity.max_logprob_difference <= most == (5e-3 if model.config.family == "gpt2" else 1e-4)
    assert (parity.texts_with_other_ids, parity.other_continuations) == (0, 0)
    assert parity.texts > 10 and parity.continuations == 20


@every_family
def test_half_the_bits_are_near_and_a_quarter_is_not_far(tmp_path, draw_gpt, small_tokenizer_file, one_process, family):
    model = draw_gpt(**FAMILIES[family], d_ff=64) if family == "gpt2" else draw_gpt(**FAMILIES[family])
    wide = draw_gpt(**FAMILIES[family], d_model=64, d_ff=96)
    tokenizer = Tokenizer.load(small_tokenizer_file)
    half = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f16")
    quarter = write_gguf(tmp_path, wide, small_tokenizer_file, "gguf-q8_0")
    parity = compare_with_llama_cpp(half, model, tokenizer, 1, most_difference(family, "gguf-f16"))
    assert 1e-4 < parity.max_logprob_difference <= 2e-2
    assert (parity.texts_with_other_ids, parity.other_continuations) == (0, 0)
    parity = compare_with_llama_cpp(quarter, wide, tokenizer, 1, most_difference(family, "gguf-q8_0"))
    assert 2e-2 < parity.max_logprob_difference < 1
    assert quarter.stat().st_size < half.stat().st_size * 3


@pytest.mark.parametrize("pattern", ["qwen2", "gpt2", "llama3"])
def test_llama_cpp_splits_drawn_texts_alike(tmp_path, draw_gpt, tokenizer_of, other_process, pattern):
    drawn = random.Random(1)
    texts = ["".join(drawn.choices(ALPHABET, k=drawn.randint(1, 20))) for _ in range(300)]
    texts += ["".join(chr(drawn.randrange(0xE000, 0x110000)) for _ in range(9)) for _ in range(100)]
    texts += ["".join(chr(drawn.randrange(1, 0xD800)) for _ in range(9)) for _ in range(100)]
    path = tokenizer_of(pattern)
    file = write_gguf(tmp_path, draw_gpt(), path, "gguf-f32")
    theirs = other_process.submit(gguf._ask, str(file), 1, texts, [], [], 1, 320, 70).result().ids
    assert theirs == [Tokenizer.load(path).encode(text) for text in texts]


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
    answered = other_process.submit(gguf._ask, str(file), 1, ["zqx zqx"], [], [], 1, 320, 70).result().ids
    assert answered == [Tokenizer.load(known).encode("zqx zqx")]
    assert answered[0][0] == 319
    with pytest.raises(UserError, match="wanted merges for each token with the split pattern qwen2"):
        write_gguf(tmp_path, draw_gpt(), with_word(tokenizer_of("qwen2")), "gguf-f16")


# -- the check finds what it is there to find


def test_one_changed_weight_is_noticed(tmp_path, draw_gpt, small_tokenizer_file, one_process):
    model, tokenizer = draw_gpt(), Tokenizer.load(small_tokenizer_file)
    file = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
    with torch.no_grad():
        model.blocks[1].attention.key.weight[0, 0] += 5
    parity = compare_with_llama_cpp(file, model, tokenizer, 1, 1e-4)
    assert parity.max_logprob_difference > 1e-2
    assert parity.other_continuations > 0
    assert not gguf._agrees(parity, 1e-4)


def test_another_tokenizer_is_noticed(tmp_path, draw_gpt, small_tokenizer_file, tokenizer_of, one_process):
    file = write_gguf(tmp_path, draw_gpt(), small_tokenizer_file, "gguf-f32")
    parity = compare_with_llama_cpp(file, draw_gpt(), Tokenizer.load(tokenizer_of("gpt2")), 1, 1e-4)
    assert 0 < parity.texts_with_other_ids < parity.texts


@pytest.mark.parametrize("answer", ["ends too early", "does not end", "takes another token"])
def test_a_continuation_that_differs_is_noticed(draw_gpt, small_tokenizer_file, monkeypatch, answer):
    model, tokenizer = draw_gpt(), Tokenizer.load(small_tokenizer_file)

    def answered(file, texts, prompts, openings, n_new, vocab_size, letter):
        with torch.no_grad():
            logprobs = [model(torch.tensor([prompt]))[0, -1].double().log_softmax(-1).numpy() for prompt in prompts]
            new = []
            for opening in openings:
                ids = list(opening)
                while len(ids) < len(opening) + n_new and not (len(ids) > len(opening) and ids[-1] in ends):
                    ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
                new.append(ids[len(opening) :])
        full = next(number for number, tokens in enumerate(new) if len(tokens) == n_new)
        match answer:
            case "ends too early":
                new[full] = new[full][:-1]
            case "does not end":
                new[full][3] = tokenizer.end_of_text
            case "takes another token":
                new[full][-1] = (new[full][-1] + 1) % vocab_size
        return gguf._Answers([tokenizer.encode(text) for text in texts], logprobs, new)

    ends = {tokenizer.special[name] for name in ("<|endoftext|>", "<|im_end|>")}
    monkeypatch.setattr(gguf, "_in_own_process", answered)
    parity = compare_with_llama_cpp(None, model, tokenizer, 1, 1e-4)
    assert (parity.max_logprob_difference, parity.texts_with_other_ids, parity.other_continuations) == (0, 0, 1)


def test_a_model_that_ends_its_texts_ends_them_in_llama_cpp(tmp_path, draw_gpt, small_tokenizer_file, one_process):
    model, tokenizer = draw_gpt(tie_embeddings=False), Tokenizer.load(small_tokenizer_file)
    with torch.no_grad():
        model.head.weight[tokenizer.end_of_text] = 3 * model.head.weight[[7, 8, 9]].mean(dim=0)
    file = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
    openings = [[token] for token in range(6, 60)]
    answers = gguf._in_own_process(file, [], [], openings, 30, 320, 70)
    assert any(len(new) < 30 and new[-1] == tokenizer.end_of_text for new in answers.continuations)
    assert compare_with_llama_cpp(file, model, tokenizer, 1, 1e-4).other_continuations == 0


SAME = gguf.LlamaCppParity(1e-5, 0, 16, 0, 20)


@pytest.mark.parametrize(
    ("change", "most", "agrees"),
    [
        ({}, 1e-4, True),
        ({"max_logprob_difference": 2e-4}, 1e-4, False),
        ({"max_logprob_difference": nan}, inf, False),
        ({"max_logprob_difference": inf}, inf, False),
        ({"texts_with_other_ids": 1}, inf, False),
        ({"other_continuations": 1}, 1e-4, False),
        ({"other_continuations": 1, "max_logprob_difference": 0.3}, inf, True),
    ],
)
def test_what_agrees(change, most, agrees):
    assert gguf._agrees(replace(SAME, **change), most) is agrees


# -- a file that llama.cpp cannot read


@pytest.mark.parametrize("size", [40, -100])
def test_a_file_that_was_cut_is_one_line(tmp_path, draw_gpt, small_tokenizer_file, one_process, monkeypatch, size):
    file = write_gguf(tmp_path, draw_gpt(), small_tokenizer_file, "gguf-f32")
    file.write_bytes(file.read_bytes()[:size])
    monkeypatch.undo()  # in a process of its own
    with pytest.raises(UserError, match="wanted a file that llama") as caught:
        compare_with_llama_cpp(file, draw_gpt(), Tokenizer.load(small_tokenizer_file), 1, 1e-4)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("model-f32.gguf: ")


def test_a_file_that_aborts_the_process_is_one_line(tmp_path, draw_gpt, small_tokenizer_file, monkeypatch):
    monkeypatch.setattr(gguf, "_kind", lambda name, weight, format_: "F16")  # norms too
    file = write_gguf(tmp_path, draw_gpt(), small_tokenizer_file, "gguf-f16")
    with pytest.raises(UserError, match=r"wanted a file that llama.cpp loads, .*terminated abruptly"):
        compare_with_llama_cpp(file, draw_gpt(), Tokenizer.load(small_tokenizer_file), 1, 1e-4)


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
    assert fields["tokenizer.ggml.add_bos_token"] is False
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
        ({"attention": "simplified"}, "attention simplified"),
        ({"attention": "trainable"}, "attention trainable"),
        ({"positions": "learned"}, "positions learned"),
        ({"family": "gpt2", "n_kv_heads": 2, "positions": "sinusoidal"}, "positions sinusoidal"),
        ({"family": "gpt2"}, "n_kv_heads 1"),
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
        (lambda: train_words(TEXTS, 320, 1, whitespace="keep"), "another one"),
        (lambda: train_chars(TEXTS, 320, 1), "another one"),
    ],
    ids=["cl100k", "a pattern of one's own", "words", "characters"],
)
def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_skipped(tmp_path, draw_gpt, capsys, train, given):
    train().save(str(tmp_path / "tokenizer.json"))
    found = export_gguf(tmp_path / "out", draw_gpt(), tmp_path / "tokenizer.json", ["gguf-f16", "gguf-q8_0"], 1)
    assert list(found) == ["gguf-f16", "gguf-q8_0"]
    assert all(list(about) == ["skipped"] and about["skipped"].endswith(f"given {given}") for about in found.values())
    assert list((tmp_path / "out").iterdir()) == []
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["export", f"{format_} skipped"] for format_ in found]


@pytest.mark.parametrize(
    ("missing", "state", "target"), [("gguf", "skipped", "setup"), ("xllamacpp", "unverified", "extras")]
)
def test_a_library_that_is_missing_is_one_line(
    tmp_path, draw_gpt, small_tokenizer_file, monkeypatch, capsys, missing, state, target
):
    find = gguf.importlib.util.find_spec
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    found = export_gguf(tmp_path, draw_gpt(), small_tokenizer_file, ["gguf-f16"], 1)
    assert found["gguf-f16"][state] == f"wanted the package {missing}, it is not installed (make {target})"
    assert capsys.readouterr().err == f"export: gguf-f16 {state}: {found['gguf-f16'][state]}\n"
    assert (tmp_path / "model-f16.gguf").exists() == (state == "unverified")
    assert (tmp_path / "Modelfile").exists() == (state == "unverified")


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


def test_a_file_that_llama_cpp_reads_otherwise_is_left_out(
    tmp_path, draw_gpt, small_tokenizer_file, one_process, monkeypatch
):
    monkeypatch.setattr(gguf, "halves_to_pairs", lambda weight, head_dim: weight)
    found = export_gguf(tmp_path, draw_gpt(family="llama"), small_tokenizer_file, ["gguf-f16"], 1)
    assert found["gguf-f16"]["skipped"].startswith("wanted log-probabilities within 0.02 of ours")
    assert list(tmp_path.iterdir()) == []


def test_a_modelfile_that_ollama_would_read_otherwise_is_left_out(tmp_path, draw_gpt, tokenizer_of, one_process):
    found = export_gguf(tmp_path, draw_gpt(), tokenizer_of("gpt2"), ["gguf-f16"], 1)
    assert found["Modelfile"].keys() == {"skipped"}
    assert {path.name for path in tmp_path.iterdir()} == {"model-f16.gguf"}


@pytest.fixture
def folder(tmp_path, exported_folder, draw_gpt, small_tokenizer_file):
    """An export with two GGUF files."""
    shutil.copytree(exported_folder, tmp_path / "export")
    for format_ in ("gguf-f32", "gguf-q8_0"):
        write_gguf(tmp_path / "export/gguf", draw_gpt(), small_tokenizer_file, format_)
    return tmp_path / "export"


def test_verify_export_shows_every_file_and_no_fault(folder, one_process):
    shown = CliRunner().invoke(app, ["verify-export", str(folder)], catch_exceptions=False)
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["model.safetensors", "Transformers"],
        ["model-f32.gguf", "llama.cpp"],
        ["model-q8_0.gguf", "llama.cpp"],
    ]
    assert lines[2].split()[4] == "0.0001" and lines[3].split()[4] == "–"
    assert lines[2].endswith("0 of 20")


def test_verify_export_names_the_file_of_another_model(folder, draw_gpt, small_tokenizer_file, one_process):
    write_gguf(folder / "gguf", draw_gpt(seed=2), small_tokenizer_file, "gguf-f32")
    table, wrong = verify_export(folder, 1)
    assert wrong == ["model-f32.gguf"]
    assert len(table.splitlines()) == 4
    shown = CliRunner().invoke(app, ["verify-export", str(folder)])
    assert isinstance(shown.exception, UserError)
    assert str(shown.exception).endswith("model-f32.gguf is not within it")
