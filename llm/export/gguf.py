"""A model as GGUF files, each read by llama.cpp before it is given out.

weights, tokenizer.json → model-f16.gguf  Modelfile          (for llama.cpp and for Ollama)
"""

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from llm.core.errors import UserError
from llm.export.hf.possible import PRE_TOKENIZERS, incompatibility_reason, missing_package
from llm.export.llama_cpp import bounds_of, compare_with_llama_cpp
from llm.export.params import Format
from llm.export.verify import Chat
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.tokens.bpe import PATTERNS, parts_of, to_bytes
from llm.tokens.special import END_OF_TEXT, IM_END, PAD
from llm.tokens.tokenizer import TiktokenTokenizer, Tokenizer, read_library

FILES: dict[Format, str] = {
    "gguf-f32": "model-f32.gguf",
    "gguf-f16": "model-f16.gguf",
    "gguf-q8_0": "model-q8_0.gguf",
}
_FILE_TYPES: dict[Format, int] = {"gguf-f32": 0, "gguf-f16": 1, "gguf-q8_0": 7}  # llama.cpp's numbers of them
MODELFILE = "Modelfile"

# Ours → GGUF's, for weights and biases alike; `{}` is the number of the block. What goes by one name there is
# stacked along its outputs.
_NAMES = {
    "embedding": "token_embd",
    "positions": "position_embd",
    "blocks.{}.attention_norm": "blk.{}.attn_norm",
    "blocks.{}.attention.query": "blk.{}.attn_q",
    "blocks.{}.attention.key": "blk.{}.attn_k",
    "blocks.{}.attention.value": "blk.{}.attn_v",
    "blocks.{}.attention.query_norm": "blk.{}.attn_q_norm",
    "blocks.{}.attention.key_norm": "blk.{}.attn_k_norm",
    "blocks.{}.attention.out": "blk.{}.attn_output",
    "blocks.{}.feed_forward_norm": "blk.{}.ffn_norm",
    "blocks.{}.feed_forward.gate": "blk.{}.ffn_gate",
    "blocks.{}.feed_forward.up": "blk.{}.ffn_up",
    "blocks.{}.feed_forward.down": "blk.{}.ffn_down",
    "norm": "output_norm",
    "head": "output",
}
NAMES = {
    "qwen3": _NAMES,
    "qwen2": _NAMES,
    "llama": _NAMES,
    "gpt2": _NAMES | {f"blocks.{{}}.attention.{part}": "blk.{}.attn_qkv" for part in ("query", "key", "value")},
}

COMPOSE = {"type": "NFC"}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in llama.cpp's words."""

    pre_tokenizer: str
    tokens: list[str]  # by id
    merges: list[str]
    special: dict[str, int]
    begin: str  # the token before each text
    composes: bool  # whether other clients compose characters first (NFC)


