"""A config.json becomes the shape that it means, or one line with the key that means something else."""

from pathlib import Path

import pytest
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from llm.core.errors import UserError
from llm.export.hf.config import ARCHITECTURES, FORMATS, LONGEST_CONTEXT, architecture_of, read_shape
from llm.export.hf.names import to_theirs
from llm.export.hf.tensors import Stored

PATH = Path("folder/config.json")
LLAMA = {"vocab_size": 320, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2} | {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 48,
}
GPT2 = {"vocab_size": 320, "n_embd": 24, "n_inner": 40, "n_layer": 2, "n_head": 2, "n_positions": 48}
FAMILY = {"Qwen3ForCausalLM": "qwen3", "Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"} | {
    "MistralForCausalLM": "llama",
    "GPT2LMHeadModel": "gpt2",
}


@pytest.fixture(scope="session")
def read(draw_gpt):
    """A reader of config.json files, for the tensors of a small model of the architecture."""

    def read_config(architecture: str, drawn: dict | None = None, **changes):
        family = FAMILY[architecture]
        content = GPT2 if family == "gpt2" else LLAMA | ({"head_dim": 12} if family == "qwen3" else {})
        content = {"architectures": [architecture]} | content | {"sliding_window": None} | changes
        model = draw_gpt(family=family, **({"n_kv_heads": 2} if family == "gpt2" else {}) | (drawn or {}))
        tensors = to_theirs(family, model.config.n_layers, dict(model.named_parameters()))
        stored = {name: Stored(PATH, tuple(tensor.shape), "F32") for name, tensor in tensors.items()}
        return read_shape(content, stored, PATH)

    return read_config


def test_each_architecture_is_a_family_with_heads_of_its_own(read):
    for architecture, family in FAMILY.items():
        config = read(architecture)
        assert (config.family, config.d_model, config.n_layers, config.head_dim) == (family, 24, 2, 12)
    assert ARCHITECTURES.keys() == FAMILY.keys()


@pytest.mark.parametrize(
    ("theirs", "architecture"),
    [
        (Qwen3Config(), "Qwen3ForCausalLM"),
        (Qwen2Config(), "Qwen2ForCausalLM"),
        (LlamaConfig(), "LlamaForCausalLM"),
        (MistralConfig(), "MistralForCausalLM"),
        (GPT2Config(), "GPT2LMHeadModel"),
    ],
)
def test_what_an_absent_key_means_is_what_transformers_means(theirs, architecture):
    _, format_ = architecture_of({"architectures": [architecture]}, PATH)
    for key, value in (format_.absent | format_.fixed).items():
        if key == "rope_theta":
            assert theirs.rope_parameters["rope_theta"] == value
        else:
            assert getattr(theirs, key, value) == value


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"rms_norm_eps": None}, "norm_eps", 1e-6),
        ({"num_key_value_heads": None, "drawn": {"n_kv_heads": 2}}, "n_key_heads", 2),
        ({"tie_word_embeddings": True}, "tie_embeddings", True),
        ({}, "tie_embeddings", False),
        ({}, "rope_theta", 10000.0),
        ({"rope_theta": 500000}, "rope_theta", 500000.0),
        ({"rope_parameters": {"rope_theta": 7e4, "rope_type": "default"}}, "rope_theta", 7e4),
        ({"rope_theta": 7e4, "rope_parameters": {"rope_theta": 7e4}, "rope_scaling": None}, "rope_theta", 7e4),
        ({"rope_scaling": {"type": "default"}}, "rope_theta", 10000.0),
        ({"rope_parameters": {"rope_type": None, "rope_theta": None}}, "rope_theta", 10000.0),
        ({"hidden_act": "swish", "attention_dropout": 0.5, "use_cache": False, "mlp_bias": None}, "family", "llama"),
        ({"head_dim": 12}, "head_width", None),
        ({"head_dim": 16, "drawn": {"head_width": 16}}, "head_dim", 16),
        ({"sliding_window": 5, "max_window_layers": 1}, "context_length", 48),  # Llama has no such key
    ],
)
def test_keys_of_llama_mean_what_they_mean_in_transformers(read, changes, key, value):
    assert getattr(read("LlamaForCausalLM", **changes), key) == value


@pytest.mark.parametrize("window", [None, 48, 4096])
def test_mistral_with_a_window_of_the_whole_context_is_llama(read, window):
    assert read("MistralForCausalLM", sliding_window=window) == read("LlamaForCausalLM")


def test_gpt2_takes_four_times_its_width_inside_and_ties_its_head(read):
    config = read("GPT2LMHeadModel", drawn={"d_ff": 96}, n_inner=None)
    assert (config.d_ff, config.tie_embeddings, config.n_key_heads) == (96, True, 2)
    assert read("GPT2LMHeadModel", activation_function="gelu_pytorch_tanh").norm_eps == 1e-5


