"""Token ids → one token stream a split, the table of its sliding windows, and what held-out text stands in train."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from llm.core import stage
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param
from llm.core.tables import SPLITS, iterate_batches, read_table, segmentation_names
from llm.tokens.contamination import Contamination, contamination
from llm.tokens.params import WindowParams
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import (
    StreamFile,
    StreamWriter,
    WindowsInfo,
    read_windows,
    target_coverage,
    window_spans,
    write_info,
    write_windows,
)

N_WORST = 10


def main(
    sample: Annotated[WindowParams, Param("sample")],
    tokens: Input = Path("data/tokens"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    windows: Output = Path("data/windows"),
    metrics: Output = Path("metrics/sample.json"),
    report: Output = Path("reports/contamination.md"),
) -> None:
    """Write `windows`/{train,val,test}.npy (tokens), .parquet (windows) and windows.json; metrics and a report."""
    windows.mkdir(parents=True)
    encoder = Tokenizer.load(tokenizer)
    _check_weights(sample, tokens)
    segmentations = segmentation_names(tokens)
    n_bytes, figures = {}, {}
    for name in [*SPLITS, *segmentations]:
        documents = _read_documents(tokens / f"{name}.parquet")
        _write_stream(windows / f"{name}.npy", tokens / f"{name}.parquet", documents, encoder)
        _write_windows(windows / f"{name}.parquet", documents, sample)
        placed = read_windows(windows, name)
        filled = float(placed.lengths.mean()) / sample.context_length if len(placed.starts) else 1.0
        figures[name] = {
            "tokens": len(placed.stream),
            "windows": len(placed.starts),
            "padding_share": round(1 - filled, 5),
            "targets_seen_an_epoch": target_coverage(placed),
        }
        n_bytes[name] = int(documents["n_bytes"].sum())
    info = WindowsInfo(
        vocab_size=encoder.vocab_size,
        end_of_text=encoder.end_of_text,
        pad=encoder.pad,
        context_length=sample.context_length,
        stride=sample.stride,
        boundary=sample.boundary,
        n_bytes={split: n_bytes[split] for split in SPLITS},
        segmentations=segmentations,
        lossless=encoder.lossless,
    )
    write_info(windows / "windows.json", info)
    found = {
        split: contamination(
            StreamFile(windows, "train"), StreamFile(windows, split), encoder.end_of_text, sample.contamination_ngram
        )
        for split in ("val", "test")
    }
    content: dict[str, Any] = {
        key: {name: figures[name][key] for name in figures} for key in next(iter(figures.values()))
    }
    content["contamination"] = {
        "ngram": sample.contamination_ngram,
        **{
            split: {"ngrams": of.ngrams, "one_in": of.sampled, "share": round(of.share, 5)}
            for split, of in found.items()
        },
    }
    write_json(metrics, content)
    report.write_text(_describe(found, tokens, sample), encoding="utf-8")


def _check_weights(sample: WindowParams, tokens: Path) -> None:
    """A weight for a source that is not there is a mistake in its name."""
    sources = {name for split in SPLITS for name in _read_documents(tokens / f"{split}.parquet")["source"].unique()}
    if unknown := sorted(sample.weights.keys() - sources):
        raise UserError(f"sample.weights: wanted names of sources ({', '.join(sorted(sources))}), given {unknown[0]}")


def _read_documents(path: Path) -> pd.DataFrame:
    frame: pd.DataFrame = read_table(path, ["source", "n_tokens", "n_bytes"]).to_pandas()
    return frame


def _write_stream(path: Path, tokens: Path, documents: pd.DataFrame, encoder: Tokenizer) -> None:
    total = int(documents["n_tokens"].sum()) + len(documents) + 1 if len(documents) else 0
    dtype = "<u2" if encoder.vocab_size <= 1 << 16 else "<u4"
    stream = StreamWriter(path, total, encoder.end_of_text, dtype)
    for batch in tqdm(iterate_batches(tokens, ["ids"]), desc=f"sample {path.stem}", unit=" batches"):
        ids = batch.column("ids")
        stream.add(ids.flatten().to_numpy(), np.diff(ids.offsets.to_numpy()))
    stream.close()


def _write_windows(path: Path, documents: pd.DataFrame, sample: WindowParams) -> None:
    starts, lengths = window_spans(documents["n_tokens"].to_numpy(dtype=np.int64), sample)
    write_windows(path, starts, lengths, _weigh(starts, documents, sample))


def _weigh(starts: NDArray[np.int64], documents: pd.DataFrame, sample: WindowParams) -> NDArray[np.float32]:
    """The weight of the source that each window begins in."""
    if not sample.weights:
        return np.ones(len(starts), dtype=np.float32)
    of_document = documents["source"].map(lambda source: sample.weights.get(source, 1.0)).to_numpy(dtype=np.float32)
    behind = np.cumsum(documents["n_tokens"].to_numpy() + 1)
    # The last <|endoftext|> of the stream belongs to no document but the last.
    return of_document[np.minimum(np.searchsorted(behind, starts, side="right"), len(behind) - 1)]


def _describe(found: dict[str, Contamination], tokens: Path, sample: WindowParams) -> str:
    """The contamination report: shares, and the held-out documents with the most n-grams that train has too."""
    lines = [
        "# Held-out text that stands in the training text",
        "",
        f"The share of n-grams of {sample.contamination_ngram} tokens, of a held-out split, that train has anywhere.",
        "",
        "| split | n-grams looked up | of them in train |",
        "| --- | ---: | ---: |",
    ]
    lines += [f"| {split} | {of.ngrams:,} | {of.share:.2%} |" for split, of in found.items()]
    for split, of in found.items():
        paths = read_table(tokens / f"{split}.parquet", ["path"]).column("path")
        worst = [row for row in sorted(_by_share(of), reverse=True)[:N_WORST] if row[0] > 0]
        lines += ["", f"## {split}: the documents with the largest shares", ""]
        lines += ["| document | n-grams | of them in train |", "| --- | ---: | ---: |"] if worst else ["None."]
        lines += [f"| `{paths[number].as_py()}` | {ngrams:,} | {share:.1%} |" for share, ngrams, number in worst]
    return "\n".join(lines) + "\n"


def _by_share(of: Contamination) -> list[tuple[float, int, int]]:
    return [(found / ngrams, ngrams, int(number)) for number, ngrams, found in of.by_document if ngrams]


if __name__ == "__main__":
    stage.run(main)
