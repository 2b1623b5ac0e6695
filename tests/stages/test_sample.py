"""Ids in, one stream a split and its windows out."""

import json
from pathlib import Path

import numpy as np
import pytest

from llm.text.params import SampleParams
from llm.text.tables import SPLITS, TableWriter, tokens_schema
from llm.text.tokenizer import Tokenizer
from llm.text.windows import read_info, read_starts, read_stream
from stages.sample import main

DOCUMENTS = {
    "train": [list(range(10, 30)), [30, 31, 32], list(range(33, 60))],
    "val": [[10, 11, 12, 13, 14]],
    "test": [],
}
END = 0


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    for split, documents in DOCUMENTS.items():
        with TableWriter(tmp_path / "tokens" / f"{split}.parquet", tokens_schema(320)) as table:
            for ids in documents:
                table.write({"doc_id": "any", "ids": ids, "n_bytes": 2 * len(ids)})
    return tmp_path / "tokens"


def run(tokens: Path, tokenizer: Path, context_length: int = 8, stride: int = 8, name: str = "windows") -> Path:
    windows = tokens.parent / name
    section = SampleParams(context_length=context_length, stride=stride)
    main(section, tokens, tokenizer, windows, tokens.parent / f"{name}.json")
    return windows


def test_a_stream_is_every_document_of_its_split_with_an_end_around_each(
    tokens: Path, small_tokenizer_file: Path
) -> None:
    windows = run(tokens, small_tokenizer_file)
    assert Tokenizer.load(small_tokenizer_file).end_of_text == END
    for split, documents in DOCUMENTS.items():
        expected = [END] * bool(documents) + [token for ids in documents for token in [*ids, END]]
        assert read_stream(windows, split).tolist() == expected


def test_a_window_is_a_place_in_the_stream_and_its_target_the_input_moved_by_one(
    tokens: Path, small_tokenizer_file: Path
) -> None:
    windows = run(tokens, small_tokenizer_file, context_length=8, stride=5)
    stream, starts = read_stream(windows, "train"), read_starts(windows, "train")
    assert starts.tolist() == list(range(0, len(stream) - 8, 5))
    for start in starts:
        inputs, target = stream[start : start + 8], stream[start + 1 : start + 9]
        assert len(target) == 8
        assert np.array_equal(inputs[1:], target[:-1])


def test_with_a_stride_of_one_context_every_token_but_the_rest_at_the_end_is_a_target_once(
    tokens: Path, small_tokenizer_file: Path
) -> None:
    windows = run(tokens, small_tokenizer_file)
    stream, starts = read_stream(windows, "train"), read_starts(windows, "train")
    targets = np.concatenate([stream[start + 1 : start + 9] for start in starts])
    assert targets.tolist() == stream[1 : 1 + len(targets)].tolist()
    assert len(stream) - 1 - len(targets) < 8


@pytest.mark.parametrize(("context_length", "stride"), [(2, 1), (8, 1), (8, 3), (8, 8), (8, 50), (200, 7)])
def test_any_stride_gives_windows_that_fit_and_metrics_that_count_them(
    context_length: int, stride: int, tokens: Path, small_tokenizer_file: Path
) -> None:
    windows = run(tokens, small_tokenizer_file, context_length, stride)
    metrics = json.loads((tokens.parent / "windows.json").read_text())
    for split in SPLITS:
        stream, starts = read_stream(windows, split), read_starts(windows, split)
        assert all(start + context_length < len(stream) for start in starts)
        assert set(np.diff(starts).tolist()) <= {stride}
        assert (metrics["tokens"][split], metrics["windows"][split]) == (len(stream), len(starts))


def test_the_windows_know_their_vocabulary_their_shape_and_the_bytes_behind_them(
    tokens: Path, small_tokenizer_file: Path
) -> None:
    info = read_info(run(tokens, small_tokenizer_file, context_length=9, stride=4))
    assert (info.vocab_size, info.end_of_text, info.context_length, info.stride) == (320, END, 9, 4)
    assert info.n_bytes == {"train": 100, "val": 10, "test": 0}


def test_the_same_tokens_give_the_same_bytes(tokens: Path, small_tokenizer_file: Path) -> None:
    first = run(tokens, small_tokenizer_file, name="first")
    second = run(tokens, small_tokenizer_file, name="second")
    assert sorted(path.name for path in first.iterdir()) == sorted(
        [*(f"{split}.npy" for split in SPLITS), *(f"{split}.parquet" for split in SPLITS), "windows.json"]
    )
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
