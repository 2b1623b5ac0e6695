"""A model as a Hugging Face folder, and such a folder as a model: no custom code on either side.

    config.json  model.safetensors  generation_config.json  tokenizer.json  tokenizer_config.json
    chat_template.jinja (instruction models)

Transformers 5 and 4 both read what is written here: where they differ, both spellings stand. A model that they have no
architecture for has other words in config.json and other names of weights: `llm.export.hf.native`. Classifiers stand in
`llm.export.hf.classifier`.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file
from torch import Tensor

from llm.core.errors import UserError
from llm.export.hf.config import BIASED_LLAMA, ZERO_BIAS, Format, architecture_of, format_to_write, read_shape
from llm.export.hf.names import current_names, to_ours, to_theirs
from llm.export.hf.native import check_shapes, is_native, native_config, read_native, read_native_config, weights_of
from llm.export.hf.possible import why_native
from llm.export.hf.tensors import Stored, list_tensors, read_object, read_tensors
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.weights import set_weights
from llm.tokens.special import BOS, END_OF_TEXT, EOS, IM_END, PAD, UNKNOWN
from llm.tokens.templates import with_bos
from llm.tokens.tokenizer import Tokenizer, read_library

CHAT_TEMPLATE = "chat_template.jinja"
FILES = ("config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def write_folder(folder: Path, model: GPT, tokenizer_file: Path, *, chat_template: str | None = None) -> None:
    """Write a language model's files.

    A shape that no architecture of Transformers has is written in our own words, which `read_folder` knows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, tokenizer = model.config, Tokenizer.load(tokenizer_file)
    library = with_bos(read_library(tokenizer_file), tokenizer.bos_token)
    library.save(str(folder / "tokenizer.json"))
    content = describe_model(config, tokenizer, library)
    write_json(folder / "config.json", content)
    write_weights(folder / "model.safetensors", named_as_there(config, content, dict(model.named_parameters())))
    write_json(folder / "generation_config.json", _generation(tokenizer, chat_template is not None))
    about = describe_tokenizer(config, tokenizer, chat_template is not None)
    # Transformers goes by tokenizer.json's post-processor; converters read this.
    write_json(folder / "tokenizer_config.json", about | {"add_bos_token": True})
    if chat_template is not None:
        (folder / CHAT_TEMPLATE).write_text(chat_template, encoding="utf-8")


def read_folder(folder: Path) -> GPT:
    """Read a language model from a Hugging Face folder of a known architecture, in float32; see `llm.export.hf.config`.

    UserError says in one line what does not fit, before memory is taken for the model. No code of the folder is run.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder}: wanted a Hugging Face folder, it has no config.json")
    return read_model(read_object(path), folder)


def read_config(folder: Path) -> ModelConfig:
    """Read the shape of a folder's language model; no weight is read."""
    path = folder / "config.json"
    content = read_object(path)
    if is_native(content):
        return read_native_config(content, path)
    family, _ = architecture_of(content, path)
    in_file = list_tensors(folder)
    return read_shape(content, {name: in_file[at] for name, at in current_names(family, in_file).items()}, path)


def read_model(content: dict[str, Any], folder: Path, beside: frozenset[str] = frozenset()) -> GPT:
    """The model that a language model's config.json describes, of a folder's tensors but those `beside` it."""
    path = folder / "config.json"
    if is_native(content):
        return read_native(content, folder, beside)
    family, format_ = architecture_of(content, path)
    in_file = {name: tensor for name, tensor in list_tensors(folder).items() if name not in beside}
    names = current_names(family, in_file)
    stored = {name: in_file[names[name]] for name in names}
    config = read_shape(content, stored, path)
    _check_tensors(stored, config, format_, folder)
    tensors = read_tensors({names[name]: stored[name] for name in names})
    weights = {name: tensors[names[name]] for name in names}
    if format_ is BIASED_LLAMA:
        _drop_zero_biases(weights, config.n_layers, path)
    ours = to_ours(family, config.n_layers, weights)
    if config.tie_embeddings and "head.weight" in ours and not ours.pop("head.weight").equal(ours["embedding.weight"]):
        raise UserError(f"{path}: tie_word_embeddings: wanted false, for lm_head.weight is not the embedding")
    model = GPT(config)
    set_weights(model, ours, folder)
    return model


