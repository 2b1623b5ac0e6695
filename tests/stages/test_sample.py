"""Ids in, one stream a split and its windows out, and word of what held-out text stands in train."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm.core.errors import UserError
from llm.core.tables import SPLITS, TableWriter, tokens_schema
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import read_info, read_stream, read_windows
from stages.sample import main

DOCUMENTS = {
    "train": [("a", list(range(10, 30))), ("b", [30, 31, 32]), ("a", list(range(33, 60)))],
    "val": [("a", [10, 11, 12, 13, 14])],
    "test": [],
}
END = 0


@pytest.fixture
def write_tokens(tmp_path: Path) -> Callable[..., Path]:
    """A writer of token tables as the tokenize stage leaves them."""

    def write(documents: dict[str, list[tuple[str, list[int]]]]) -> Path:
        for split, of_split in documents.items():
            with TableWriter(tmp_path / "tokens" / f"{split}.parquet", tokens_schema(320)) as table:
                for number, (source, ids) in enumerate(of_split):
                    row = {"doc_id": "any", "source": source, "path": f"{split} {number}", "ids": ids}
                    table.write(row | {"n_tokens": len(ids), "n_bytes": 2 * len(ids)})
        return tmp_path / "tokens"

    return write


@pytest.fixture
def tokens(write_tokens: Callable[..., Path]) -> Path:
    return write_tokens(DOCUMENTS)


@pytest.fixture
def run(small_tokenizer_file: Path, window_params: Callable) -> Callable[..., Path]:
    """A runner of the stage; metrics and report lie beside the windows, with their name."""

    def run(tokens: Path, name: str = "windows", **options: object) -> Path:
        windows = tokens.parent / name
        beside = [windows.with_suffix(suffix) for suffix in (".json", ".md")]
        main(window_params(**options), tokens, small_tokenizer_file, windows, *beside)
        return windows

    return run


def metrics_of(windows: Path) -> dict:
    return json.loads(windows.with_suffix(".json").read_text())


def test_a_stream_is_every_document_of_its_split_with_an_end_around_each(
    tokens: Path, run: Callable[..., Path], small_tokenizer_file: Path
) -> None:
    windows = run(tokens)
    assert Tokenizer.load(small_tokenizer_file).end_of_text == END
    for split, documents in DOCUMENTS.items():
        expected = [END] * bool(documents) + [token for _, ids in documents for token in [*ids, END]]
        assert read_stream(windows, split).tolist() == expected


@pytest.mark.parametrize(("context_length", "stride"), [(2, 1), (8, 1), (8, 3), (8, 8), (8, 50), (200, 7)])
def test_any_stride_gives_windows_that_fit_and_metrics_that_count_them(
    context_length: int, stride: int, tokens: Path, run: Callable[..., Path]
) -> None:
    windows = run(tokens, context_length=context_length, stride=stride)
    metrics = metrics_of(windows)
    for split in SPLITS:
        stream, starts, lengths, weights = read_windows(windows, split)
        assert all(start + context_length < len(stream) for start in starts)
        assert set(np.diff(starts).tolist()) <= {stride}
        assert set(lengths.tolist()) <= {context_length}
        assert set(weights.tolist()) <= {1.0}
        assert (metrics["tokens"][split], metrics["windows"][split]) == (len(stream), len(starts))
        assert sum(metrics["targets_seen_an_epoch"][split].values()) == pytest.approx(min(len(stream), 1), abs=1e-4)


def test_windows_within_documents_are_padded_and_nothing_is_lost(tokens: Path, run: Callable[..., Path]) -> None:
    windows = run(tokens, boundary="document")
    _, starts, lengths, _ = read_windows(windows, "train")
    # 21, 4 and 28 targets in windows of 8.
    assert lengths.tolist() == [8, 8, 5, 4, 8, 8, 8, 4]
    assert starts.tolist() == [0, 8, 16, 21, 25, 33, 41, 49]
    metrics = metrics_of(windows)
    assert metrics["targets_seen_an_epoch"]["train"] == {"0": 0.0, "1": 1.0, "2+": 0.0}
    assert metrics["padding_share"]["train"] == pytest.approx(1 - 53 / 64, abs=1e-5)
    assert read_info(windows).boundary == "document"


def test_a_source_has_its_weight_in_the_windows_that_begin_in_it(tokens: Path, run: Callable[..., Path]) -> None:
    windows = run(tokens, boundary="document", weights={"b": 2.0})
    assert read_windows(windows, "train").weights.tolist() == [1, 1, 1, 2, 1, 1, 1, 1]
    assert metrics_of(windows)["targets_seen_an_epoch"]["train"]["2+"] == pytest.approx(4 / 53, abs=1e-5)


def test_a_weight_for_a_source_that_is_not_there_is_refused(tokens: Path, run: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"^sample\.weights: wanted names of sources \(a, b\), given c$"):
        run(tokens, weights={"b": 1.0, "c": 2.0})


def test_each_segmentation_of_train_has_windows_of_its_own(
    write_tokens: Callable[..., Path], run: Callable[..., Path]
) -> None:
    names = [f"train-{number}" for number in (1, 2, 10)]
    tokens = write_tokens(DOCUMENTS | {name: [("a", [7] * (40 + len(name)))] for name in names})
    windows = run(tokens)
    assert read_info(windows).segmentations == names
    for name in names:
        assert read_windows(windows, name).stream.tolist() == [END, *[7] * (40 + len(name)), END]


def test_the_windows_know_their_vocabulary_their_shape_and_the_bytes_behind_them(
    tokens: Path, run: Callable[..., Path]
) -> None:
    info = read_info(run(tokens, context_length=9, stride=4))
    assert (info.vocab_size, info.end_of_text, info.pad, info.context_length, info.stride) == (320, END, 1, 9, 4)
    assert info.n_bytes == {"train": 100, "val": 10, "test": 0}
    assert info.lossless


def test_held_out_text_that_stands_in_train_is_counted_and_named(
    write_tokens: Callable[..., Path], run: Callable[..., Path]
) -> None:
    tokens = write_tokens(DOCUMENTS | {"val": [("a", [10, 11, 12, 13, 99]), ("a", [98, 97, 96, 95])]})
    windows = run(tokens, contamination_ngram=3)
    # 10 11 12 and 11 12 13 of the first, nothing of the second; 5 n-grams in all.
    assert metrics_of(windows)["contamination"] == {
        "ngram": 3,
        "val": {"ngrams": 5, "one_in": 1, "share": 0.4},
        "test": {"ngrams": 0, "one_in": 1, "share": 0.0},
    }
    report = windows.with_suffix(".md").read_text()
    assert "| val | 5 | 40.00% |" in report
    assert "| `val 0` | 3 | 66.7% |" in report
    assert "`val 1`" not in report


def test_the_same_tokens_give_the_same_bytes(tokens: Path, run: Callable[..., Path]) -> None:
    first, second = run(tokens, "first"), run(tokens, "second")
    assert sorted(path.name for path in first.iterdir()) == sorted(
        [*(f"{split}.npy" for split in SPLITS), *(f"{split}.parquet" for split in SPLITS), "windows.json"]
    )
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
