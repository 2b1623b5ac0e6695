"""A folder's weights and tokenizer to start from, grown by the special tokens that it lacks."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
import torch
from transformers import AutoTokenizer
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.export.hf.base import TOKENIZER, open_base, open_model, read_base, read_first_weights, read_tokenizer
from llm.export.hf.folder import read_folder, write_folder
from llm.model.config import ModelConfig
from llm.model.weights import save_model
from llm.serve.run import load
from llm.tokens.special import SPECIAL_TOKENS
from llm.tokens.templates import with_bos
from llm.tokens.tokenizer import Tokenizer

TEXTS = ["def walk(path):", "The river runs <|im_end|> 2024 déjà vu"]


@pytest.fixture(scope="session")
def foreign(tmp_path_factory, draw_gpt, small_tokenizer_file) -> Path:
    """A folder whose tokenizer has one special token, in another place, and puts it before a text. Only to be read."""
    folder = tmp_path_factory.mktemp("foreign")
    content = json.loads(small_tokenizer_file.read_text())
    vocab = {name: token for name, token in content["model"]["vocab"].items() if name not in SPECIAL_TOKENS}
    content["model"]["vocab"] = {name: number for number, name in enumerate(sorted(vocab, key=vocab.__getitem__))}
    end = {"id": len(vocab), "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False}
    content["added_tokens"] = [end | {"normalized": False, "special": True}]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", len(vocab))]
    )
    write_folder(folder, draw_gpt(tie_embeddings=False), small_tokenizer_file)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


N_KNOWN = 315  # of 320 tokens five are special and lacking; the model has 320 rows all the same


def test_missing_tokens_are_appended(foreign, tmp_path, capsys):
    file, load = open_base(foreign, tmp_path / "grown.json")
    assert file == tmp_path / "grown.json"
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "appended <|pad|>, <|bos|>, <|eos|>, <|im_start|>, <|im_end|> to its 315 tokens" in printed
    theirs, ours = tokenizers.Tokenizer.from_file(str(foreign / "tokenizer.json")), Tokenizer.load(file)
    theirs.encode_special_tokens = True
    assert ours.special == {"<|endoftext|>": 314} | {
        name: N_KNOWN + number for number, name in enumerate(SPECIAL_TOKENS[1:])
    }
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    assert load().config.vocab_size == ours.vocab_size == 320


def test_rows_of_new_tokens_are_the_mean_of_the_others(foreign, tmp_path):
    before, after = read_folder(foreign), open_base(foreign, tmp_path / "grown.json")[1]()
    for old, new in ((before.embedding, after.embedding), (before.head, after.head)):
        assert torch.equal(new.weight[:N_KNOWN], old.weight[:N_KNOWN])
        torch.testing.assert_close(new.weight[N_KNOWN:], old.weight[:N_KNOWN].mean(dim=0).expand(5, -1))


def test_a_folder_with_all_tokens_is_used_unchanged(exported_folder, tmp_path, capsys):
    file, load = open_base(exported_folder, tmp_path / "grown.json")
    assert file == exported_folder / "tokenizer.json"
    assert not (tmp_path / "grown.json").exists()
    assert capsys.readouterr().err == ""
    torch.testing.assert_close(load().state_dict(), read_folder(exported_folder).state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("single", "begin"),
    [("<|bos|> $A", "<|bos|>"), ("$A", "<|endoftext|>"), ("<|bos|> <|eos|> $A", "<|endoftext|>"), ("$A <|eos|>", None)],
)
def test_one_token_before_each_text_is_kept(exported_folder, tmp_path, capsys, single, begin):
    folder = shutil.copytree(exported_folder, tmp_path / "base")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, special_tokens=[("<|bos|>", 2), ("<|eos|>", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    file, _ = open_base(folder, tmp_path / "grown.json")
    assert file == tmp_path / "grown.json"
    assert capsys.readouterr().err == ""
    begin = begin or "<|endoftext|>"
    assert Tokenizer.load(file).bos_token == begin
    tokenizer.post_processor = None
    assert file.read_text() == with_bos(tokenizer, begin).to_str(pretty=True)


def test_a_folder_without_our_tokens_generates_unchanged(foreign, tmp_path):
    folder = shutil.copytree(foreign, tmp_path / "base")
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 314]}')
    model, tokenizer = open_model(folder)
    assert model.config.vocab_size == tokenizer.vocab_size == N_KNOWN  # no token that it lacks can be generated
    assert tokenizer.prefix_ids == [314]
    assert tokenizer.eos_ids == {7, 314}
    assert tokenizer.prompt("The") == AutoTokenizer.from_pretrained(folder)("The")["input_ids"]
    shown = CliRunner().invoke(app, ["generate", "The", "--model", str(folder), "--temperature", "0"])
    assert shown.output.startswith("The")


def test_rows_without_a_token_are_dropped(tmp_path, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path, draw_gpt(vocab_size=384), small_tokenizer_file)
    model = open_base(tmp_path, tmp_path / "grown.json")[1]()
    assert model.config.vocab_size == 320
    assert torch.equal(model.embedding.weight, read_folder(tmp_path).embedding.weight[:320])


def test_more_tokens_than_rows_are_refused(exported_folder):
    with pytest.raises(UserError, match="at most the model's 320 tokens, got 321"):
        read_base(exported_folder, 321, 321)


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: "):
        read_tokenizer(tmp_path)


@pytest.fixture
def shape(exported_folder) -> ModelConfig:
    return read_folder(exported_folder).config


@pytest.mark.parametrize("context_length", [48, 20])
@torch.no_grad()
def test_first_weights_are_the_folders_in_any_context(exported_folder, shape, context_length):
    shape = shape.model_copy(update={"context_length": context_length, "dropout": 0.1})
    model = read_first_weights(exported_folder, shape, exported_folder / "tokenizer.json")
    assert model.config == shape
    ids = torch.randint(0, 320, (2, 20), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(ids), read_folder(exported_folder)(ids))


@torch.no_grad()
def test_learned_positions_are_cut_to_a_shorter_context(tmp_path, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path, draw_gpt(family="gpt2", n_kv_heads=2), small_tokenizer_file)
    base = read_folder(tmp_path)
    shape = base.config.model_copy(update={"context_length": 20, "rope_theta": 5.0})  # which turns nothing
    ids = torch.randint(0, 320, (2, 20), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(read_first_weights(tmp_path, shape, small_tokenizer_file)(ids), base(ids))


def test_the_width_of_heads_comes_from_the_folder(tmp_path, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path, draw_gpt(head_width=14), small_tokenizer_file)
    shape = draw_gpt().config
    assert read_first_weights(tmp_path, shape, small_tokenizer_file).config.head_dim == 14


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"d_model": 36}, "model.d_model: expected 24, got 36"),
        (
            {"family": "llama", "n_layers": 3},
            "model.family: expected qwen3, got llama; model.n_layers: expected 2, got 3",
        ),
        ({"norm_eps": 1e-5}, "model.norm_eps: expected 1e-06"),
        ({"rope_theta": 5.0}, "model.rope_theta: expected 10000.0"),
        ({"tie_embeddings": False}, "model.tie_embeddings: expected True"),
        ({"attention": "causal"}, "model.attention: expected grouped"),
        ({"positions": "learned"}, "model.positions: expected rope"),
        (
            {"family": "llama", "n_layers": 3, "d_ff": 8, "d_model": 36, "n_heads": 3, "norm_eps": 1.0},
            "1 more keys differ",
        ),
        ({"context_length": 49}, "sample.context_length: expected at most the 48 tokens of"),
    ],
)
def test_another_shape_is_one_line_with_its_keys(exported_folder, shape, changes, sentence):
    other = shape.model_copy(update=changes)
    with pytest.raises(UserError) as caught:
        read_first_weights(exported_folder, other, exported_folder / "tokenizer.json")
    message = str(caught.value)
    assert sentence in message and str(exported_folder) in message and "\n" not in message


def test_another_tokenizer_is_one_line_with_a_remedy(foreign, exported_folder, shape):
    with pytest.raises(UserError) as caught:
        read_first_weights(foreign, shape, exported_folder / "tokenizer.json")
    message = str(caught.value)
    assert f"tokenize.pretrained: {foreign}" in message
    assert str(exported_folder / "tokenizer.json") in message and "\n" not in message


def test_the_tokenizer_of_tokenize_is_accepted(foreign, tmp_path, shape):
    read_tokenizer(foreign)[0].save(str(tmp_path / "tokenizer.json"))
    shape = shape.model_copy(update={"tie_embeddings": False})
    assert read_first_weights(foreign, shape, tmp_path / "tokenizer.json").config == shape


@pytest.mark.parametrize("shape", [{}, {"family": "gru"}, {"positions": "sinusoidal"}], ids=str)
def test_our_own_weights_are_opened_with_a_tokenizer(tmp_path, draw_gpt, small_tokenizer_file, monkeypatch, shape):
    save_model(tmp_path / "pretrained", draw_gpt(**shape))
    model, tokenizer = open_model(tmp_path / "pretrained", small_tokenizer_file)
    torch.testing.assert_close(model.state_dict(), draw_gpt(**shape).state_dict(), atol=0, rtol=0)
    assert tokenizer.prompt("The") == [0, *Tokenizer.load(small_tokenizer_file).encode("The")]
    arguments = ["generate", "The", "--temperature", "0", "--model", str(tmp_path / "pretrained")]
    assert CliRunner().invoke(app, [*arguments, "--tokenizer", str(small_tokenizer_file)]).output.startswith("The")
    monkeypatch.chdir(tmp_path)
    (tmp_path / TOKENIZER).parent.mkdir(parents=True)
    shutil.copy(small_tokenizer_file, TOKENIZER)
    assert load(tmp_path / "pretrained")[1].prompt("The") == tokenizer.prompt("The")  # as `serve` does


def test_a_folder_without_a_model_is_one_line_with_the_reason(tmp_path):
    (tmp_path / "skipped.json").write_text('{"skipped": "expected model.family qwen3, got gru"}')
    with pytest.raises(UserError, match=r"its stage wrote none: expected model.family qwen3, got gru"):
        open_model(tmp_path)
