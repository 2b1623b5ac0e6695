"""A language model as a Hugging Face folder, and such a folder as a model; no custom code on either side.

    config.json  model.safetensors  generation_config.json  tokenizer.json  tokenizer_config.json
    chat_template.jinja (models that answer messages)

Transformers 5 and 4 both read these files: where they differ, both spellings are written.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.export.hf.config import BIASED_LLAMA, Architecture, architecture_of, describe_model, read_shape
from llm.export.hf.names import to_ours, to_theirs, with_current_names
from llm.export.hf.supported import unsupported_reason
from llm.export.hf.tensors import Stored, check_tensors, list_tensors, read_object, read_tensors, write_tensors
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.weights import set_weights
from llm.tokens.special import BOS, END_OF_TEXT, EOS, IM_END, PAD, UNKNOWN
from llm.tokens.templates import with_bos
from llm.tokens.tokenizer import Tokenizer, read_library

CHAT_TEMPLATE = "chat_template.jinja"
FILES = ("config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
SKIPPED = "skipped.json"  # the reason, in a folder without a model


def write_folder(folder: Path, model: GPT, tokenizer_file: Path, *, chat_template: str | None = None) -> None:
    """Write a language model's files; UserError for a shape that Transformers has no architecture for."""
    config, tokenizer, is_chat = model.config, Tokenizer.load(tokenizer_file), chat_template is not None
    if reason := unsupported_reason(config):
        raise UserError(reason)
    folder.mkdir(parents=True, exist_ok=True)
    library = with_bos(read_library(tokenizer_file), tokenizer.bos_token)
    library.save(str(folder / "tokenizer.json"))
    content = describe_model(config, tokenizer, library)
    write_json(folder / "config.json", content)
    write_tensors(folder / "model.safetensors", rename_weights(config, content, dict(model.named_parameters())))
    end = tokenizer.special[END_OF_TEXT]
    generation = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": [tokenizer.special[IM_END], end] if is_chat else end,
        "pad_token_id": tokenizer.special[PAD],
    }
    write_json(folder / "generation_config.json", generation)
    about = describe_tokenizer(config.context_length, tokenizer, IM_END if is_chat else END_OF_TEXT)
    # Transformers follows tokenizer.json's post-processor; converters read this.
    write_json(folder / "tokenizer_config.json", about | {"add_bos_token": True})
    if chat_template is not None:
        (folder / CHAT_TEMPLATE).write_text(chat_template, encoding="utf-8")


def read_config_file(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json; UserError where there is none, with the reason of the stage that left it out."""
    if reason := skipped_reason(folder):
        raise UserError(f"{folder}: expected a Hugging Face folder, its stage wrote none: {reason}")
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: expected a Hugging Face folder, it has no config.json")
    return read_object(folder / "config.json")


def skipped_reason(folder: Path) -> str | None:
    """Return why a stage wrote no model into a folder, or None where it is not known to be without one."""
    return str(read_object(folder / SKIPPED).get("skipped")) if (folder / SKIPPED).exists() else None


def read_folder(folder: Path, content: dict[str, Any] | None = None, beside: frozenset[str] = frozenset()) -> GPT:
    """Read a language model in float32; UserError for what does not fit, before memory is allocated.

    `content` replaces that of config.json; tensors named in `beside` are ignored.
    """
    config, architecture, stored = read_headers(folder, content, beside)
    with torch.device("meta"):  # shapes that take no memory
        ours: dict[str, Tensor] = dict(GPT(config).named_parameters())
    expected = rename_weights(config, {"attention_bias": architecture is BIASED_LLAMA}, ours)
    if config.tie_embeddings and "lm_head.weight" in stored:
        expected["lm_head.weight"] = ours["embedding.weight"]
    check_tensors(stored, expected, architecture.language_model, folder)
    weights, path = read_tensors(stored), folder / "config.json"
    if architecture is BIASED_LLAMA:
        for name in _zero_biases(config):
            if weights.pop(name).any():
                raise UserError(f"{path}: attention_bias: expected biases of zero in {name}, got others")
    weights = to_ours(config.family, config.n_layers, weights)
    embedding = weights["embedding.weight"]
    if config.tie_embeddings and not weights.pop("head.weight", embedding).equal(embedding):
        raise UserError(f"{path}: tie_word_embeddings: expected false, for lm_head.weight is not the embedding")
    model = GPT(config)
    set_weights(model, weights, folder)
    return model


def read_headers(
    folder: Path, content: dict[str, Any] | None = None, beside: frozenset[str] = frozenset()
) -> tuple[ModelConfig, Architecture, dict[str, Stored]]:
    """Return the shape, and the tensors by their names in Transformers; no weight is read."""
    content = read_config_file(folder) if content is None else content
    architecture = architecture_of(content, folder / "config.json")
    in_file = {name: tensor for name, tensor in list_tensors(folder).items() if name not in beside}
    stored = with_current_names(architecture.family, in_file)
    return read_shape(content, stored, folder / "config.json"), architecture, stored


def rename_weights(config: ModelConfig, content: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights under the names in a folder whose config.json has this `content`."""
    biases = _zero_biases(config) if content.get("attention_bias") else {}
    return to_theirs(config.family, config.n_layers, weights) | biases


def _zero_biases(config: ModelConfig) -> dict[str, Tensor]:
    """Return the biases that Llama has and Qwen2 has not."""
    name = "model.layers.{}.self_attn.o_proj.bias"
    return {name.format(layer): torch.zeros(config.d_model) for layer in range(config.n_layers)}


def describe_tokenizer(max_length: int, tokenizer: Tokenizer, end: str) -> dict[str, Any]:
    """Return the content of tokenizer_config.json; generation stops at the token `end`."""
    return {
        **({} if tokenizer.unk_id is None else {"unk_token": UNKNOWN}),
        "tokenizer_class": "PreTrainedTokenizerFast",
        # The stream puts <|endoftext|> between documents, so that a text begins and ends with it.
        "bos_token": tokenizer.bos_token,
        "eos_token": end,
        "pad_token": PAD,
        "additional_special_tokens": [BOS, EOS],
        # Transformers 4 adds token_type_ids otherwise, which `generate` refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
