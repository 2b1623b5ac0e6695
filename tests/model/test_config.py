import pytest
from pydantic import ValidationError

from llm.core import params
from llm.core.errors import UserError
from llm.model.config import ModelConfig, ModelParams


@pytest.fixture
def knobs(config):
    return config.model_dump(exclude={"vocab_size", "context_length"})


def test_a_dumped_configuration_loads_as_the_same(config):
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_head_width_is_dumped_only_where_given(config, knobs):
    assert "head_width" not in config.model_dump_json()
    wide = ModelConfig(**config.model_dump(), head_width=14)
    assert wide.head_dim == 14
    assert ModelConfig.model_validate_json(wide.model_dump_json()) == wide
    with pytest.raises(UserError, match=r"model\.head_width: unknown key"):
        params.check(ModelParams, knobs | {"head_width": 14}, "model", "params.yaml")
    with pytest.raises(ValidationError, match="even"):
        ModelConfig(**config.model_dump(), head_width=15)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"d_model": 61}, "d_model 61 and n_heads 6"),
        ({"d_model": 66}, "66 / 6"),
        ({"n_kv_heads": 4}, "n_heads 6 and n_kv_heads 4"),
        ({"family": "bert"}, "model.family: expected 'qwen3', 'qwen2', 'llama', 'gpt2' or 'gru'"),
        ({"positions": "rope", "family": "gru"}, "got rope with family gru"),
        ({"positions": "sinusoidal", "attention": "causal", "d_model": 61}, "expected an even d_model"),
        ({"attention": "causal", "d_model": 61}, "61 / 1"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"d_ff": 2.5}, "model.d_ff"),
        ({"norm_eps": float("nan")}, "model.norm_eps"),
        ({"tie_embeddings": 1}, "model.tie_embeddings"),
        ({"bias": True}, "model.bias: unknown key"),
    ],
    ids=lambda value: "_".join(f"{key}_{given}" for key, given in value.items()) if isinstance(value, dict) else "",
)
def test_an_invalid_shape_is_one_line_that_names_the_key(knobs, change, named):
    with pytest.raises(UserError) as caught:
        params.check(ModelParams, knobs | change, "model", "params.yaml")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "attention", "positions"),
    [
        ("qwen3", "grouped", "rope"),
        ("qwen2", "grouped", "rope"),
        ("llama", "causal", "rope"),
        ("gpt2", "multi_head", "learned"),
        ("qwen3", "simplified", "none"),
        ("gru", "grouped", "none"),
    ],
)
def test_positions_are_the_familys_own_unless_others_are_given(knobs, family, attention, positions):
    shape = knobs | {"family": family, "attention": attention}
    assert ModelParams(**shape).position_scheme == positions
    assert ModelParams(**shape | {"positions": "learned"}).position_scheme == "learned"
    assert ModelParams(**shape | {"positions": "none"}).position_scheme == "none"


@pytest.mark.parametrize(
    ("attention", "heads"),
    [("simplified", (1, 1)), ("trainable", (1, 1)), ("causal", (1, 1)), ("multi_head", (6, 6)), ("grouped", (6, 3))],
)
def test_the_rung_says_how_many_heads_there_are(knobs, attention, heads):
    shape = ModelParams(**knobs | {"attention": attention})
    assert (shape.n_query_heads, shape.n_key_heads) == heads
    assert shape.head_dim * heads[0] == shape.d_model
    assert shape.is_causal == (attention not in ("simplified", "trainable"))
    assert (shape.non_causal_reason is None) == shape.is_causal


@pytest.mark.parametrize(
    "change", [{"attention": "causal", "n_heads": 7}, {"attention": "multi_head", "n_kv_heads": 4}, {"family": "gru"}]
)
def test_heads_that_are_not_in_use_need_not_fit(knobs, change):
    assert ModelParams(**knobs | change).is_causal
