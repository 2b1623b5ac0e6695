"""Our names of weights and Qwen3's, in both directions."""

import pytest
from transformers import Qwen3Config, Qwen3ForCausalLM

from llm.export.names import to_ours, to_theirs


def test_the_names_of_a_model_are_those_of_transformers_qwen3(draw_gpt):
    ours = draw_gpt(n_layers=11, tie_embeddings=False)
    shape = {"hidden_size": 8, "intermediate_size": 8, "head_dim": 4, "num_attention_heads": 2}
    theirs = Qwen3ForCausalLM(
        Qwen3Config(num_hidden_layers=11, num_key_value_heads=1, vocab_size=8, tie_word_embeddings=False, **shape)
    )
    assert {to_theirs(name) for name, _ in ours.named_parameters()} == set(theirs.state_dict())


def test_there_and_back_is_the_same_name(draw_gpt):
    names = [name for name, _ in draw_gpt(n_layers=11, tie_embeddings=False).named_parameters()]
    assert [to_ours(to_theirs(name)) for name in names] == names


@pytest.mark.parametrize(
    "name", ["", "model.layers.0.self_attn.q_proj.bias", "model.rotary_emb.inv_freq", "embedding.weight"]
)
def test_a_name_that_is_none_of_theirs_is_a_key_error(name):
    with pytest.raises(KeyError):
        to_ours(name)


@pytest.mark.parametrize(
    "name", ["", "blocks.attention.query.weight", "blocks.0.attention.query.bias", "lm_head.weight"]
)
def test_a_name_that_is_none_of_ours_is_a_key_error(name):
    with pytest.raises(KeyError):
        to_theirs(name)