def _check_tensors(stored: dict[str, Stored], config: ModelConfig, format_: Format, folder: Path) -> None:
    """UserError where other tensors are stored than the shape asks for."""
    ours = weights_of(config)
    wanted = to_theirs(config.family, config.n_layers, ours)
    if config.tie_embeddings and "lm_head.weight" in stored:
        wanted["lm_head.weight"] = ours["embedding.weight"]
    if format_ is BIASED_LLAMA:
        wanted |= _zero_biases(config)
    check_shapes(stored, wanted, format_.language_model, folder)


def named_as_there(config: ModelConfig, content: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the names that they have in a folder whose config.json has this `content`."""
    if is_native(content):
        return weights
    biases = _zero_biases(config) if content.get("attention_bias") else {}
    return to_theirs(config.family, config.n_layers, weights) | biases


def _zero_biases(config: ModelConfig) -> dict[str, Tensor]:
    """What Llama has and Qwen2 has not, by its name in a folder."""
    return {ZERO_BIAS.format(layer): torch.zeros(config.d_model) for layer in range(config.n_layers)}


def _drop_zero_biases(weights: dict[str, Tensor], n_layers: int, path: Path) -> None:
    """Take these biases away; UserError where one is not zero, for our model has none there."""
    for name in (ZERO_BIAS.format(layer) for layer in range(n_layers)):
        if weights.pop(name).any():
            raise UserError(f"{path}: attention_bias: expected biases of zero in {name}, got others")


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write tensors in float32."""
    cpu = {name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in weights.items()}
    # Transformers wants to be told the framework; one metadata key keeps the bytes the same from run to run.
    save_file(cpu, path, metadata={"format": "pt"})


def describe_model(config: ModelConfig, tokenizer: Tokenizer, library: tokenizers.Tokenizer) -> dict[str, Any]:
    """The content of a language model's config.json, beside the tokenizer `library`."""
    if why_native(config):
        return native_config(config)
    model_type, format_ = format_to_write(config, library)
    values = config.model_dump() | {"n_heads": config.n_query_heads, "n_kv_heads": config.n_key_heads}
    content = {
        "architectures": [format_.language_model],
        "model_type": model_type,
        **{theirs: values[ours] for ours, theirs in format_.keys.items()},
        **format_.fixed,
        "torch_dtype": "float32",
        "dtype": "float32",
        "bos_token_id": tokenizer.bos_id,
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
    return content


def _generation(tokenizer: Tokenizer, chat: bool) -> dict[str, Any]:
    ends = [tokenizer.special[name] for name in ((IM_END, END_OF_TEXT) if chat else (END_OF_TEXT,))]
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": ends if chat else ends[0],
        "pad_token_id": tokenizer.special[PAD],
    }


def describe_tokenizer(config: ModelConfig, tokenizer: Tokenizer, chat: bool) -> dict[str, Any]:
    """The content of tokenizer_config.json; the markers of a `chat` end what the model says."""
    unknown = {} if tokenizer.unk_id is None else {"unk_token": UNKNOWN}
    return {
        **unknown,
        "tokenizer_class": "PreTrainedTokenizerFast",
        # The stream puts <|endoftext|> between documents, so that is what a text begins and ends with.
        "bos_token": tokenizer.bos_token,
        "eos_token": IM_END if chat else END_OF_TEXT,
        "pad_token": PAD,
        "additional_special_tokens": [BOS, EOS],
        # Transformers 4 gives token_type_ids as well otherwise, which `generate` refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.context_length,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as others write it, with an indent."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
