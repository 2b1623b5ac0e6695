import pytest
from pydantic import ValidationError

from llm import params
from llm.errors import UserError
from llm.model.config import ModelConfig, ModelParams


@pytest.fixture
def knobs(config):
    return config.model_dump(exclude={"vocab_size", "context_length"})


def test_what_a_configuration_dumps_is_the_same_configuration_again(config):
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_heads_share_the_models_width(config):
    assert config.head_dim * config.n_heads == config.d_model


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"d_model": 61}, "d_model 61 and n_heads 6"),
        ({"d_model": 66}, "66 / 6"),
        ({"n_kv_heads": 4}, "n_heads 6 and n_kv_heads 4"),
        ({"family": "gpt2"}, "model.family: wanted 'qwen3'"),
        ({"n_layers": 0}, "model.n_layers"),
        ({"d_ff": 2.5}, "model.d_ff"),
        ({"rope_theta": 1.0}, "model.rope_theta"),
        ({"norm_eps": 0.0}, "model.norm_eps"),
        ({"norm_eps": float("nan")}, "model.norm_eps"),
        ({"tie_embeddings": 1}, "model.tie_embeddings"),
        ({"dropout": 0.1}, "model.dropout: no such key"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, dict) else "",
)
def test_a_shape_that_does_not_fit_is_refused_and_named(knobs, change, named):
    with pytest.raises(UserError) as caught:
        params.check(ModelParams, knobs | change, "model", "params.yaml")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_knob_is_named(knobs):
    for name in knobs:
        with pytest.raises(UserError, match=rf"model\.{name}: wanted a value"):
            params.check(ModelParams, {key: value for key, value in knobs.items() if key != name}, "model", "x.yaml")


def test_a_configuration_does_not_change(config):
    with pytest.raises(ValidationError, match="frozen"):
        config.d_model = 120
