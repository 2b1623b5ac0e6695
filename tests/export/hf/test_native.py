"""What Transformers has no architecture for is exported in our own words, and comes back as the same model."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.export.hf.base import open_base
from llm.export.hf.folder import FILES, read_folder, write_folder
from llm.export.hf.native import MODEL_TYPE
from llm.export.hf.possible import why_native
from llm.export.params import ExportParams
from llm.finetune.shared.chat import TEMPLATE
from llm.model.weights import save_model
from llm.serve.chat import can_chat
from llm.serve.run import load
from llm.tokens.tokenizer import Tokenizer
from stages.export import main

SHAPES = {
    "a GRU": ({"family": "gru"}, "model.family qwen3, qwen2, llama, gpt2, given gru"),
    "the first rung": ({"attention": "simplified", "dropout": 0.1}, "multi_head or grouped, given simplified"),
    "the second rung": ({"attention": "trainable"}, "model.attention causal, multi_head or grouped, given trainable"),
    "another's positions": ({"positions": "learned"}, "model.positions rope for qwen3, given learned"),
    "waves": ({"positions": "sinusoidal", "tie_embeddings": False}, "rope for qwen3, given sinusoidal"),
    "no positions": (
        {"family": "gpt2", "positions": "none", "n_kv_heads": 2},
        "model.positions learned for gpt2, given none",
    ),
    "shared keys": ({"family": "gpt2"}, "model.n_kv_heads 2 as n_heads for gpt2, given 1"),
}
every_shape = pytest.mark.parametrize(("shape", "reason"), SHAPES.values(), ids=SHAPES.keys())


@pytest.fixture
def folder(tmp_path, draw_gpt, small_tokenizer_file):
    """The export of a GRU."""
    write_folder(tmp_path / "folder", draw_gpt(family="gru"), small_tokenizer_file)
    return tmp_path / "folder"


def change(folder, **keys) -> None:
    """Change keys of the `model` of a config.json."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"model": content["model"] | keys}))


@every_shape
@torch.no_grad()
def test_the_same_model_comes_back(tmp_path, draw_gpt, small_tokenizer_file, shape, reason):
    model = draw_gpt(**shape)
    assert why_native(model.config).endswith(reason)
    write_folder(tmp_path, model, small_tokenizer_file)
    back, ids = read_folder(tmp_path), torch.arange(6, 46)[None]
    assert torch.equal(back(ids), model.eval()(ids))
    assert back.config == model.config.model_copy(update={"dropout": 0.0})
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_what_transformers_knows_is_not_written_in_our_words(draw_gpt, exported_folder):
    assert why_native(draw_gpt().config) is None
    assert why_native(draw_gpt(family="gpt2", n_kv_heads=2).config) is None
    assert json.loads((exported_folder / "config.json").read_text())["model_type"] == "qwen3"


def test_a_folder_that_came_in_goes_out_to_the_same_bytes(tmp_path, folder):
    write_folder(tmp_path / "again", read_folder(folder), folder / "tokenizer.json")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_the_files_say_whose_words_they_are_in(folder):
    content = json.loads((folder / "config.json").read_text())
    assert content["model_type"] == MODEL_TYPE == "groundup"
    assert content["model"]["family"] == "gru"
    with safe_open(folder / "model.safetensors", framework="pt") as opened:
        assert {"blocks.1.recurrence.given.weight", "embedding.weight"} <= set(opened.keys())


def test_its_tokenizer_loads_in_transformers(folder):
    text = "The river <|endoftext|> déjà vu"
    theirs = AutoTokenizer.from_pretrained(folder)
    ids = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert ids == Tokenizer.load(folder / "tokenizer.json").encode(text)


def test_a_chat_template_stands_beside_it(tmp_path, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path, draw_gpt(family="gru"), small_tokenizer_file, chat_template=TEMPLATE)
    assert can_chat(tmp_path)


