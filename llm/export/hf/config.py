"""What Transformers calls each family and its knobs, and which of its config.json files are a model of ours.

    {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, …}  +  shapes of the tensors  →  ModelConfig

A key that means something that is not computed here is refused by its name; all others are passed over. Sizes are
held to the file's own tensors before any memory is taken for them.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import tokenizers

from llm.core import params
from llm.core.errors import UserError
from llm.export.hf.names import count_layers
from llm.export.hf.tensors import Stored, listed
from llm.model.config import ModelConfig
from llm.tokens.bpe import PATTERNS


@dataclass(frozen=True)
class Format:
    """What Transformers calls a family and its knobs."""

    language_model: str
    classifier: str
    keys: dict[str, str]  # ours → theirs
    # What else in config.json decides the logits, with the one value that is computed here.
    fixed: dict[str, Any]
    # What Transformers takes for a key that is not there, where that is a number or a truth of its own.
    absent: dict[str, Any]
    # Where the tensors say how large something is: ours → a tensor's name and axis.
    sizes: dict[str, tuple[str, int]]
    # As `fixed`, but not written.
    refused: dict[str, Any] = field(default_factory=dict)


_LLAMA_KEYS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "context_length": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "tie_embeddings": "tie_word_embeddings",
}
_GPT2_KEYS = {
    "vocab_size": "vocab_size",
    "d_model": "n_embd",
    "d_ff": "n_inner",
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "context_length": "n_positions",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
_LLAMA_ABSENT = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 10000.0}
_LLAMA_SIZES = {
    "vocab_size": ("model.embed_tokens.weight", 0),
    "d_model": ("model.embed_tokens.weight", 1),
    "d_ff": ("model.layers.0.mlp.up_proj.weight", 0),
}
_QUERIES = "model.layers.0.self_attn.q_proj.weight"
# A model that comes with code of its own, or whose weights are packed.
_OTHERS = {"auto_map": None, "quantization_config": None}
_PARTIAL = _OTHERS | {"partial_rotary_factor": 1.0}
_SILU = {"hidden_act": "silu", "attention_bias": False}
FORMATS = {
    "qwen3": Format(
        "Qwen3ForCausalLM",
        "Qwen3ForSequenceClassification",
        _LLAMA_KEYS,
        _SILU | {"use_sliding_window": False},
        _LLAMA_ABSENT | {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128},
        _LLAMA_SIZES,
        _PARTIAL,
    ),
    "qwen2": Format(
        "Qwen2ForCausalLM",
        "Qwen2ForSequenceClassification",
        _LLAMA_KEYS,
        {"hidden_act": "silu", "use_sliding_window": False},
        _LLAMA_ABSENT | {"num_key_value_heads": 32, "max_position_embeddings": 32768},
        _LLAMA_SIZES,
        _PARTIAL,
    ),
    "llama": Format(
        "LlamaForCausalLM",
        "LlamaForSequenceClassification",
        _LLAMA_KEYS,
        _SILU | {"mlp_bias": False},
        _LLAMA_ABSENT | {"max_position_embeddings": 2048},
        _LLAMA_SIZES,
        _PARTIAL,
    ),
    "gpt2": Format(
        "GPT2LMHeadModel",
        "GPT2ForSequenceClassification",
        _GPT2_KEYS,
        {
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
        {
            "vocab_size": ("transformer.wte.weight", 0),
            "d_model": ("transformer.wte.weight", 1),
            "context_length": ("transformer.wpe.weight", 0),
            "d_ff": ("transformer.h.0.mlp.c_fc.weight", 1),
        },
        _OTHERS,
    ),
}
# Qwen2 under another name. With the type qwen2 Transformers 5 composes characters (NFC) and splits by Qwen2's pattern,
# whatever tokenizer.json says; with this one it reads the file. Llama has biases on all four projections of attention,
# so the fourth one's are zero.
BIASED_LLAMA = replace(FORMATS["llama"], fixed={"hidden_act": "silu", "attention_bias": True, "mlp_bias": False})
ZERO_BIAS = "model.layers.{}.self_attn.o_proj.bias"
# Over a window that is no shorter than the context, Mistral is Llama.
_MISTRAL = Format(
    "MistralForCausalLM",
    "MistralForSequenceClassification",
    _LLAMA_KEYS,
    {"hidden_act": "silu"},
    _LLAMA_ABSENT | {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    _LLAMA_SIZES,
    _PARTIAL,
)
ARCHITECTURES = {format_.language_model: (family, format_) for family, format_ in FORMATS.items()} | {
    _MISTRAL.language_model: ("llama", _MISTRAL)
}
# Two names of one function.
_SAME = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new"}
# A context is no size of a tensor where positions are turned, but its table of angles takes memory all the same.
LONGEST_CONTEXT = 1 << 20
_LARGEST = (1 << 31) - 1  # of any number that counts


def architecture_of(content: dict[str, Any], path: Path) -> tuple[str, Format]:
    """The family of a config.json, and its format; UserError for an architecture that is none of ours."""
    given = content.get("architectures")
    if not isinstance(given, list) or len(given) != 1 or given[0] not in list(ARCHITECTURES):
        _refuse(path, "architectures", f"one of {', '.join(ARCHITECTURES)}", given)
    if given[0] == BIASED_LLAMA.language_model and content.get("attention_bias") is True:
        return "qwen2", BIASED_LLAMA
    return ARCHITECTURES[given[0]]


def format_to_write(config: ModelConfig, library: tokenizers.Tokenizer) -> tuple[str, Format]:
    """Return Transformers' `model_type` and format for a shape and its tokenizer, which AutoTokenizer is to read."""
    if config.family != "qwen2" or _is_qwen2(library):
        return config.family, FORMATS[config.family]
    return "llama", BIASED_LLAMA