REFUSED = [
    ("LlamaForCausalLM", {"hidden_act": "gelu"}, ["hidden_act", "'silu'", "'gelu'"]),
    ("LlamaForCausalLM", {"attention_bias": "yes"}, ["attention_bias", "false", "'yes'"]),
    ("LlamaForCausalLM", {"mlp_bias": True}, ["mlp_bias"]),
    ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
    ("LlamaForCausalLM", {"quantization_config": {"bits": 4}}, ["quantization_config", "bits"]),
    ("LlamaForCausalLM", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, ["auto_map"]),
    (
        "LlamaForCausalLM",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        ["rope_scaling.rope_type", "llama3"],
    ),
    ("LlamaForCausalLM", {"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope_scaling.type", "linear"]),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "yarn"}}, ["rope_parameters.rope_type", "yarn"]),
    ("LlamaForCausalLM", {"rope_parameters": {"partial_rotary_factor": 0.25}}, ["partial_rotary_factor", "0.25"]),
    ("LlamaForCausalLM", {"rope_parameters": [1]}, ["rope_parameters", "mapping"]),
    ("LlamaForCausalLM", {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, ["rope_theta", "10000.0"]),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_theta": "big"}}, ["rope_theta", "'big'"]),
    ("LlamaForCausalLM", {"hidden_size": None}, ["hidden_size", "missing"]),
    ("LlamaForCausalLM", {"hidden_size": {"a\nb": 1}}, ["hidden_size", "mapping"]),
    ("LlamaForCausalLM", {"hidden_size": 32}, ["hidden_size", "24", "32"]),
    ("LlamaForCausalLM", {"num_hidden_layers": 10**12}, ["num_hidden_layers", "at most", str(10**12)]),
    ("LlamaForCausalLM", {"num_hidden_layers": 10**9}, ["num_hidden_layers", "2 as in", str(10**9)]),
    ("LlamaForCausalLM", {"intermediate_size": 41}, ["intermediate_size", "40", "41"]),
    ("LlamaForCausalLM", {"num_attention_heads": 5}, ["num_attention_heads", "24", "5"]),
    ("LlamaForCausalLM", {"num_attention_heads": 0}, ["num_attention_heads", "0"]),
    ("LlamaForCausalLM", {"num_attention_heads": None}, ["num_attention_heads", "missing"]),
    ("LlamaForCausalLM", {"num_attention_heads": 24}, ["n_heads", "even"]),
    ("LlamaForCausalLM", {"head_dim": 16}, ["head_dim", "12", "16"]),
    ("LlamaForCausalLM", {"num_key_value_heads": 3}, ["n_kv_heads", "3"]),
    ("LlamaForCausalLM", {"max_position_embeddings": LONGEST_CONTEXT + 1}, ["max_position_embeddings", "at most"]),
    ("LlamaForCausalLM", {"rms_norm_eps": 0}, ["norm_eps", "greater than 0"]),
    ("LlamaForCausalLM", {"tie_word_embeddings": "yes"}, ["tie_embeddings", "'yes'"]),
    ("MistralForCausalLM", {"sliding_window": 47}, ["sliding_window", "48", "47"]),
    ("MistralForCausalLM", {"sliding_window": "all"}, ["sliding_window", "'all'"]),
    ("Qwen2ForCausalLM", {"use_sliding_window": True}, ["use_sliding_window", "true"]),
    ("Qwen2ForCausalLM", {"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types", "sliding"]),
    ("Qwen3ForCausalLM", {"attention_bias": True}, ["attention_bias"]),
    ("Qwen3ForCausalLM", {"head_dim": None}, ["head_dim", "12", "128"]),  # Transformers takes 128 there
    ("GPT2LMHeadModel", {"activation_function": "gelu"}, ["activation_function", "gelu_new"]),
    ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx"]),
    ("GPT2LMHeadModel", {"n_positions": 64}, ["n_positions", "48", "64"]),
    ("GPT2LMHeadModel", {"n_inner": None}, ["n_inner", "40", "96"]),
]


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    REFUSED,
    ids=[f"{name}-{[*change]}-{word[-1]}" for name, change, word in REFUSED],
)
def test_what_is_not_computed_here_is_one_line_with_its_key(read, architecture, changes, words):
    with pytest.raises(UserError) as caught:
        read(architecture, **changes)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in [str(PATH), *words] if word not in message] == []


def test_a_window_that_is_not_told_of_is_mistrals_own(read):
    content = {"architectures": ["MistralForCausalLM"]} | LLAMA | {"max_position_embeddings": 8192}
    stored = {"model.embed_tokens.weight": (320, 24), "model.layers.0.mlp.up_proj.weight": (40, 24)} | {
        "model.layers.0.self_attn.q_proj.weight": (24, 24),
        "model.layers.0.input_layernorm.weight": (24,),
        "model.layers.1.input_layernorm.weight": (24,),
    }
    with pytest.raises(UserError, match=r"sliding_window: .* 8192, given 4096"):
        read_shape(content, {name: Stored(PATH, shape, "F32") for name, shape in stored.items()}, PATH)


@pytest.mark.parametrize(
    "given", [None, [], ["LlamaForCausalLM"] * 2, [{}], [["LlamaForCausalLM"]], "LlamaForCausalLM"]
)
def test_an_architecture_that_is_none_of_ours_is_named(given):
    with pytest.raises(UserError, match=r"architectures: wanted one of Qwen3ForCausalLM, .*GPT2LMHeadModel"):
        architecture_of({"architectures": given}, PATH)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"])
@pytest.mark.parametrize("shape", [None, (3,), (1, 2, 3)])
def test_a_tensor_that_says_how_large_things_are_has_to_be_a_matrix(name, shape):
    stored = {key: Stored(PATH, (320, 24), "F32") for key, _ in FORMATS["llama"].sizes.values() if key != name}
    if shape:
        stored[name] = Stored(PATH, shape, "F32")
    with pytest.raises(UserError, match=name):
        read_shape({"architectures": ["LlamaForCausalLM"]} | LLAMA, stored, PATH)
