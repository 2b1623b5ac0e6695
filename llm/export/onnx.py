"""A model as one ONNX graph with a cache of keys and values.

    input_ids (B, T), past_key_values.{layer}.{key,value} (B, K, P, C)
        → logits (B, T, V), present.{layer}.{key,value} (B, K, P + T, C)

The names are those of Optimum, and onnx/model.onnx is the path that Transformers.js loads. A text begins with P = 0;
the `present` of one call is the `past_key_values` of the next. The packages are optional: `make extras`.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm.core.errors import UserError
from llm.export.formats import incompatibility_reason, missing_package
from llm.export.verify import Generation, Parity, compare, draw_tokens
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache, LayerCache

FILE = "model.onnx"
WEIGHTS = "model.onnx_data"  # the name that Transformers.js loads
MAX_BYTES = 2**31 * 9 // 10  # protocol buffers end at 2 GiB; a tenth is for the rest of the graph
MIN_CONTEXT = 6
Cache = list[Any]  # keys and values of each layer


def cache_names(config: ModelConfig, name: str = "past_key_values") -> list[str]:
    """Return the names of the cache's inputs in order, or with `present` of its outputs."""
    return [f"{name}.{layer}.{part}" for layer in range(config.n_layers) for part in ("key", "value")]


def files_of(folder: Path) -> list[Path]:
    """Return the graph's file, and that of its weights where they are in one of their own."""
    return [path for path in (folder / FILE, folder / WEIGHTS) if path.exists()]


def write_onnx(folder: Path, model: GPT) -> Path:
    """Write `model.onnx` in float32, and large weights to `model.onnx_data`; the same model gives the same bytes.

    UserError, before that, for a model without a cache of keys and values, and where a package is missing.
    """
    if reason := incompatibility_reason("onnx", model.config):
        raise UserError(reason)
    if model.config.context_length < MIN_CONTEXT:
        raise UserError(f"expected a context of at least {MIN_CONTEXT} tokens, got {model.config.context_length}")
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    logging.disable(logging.WARNING)  # of torch's exporter: deprecations, optional packages
    try:
        with warnings.catch_warnings(action="ignore"):
            graph = _trace(model.float().cpu())
    finally:
        logging.disable(logging.NOTSET)
    # The metadata has the paths of the source code, so that another folder would give other bytes.
    ClearMetadataAndDocStringPass()(graph)
    folder.mkdir(parents=True, exist_ok=True)
    n_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    onnx_ir.save(graph, folder / FILE, external_data=WEIGHTS if n_bytes > MAX_BYTES else None)
    return folder / FILE


def _trace(model: GPT) -> Any:
    """Return the graph of `_CachedModel`, with B, T and P as open axes."""
    config = model.config
    B, T, P = 2, 3, min(5, config.context_length - 3)  # torch takes a size of 1 for a constant
    ids = torch.zeros(B, T, dtype=torch.long)
    past = [torch.zeros(B, config.n_key_heads, P, config.head_dim) for _ in cache_names(config)]
    open_ = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(
            _CachedModel(model), (ids, past), dynamic_shapes=({0: open_, 1: open_}, [{0: open_, 2: open_}] * len(past))
        )
    exported = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["input_ids", *cache_names(config)],
        output_names=["logits", *cache_names(config, "present")],
        verbose=False,
    )
    assert exported is not None
    graph = exported.model.graph
    for values, axis, length in (
        ([graph.inputs[0], graph.outputs[0]], 1, "sequence_length"),
        (graph.inputs[1:], 2, "past_sequence_length"),
        (graph.outputs[1:], 2, "past_sequence_length + sequence_length"),
    ):
        for shape in (value.shape for value in values):
            assert shape is not None
            shape[0], shape[axis] = "batch_size", length
    return exported.model


class _CachedModel(nn.Module):
    """A model whose cache is an input and an output."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        cache = KVCache(len(self.model.blocks))
        cache.length = past[0].shape[2]
        cache.layers = [LayerCache(tensors=pair) for pair in zip(past[::2], past[1::2], strict=True)]
        hidden = self.model.run_blocks(self.model.embedding(ids), cache)
        return self.model.head(hidden), *(tensor for layer in cache.layers for tensor in layer.tensors)


@torch.no_grad()
def compare_with_onnxruntime(file: Path, model: GPT, seed: int) -> Parity:
    """Compare logits of random tokens, whole and in pieces, and greedy continuations; UserError where it cannot run."""
    if reason := missing_package("onnxruntime"):
        raise UserError(reason)
    ours = model.float().cpu()
    ids, prompts, n_new = draw_tokens(model.config, seed)
    third = ids.shape[1] // 3
    cuts = [third, third + 1, max(third + 1, 2 * third)]  # several tokens, one, several, the rest
    pieces: list[Tensor] = []
    texts = [prompts]
    try:
        read = _reader(file, model.config)
        whole, _ = read(ids, None)
        cache = None
        for piece in ids.tensor_split(cuts, dim=1):
            if piece.shape[1]:
                logits, cache = read(piece, cache)
                pieces.append(logits)
        cache = None
        for _ in range(n_new):
            logits, cache = read(texts[-1], cache)
            texts.append(logits[:, -1].argmax(dim=-1, keepdim=True))
    except Exception as error:  # ONNX Runtime's errors have no narrower class in common
        problem = " ".join(str(error).split())
        raise UserError(f"{file.name}: expected a file that ONNX Runtime runs, {problem}") from None
    theirs = [whole, torch.cat(pieces, dim=1)]
    generations = list(map(Generation, prompts.tolist(), torch.cat(texts, dim=1).tolist()))
    return compare("ONNX Runtime", ours, ours(ids), theirs, generations=generations, n_new=n_new)


def _reader(file: Path, config: ModelConfig) -> Callable[[Tensor, Cache | None], tuple[Tensor, Cache]]:
    """Return a function of ids (B, T) and the cache before them: logits (B, T, V) on the CPU, and the cache after."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised as well
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs, outputs = cache_names(config), ["logits", *cache_names(config, "present")]

    def read(ids: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        empty = np.zeros((len(ids), config.n_key_heads, 0, config.head_dim), dtype=np.float32)
        given = dict(zip(inputs, cache or [empty] * len(inputs), strict=True))
        logits, *cache = session.run(outputs, {"input_ids": ids.numpy()} | given)
        return torch.from_numpy(logits), cache

    return read
