"""config.json of Transformers in both directions, for the architectures that are a model of ours.

    {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, …}  ↔  ModelConfig

A key that asks for something that is not computed here is refused by its name; unknown keys are ignored.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tokenizers
from pydantic import BaseModel, ConfigDict, Field, create_model

from llm.core import params
from llm.core.errors import UserError
from llm.export.hf.names import count_layers
from llm.export.hf.tensors import Stored, shorten
from llm.model.config import ModelConfig
from llm.tokens.bpe import PATTERNS
from llm.tokens.special import END_OF_TEXT, PAD
from llm.tokens.tokenizer import Tokenizer

# Limits the memory that the sizes in a foreign file can ask for before they are compared with its tensors.
Size = Annotated[int, Field(ge=1, le=1 << 24)]
MAX_CONTEXT = 1 << 20  # rotary positions have no tensor to compare with, but a table of angles


@dataclass(frozen=True)
class Architecture:
    """A family's names in Transformers."""

    language_model: str
    classifier: str
    keys: dict[str, str]  # ours → theirs
    fixed: dict[str, Any]  # other keys that decide the logits, with the one value that is computed here
    defaults: dict[str, Any]  # the value of a missing key
    refused: dict[str, Any] = field(default_factory=dict)  # as `fixed`, but not written
    derived: dict[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)  # defaults from keys before them


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
_TYPES = {"norm_eps": float, "rope_theta": float, "tie_embeddings": bool}  # all others are sizes
_FOREIGN = {"auto_map": None, "quantization_config": None}  # code of its own, packed weights
_LLAMA = Architecture(
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    _LLAMA_KEYS,
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    defaults={"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 10000.0}
    | {"max_position_embeddings": 2048},
    refused=_FOREIGN | {"partial_rotary_factor": 1.0},
    derived={"num_key_value_heads": lambda keys: keys["num_attention_heads"]},
)
_QWEN2 = replace(
    _LLAMA,
    language_model="Qwen2ForCausalLM",
    classifier="Qwen2ForSequenceClassification",
    fixed={"hidden_act": "silu", "use_sliding_window": False},
    defaults=_LLAMA.defaults | {"num_key_value_heads": 32, "max_position_embeddings": 32768},
)
ARCHITECTURES = {
    "qwen3": replace(
        _QWEN2,
        language_model="Qwen3ForCausalLM",
        classifier="Qwen3ForSequenceClassification",
        fixed={"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
        defaults=_QWEN2.defaults | {"head_dim": 128},
    ),
    "qwen2": _QWEN2,
    "llama": _LLAMA,
    "gpt2": Architecture(
        "GPT2LMHeadModel",
        "GPT2ForSequenceClassification",
        _GPT2_KEYS,
        fixed={
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
        refused=_FOREIGN,
        derived={"n_inner": lambda keys: 4 * keys["n_embd"]},
    ),
}
# Qwen2 under another name. With the type qwen2 Transformers 5 composes characters (NFC) and splits by Qwen2's pattern,
# whatever tokenizer.json says; with this one it reads the file. Llama has biases on all four projections of attention,
# so the fourth one's are zero.
BIASED_LLAMA = replace(_LLAMA, fixed={"hidden_act": "silu", "attention_bias": True, "mlp_bias": False})
# Over a window that is no shorter than the context, Mistral is Llama.
_MISTRAL = replace(
    _LLAMA,
    language_model="MistralForCausalLM",
    classifier="MistralForSequenceClassification",
    fixed={"hidden_act": "silu"},
    defaults=_LLAMA.defaults | {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
)
BY_NAME = {of.language_model: (family, of) for family, of in ARCHITECTURES.items()} | {
    _MISTRAL.language_model: ("llama", _MISTRAL)
}
_SYNONYMS = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new"}


def architecture_of(content: dict[str, Any], path: Path) -> tuple[str, Architecture]:
    """Return the family and architecture of a config.json; UserError for an unknown one."""
    names = content.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in list(BY_NAME):
        refuse(path, "architectures", f"one of {', '.join(BY_NAME)}", names)
    if names[0] == BIASED_LLAMA.language_model and content.get("attention_bias") is True:
        return "qwen2", BIASED_LLAMA
    return BY_NAME[names[0]]


def read_shape(content: dict[str, Any], stored: dict[str, Stored], path: Path) -> ModelConfig:
    """Return the shape that a config.json describes, whose tensors are `stored` under today's names.

    UserError names a key that asks for something else than is computed here. Sizes are limited, and `check_tensors`
    compares them with the tensors.
    """
    family, architecture = architecture_of(content, path)
    # In older files null means "not given"; for a window it means that there is none.
    given = {key: value for key, value in content.items() if value is not None or key == "sliding_window"}
    given = architecture.defaults | given
    for key, expected in (architecture.refused | architecture.fixed).items():
        value = given.get(key, expected)
        if (_SYNONYMS.get(value, value) if isinstance(value, str) else value) != expected:
            refuse(path, key, params.describe(expected), value)
    if family != "gpt2":
        given["rope_theta"] = _rope_theta(given, content, path)
    schema = _schema(architecture)
    known = {key: given[key] for key in architecture.keys.values() if key in given}
    found = params.check(schema, known, "", path).model_dump()
    values = {ours: found[theirs] for ours, theirs in architecture.keys.items()}
    if (n_layers := count_layers(family, stored)) != values["n_layers"]:
        refuse(path, architecture.keys["n_layers"], f"{n_layers} as in the weights", values["n_layers"])
    if family == "gpt2":
        values |= {"n_kv_heads": values["n_heads"], "rope_theta": 10000.0}  # which nothing uses
    else:
        values["head_width"] = _head_width(values, given, stored, path)
    values |= {"family": family, "attention": "grouped", "positions": None, "dropout": 0.0}
    config: ModelConfig = params.check(ModelConfig, values, "model", path)
    if config.context_length > MAX_CONTEXT:
        refuse(path, architecture.keys["context_length"], f"at most {MAX_CONTEXT}", config.context_length)
    _check_windows(given, config, architecture, path)
    return config


def refuse(path: Path, key: str, expected: str, got: Any) -> NoReturn:
    """Raise the UserError for a value in a file."""
    raise UserError(f"{path}: {key}: expected {expected}, got {shorten([params.describe(got)])}")


def _schema(architecture: Architecture) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for ours, theirs in architecture.keys.items():
        derive = architecture.derived.get(theirs)
        fields[theirs] = (_TYPES.get(ours, Size), Field(default_factory=derive) if derive else ...)
    settings = ConfigDict(strict=True, allow_inf_nan=False)
    schema: type[BaseModel] = create_model("Shape", __config__=settings, **fields)
    return schema


def _rope_theta(given: dict[str, Any], content: dict[str, Any], path: Path) -> Any:
    """Return the base of the wavelengths, which Transformers 5 keeps inside `rope_parameters`; refuse scaling."""
    thetas = {"rope_theta": content.get("rope_theta")}
    for place in ("rope_parameters", "rope_scaling"):
        inside = given.get(place, {})
        if not isinstance(inside, dict):
            refuse(path, place, "a mapping or nothing", inside)
        for key, expected in (("rope_type", "default"), ("type", "default"), ("partial_rotary_factor", 1.0)):
            if inside.get(key) not in (None, expected):
                refuse(path, f"{place}.{key}", params.describe(expected), inside[key])
        thetas[f"{place}.rope_theta"] = inside.get("rope_theta")
    found = [(key, theta) for key, theta in thetas.items() if theta is not None]
    for key, theta in found[1:]:
        if theta != found[0][1]:
            refuse(path, key, f"{params.describe(found[0][1])} as in {found[0][0]}", theta)
    return found[0][1] if found else given["rope_theta"]


def _head_width(values: dict[str, Any], given: dict[str, Any], stored: dict[str, Stored], path: Path) -> int | None:
    """Return the width of a head where it is not the model's width divided by their number."""
    name, n_heads = "model.layers.0.self_attn.q_proj.weight", values["n_heads"]
    if name not in stored or not stored[name].shape:
        return None  # `check_tensors` refuses the file
    rows = stored[name].shape[0]
    if rows % n_heads:
        refuse(path, "num_attention_heads", f"a divisor of {rows}, the rows of {name}", n_heads)
    width: int = rows // n_heads
    if (head_dim := given.get("head_dim", values["d_model"] // n_heads)) != width:
        refuse(path, "head_dim", f"{width} as in the weights", head_dim)
    return None if width * n_heads == values["d_model"] else width


def _check_windows(given: dict[str, Any], config: ModelConfig, architecture: Architecture, path: Path) -> None:
    """Raise UserError where a layer does not attend to the whole context."""
    window, context = given.get("sliding_window"), config.context_length
    slides = "sliding_window" in architecture.defaults and window is not None
    if slides and (not isinstance(window, int) or window < context):
        refuse(path, "sliding_window", f"nothing or at least max_position_embeddings, {context}", window)
    layers = given.get("layer_types", [])
    if not isinstance(layers, list) or any(layer != "full_attention" for layer in layers):
        refuse(path, "layer_types", "full_attention for each", layers)


def describe_model(config: ModelConfig, tokenizer: Tokenizer, library: tokenizers.Tokenizer) -> dict[str, Any]:
    """Return the content of a language model's config.json, beside the tokenizer `library`."""
    model_type, architecture = _architecture_for(config, library)
    values = config.model_dump() | {"n_heads": config.n_query_heads, "n_kv_heads": config.n_key_heads}
    content = {
        "architectures": [architecture.language_model],
        "model_type": model_type,
        **{theirs: values[ours] for ours, theirs in architecture.keys.items()},
        **architecture.fixed,
        # Transformers 4 reads the first, 5 the second.
        "torch_dtype": "float32",
        "dtype": "float32",
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.special[END_OF_TEXT],
        "pad_token_id": tokenizer.special[PAD],
    }
    if config.family == "gpt2":
        content["n_ctx"] = config.context_length  # llama.cpp's converter reads this one
        content |= {f"{part}_pdrop": 0.0 for part in ("attn", "embd", "resid")}
    else:
        content["head_dim"] = config.head_dim
        content["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
        content["attention_dropout"] = 0.0
    return content


def _architecture_for(config: ModelConfig, library: tokenizers.Tokenizer) -> tuple[str, Architecture]:
    """Return the `model_type` and architecture with which AutoTokenizer reads the tokenizer as it is."""
    if config.family == "qwen2":
        content = json.loads(library.to_str())
        splits_as_qwen2 = json.dumps(PATTERNS["qwen2"]) in json.dumps(content["pre_tokenizer"])
        if content["normalizer"] != {"type": "NFC"} or not splits_as_qwen2:
            return "llama", BIASED_LLAMA
    return config.family, ARCHITECTURES[config.family]