def _is_qwen2(library: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer composes characters and splits as Transformers' Qwen2Tokenizer does."""
    content = json.loads(library.to_str())
    split = json.dumps(content["pre_tokenizer"])
    return content["normalizer"] == {"type": "NFC"} and json.dumps(PATTERNS["qwen2"]) in split


def read_shape(content: dict[str, Any], stored: dict[str, Stored], path: Path) -> ModelConfig:
    """The shape that a config.json describes, whose tensors are `stored` under today's names.

    UserError names a key that asks for what is not computed here, or for other sizes than the tensors have.
    """
    family, format_ = architecture_of(content, path)
    # In older files null says "not given"; that there is no window is said by null alone.
    given = {key: value for key, value in content.items() if value is not None or key == "sliding_window"}
    given = format_.absent | given
    for key, wanted in (format_.refused | format_.fixed).items():
        value = given.get(key, wanted)
        if (_SAME.get(value, value) if isinstance(value, str) else value) != wanted:
            _refuse(path, key, params.describe(wanted), value)
    values = {ours: given[theirs] for ours, theirs in format_.keys.items() if theirs in given}
    if family == "gpt2":
        values |= {"n_kv_heads": values.get("n_heads"), "rope_theta": 10000.0}  # it turns nothing
    else:
        values["rope_theta"] = _rope_theta(given, content, path)
    _fill_in(values, format_, path)
    _check_sizes(values, format_, family, stored, path)
    values |= {"family": family, "attention": "grouped", "positions": None, "dropout": 0.0}
    if family != "gpt2":
        values["head_width"] = _head_width(values, given, stored, path)
    config: ModelConfig = params.check(ModelConfig, values, "model", path)
    if config.context_length > LONGEST_CONTEXT:
        _refuse(path, format_.keys["context_length"], f"at most {LONGEST_CONTEXT}", config.context_length)
    _check_windows(given, config, format_, path)
    return config


def _refuse(path: Path, key: str, wanted: str, given: Any) -> NoReturn:
    raise UserError(f"{path}: {key}: wanted {wanted}, given {listed([params.describe(given)])}")


def _rope_theta(given: dict[str, Any], content: dict[str, Any], path: Path) -> Any:
    """The base of the wavelengths, which Transformers 5 keeps inside `rope_parameters`; nothing may be scaled."""
    thetas = [("rope_theta", content["rope_theta"])] if content.get("rope_theta") is not None else []
    for place in ("rope_parameters", "rope_scaling"):
        inside = given.get(place, {})
        if not isinstance(inside, dict):
            _refuse(path, place, "a mapping or nothing", inside)
        for key, wanted in (("rope_type", "default"), ("type", "default"), ("partial_rotary_factor", 1.0)):
            if inside.get(key) not in (None, wanted):
                _refuse(path, f"{place}.{key}", params.describe(wanted), inside[key])
        if inside.get("rope_theta") is not None:
            thetas.append((f"{place}.rope_theta", inside["rope_theta"]))
    for key, theta in thetas[1:]:
        if theta != thetas[0][1]:
            _refuse(path, key, f"{params.describe(thetas[0][1])} as in {thetas[0][0]}", theta)
    return thetas[0][1] if thetas else given["rope_theta"]


def _fill_in(values: dict[str, Any], format_: Format, path: Path) -> None:
    """Defaults that hang on other keys; UserError for a key that is missing, holds no single value or a huge one."""
    if "n_heads" in values:
        values.setdefault("n_kv_heads", values["n_heads"])
    if format_.keys["d_ff"] == "n_inner" and isinstance(values.get("d_model"), int):
        values.setdefault("d_ff", 4 * values["d_model"])
    for ours, theirs in format_.keys.items():
        if ours not in values:
            raise UserError(f"{path}: {theirs}: wanted a value, it is missing")
        if not isinstance(values[ours], bool | int | float | str):
            _refuse(path, theirs, "one value", values[ours])
        if isinstance(values[ours], int) and values[ours] > _LARGEST:
            _refuse(path, theirs, f"at most {_LARGEST}", values[ours])


def _check_sizes(values: dict[str, Any], format_: Format, family: str, stored: dict[str, Stored], path: Path) -> None:
    found = {ours: _size(stored, name, axis, path) for ours, (name, axis) in format_.sizes.items()}
    found["n_layers"] = count_layers(family, stored)
    for ours, size in found.items():
        if values[ours] != size:
            _refuse(path, format_.keys[ours], f"{size} as in the weights", values[ours])


def _size(stored: dict[str, Stored], name: str, axis: int, path: Path) -> int:
    if name not in stored:
        raise UserError(f"{path.parent}: {name} is missing")
    if len(stored[name].shape) != 2:
        raise UserError(f"{path.parent}: {name}: wanted a matrix, given {stored[name].shape}")
    return stored[name].shape[axis]


def _head_width(values: dict[str, Any], given: dict[str, Any], stored: dict[str, Stored], path: Path) -> int | None:
    """The width of a head where it is not the model's width over their number."""
    n_heads, rows = values["n_heads"], _size(stored, _QUERIES, 0, path)
    if not isinstance(n_heads, int) or n_heads < 1 or rows % n_heads:
        _refuse(path, "num_attention_heads", f"a divisor of {rows}, the rows of {_QUERIES}", n_heads)
    width = rows // n_heads
    if (said := given.get("head_dim", values["d_model"] // n_heads)) != width:
        _refuse(path, "head_dim", f"{width} as in the weights", said)
    return None if width * n_heads == values["d_model"] else width


def _check_windows(given: dict[str, Any], config: ModelConfig, format_: Format, path: Path) -> None:
    """UserError where a layer does not see the whole context."""
    window, context = given.get("sliding_window"), config.context_length
    slides = "sliding_window" in format_.absent and window is not None
    if slides and (not isinstance(window, int) or window < context):
        _refuse(path, "sliding_window", f"nothing or at least max_position_embeddings, {context}", window)
    layers = given.get("layer_types", [])
    if not isinstance(layers, list) or any(layer != "full_attention" for layer in layers):
        _refuse(path, "layer_types", "full_attention for each", layers)
