"""A model as one ONNX graph with a cache of keys and values, read by ONNX Runtime before it is given out.

    input_ids (B, T), past_key_values.{layer}.{key,value} (B, K, P, C)
        → logits (B, T, V), present.{layer}.{key,value} (B, K, P + T, C)

The names are those of Optimum, and a file at onnx/model.onnx beside config.json is where Transformers.js looks. A text
begins with P = 0; what comes out as `present` goes in as `past_key_values` of the next call, which goes on at position
P. The packages are optional: `make extras`.
"""

import importlib.util
import logging
import math
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from llm.core.errors import UserError
from llm.export.hf.possible import incompatibility_reason, missing_package
from llm.export.verify import (
    N_TEXTS,
    Parity,
    count_other_continuations,
    divergence,
    draw_openings,
    random_texts,
    tie_of,
)
from llm.model.attention import CAUSAL, Attention, Rotation, merge_heads
from llm.model.config import ModelConfig
from llm.model.gpt import GPT, Block
from llm.model.positions import rotate

FILE = "model.onnx"
WEIGHTS = "model.onnx_data"  # Transformers.js asks for this name
# Protocol buffers end at 2 GiB; a tenth is kept for all that is no weight.
MOST_BYTES = 2**31 * 9 // 10


def input_names(config: ModelConfig) -> list[str]:
    """What the cache's inputs are called, in order."""
    return [f"past_key_values.{layer}.{part}" for layer in range(config.n_layers) for part in ("key", "value")]


def output_names(config: ModelConfig) -> list[str]:
    """What the cache's outputs are called, in order."""
    return [name.replace("past_key_values", "present") for name in input_names(config)]


def export_onnx(folder: Path, model: GPT, seed: int) -> dict[str, Any]:
    """Write the file into `folder` and have ONNX Runtime read it; returns what to know of it.

    That is bytes and parity; or why it is `unverified`, where ONNX Runtime is not installed. UserError for a model that
    keeps no keys, or a file that ONNX Runtime reads otherwise, and then there is no such file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = write_onnx(folder, model)
        found = {"bytes": sum(path.stat().st_size for path in files_of(folder))} | _verify(file, model, seed)
    except UserError as error:
        for path in files_of(folder):
            path.unlink()
        raise UserError(f"export.formats: onnx: {error}") from None
    if "unverified" in found:
        print(f"export: onnx unverified: {found['unverified']}", file=sys.stderr)
    return found


def files_of(folder: Path) -> list[Path]:
    """What there is of the file and of its weights, which lie beside it where they are large."""
    return [path for path in (folder / FILE, folder / WEIGHTS) if path.exists()]


def _verify(file: Path, model: GPT, seed: int) -> dict[str, Any]:
    if importlib.util.find_spec("onnxruntime") is None:
        return {"unverified": "wanted the package onnxruntime, it is not installed (make extras)"}
    parity = compare_with_onnxruntime(file, model, seed)
    if not parity.agrees():
        raise UserError(parity.describe("ONNX Runtime"))
    return parity.figures()


def write_onnx(folder: Path, model: GPT) -> Path:
    """Write `model.onnx` in float32 into `folder`; returns its path. The same model gives the same bytes.

    Weights of more than 2 GB lie in `model.onnx_data` beside it. UserError, before anything is written, for a model
    without keys to keep, and where a package is missing.
    """
    config = model.config
    if reason := incompatibility_reason("onnx", config) or missing_package("onnx"):
        raise UserError(reason)
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with _quiet():
        graph = _trace(model.float().cpu())
    # Where in which file a node comes from would make other bytes of the same model in another folder.
    ClearMetadataAndDocStringPass()(graph)
    folder.mkdir(parents=True, exist_ok=True)
    n_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    onnx_ir.save(graph, folder / FILE, external_data=WEIGHTS if n_bytes > MOST_BYTES else None)
    return folder / FILE


def _trace(model: GPT) -> Any:
    """The graph of `continue_texts`, with B, T and P left open."""
    config = model.config
    # None of them is 1: torch would take that for a constant.
    B, T, P = 2, 3, 5
    ids = torch.zeros(B, T, dtype=torch.long)
    past = [torch.zeros(B, config.n_key_heads, P, config.head_dim) for _ in input_names(config)]
    open_ = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        _Continuing(model), (ids, past), dynamic_shapes=({0: open_, 1: open_}, [{0: open_, 2: open_}] * len(past))
    )
    exported = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["input_ids", *input_names(config)],
        output_names=["logits", *output_names(config)],
        verbose=False,
    )
    assert exported is not None
    graph = exported.model.graph
    ids_in, *past_in = graph.inputs
    logits, *present = graph.outputs
    for values, axis, length in (
        ([ids_in, logits], 1, "sequence_length"),
        (past_in, 2, "past_sequence_length"),
        (present, 2, "past_sequence_length + sequence_length"),
    ):
        for shape in (value.shape for value in values):
            assert shape is not None
            shape[0], shape[axis] = "batch_size", length
    return exported.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch says of itself while it exports: what it will deprecate, which packages it could know."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Continuing(nn.Module):
    """What torch exports has to be a module."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        return continue_texts(self.model, ids, past)


