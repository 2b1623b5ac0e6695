"""Our names of weights and Transformers', in both directions, for each family."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llm.export.hf.names import TABLES, count_layers, current_names, to_ours, to_theirs

# More than ten layers, so that a number has two digits.
LAYERS = 11


@pytest.fixture(params=TABLES)
def family(request):
    return request.param


@pytest.fixture
def weights(draw_gpt, family):
    shape = {"n_layers": LAYERS, "tie_embeddings": False, "n_kv_heads": 2 if family == "gpt2" else 1}
    return {name: weight.detach() for name, weight in draw_gpt(family=family, **shape).named_parameters()}


def test_names_and_shapes_are_those_of_transformers(weights, family):
    llama = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    llama |= {"num_key_value_heads": 1}
    shared = {"vocab_size": 320, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0}
    gpt2 = {"n_embd": 24, "n_inner": 40, "n_layer": LAYERS, "n_head": 2, "n_positions": 48}
    with torch.device("meta"):
        theirs = {
            "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**llama, **shared, head_dim=12)),
            "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**llama, **shared)),
            "llama": lambda: LlamaForCausalLM(LlamaConfig(**llama, **shared)),
            "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**gpt2, **shared)),
        }[family]()
    ours = to_theirs(family, LAYERS, weights)
    assert {name: tuple(weight.shape) for name, weight in ours.items()} == {
        name: tuple(weight.shape) for name, weight in theirs.named_parameters()
    }


def test_there_and_back_are_the_same_weights(weights, family):
    back = to_ours(family, LAYERS, to_theirs(family, LAYERS, weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())


def test_a_tied_head_is_no_weight_of_its_own(weights, family):
    del weights["head.weight"]
    assert "lm_head.weight" not in to_theirs(family, LAYERS, weights)
    assert to_ours(family, LAYERS, to_theirs(family, LAYERS, weights)).keys() == weights.keys()


def test_gpt2_stacks_query_key_and_value_and_turns_them(draw_gpt):
    model = draw_gpt(family="gpt2", n_kv_heads=2)
    attention = model.blocks[1].attention
    fused = to_theirs("gpt2", 2, dict(model.named_parameters()))["transformer.h.1.attn.c_attn.weight"]
    assert fused.shape == (24, 3 * 24)
    assert torch.equal(fused[:, 24:48], attention.key.weight.T)


@pytest.mark.parametrize(
    "name", ["", "model.layers.0.self_attn.o_proj.bias", "model.layers.11.mlp.up_proj.weight", "embedding.weight"]
)
def test_names_that_are_none_of_theirs_are_a_key_error_that_names_them(family, name):
    with pytest.raises(KeyError) as caught:
        to_ours(family, LAYERS, {name: torch.ones(1)})
    assert caught.value.args == (name,)


@pytest.mark.parametrize(
    "name", ["", "blocks.attention.query.weight", "blocks.11.attention.out.weight", "lm_head.weight"]
)
def test_a_name_that_is_none_of_ours_is_a_key_error(family, name):
    with pytest.raises(KeyError):
        to_theirs(family, LAYERS, {name: torch.ones(1)})


def test_blocks_are_counted_from_the_first_up_to_a_gap(weights, family):
    names = set(to_theirs(family, LAYERS, weights))
    assert count_layers(family, names) == LAYERS
    assert count_layers(family, {name for name in names if ".4." not in name}) == 4
    assert count_layers(family, []) == 0


def test_names_of_today_stay_as_they_are(weights, family):
    names = list(to_theirs(family, LAYERS, weights))
    assert current_names(family, names) == {name: name for name in names}


def test_the_first_release_of_gpt2_lacks_the_prefix_and_keeps_its_masks():
    stored = ["wte.weight", "h.10.attn.bias", "h.10.attn.masked_bias", "h.10.attn.c_attn.bias", "ln_f.bias"]
    assert current_names("gpt2", stored) == {
        "transformer.wte.weight": "wte.weight",
        "transformer.h.10.attn.c_attn.bias": "h.10.attn.c_attn.bias",
        "transformer.ln_f.bias": "ln_f.bias",
    }
    assert current_names("gpt2", ["transformer.wte.weight", "wte.weight", "transformer.h.0.attn.bias"]) == {
        "transformer.wte.weight": "transformer.wte.weight",
        "wte.weight": "wte.weight",
    }


@pytest.mark.parametrize(
    ("name", "is_left_out"),
    [
        ("model.layers.3.self_attn.rotary_emb.inv_freq", True),
        ("model.rotary_emb.inv_freq", True),
        ("model.layers.3.self_attn.q_proj.bias", False),
        ("model.layers.x.self_attn.rotary_emb.inv_freq", False),
    ],
)
def test_frequencies_of_rope_are_no_weights(name, is_left_out):
    assert (current_names("llama", [name]) == {}) == is_left_out
