"""A model as GGUF files for llama.cpp, and a Modelfile for Ollama."""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from llm.core.errors import UserError
from llm.export.formats import PRE_TOKENIZERS, Format, incompatibility_reason
from llm.export.hf.names import GGUF, rename
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.tokens.bpe import PATTERNS, parts_of, to_bytes
from llm.tokens.special import END_OF_TEXT, IM_END, PAD
from llm.tokens.tokenizer import TiktokenTokenizer, Tokenizer, read_library
from llm.tokens.tokenizer_json import special_ids, split_expression

_FILE_TYPES: dict[Format, int] = {"gguf-f32": 0, "gguf-f16": 1, "gguf-q8_0": 7}  # llama.cpp's numbers
FILES = {format_: f"model-{format_.removeprefix('gguf-')}.gguf" for format_ in _FILE_TYPES}
MODELFILE = "Modelfile"
_ATTENTION = ("blocks.{}.attention.query", "blocks.{}.attention.key", "blocks.{}.attention.value")
GPT2 = GGUF | dict.fromkeys(_ATTENTION, "blk.{}.attn_qkv")


def write_gguf(
    folder: Path, model: GPT, tokenizer_file: Path, format_: Format, *, chat_template: str | None = None
) -> Path:
    """Write one file into `folder`; return its path. UserError, before that, for what llama.cpp does not support."""
    config = model.config
    if reason := incompatibility_reason(format_, config):
        raise UserError(reason)
    library = read_library(tokenizer_file)
    pre_tokenizer = pre_tokenizer_of(library)
    import gguf

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILES[format_]
    writer = gguf.GGUFWriter(path, config.family)
    writer.add_file_type(_FILE_TYPES[format_])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, config)
    writer.add_tokenizer_model("gpt2")  # its name for byte-level BPE
    writer.add_tokenizer_pre(pre_tokenizer)
    _add_tokenizer(writer, library, config.vocab_size, chat_template)
    for name, weight in to_gguf(config, dict(model.named_parameters())).items():
        kind = gguf.GGMLQuantizationType[_tensor_type(name, weight, format_)]
        writer.add_tensor(name, gguf.quantize(weight.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def to_gguf(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights under GGUF's names, in float32, (d_out, d_in) as ours; a tied head may be missing."""
    named = rename(GPT2 if config.family == "gpt2" else GGUF, config.n_layers, weights)
    for name, weight in named.items():
        # GGUF's llama rotates neighbouring pairs of a head's width, ours its halves.
        if config.family == "llama" and ("attn_q." in name or "attn_k." in name):
            named[name] = halves_to_pairs(weight, config.head_dim)
    return {name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in named.items()}


def halves_to_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the outputs (heads · head_dim, D) of each head: from a first and a second half to pairs of both.

    >>> halves_to_pairs(torch.arange(8)[:, None], 4).flatten().tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape(weight.shape)


def pre_tokenizer_of(library: tokenizers.Tokenizer) -> str:
    """Return llama.cpp's name of a tokenizer's split pattern; UserError for one that it would read otherwise."""
    content = json.loads(library.to_str())
    if content["normalizer"] == {"type": "NFC"}:  # llama.cpp has none, and other clients' text is mostly composed
        content["normalizer"] = None
    is_known = isinstance(Tokenizer.of(tokenizers.Tokenizer.from_str(json.dumps(content))), TiktokenTokenizer)
    expression = split_expression(content) if is_known else None
    pattern = next((name for name in PRE_TOKENIZERS if PATTERNS[name] == expression), None)
    if pattern is None:
        names = f"({', '.join(PRE_TOKENIZERS)})"
        expected = f"a byte-level BPE tokenizer with a split pattern that llama.cpp has a name for {names}"
        raise UserError(f"expected {expected}, got another one")
    # Only with Llama 3's pattern does llama.cpp look up a piece as a whole before it merges.
    if content["model"]["ignore_merges"] and pattern != "llama3" and _lacks_merges(library, special_ids(content)):
        raise UserError(f"expected merges for each token with the split pattern {pattern}, got tokens without any")
    return PRE_TOKENIZERS[pattern]


def _lacks_merges(library: tokenizers.Tokenizer, special: dict[str, int]) -> bool:
    ranks = {to_bytes(name): token for name, token in library.get_vocab().items() if name not in special}
    return any(len(parts_of(token, ranks)) > 2 for token in ranks)


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
    writer.add_rope_freq_base(config.rope_theta)  # llama.cpp has a default of its own


def _add_tokenizer(writer: Any, library: tokenizers.Tokenizer, n_rows: int, chat_template: str | None) -> None:
    from gguf import TokenType

    tokenizer, merges = Tokenizer.of(library), json.loads(library.to_str())["model"]["merges"]
    special, tokens = tokenizer.special, [str(library.id_to_token(id_)) for id_ in range(tokenizer.vocab_size)]
    # llama.cpp needs a token for each row of the embedding.
    unused = [f"<|unused_{row}|>" for row in range(len(tokens), n_rows)]
    kinds = [TokenType.CONTROL if name in special else TokenType.NORMAL for name in tokens]
    writer.add_token_list(tokens + unused)
    writer.add_token_types(kinds + [TokenType.UNUSED] * len(unused))
    writer.add_token_merges([f"{first} {second}" for first, second in merges])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(special[END_OF_TEXT if chat_template is None else IM_END])
    writer.add_pad_token_id(special[PAD])
    writer.add_add_bos_token(True)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _tensor_type(name: str, weight: Tensor, format_: Format) -> str:
    """Return a tensor's type: vectors and positions stay in float32; Q8_0 has a scale for each 32 values of a row."""
    if weight.ndim == 1 or name.startswith("position_embd") or format_ == "gguf-f32":
        return "F32"
    return "Q8_0" if format_ == "gguf-q8_0" and weight.shape[-1] % 32 == 0 else "F16"


def write_modelfile(file: Path, config: ModelConfig, tokenizer_file: Path, *, chat: bool = False) -> None:
    """Write a file's Modelfile for `ollama create`; UserError where Ollama would ignore the file's split pattern."""
    pattern = pre_tokenizer_of(read_library(tokenizer_file))
    if config.family == "qwen3" and pattern != "qwen2":
        raise UserError(f"expected the split pattern qwen2, which Ollama uses for every qwen3 model, got {pattern}")
    message = "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n"
    template = f"{{{{ range .Messages }}}}{message}{{{{ end }}}}<|im_start|>assistant\n" if chat else "{{ .Prompt }}"
    lines = [f"FROM ./{file.name}", f'TEMPLATE """{template}"""', f"PARAMETER num_ctx {config.context_length}"]
    lines += [f'PARAMETER stop "{end}"' for end in ((IM_END, END_OF_TEXT) if chat else (END_OF_TEXT,))]
    file.with_name(MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