@torch.no_grad()
def continue_texts(model: GPT, ids: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
    """Logits (B, T, V) of ids (B, T) after keys and values (B, K, P, C) of each layer, and these of P + T positions.

    `GPT.run_blocks` computes the same; it keeps them in buffers that it writes into, which a graph has not.
    """
    start = past[0].shape[2]
    x, rotation = _place(model, model.embedding(ids), torch.arange(start, start + ids.shape[1]))
    present: list[Tensor] = []
    for layer, block in enumerate(cast(Iterable[Block], model.blocks)):
        gathered, kept = _attend(block, x, rotation, past[2 * layer : 2 * layer + 2])
        x = x + gathered
        x = x + block.feed_forward(block.feed_forward_norm(x))
        present += kept
    return model.head(model.norm(x)), *present


def _place(model: GPT, x: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
    """Tell x (B, T, D) its positions (T,), or give the angles; they are looked up, so that none is a constant."""
    match model.config.position_scheme:
        case "rope":
            return x, (model.cos[positions], model.sin[positions])
        case "learned":
            return x + model.positions(positions), None
        case "sinusoidal":
            return x * math.sqrt(model.config.d_model) + model.waves[positions], None
    return x, None


def _attend(block: Block, x: Tensor, rotation: Rotation | None, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What x (B, T, D) gathers from the P positions of `past` and from itself, and keys and values of all of them."""
    attention = cast(Attention, block.attention)
    x, heads = block.attention_norm(x), (-1, attention.head_dim)
    q = attention.query_norm(attention.query(x).unflatten(-1, heads)).transpose(1, 2)
    k = attention.key_norm(attention.key(x).unflatten(-1, heads)).transpose(1, 2)
    v = attention.value(x).unflatten(-1, heads).transpose(1, 2)
    if rotation is not None:
        q, k = rotate(q, *rotation), rotate(k, *rotation)
    keys, values = (torch.cat(parts, dim=2) for parts in zip(past, (k, v), strict=True))
    return attention.out(merge_heads(CAUSAL[attention.rung](q, keys, values))), [keys, values]


@torch.no_grad()
def compare_with_onnxruntime(file: Path, model: GPT, seed: int) -> Parity:
    """Random tokens, whole and in pieces, and greedy continuations, through ONNX Runtime, which has no tokenizer.

    A continuation is another one where a token is not our likeliest; what rounding can turn around is a tie. UserError
    for a file that ONNX Runtime cannot run as this model, or no ONNX Runtime.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError("wanted the package onnxruntime, it is not installed (make extras)")
    config, ours = model.config, model.float().cpu()
    drawn = torch.Generator().manual_seed(seed)
    ids = random_texts(model, drawn)
    openings, n_new = draw_openings(ours, drawn)
    try:
        session = _Session(file, config)
        whole, _ = session.run(ids, session.nothing(N_TEXTS))
        in_pieces = _in_pieces(session, ids)
        new = _continue_greedily(session, openings, n_new)
    except Exception as error:  # what ONNX Runtime raises has no other base in common
        raise UserError(f"{file.name}: wanted a file that ONNX Runtime runs, {' '.join(str(error).split())}") from None
    logits = ours(ids)
    differences = torch.stack([(logits - theirs).abs().max() for theirs in (whole, in_pieces)])
    divergences = torch.stack([divergence(logits, theirs) for theirs in (whole, in_pieces)])
    others = count_other_continuations(ours, openings, new, tie_of(logits))
    return Parity(differences.max().item(), divergences.max().item(), 0, 0, others, len(openings))


def _in_pieces(session: "_Session", ids: Tensor) -> Tensor:
    """Logits (B, T, V) of ids (B, T) that are read in four pieces: several tokens, one, several, the rest."""
    T = ids.shape[1]
    past, told = session.nothing(len(ids)), []
    for piece in ids.tensor_split([T // 3, T // 3 + 1, max(T // 3 + 1, 2 * T // 3)], dim=1):
        if piece.shape[1]:
            logits, past = session.run(piece, past)
            told.append(logits)
    return torch.cat(told, dim=1)


def _continue_greedily(session: "_Session", openings: Tensor, n_new: int) -> Tensor:
    """The likeliest tokens (B, n_new) after openings (B, T), read one at a time."""
    past, new = session.nothing(len(openings)), []
    read = openings
    for _ in range(n_new):
        logits, past = session.run(read, past)
        read = logits[:, -1].argmax(dim=-1, keepdim=True)
        new.append(read)
    return torch.cat(new, dim=1)


class _Session:
    """A file in ONNX Runtime, on the CPU."""

    def __init__(self, file: Path, config: ModelConfig):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what is wrong is raised as well
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.config = config

    def nothing(self, n_texts: int) -> list[Tensor]:
        """The cache before the first token."""
        return [
            torch.zeros(n_texts, self.config.n_key_heads, 0, self.config.head_dim) for _ in input_names(self.config)
        ]

    def run(self, ids: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, T, V) of ids (B, T) after `past`, and the cache that the next call takes."""
        names = input_names(self.config)
        given = {"input_ids": ids.numpy()} | {name: kept.numpy() for name, kept in zip(names, past, strict=True)}
        logits, *present = self.session.run(["logits", *output_names(self.config)], given)
        return torch.from_numpy(logits), [torch.from_numpy(kept) for kept in present]
