"""Pretraining starts from a folder's weights where shape and tokenizer are the folder's."""

import pytest
import torch

from llm.core.errors import UserError
from llm.export.hf.base import read_first_weights, read_tokenizer
from llm.export.hf.folder import read_folder, write_folder
from llm.model.config import ModelConfig
from tests.export.hf.changes import write_foreign


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
            "model.family: expected qwen3, got llama, model.n_layers: expected 2, got 3",
        ),
        ({"rope_theta": 5.0}, "model.rope_theta: expected 10000.0"),
        ({"positions": "learned"}, "model.positions: expected rope"),
        (
            {"family": "llama", "n_layers": 3, "d_ff": 8, "d_model": 36, "n_heads": 3, "norm_eps": 1.0},
            "and 1 more",
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


def test_another_tokenizer_is_one_line_with_a_remedy(tmp_path, draw_gpt, small_tokenizer_file, shape):
    foreign = write_foreign(tmp_path, draw_gpt(), small_tokenizer_file)
    with pytest.raises(UserError) as caught:
        read_first_weights(foreign, shape, small_tokenizer_file)
    message = str(caught.value)
    assert f"tokenize.pretrained: {foreign}" in message
    assert str(small_tokenizer_file) in message and "\n" not in message
    read_tokenizer(foreign)[0].save(str(tmp_path / "grown.json"))  # as the stage tokenize does
    assert read_first_weights(foreign, shape, tmp_path / "grown.json").config == shape
