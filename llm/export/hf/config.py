"""config.json of Transformers in both directions, for the architectures that are a model of ours.

    {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, …}  ↔  ModelConfig

A key that asks for something that is not computed here is refused by its name; unknown keys are ignored.
"""

import json
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import tokenizers
from pydantic import BaseModel, ConfigDict, Field

from llm.core import params
from llm.core.errors import UserError
from llm.export.hf.names import TABLES
from llm.export.hf.tensors import Stored, shorten
from llm.model.config import ModelConfig
from llm.tokens.bpe import PATTERNS
from llm.tokens.special import END_OF_TEXT, PAD
from llm.tokens.tokenizer import Tokenizer

# Limits the memory that the sizes in a foreign file can ask for before they are compared with its tensors.
Size = Annotated[int, Field(ge=1, le=1 << 24)]
MAX_CONTEXT = 1 << 20  # rotary positions have no tensor to compare with, but a table of angles
Context = Annotated[int, Field(ge=1, le=MAX_CONTEXT)]
One = Annotated[float, Field(ge=1, le=1)]


class _Shape(BaseModel):
    """Keys that affect the logits: the default of Transformers, and as Literal the only value that is implemented here.

    A field of ModelConfig has our name, and as alias theirs. Fields with `exclude` are read and not written.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, populate_by_name=True)

    vocab_size: Size
    auto_map: None = Field(None, exclude=True)  # code of its own
    quantization_config: None = Field(None, exclude=True)  # packed weights
    layer_types: list[Literal["full_attention"]] = Field([], exclude=True)


class _Rope(BaseModel):
    """Where Transformers 5 keeps the base of the wavelengths; scaling is not computed here."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    rope_type: Literal["default"] | None = None
    type: Literal["default"] | None = None
    partial_rotary_factor: One | None = None
    rope_theta: float | None = None


class _LlamaKeys(_Shape):
    d_model: Size = Field(alias="hidden_size")
    d_ff: Size = Field(alias="intermediate_size")
    n_layers: Size = Field(alias="num_hidden_layers")
    n_heads: Size = Field(alias="num_attention_heads")
    n_kv_heads: Size = Field(alias="num_key_value_heads", default_factory=lambda found: found["n_heads"])
    context_length: Context = Field(2048, alias="max_position_embeddings")
    norm_eps: float = Field(1e-6, alias="rms_norm_eps")
    rope_theta: float | None = None
    tie_embeddings: bool = Field(False, alias="tie_word_embeddings")
    hidden_act: Literal["silu", "swish"] = "silu"
    head_dim: Size | None = Field(None, exclude=True)
    partial_rotary_factor: One = Field(1.0, exclude=True)
    rope_parameters: _Rope = Field(_Rope(), exclude=True)
    rope_scaling: _Rope = Field(_Rope(), exclude=True)


class _Llama(_LlamaKeys):
    attention_bias: bool = False  # true is BIASED_LLAMA
    mlp_bias: Literal[False] = False


class _Mistral(_LlamaKeys):
    n_kv_heads: Size = Field(8, alias="num_key_value_heads")
    context_length: Context = Field(131072, alias="max_position_embeddings")
    sliding_window: Size | None = Field(4096, exclude=True)


class _Qwen2(_LlamaKeys):
    n_kv_heads: Size = Field(32, alias="num_key_value_heads")
    context_length: Context = Field(32768, alias="max_position_embeddings")
    use_sliding_window: Literal[False] = False


class _Qwen3(_LlamaKeys):
    n_kv_heads: Size = Field(32, alias="num_key_value_heads")
    context_length: Context = Field(32768, alias="max_position_embeddings")
    head_dim: Size | None = Field(128, exclude=True)
    attention_bias: Literal[False] = False
    use_sliding_window: Literal[False] = False


class _GPT2(_Shape):
    d_model: Size = Field(alias="n_embd")
    d_ff: Size = Field(alias="n_inner", default_factory=lambda found: 4 * found["d_model"])
    n_layers: Size = Field(alias="n_layer")
    n_heads: Size = Field(alias="n_head")
    context_length: Context = Field(alias="n_positions")
    norm_eps: float = Field(1e-5, alias="layer_norm_epsilon")
    tie_embeddings: bool = Field(True, alias="tie_word_embeddings")
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh"] = "gelu_new"
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False
    add_cross_attention: Literal[False] = False


class Architecture(NamedTuple):
    """A family's names in Transformers, and its keys."""

    family: str
    language_model: str
    classifier: str
    shape: type[_Shape]


ARCHITECTURES = [
    Architecture("qwen3", "Qwen3ForCausalLM", "Qwen3ForSequenceClassification", _Qwen3),
    Architecture("qwen2", "Qwen2ForCausalLM", "Qwen2ForSequenceClassification", _Qwen2),
    Architecture("llama", "LlamaForCausalLM", "LlamaForSequenceClassification", _Llama),
    Architecture("gpt2", "GPT2LMHeadModel", "GPT2ForSequenceClassification", _GPT2),
    # With a sliding window at least as long as the context, Mistral equals Llama.
    Architecture("llama", "MistralForCausalLM", "MistralForSequenceClassification", _Mistral),
]
BY_NAME = {of.language_model: of for of in ARCHITECTURES}
# Qwen2 under another name. With the type qwen2 Transformers 5 composes characters (NFC) and splits by Qwen2's pattern,
# whatever tokenizer.json says; with this one it reads the file. Llama has biases on all four projections of attention,
# so the fourth one's are zero.
BIASED_LLAMA = Architecture("qwen2", "LlamaForCausalLM", "LlamaForSequenceClassification", _Llama)


