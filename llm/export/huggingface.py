"""A model as a Hugging Face folder, and such a folder as a model: no custom code on either side.

    config.json  model.safetensors  generation_config.json  tokenizer.json  tokenizer_config.json
    chat_template.jinja (instruction models)

Transformers 5 and 4 both read what is written here: where they differ, both spellings stand.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llm import params
from llm.errors import UserError
from llm.export.names import to_ours, to_theirs
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.text.tokenizer import BOS, END_OF_TEXT, EOS, IM_END, PAD, UNKNOWN, Tokenizer
from llm.train.checkpoint import read_safetensors, set_weights

FILES = ("config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Format:
    """What Transformers calls a family and its knobs."""

    language_model: str
    classifier: str
    keys: dict[str, str]  # ours → theirs
    # What else in config.json decides the logits, with the one value that is computed here.
    fixed: dict[str, Any]


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
_SILU = {"hidden_act": "silu", "attention_bias": False}
FORMATS = {
    "qwen3": Format(
        "Qwen3ForCausalLM",
        "Qwen3ForSequenceClassification",
        _LLAMA_KEYS,
        _SILU | {"use_sliding_window": False},
    ),
    "llama": Format(
        "LlamaForCausalLM",
        "LlamaForSequenceClassification",
        _LLAMA_KEYS,
        _SILU | {"mlp_bias": False},
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
    ),
}


def write_folder(
    folder: Path,
    model: GPT,
    tokenizer_file: Path,
    *,
    chat_template: str | None = None,
    labels: list[str] | None = None,
    score: Tensor | None = None,
) -> None:
    """Write the files. With `labels` and `score` (labels, D) it is a classifier, else a language model.

    UserError, before anything is written, for a shape that no architecture of Transformers has.
    """
    _check_exportable(model.config)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(tokenizer_file)
    weights = to_theirs(model.config.family, model.config.n_layers, dict(model.named_parameters()))
    if score is not None:
        weights.pop("lm_head.weight", None)
        weights["score.weight"] = score
    _write_json(folder / "config.json", _config(model.config, tokenizer, labels))
    cpu = {name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in weights.items()}
    # Transformers wants to be told the framework; one metadata key keeps the bytes the same from run to run.
    save_file(cpu, folder / "model.safetensors", metadata={"format": "pt"})
    if labels is None:
        _write_json(folder / "generation_config.json", _generation(tokenizer, chat_template is not None))
    shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(model.config, tokenizer, chat_template is not None))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def read_folder(folder: Path) -> GPT:
    """Read a language model from a Hugging Face folder of a known family; UserError says what does not fit."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: wanted a Hugging Face folder, it has no config.json") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: wanted JSON, {error}") from None
    architectures = content.get("architectures") if isinstance(content, dict) else None
    families = {format_.language_model: family for family, format_ in FORMATS.items()}
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in families:
        raise UserError(
            f"{path}: wanted architectures of one of {', '.join(families)}, given {params.describe(architectures)}"
        )
    model = GPT(_shape(families[architectures[0]], content, path))
    given = read_safetensors(folder / "model.safetensors")
    try:
        weights = to_ours(model.config.family, model.config.n_layers, given)
    except KeyError as error:
        raise UserError(f"{folder}: not a part of {architectures[0]}: {', '.join(error.args[:5])}") from None
    set_weights(model, weights, folder)
    return model


def _check_exportable(config: ModelConfig) -> None:
    """UserError for what Transformers has no architecture for."""
    where = "export: wanted a model that Transformers knows:"
    if config.family not in FORMATS:
        raise UserError(f"{where} model.family {', '.join(FORMATS)}, given {config.family}")
    if config.sees_the_future:
        raise UserError(f"{where} model.attention causal, multi_head or grouped, given {config.attention}")
    if config.position_scheme != config.parts.positions:
        raise UserError(
            f"{where} model.positions {config.parts.positions} for {config.family}, given {config.position_scheme}"
        )
    if config.family == "gpt2" and config.n_key_heads != config.n_query_heads:
        raise UserError(
            f"{where} model.n_kv_heads {config.n_query_heads} as n_heads for gpt2, given {config.n_key_heads}"
        )


def _config(config: ModelConfig, tokenizer: Tokenizer, labels: list[str] | None) -> dict[str, Any]:
    format_ = FORMATS[config.family]
    values = config.model_dump() | {"n_heads": config.n_query_heads, "n_kv_heads": config.n_key_heads}
    content = {
        "architectures": [format_.language_model if labels is None else format_.classifier],
        "model_type": config.family,
        **{theirs: values[ours] for ours, theirs in format_.keys.items()},
        **format_.fixed,
        "torch_dtype": "float32",
        "dtype": "float32",
        "bos_token_id": tokenizer.special[END_OF_TEXT],
        "eos_token_id": tokenizer.special[END_OF_TEXT],
        "pad_token_id": tokenizer.special[PAD],
    }
    if config.family == "gpt2":
        content["n_ctx"] = config.context_length  # llama.cpp reads this one
        content |= {f"{part}_pdrop": 0.0 for part in ("attn", "embd", "resid")}
    else:
        content["head_dim"] = config.head_dim
        content["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
        content["attention_dropout"] = 0.0
    if labels is not None:
        content["id2label"] = {str(number): label for number, label in enumerate(labels)}
        content["label2id"] = {label: number for number, label in enumerate(labels)}
    return content


def _shape(family: str, content: dict[str, Any], path: Path) -> ModelConfig:
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    fixed = {key: (content.get(key, value), value) for key, value in FORMATS[family].fixed.items()}
    fixed["rope_type"] = (rope.get("rope_type", rope.get("type", "default")), "default")
    for key, (given, wanted) in fixed.items():
        if given != wanted:
            raise UserError(f"{path}: {key}: wanted {params.describe(wanted)}, given {params.describe(given)}")
    keys = FORMATS[family].keys
    values = {ours: content[theirs] for ours, theirs in keys.items() if theirs in content}
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
    if family == "gpt2":
        values |= {"n_kv_heads": values.get("n_heads"), "rope_theta": 10000.0}  # it turns nothing
    values |= {"family": family, "attention": "grouped", "positions": None, "dropout": 0.0}
    config: ModelConfig = params.check(ModelConfig, values, "model", path)
    if content.get("head_dim", config.head_dim) != config.head_dim:
        raise UserError(
            f"{path}: head_dim: wanted hidden_size / num_attention_heads = {config.head_dim}, "
            f"given {content['head_dim']}"
        )
    return config


def _generation(tokenizer: Tokenizer, chat: bool) -> dict[str, Any]:
    ends = [tokenizer.special[name] for name in ((IM_END, END_OF_TEXT) if chat else (END_OF_TEXT,))]
    return {
        "bos_token_id": tokenizer.special[END_OF_TEXT],
        "eos_token_id": ends if chat else ends[0],
        "pad_token_id": tokenizer.special[PAD],
    }


def _tokenizer_config(config: ModelConfig, tokenizer: Tokenizer, chat: bool) -> dict[str, Any]:
    unknown = {} if tokenizer.unknown is None else {"unk_token": UNKNOWN}
    return {
        **unknown,
        "tokenizer_class": "PreTrainedTokenizerFast",
        # The stream puts <|endoftext|> between documents, so that is what a text begins and ends with.
        "bos_token": END_OF_TEXT,
        "eos_token": IM_END if chat else END_OF_TEXT,
        "pad_token": PAD,
        "additional_special_tokens": [BOS, EOS],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.context_length,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
