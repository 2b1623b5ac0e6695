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

LAYERS = 11  # so that a number has two digits


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


@pytest.mark.parametrize("tied", [True, False])
def test_round_trip_gives_the_same_weights(weights, family, tied):
    if tied:
        del weights["head.weight"]
    theirs = to_theirs(family, LAYERS, weights)
    assert ("lm_head.weight" in theirs) != tied
    back = to_ours(family, LAYERS, theirs)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())


def test_gpt2_stacks_and_transposes_query_key_and_value(draw_gpt):
    model = draw_gpt(family="gpt2", n_kv_heads=2)
    fused = to_theirs("gpt2", 2, dict(model.named_parameters()))["transformer.h.1.attn.c_attn.weight"]
    assert fused.shape == (24, 3 * 24)
    assert torch.equal(fused[:, 24:48], model.blocks[1].attention.key.weight.T)


def test_blocks_are_counted_up_to_a_gap(weights, family):
    names = list(to_theirs(family, LAYERS, weights))
    assert current_names(family, names) == {name: name for name in names}
    assert count_layers(family, names) == LAYERS
    assert count_layers(family, [name for name in names if ".4." not in name]) == 4
    assert count_layers(family, []) == 0


@pytest.mark.parametrize(
    ("family", "stored", "current"),
    [
        ("gpt2", ["wte.weight", "h.10.attn.bias", "h.10.attn.masked_bias"], {"transformer.wte.weight": "wte.weight"}),
        ("gpt2", ["transformer.wte.weight", "transformer.h.0.attn.bias"], {"transformer.wte.weight": None}),
        ("llama", ["model.layers.3.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"], {}),
        (
            "llama",
            ["model.layers.x.self_attn.rotary_emb.inv_freq"],
            {"model.layers.x.self_attn.rotary_emb.inv_freq": None},
        ),
    ],
)
def test_old_files_lack_a_prefix_and_hold_buffers(family, stored, current):
    assert current_names(family, stored) == {name: in_file or name for name, in_file in current.items()}