def export_gguf(
    folder: Path,
    model: GPT,
    tokenizer_file: Path,
    formats: Sequence[Format],
    seed: int,
    *,
    chat_template: str | None = None,
    chat: Chat | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the GGUF formats and a Modelfile into `folder`, have llama.cpp read them; returns what to know of each.

    That is bytes and parity; or why it is `unverified`, where llama.cpp is not installed. UserError for a format that
    the model cannot be written in, or that llama.cpp reads otherwise, and then there is no such file. A Modelfile that
    Ollama would read otherwise is left out, and `skipped` says why. With `chat_template` (Jinja) the files are of a
    model that answers messages, and `chat` goes through the template.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    files = []
    for format_ in (wanted for wanted in formats if wanted in FILES):
        try:
            file = write_gguf(folder, model, tokenizer_file, format_, chat_template=chat_template)
            found[format_] = {"bytes": file.stat().st_size} | _verify(file, format_, model, tokenizer_file, seed, chat)
            files.append(file)
        except UserError as error:
            (folder / FILES[format_]).unlink(missing_ok=True)
            raise UserError(f"export.formats: {format_}: {error}") from None
    if files:
        try:
            write_modelfile(folder, files[0], model.config, tokenizer_file, chat=chat_template is not None)
        except UserError as error:
            found[MODELFILE] = {"skipped": str(error)}
    for name, about in found.items():
        for state in about.keys() & {"skipped", "unverified"}:
            print(f"export: {name} {state}: {about[state]}", file=sys.stderr)
    return found


def _verify(
    file: Path, format_: Format, model: GPT, tokenizer_file: Path, seed: int, chat: Chat | None
) -> dict[str, Any]:
    if importlib.util.find_spec("xllamacpp") is None:
        return {"unverified": "wanted the package xllamacpp, it is not installed (make extras)"}
    bounds = bounds_of(model.config.family, format_)
    parity = compare_with_llama_cpp(file, model, Tokenizer.load(tokenizer_file), seed, bounds, chat=chat)
    if not parity.agrees(bounds.divergence):
        raise UserError(parity.describe("llama.cpp", bounds.divergence))
    return parity.figures()


def write_gguf(
    folder: Path, model: GPT, tokenizer_file: Path, format_: Format, *, chat_template: str | None = None
) -> Path:
    """Write one file into `folder`; returns its path. The same model gives the same bytes.

    UserError, before anything is written, for a model or a tokenizer that llama.cpp has no words for, and where the
    package `gguf` is missing.
    """
    config = model.config
    if reason := incompatibility_reason(format_, config):
        raise UserError(reason)
    vocabulary = read_vocabulary(tokenizer_file)
    if reason := missing_package(format_):
        raise UserError(reason)
    import gguf

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILES[format_]
    writer = gguf.GGUFWriter(path, config.family)
    writer.add_file_type(_FILE_TYPES[format_])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, config)
    _add_tokenizer(writer, vocabulary, config.vocab_size, chat_template)
    for name, weight in to_gguf(config, dict(model.named_parameters())).items():
        kind = gguf.GGMLQuantizationType[_kind(name, weight, format_)]
        writer.add_tensor(name, gguf.quantize(weight.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def to_gguf(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under GGUF's names, in float32, (d_out, d_in) as ours; a tied head may be missing.

    GGUF's llama turns neighbouring pairs of a head's width, ours its halves: its queries and keys are reordered.
    """
    left = dict(weights)
    named: dict[str, list[Tensor]] = {}
    for ours, theirs in NAMES[config.family].items():
        turned = config.family == "llama" and theirs.endswith(("attn_q", "attn_k"))
        for layer in range(config.n_layers if "{}" in ours else 1):
            for part in ("weight", "bias"):
                if (weight := left.pop(f"{ours}.{part}".format(layer), None)) is not None:
                    whole = weight.detach().to("cpu", torch.float32)
                    whole = halves_to_pairs(whole, config.head_dim) if turned else whole
                    named.setdefault(f"{theirs}.{part}".format(layer), []).append(whole)
    assert not left, sorted(left)
    return {name: torch.cat(parts).contiguous() for name, parts in named.items()}


def halves_to_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the outputs (heads · head_dim, D) of each head: from a first and a second half to pairs of both.

    >>> halves_to_pairs(torch.arange(8)[:, None], 4).flatten().tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape(weight.shape)


def read_vocabulary(tokenizer_file: Path) -> Vocabulary:
    """A tokenizer.json in llama.cpp's words; UserError for one that it would read otherwise."""
    return describe_vocabulary(read_library(tokenizer_file))


def describe_vocabulary(library: tokenizers.Tokenizer) -> Vocabulary:
    """A tokenizer in llama.cpp's words; UserError for one that it would read otherwise.

    A normalizer that composes characters (NFC) is passed over: llama.cpp has none, and other clients' text mostly
    comes composed.
    """
    content = json.loads(library.to_str())
    composes = content["normalizer"] == COMPOSE
    plain = tokenizers.Tokenizer.from_str(json.dumps(content | ({"normalizer": None} if composes else {})))
    tokenizer = Tokenizer.of(plain)
    split = json.dumps(content["pre_tokenizer"])
    # A pattern that is not written out is the library's own, GPT-2's.
    pattern = next((name for name, expression in PATTERNS.items() if json.dumps(expression) in split), "gpt2")
    if not isinstance(tokenizer, TiktokenTokenizer) or pattern not in PRE_TOKENIZERS:
        given = pattern if isinstance(tokenizer, TiktokenTokenizer) else "another one"
        raise UserError(
            f"wanted a byte-level BPE tokenizer with a split pattern that llama.cpp has a name for "
            f"({', '.join(PRE_TOKENIZERS)}), given {given}"
        )
    model, special = content["model"], tokenizer.special
    names = {token: name for name, token in (model["vocab"] | special).items()}
    ranks = {to_bytes(name): token for token, name in names.items() if name not in special}
    # llama.cpp looks for a piece as a whole, before any merge, with Llama 3's pattern only.
    if model["ignore_merges"] and pattern != "llama3" and any(len(parts_of(token, ranks)) > 2 for token in ranks):
        raise UserError(f"wanted merges for each token with the split pattern {pattern}, given tokens without any")
    return Vocabulary(
        pre_tokenizer=PRE_TOKENIZERS[pattern],
        tokens=[names[token] for token in range(len(names))],
        merges=[f"{first} {second}" for first, second in model["merges"]],
        special=special,
        begin=tokenizer.bos_token,
        composes=composes,
    )


def _add_shape(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_query_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.family == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.n_key_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)  # llama.cpp has a value of its own for a missing one


def _add_tokenizer(writer: Any, vocabulary: Vocabulary, n_rows: int, chat_template: str | None) -> None:
    from gguf import TokenType

    special = vocabulary.special
    # llama.cpp wants a token for each row of the embedding.
    unused = [f"<|unused_{row}|>" for row in range(len(vocabulary.tokens), n_rows)]
    kinds = [TokenType.CONTROL if name in special else TokenType.NORMAL for name in vocabulary.tokens]
    writer.add_tokenizer_model("gpt2")  # its name for byte-level BPE
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(vocabulary.tokens + unused)
    writer.add_token_types(kinds + [TokenType.UNUSED] * len(unused))
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(special[vocabulary.begin])
    writer.add_eos_token_id(special[END_OF_TEXT if chat_template is None else IM_END])
    writer.add_pad_token_id(special[PAD])
    writer.add_add_bos_token(True)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _kind(name: str, weight: Tensor, format_: Format) -> str:
    """The type of a tensor: vectors and positions are added, in float32; Q8_0 has a scale for each 32 of a row."""
    if weight.ndim == 1 or name.startswith("position_embd") or format_ == "gguf-f32":
        return "F32"
    return "Q8_0" if format_ == "gguf-q8_0" and weight.shape[-1] % 32 == 0 else "F16"


def write_modelfile(folder: Path, file: Path, config: ModelConfig, tokenizer_file: Path, *, chat: bool = False) -> None:
    """What `ollama create NAME -f Modelfile` makes a model of; with `chat`, messages are written as ChatML.

    UserError where Ollama would split text in another way: for qwen3 it does not look at the file's own pattern.
    """
    if config.family == "qwen3" and read_vocabulary(tokenizer_file).pre_tokenizer != "qwen2":
        raise UserError("wanted the split pattern qwen2, by which Ollama reads for every model of the family qwen3")
    message = "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n"
    template = f"{{{{ range .Messages }}}}{message}{{{{ end }}}}<|im_start|>assistant\n" if chat else "{{ .Prompt }}"
    lines = [f"FROM ./{file.name}", f'TEMPLATE """{template}"""', f"PARAMETER num_ctx {config.context_length}"]
    lines += [f'PARAMETER stop "{end}"' for end in ((IM_END, END_OF_TEXT) if chat else (END_OF_TEXT,))]
    (folder / MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
