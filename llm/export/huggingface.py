"""A model as a Hugging Face folder, and such a folder as a model: no custom code on either side.

    config.json  model.safetensors  generation_config.json  tokenizer.json  tokenizer_config.json
    chat_template.jinja (instruction models)

Transformers 5 and 4 both read what is written here: where they differ, both spellings stand.
"""

import json
import shutil
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
ARCHITECTURE, CLASSIFIER = "Qwen3ForCausalLM", "Qwen3ForSequenceClassification"
# What else in config.json decides the logits, with the one value that is computed here.
FIXED = {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}


def write_folder(
    folder: Path,
    model: GPT,
    tokenizer_file: Path,
    *,
    chat_template: str | None = None,
    labels: list[str] | None = None,
    score: Tensor | None = None,
) -> None:
    """Write the files. With `labels` and `score` (labels, D) it is a classifier, else a language model."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(tokenizer_file)
    weights: dict[str, Tensor] = {to_theirs(name): weight for name, weight in model.named_parameters()}
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
    """Read a language model from a Hugging Face folder of Qwen3's shape; UserError says what does not fit."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: wanted a Hugging Face folder, it has no config.json") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: wanted JSON, {error}") from None
    architectures = content.get("architectures") if isinstance(content, dict) else None
    if architectures != [ARCHITECTURE]:
        raise UserError(f"{path}: wanted architectures [{ARCHITECTURE}], given {params.describe(architectures)}")
    model = GPT(_shape(content, path))
    given = read_safetensors(folder / "model.safetensors")
    weights, unknown = {}, []
    for name, tensor in given.items():
        try:
            weights[to_ours(name)] = tensor
        except KeyError:
            unknown.append(name)
    if unknown:
        raise UserError(f"{folder}: not a part of {ARCHITECTURE}: {', '.join(sorted(unknown)[:5])}")
    set_weights(model, weights, folder)
    return model


def _config(config: ModelConfig, tokenizer: Tokenizer, labels: list[str] | None) -> dict[str, Any]:
    content = {
        "architectures": [ARCHITECTURE if labels is None else CLASSIFIER],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
        "dtype": "float32",
        "bos_token_id": tokenizer.special[END_OF_TEXT],
        "eos_token_id": tokenizer.special[END_OF_TEXT],
        "pad_token_id": tokenizer.special[PAD],
    }
    if labels is not None:
        content["id2label"] = {str(number): label for number, label in enumerate(labels)}
        content["label2id"] = {label: number for number, label in enumerate(labels)}
    return content


def _shape(content: dict[str, Any], path: Path) -> ModelConfig:
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    fixed = {key: (content.get(key, value), value) for key, value in FIXED.items()}
    fixed["rope_type"] = (rope.get("rope_type", rope.get("type", "default")), "default")
    for key, (given, wanted) in fixed.items():
        if given != wanted:
            raise UserError(f"{path}: {key}: wanted {params.describe(wanted)}, given {params.describe(given)}")
    keys = {
        "family": "model_type",
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "d_ff": "intermediate_size",
        "norm_eps": "rms_norm_eps",
        "tie_embeddings": "tie_word_embeddings",
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
    }
    values = {ours: content[theirs] for ours, theirs in keys.items() if theirs in content}
    if "rope_theta" in rope or "rope_theta" in content:
        values["rope_theta"] = rope.get("rope_theta", content.get("rope_theta"))
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
