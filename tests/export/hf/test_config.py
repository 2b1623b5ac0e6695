"""A config.json becomes the shape that it describes, or one line with the key that is not supported."""

from pathlib import Path

import pytest
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from llm.core.errors import UserError
from llm.export.hf.config import BY_NAME, MAX_CONTEXT, architecture_of, read_shape
from llm.export.hf.names import to_theirs
from llm.export.hf.tensors import Stored

PATH = Path("folder/config.json")
LLAMA_KEYS = {"vocab_size": 320, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2} | {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 48,
}
GPT2_KEYS = {"vocab_size": 320, "n_embd": 24, "n_inner": 40, "n_layer": 2, "n_head": 2, "n_positions": 48}
LLAMA, MISTRAL, GPT2 = "LlamaForCausalLM", "MistralForCausalLM", "GPT2LMHeadModel"


@pytest.fixture(scope="session")
def read(draw_gpt):
    """A reader of config.json files, for the tensors of a small model of the architecture."""

    def read_config(architecture: str, drawn: dict | None = None, **changes):
        family = BY_NAME[architecture].family
        content = GPT2_KEYS if family == "gpt2" else LLAMA_KEYS | ({"head_dim": 12} if family == "qwen3" else {})
        content = {"architectures": [architecture]} | content | changes
        model = draw_gpt(family=family, **({"n_kv_heads": 2} if family == "gpt2" else {}) | (drawn or {}))
        tensors = to_theirs(family, model.config.n_layers, dict(model.named_parameters()))
        stored = {name: Stored(PATH, name, tuple(tensor.shape), "F32") for name, tensor in tensors.items()}
        return read_shape(content, stored, PATH)

    return read_config


@pytest.mark.parametrize("theirs", [Qwen3Config, Qwen2Config, LlamaConfig, MistralConfig, GPT2Config])
def test_missing_keys_have_the_defaults_of_transformers(theirs):
    defaults = theirs()
    name = next(name for name in BY_NAME if name.startswith(theirs.__name__.removesuffix("Config")))
    fields = BY_NAME[name].shape.model_fields
    known = {of.alias or name: of.default for name, of in fields.items() if isinstance(of.default, int | float | str)}
    assert len(known) > 4
    assert {key: getattr(defaults, key, value) for key, value in known.items()} == known


@pytest.mark.parametrize(
    ("architecture", "changes", "key", "value"),
    [
        (LLAMA, {"rms_norm_eps": None}, "norm_eps", 1e-6),
        (LLAMA, {"num_key_value_heads": None, "drawn": {"n_kv_heads": 2}}, "n_key_heads", 2),
        (LLAMA, {"rope_theta": 7e4, "rope_parameters": {"rope_theta": 7e4}, "rope_scaling": None}, "rope_theta", 7e4),
        (LLAMA, {"rope_parameters": {"rope_type": None, "rope_theta": None}}, "rope_theta", 10000.0),
        (LLAMA, {"rope_scaling": {"type": "default"}, "hidden_act": "swish", "mlp_bias": None}, "family", "llama"),
        (LLAMA, {"head_dim": 16, "drawn": {"head_width": 16}}, "head_dim", 16),
        (LLAMA, {"sliding_window": 5, "max_window_layers": 1}, "context_length", 48),  # Llama ignores these
        (MISTRAL, {"sliding_window": 48}, "family", "llama"),
        (MISTRAL, {"sliding_window": None}, "rope_theta", 10000.0),
        (GPT2, {"drawn": {"d_ff": 96}, "n_inner": None}, "d_ff", 96),
        (GPT2, {}, "n_key_heads", 2),
    ],
)
def test_keys_are_read_as_in_transformers(read, architecture, changes, key, value):
    assert getattr(read(architecture, **changes), key) == value


REFUSED = [
    (LLAMA, {"hidden_act": "gelu"}, ["hidden_act", "'silu'", "'gelu'"]),
    (LLAMA, {"attention_bias": "yes"}, ["attention_bias", "boolean", "'yes'"]),
    (LLAMA, {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
    (LLAMA, {"quantization_config": {"bits": 4}}, ["quantization_config", "bits"]),
    (LLAMA, {"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types", "sliding"]),
    (LLAMA, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ["rope_scaling.rope_type", "llama3"]),
    (LLAMA, {"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope_scaling.type", "linear"]),
    (LLAMA, {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, ["rope_theta", "10000.0"]),
    (LLAMA, {"hidden_size": {"a\nb\x1b[2J": 1}}, ["hidden_size"]),
    (LLAMA, {"num_hidden_layers": 10**6}, ["num_hidden_layers", "2 as in", str(10**6)]),
    (LLAMA, {"num_attention_heads": 5}, ["num_attention_heads", "24", "5"]),
    (LLAMA, {"head_dim": 16}, ["head_dim", "12", "16"]),
    (LLAMA, {"max_position_embeddings": MAX_CONTEXT + 1}, ["max_position_embeddings", "less than"]),
    (MISTRAL, {"sliding_window": 47}, ["sliding_window", "48", "47"]),
    ("Qwen2ForCausalLM", {"use_sliding_window": True}, ["use_sliding_window", "true"]),
    ("Qwen3ForCausalLM", {"head_dim": None}, ["head_dim", "12", "128"]),  # Transformers takes 128 there
    (GPT2, {"activation_function": "gelu"}, ["activation_function", "gelu_new"]),
]


@pytest.mark.parametrize(("architecture", "changes", "words"), REFUSED, ids=lambda value: "".join(value)[:60])
def test_an_unsupported_key_is_refused_by_its_name(read, architecture, changes, words):
    with pytest.raises(UserError) as caught:
        read(architecture, **changes)
    message = str(caught.value)
    assert message.isprintable()
    assert [word for word in [str(PATH), *words] if word not in message] == []


@pytest.mark.parametrize("names", [None, [], [LLAMA] * 2, [{}], LLAMA])
def test_an_unknown_architecture_is_refused(names):
    with pytest.raises(UserError, match=r"architectures: expected one of Qwen3ForCausalLM, .*GPT2LMHeadModel"):
        architecture_of({"architectures": names}, PATH)
