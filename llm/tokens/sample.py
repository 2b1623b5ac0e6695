"""Make windows from token ids: streams, windows and the contamination of held-out text."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from llm.core.errors import UserError
from llm.core.tables import SPLITS, iterate_batches, read_table, segmentation_names
from llm.tokens.contamination import Contamination, contamination
from llm.tokens.params import WindowParams
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import (
    WindowsInfo,
    read_stream,
    read_windows,
    target_coverage,
    window_spans,
    write_info,
    write_stream,
    write_windows,
)

HELD_OUT = ("val", "test")
N_WORST = 10  # documents of a held-out split whose contamination is listed

Figures = dict[str, Any]


def make_windows(params: WindowParams, tokens: Path, tokenizer: Tokenizer, windows: Path) -> tuple[Figures, Figures]:
    """Write `windows`, {train,val,test}.npy (tokens), .parquet (windows), windows.json; return metrics and details."""
    windows.mkdir(parents=True)
    documents = _read_documents(tokens, params)
    figures = {name: _write(name, params, tokens, documents[name], tokenizer, windows) for name in documents}
    info = WindowsInfo(
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text,
        pad=tokenizer.pad,
        context_length=params.context_length,
        stride=params.stride_tokens,
        boundary=params.boundary,
        n_bytes={split: int(documents[split]["n_bytes"].sum()) for split in SPLITS},
        segmentations=segmentation_names(tokens),
        lossless=tokenizer.lossless,
    )
    write_info(windows / "windows.json", info)
    train, ngram = read_stream(windows, "train"), params.contamination_ngram
    found = {split: contamination(train, read_stream(windows, split), info.end_of_text, ngram) for split in HELD_OUT}
    summary = {split: _summary(found[split]) for split in HELD_OUT}
    worst = {split: {"documents": _worst(found[split], documents[split]["path"])} for split in HELD_OUT}
    metrics: Figures = {key: {name: of[key] for name, of in figures.items()} for key in figures["train"]}
    details = {"ngram": ngram, "splits": {split: summary[split] | worst[split] for split in HELD_OUT}}
    return metrics | {"contamination": {"ngram": ngram, **summary}}, details


def _read_documents(tokens: Path, params: WindowParams) -> dict[str, pd.DataFrame]:
    """Return source, path and sizes of the documents of each split and segmentation."""
    columns = ["source", "path", "n_tokens", "n_bytes"]
    names = [*SPLITS, *segmentation_names(tokens)]
    documents = {name: read_table(tokens / f"{name}.parquet", columns).to_pandas() for name in names}
    sources = sorted(set().union(*(documents[split]["source"] for split in SPLITS)))
    if unknown := sorted(params.weights.keys() - set(sources)):
        raise UserError(f"sample.weights: expected names of sources ({', '.join(sources)}), got {unknown[0]}")
    return documents


def _write(
    name: str, params: WindowParams, tokens: Path, documents: pd.DataFrame, tokenizer: Tokenizer, windows: Path
) -> Figures:
    """Write the stream and windows of a split or segmentation; return its figures."""
    lengths = documents["n_tokens"].to_numpy(dtype=np.int64)
    columns = (batch.column("ids") for batch in iterate_batches(tokens / f"{name}.parquet", ["ids"]))
    batches = ((ids.flatten().to_numpy(), np.diff(ids.offsets.to_numpy())) for ids in columns)
    progress = tqdm(batches, desc=f"sample {name}", unit=" batches")
    write_stream(windows / f"{name}.npy", progress, lengths, tokenizer.end_of_text, tokenizer.vocab_size)
    starts, n_targets = window_spans(lengths, params)
    write_windows(windows / f"{name}.parquet", starts, n_targets, _weights(starts, documents, params))
    written = read_windows(windows, name)
    filled = float(written.lengths.mean()) / params.context_length if len(written.starts) else 1.0
    return {
        "tokens": len(written.stream),
        "windows": len(written.starts),
        "padding_fraction": round(1 - filled, 5),
        "targets_seen_per_epoch": target_coverage(written),
    }


def _weights(starts: NDArray[np.int64], documents: pd.DataFrame, params: WindowParams) -> NDArray[np.float32]:
    """Return the weight of the source in which each window begins."""
    if not params.weights:
        return np.ones(len(starts), dtype=np.float32)
    weights = documents["source"].map(lambda source: params.weights.get(source, 1.0)).to_numpy(dtype=np.float32)
    ends = np.cumsum(documents["n_tokens"].to_numpy() + 1)
    # The last <|endoftext|> of the stream belongs to the last document.
    return weights[np.minimum(np.searchsorted(ends, starts, side="right"), len(ends) - 1)]


def _summary(found: Contamination) -> Figures:
    fraction = round(found.fraction, 5)
    return {"ngrams": int(found.ngrams.sum()), "sampled_one_in": found.sampled, "fraction": fraction}


def _worst(found: Contamination, paths: pd.Series) -> list[Figures]:
    """Return the documents with the largest fraction of n-grams that train has too."""
    counts = zip(found.ngrams.tolist(), found.found.tolist(), strict=True)
    worst = sorted(((of / n, n, number) for number, (n, of) in enumerate(counts) if of), reverse=True)[:N_WORST]
    return [{"document": paths[number], "ngrams": n, "fraction": round(fraction, 5)} for fraction, n, number in worst]
