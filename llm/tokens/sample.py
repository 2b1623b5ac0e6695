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
    StreamFile,
    WindowsInfo,
    read_windows,
    target_coverage,
    window_spans,
    write_info,
    write_stream,
    write_windows,
)

N_WORST = 10  # documents of a held-out split whose contamination is listed

Figures = dict[str, Any]


def make_windows(params: WindowParams, tokens: Path, tokenizer: Tokenizer, windows: Path) -> tuple[Figures, Figures]:
    """Write `windows`, {train,val,test}.npy (tokens), .parquet (windows), windows.json; return metrics and details."""
    windows.mkdir(parents=True)
    segmentations = segmentation_names(tokens)
    names = [*SPLITS, *segmentations]
    columns = ["source", "n_tokens", "n_bytes"]
    documents = {name: read_table(tokens / f"{name}.parquet", columns).to_pandas() for name in names}
    sources = sorted({source for split in SPLITS for source in documents[split]["source"]})
    if unknown := sorted(params.weights.keys() - set(sources)):
        raise UserError(f"sample.weights: expected names of sources ({', '.join(sources)}), got {unknown[0]}")
    figures = {name: _write(name, params, tokens, documents[name], tokenizer, windows) for name in names}
    info = WindowsInfo(
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text,
        pad=tokenizer.pad,
        context_length=params.context_length,
        stride=params.stride,
        boundary=params.boundary,
        n_bytes={split: int(documents[split]["n_bytes"].sum()) for split in SPLITS},
        segmentations=segmentations,
        lossless=tokenizer.lossless,
    )
    write_info(windows / "windows.json", info)
    train, ngram = StreamFile(windows, "train"), params.contamination_ngram
    found = {
        split: contamination(train, StreamFile(windows, split), tokenizer.end_of_text, ngram)
        for split in ("val", "test")
    }
    summary = {
        split: {"ngrams": of.ngrams, "sampled_one_in": of.sampled, "fraction": round(of.fraction, 5)}
        for split, of in found.items()
    }
    metrics: Figures = {key: {name: of[key] for name, of in figures.items()} for key in figures["train"]}
    worst = {split: {"documents": _worst(of, tokens / f"{split}.parquet")} for split, of in found.items()}
    return metrics | {"contamination": {"ngram": ngram, **summary}}, {
        "ngram": ngram,
        "splits": {split: summary[split] | worst[split] for split in found},
    }


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


def _worst(found: Contamination, tokens: Path) -> list[Figures]:
    """Return the documents with the largest fraction of n-grams that train has too."""
    paths = read_table(tokens, ["path"]).column("path")
    rows = sorted(((of / n, n, number) for number, n, of in found.by_document.tolist() if of), reverse=True)
    return [
        {"document": paths[number].as_py(), "ngrams": n, "fraction": round(fraction, 5)}
        for fraction, n, number in rows[:N_WORST]
    ]
