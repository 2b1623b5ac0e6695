"""Our names of weights and Transformers', in both directions, for each family."""

import pytest
import torch

from llm.export.hf.names import TABLES, count_layers, to_ours, to_theirs, with_current_names

LAYERS = 11  # so that a number has two digits


@pytest.fixture(params=TABLES)
def family(request):
    return request.param


@pytest.fixture
def weights(draw_gpt, family):
    shape = {"n_layers": LAYERS, "tie_embeddings": False, "n_kv_heads": 2 if family == "gpt2" else 1}
    return {name: weight.detach() for name, weight in draw_gpt(family=family, **shape).named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_round_trip_gives_the_same_weights(weights, family, tied):
    if tied:
        del weights["head.weight"]
    theirs = to_theirs(family, LAYERS, weights)
    assert ("lm_head.weight" in theirs) != tied
    back = to_ours(family, LAYERS, theirs)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())


def test_blocks_are_counted_up_to_a_gap(weights, family):
    names = list(to_theirs(family, LAYERS, weights))
    assert [*with_current_names(family, dict.fromkeys(names))] == names
    assert count_layers(family, names) == LAYERS
    assert count_layers(family, [name for name in names if ".4." not in name]) == 4
    assert count_layers(family, []) == 0


@pytest.mark.parametrize(
    ("family", "stored", "current"),
    [
        (
            "gpt2",
            "wte.weight h.10.attn.bias h.10.attn.masked_bias lm_head.weight",
            "transformer.wte.weight lm_head.weight",
        ),
        ("gpt2", "transformer.wte.weight transformer.h.0.attn.bias", "transformer.wte.weight"),
        ("llama", "model.layers.3.self_attn.rotary_emb.inv_freq model.rotary_emb.inv_freq", ""),
        ("llama", "model.layers.x.self_attn.rotary_emb.inv_freq", "model.layers.x.self_attn.rotary_emb.inv_freq"),
    ],
)
def test_old_files_lack_a_prefix_and_hold_buffers(family, stored, current):
    found = with_current_names(family, {name: name for name in stored.split()})
    assert [*found] == current.split()
    assert all(name.endswith(of) for name, of in found.items())