def architecture_of(content: dict[str, Any], path: Path) -> Architecture:
    """Return the architecture of a config.json; UserError for an unknown one."""
    names = content.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in list(BY_NAME):
        refuse(path, "architectures", f"one of {', '.join(BY_NAME)}", names)
    if names[0] == BIASED_LLAMA.language_model and content.get("attention_bias") is True:
        return BIASED_LLAMA
    return BY_NAME[names[0]]


def read_shape(content: dict[str, Any], stored: dict[str, Stored], path: Path) -> ModelConfig:
    """Return the shape in a config.json; UserError names a key that asks for something else than is computed here."""
    family, _, _, schema = architecture_of(content, path)
    shape = _read_keys(schema, content, path)
    norm = f"{TABLES[family]['blocks.{}.attention_norm']}.weight"
    if (n_layers := next(layer for layer in count() if norm.format(layer) not in stored)) != shape.n_layers:
        refuse(path, str(schema.model_fields["n_layers"].alias), f"{n_layers} as in the weights", shape.n_layers)
    window = getattr(shape, "sliding_window", None) or shape.context_length
    if window < shape.context_length:
        refuse(path, "sliding_window", f"nothing or at least max_position_embeddings, {shape.context_length}", window)
    values = {name: getattr(shape, name) for name in ModelConfig.model_fields if hasattr(shape, name)}
    values |= {"family": family, "attention": "grouped", "positions": None, "dropout": 0.0}
    if family == "gpt2":
        values |= {"n_kv_heads": shape.n_heads, "rope_theta": 10000.0}  # which nothing uses
    else:
        values |= {"rope_theta": _rope_theta(shape, path), "head_width": _head_width(shape, stored, path)}
    config: ModelConfig = params.check(ModelConfig, values, "model", path)
    return config


def _read_keys(schema: type[_Shape], content: dict[str, Any], path: Path) -> Any:
    # In older files null means "not given"; for a window it means that there is none.
    given = {key: value for key, value in content.items() if value is not None or key == "sliding_window"}
    keys = [field.alias or name for name, field in schema.model_fields.items()]
    return params.check(schema, {key: given[key] for key in keys if key in given}, "", path)


def refuse(path: Path, key: str, expected: str, got: Any) -> NoReturn:
    """Raise the UserError for a value in a file."""
    raise UserError(f"{path}: {key}: expected {expected}, got {shorten([params.describe(got)])}")


def _rope_theta(shape: Any, path: Path) -> float:
    places = (shape.rope_theta, shape.rope_parameters.rope_theta, shape.rope_scaling.rope_theta)
    thetas = [theta for theta in places if theta is not None] or [10000.0]
    if len(set(thetas)) > 1:
        refuse(path, "rope_theta", "one value in the whole file", thetas)
    return float(thetas[0])


def _head_width(shape: Any, stored: dict[str, Stored], path: Path) -> int | None:
    """Return the width of a head where it is not the model's width divided by their number."""
    name = "model.layers.0.self_attn.q_proj.weight"
    if name not in stored or not stored[name].shape:
        return None  # `check_tensors` refuses the file
    rows, n_heads = stored[name].shape[0], shape.n_heads
    if (head_dim := shape.head_dim or shape.d_model // n_heads) * n_heads != rows:
        expected = f"{rows / n_heads:g} ({rows} rows of {name}, num_attention_heads {n_heads})"
        refuse(path, "head_dim", expected, head_dim)
    return None if rows == shape.d_model else head_dim


def describe_model(config: ModelConfig, tokenizer: Tokenizer, library: tokenizers.Tokenizer) -> dict[str, Any]:
    """Return the content of a language model's config.json, beside the tokenizer `library`."""
    model_type, architecture = config.family, next(of for of in ARCHITECTURES if of.family == config.family)
    if model_type == "qwen2" and not _is_of_qwen2(library):
        model_type, architecture = "llama", BIASED_LLAMA
    values = config.model_dump() | {"n_heads": config.n_query_heads, "n_kv_heads": config.n_key_heads}
    values["attention_bias"] = architecture is BIASED_LLAMA
    content = {
        "architectures": [architecture.language_model],
        "model_type": model_type,
        **architecture.shape.model_validate(values).model_dump(by_alias=True),
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


def _is_of_qwen2(library: tokenizers.Tokenizer) -> bool:
    content = json.loads(library.to_str())
    splits_as_qwen2 = json.dumps(PATTERNS["qwen2"]) in json.dumps(content["pre_tokenizer"])
    return splits_as_qwen2 and content["normalizer"] == {"type": "NFC"}