@every_shape
def test_the_command_line_and_the_server_take_it(tmp_path, draw_gpt, small_tokenizer_file, shape, reason):
    write_folder(tmp_path, draw_gpt(**shape), small_tokenizer_file)
    said = ["generate", "The", "--model", str(tmp_path), "--max-tokens", "3", "--temperature", "0"]
    shown = CliRunner().invoke(app, said, catch_exceptions=False)
    assert shown.exit_code == 0
    assert shown.output.startswith("The")
    assert load(tmp_path)[0].config.d_model == 24


def test_it_is_a_base_that_grows_by_the_tokens_it_lacks(tmp_path, folder):
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace("<|pad|>", "<|fill|>"))
    tokenizer_file, load_base = open_base(folder, tmp_path / "tokenizer.json")
    assert load_base().config.vocab_size == Tokenizer.load(tokenizer_file).vocab_size == 321


def test_the_export_stage_says_that_transformers_was_skipped_and_refuses_what_llama_cpp_cannot_have(
    tmp_path, draw_gpt, small_tokenizer_file, capsys
):
    save_model(tmp_path / "pretrained", draw_gpt(family="gru"))
    out = tmp_path / "export"
    outputs = dict(
        zip(
            ("config", "model", "generation", "tokenizer_copy", "tokenizer_config"),
            map(out.joinpath, FILES),
            strict=True,
        )
    )
    outputs |= {"gguf": out / "gguf", "onnx": out / "onnx", "metrics": tmp_path / "export.json"}
    given = {"weights": tmp_path / "pretrained", "tokenizer": small_tokenizer_file}
    with pytest.raises(UserError, match=r"export\.formats: gguf-f16: wanted a model that Transformers knows: .*gru"):
        main(seed=1, export=ExportParams(formats=["gguf-f16"]), **given, **outputs)
    assert list((out / "gguf").iterdir()) == []
    capsys.readouterr()
    main(seed=1, export=ExportParams(formats=[]), **given, **outputs)
    metrics = json.loads((tmp_path / "export.json").read_text())
    reason = why_native(draw_gpt(family="gru").config)
    assert metrics["transformers"] == {"skipped": reason}
    assert metrics["gguf"] == {}
    assert f"export: Transformers skipped: {reason}\n" in capsys.readouterr().err
    assert read_folder(out).config.family == "gru"


# -- a folder that does not fit


def store(folder, change_weights) -> None:
    weights = load_file(folder / "model.safetensors")
    change_weights(weights)
    save_file(weights, folder / "model.safetensors")


BROKEN = {
    "a knob of nobody": (lambda folder: change(folder, depth=3), ["config.json", "model.depth: no such key"]),
    "another family": (lambda folder: change(folder, family="rwkv"), ["config.json", "model.family"]),
    "more layers": (lambda folder: change(folder, n_layers=10**12), ["model.n_layers: wanted", "config.json"]),
    "more layers than weights": (lambda folder: change(folder, n_layers=3), ["model.n_layers: wanted 2", "given 3"]),
    "more tokens": (lambda folder: change(folder, vocab_size=321), ["weight is (320, 24), wanted (321, 24)"]),
    "a huge one": (lambda folder: change(folder, d_ff=1 << 40), ["model.d_ff: wanted at most 2147483647"]),
    "a huge context": (lambda folder: change(folder, context_length=1 << 30), ["model.context_length", "1048576"]),
    "no shape": (lambda folder: (folder / "config.json").write_text('{"model_type": "groundup"}'), ["architectures"]),
    "a weight too few": (lambda folder: store(folder, lambda weights: weights.pop("norm.weight")), ["norm.weight is"]),
    "a weight too many": (
        lambda folder: store(folder, lambda weights: weights.update(more=torch.ones(2))),
        ["more is no part of GroundupForCausalLM"],
    ),
    "no number": (
        lambda folder: store(folder, lambda weights: weights["norm.weight"].fill_(torch.nan)),
        ["finite weights", "norm.weight"],
    ),
}


@pytest.mark.parametrize(("break_it", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_folder_that_does_not_fit_is_one_line_that_says_why(folder, break_it, words):
    break_it(folder)
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    assert [word for word in words if word not in message] == []
