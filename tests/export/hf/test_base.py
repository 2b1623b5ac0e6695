"""A folder's weights and tokenizer to start from: grown by special tokens, or for pretraining as they are."""

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
from llm.model.weights import save_model
from llm.serve.run import load
from llm.tokens.special import SPECIAL_TOKENS
from llm.tokens.templates import with_bos
from llm.tokens.tokenizer import Tokenizer
from tests.export.hf.changes import write_foreign

TEXTS = ["def walk(path):", "The river runs <|im_end|> 2024 déjà vu"]


@pytest.fixture(scope="session")
def foreign(tmp_path_factory, draw_gpt, small_tokenizer_file) -> Path:
    """Only to be read."""
    return write_foreign(tmp_path_factory.mktemp("foreign"), draw_gpt(tie_embeddings=False), small_tokenizer_file)


N_KNOWN = 315  # of 320 tokens five are special and lacking; the model has 320 rows all the same


def test_missing_tokens_are_appended_with_mean_rows(foreign, tmp_path, capsys):
    file, load = open_base(foreign, tmp_path / "grown.json")
    assert file == tmp_path / "grown.json"
    appended = "appended <|pad|>, <|bos|>, <|eos|>, <|im_start|>, <|im_end|> to its 315 tokens"
    assert capsys.readouterr().err == f"{foreign}: {appended}, with the mean of their rows\n"
    theirs, ours = tokenizers.Tokenizer.from_file(str(foreign / "tokenizer.json")), Tokenizer.load(file)
    theirs.encode_special_tokens = True
    assert ours.special == {"<|endoftext|>": 314} | {
        name: N_KNOWN + number for number, name in enumerate(SPECIAL_TOKENS[1:])
    }
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    assert ours.vocab_size == 320
    before, after = read_folder(foreign), load()
    for old, new in ((before.embedding, after.embedding), (before.head, after.head)):
        assert torch.equal(new.weight[:N_KNOWN], old.weight[:N_KNOWN])
        torch.testing.assert_close(new.weight[N_KNOWN:], old.weight[:N_KNOWN].mean(dim=0).expand(5, -1))


def test_a_folder_with_all_tokens_is_used_unchanged(exported_folder, tmp_path, capsys):
    file, load = open_base(exported_folder, tmp_path / "grown.json")
    assert (file, capsys.readouterr().err) == (exported_folder / "tokenizer.json", "")
    assert not (tmp_path / "grown.json").exists()
    torch.testing.assert_close(load().state_dict(), read_folder(exported_folder).state_dict(), atol=0, rtol=0)
    with pytest.raises(UserError, match="at most the model's 320 tokens, got 321"):
        read_base(exported_folder, 321, 321)


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


@pytest.mark.parametrize("shape", [{}, {"family": "gru"}], ids=str)
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


@pytest.mark.parametrize(
    ("changes", "cut"),
    [
        ({}, {}),
        ({"family": "gpt2", "n_kv_heads": 2}, {"context_length": 20, "rope_theta": 5.0}),
        ({"head_width": 14}, {}),
    ],
    ids=str,
)
@torch.no_grad()
def test_first_weights_are_the_folders_in_any_context(tmp_path, draw_gpt, small_tokenizer_file, changes, cut):
    write_folder(tmp_path, draw_gpt(**changes), small_tokenizer_file)
    base = read_folder(tmp_path)
    shape = base.config.model_copy(update=cut | {"dropout": 0.1, "head_width": None})
    model = read_first_weights(tmp_path, shape, small_tokenizer_file)
    assert model.config == shape.model_copy(update={"head_width": base.config.head_width})
    ids = torch.randint(0, 320, (2, 20), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.eval()(ids), base(ids))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"d_model": 36, "n_layers": 3}, "model.d_model: expected 24, got 36, model.n_layers: expected 2, got 3"),
        ({"positions": "learned"}, "model.positions: expected rope"),
        ({"context_length": 49}, "sample.context_length: expected at most the 48 tokens of"),
    ],
)
def test_another_shape_is_one_line_with_its_keys(exported_folder, changes, sentence):
    shape = read_folder(exported_folder).config.model_copy(update=changes)
    with pytest.raises(UserError) as caught:
        read_first_weights(exported_folder, shape, exported_folder / "tokenizer.json")
    message = str(caught.value)
    assert sentence in message and str(exported_folder) in message and "\n" not in message


def test_another_tokenizer_is_one_line_with_a_remedy(foreign, tmp_path, small_tokenizer_file):
    shape = read_folder(foreign).config
    with pytest.raises(UserError, match=f"{small_tokenizer_file}.*tokenize.pretrained: {foreign}") as caught:
        read_first_weights(foreign, shape, small_tokenizer_file)
    assert "\n" not in str(caught.value)
    read_tokenizer(foreign)[0].save(str(tmp_path / "grown.json"))  # as the stage tokenize does
    assert read_first_weights(foreign, shape, tmp_path / "grown.json").config == shape
