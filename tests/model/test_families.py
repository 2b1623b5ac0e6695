"""A family is what Transformers means by it: as many weights, and the same logits once they are copied."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llm.export.hf.names import to_theirs
from llm.model.config import ModelConfig

IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def _theirs(config: ModelConfig) -> PreTrainedModel:
    """Transformers' model of the same shape, its configuration written here by hand and not by the export."""
    shared = {"vocab_size": config.vocab_size, "tie_word_embeddings": config.tie_embeddings} | IDS
    if config.family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                **shared,
                n_embd=config.d_model,
                n_inner=config.d_ff,
                n_layer=config.n_layers,
                n_head=config.n_heads,
                n_positions=config.context_length,
                layer_norm_epsilon=config.norm_eps,
                attn_implementation="eager",
            )
        )
    config_class, model_class = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[config.family]
    return model_class(
        config_class(
            **shared,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_query_heads,
            num_key_value_heads=config.n_key_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    )


SHAPES = [
    *({"family": family, "tie_embeddings": tied} for family in ("qwen3", "qwen2", "llama", "gpt2") for tied in (0, 1)),
    {"n_layers": 3, "n_kv_heads": 2, "d_ff": 31, "vocab_size": 53},
    *({"family": family, "head_width": 14} for family in ("qwen3", "qwen2", "llama")),
    {"attention": "causal"},
    {"attention": "multi_head"},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_a_family_has_the_weights_and_logits_of_transformers(draw_gpt, config, shape):
    shape = shape | {"tie_embeddings": bool(shape.get("tie_embeddings"))}
    if shape.get("family") == "gpt2":
        shape |= {"n_kv_heads": config.n_heads}
    config = config.model_copy(update=shape)
    ours, theirs = draw_gpt(**config.model_dump()), _theirs(config).eval()
    assert ours.n_parameters() == theirs.num_parameters()
    found = theirs.load_state_dict(to_theirs(config.family, config.n_layers, ours.state_dict()), strict=False)
    assert set(found.missing_keys) <= ({"lm_head.weight"} if config.tie_embeddings else set())
    assert found.unexpected_keys == []
    theirs.tie_weights()
    ids = torch.randint(config.vocab_size, (3, config.context_length), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-4, rtol=1e-4)
