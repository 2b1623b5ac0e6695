"""Ids in; streams, windows and the contamination of held-out text out."""

import json

import numpy as np
import pytest

from llm.core.errors import UserError
from llm.core.tables import SPLITS, TableWriter, tokens_schema
from llm.tokens.windows import read_info, read_stream, read_windows
from stages.sample import main

DOCUMENTS = {
    "train": [("a", list(range(10, 30))), ("b", [30, 31, 32]), ("a", list(range(33, 60)))],
    "val": [("a", [10, 11, 12, 13, 14])],
    "test": [],
}
END = 0


@pytest.fixture
def write_tokens(tmp_path):
    """A writer of token tables as the tokenize stage leaves them."""

    def write(documents):
        for split, of_split in documents.items():
            with TableWriter(tmp_path / "tokens" / f"{split}.parquet", tokens_schema(320)) as table:
                for number, (source, ids) in enumerate(of_split):
                    row = {"doc_id": "any", "source": source, "path": f"{split} {number}", "ids": ids}
                    table.write(row | {"n_tokens": len(ids), "n_bytes": 2 * len(ids)})
        return tmp_path / "tokens"

    return write


@pytest.fixture
def tokens(write_tokens):
    return write_tokens(DOCUMENTS)


@pytest.fixture
def run(small_tokenizer_file, window_params):
    """A runner of the stage; metrics and details are beside the windows, with their name."""

    def run(tokens, name="windows", **options):
        windows = tokens.parent / name
        beside = [windows.with_suffix(suffix) for suffix in (".metrics", ".details")]
        main(window_params(**options), tokens, small_tokenizer_file, windows, *beside)
        return windows

    return run


def read(windows, suffix=".metrics"):
    return json.loads(windows.with_suffix(suffix).read_text())


def test_a_stream_has_an_end_around_each_document(tokens, run):
    windows = run(tokens, context_length=9, stride=4)
    for split, documents in DOCUMENTS.items():
        expected = [END] * bool(documents) + [token for _, ids in documents for token in [*ids, END]]
        assert read_stream(windows, split).tolist() == expected
    info = read_info(windows)
    assert (info.vocab_size, info.end_of_text, info.pad, info.context_length, info.stride) == (320, END, 1, 9, 4)
    assert info.n_bytes == {"train": 100, "val": 10, "test": 0}
    assert info.lossless


@pytest.mark.parametrize(("context_length", "stride"), [(2, 1), (8, 3), (8, 8), (8, 50), (200, 7)])
def test_metrics_count_windows_of_any_stride(context_length, stride, tokens, run):
    windows = run(tokens, context_length=context_length, stride=stride)
    metrics = read(windows)
    for split in SPLITS:
        stream, starts, lengths, weights = read_windows(windows, split)
        assert all(start + context_length < len(stream) for start in starts)
        assert set(np.diff(starts).tolist()) <= {stride}
        assert set(lengths.tolist()) <= {context_length}
        assert set(weights.tolist()) <= {1.0}
        assert (metrics["tokens"][split], metrics["windows"][split]) == (len(stream), len(starts))
        assert sum(metrics["targets_seen_per_epoch"][split].values()) == pytest.approx(min(len(stream), 1), abs=1e-4)


def test_windows_of_documents_are_padded_and_have_their_source_s_weight(tokens, run):
    windows = run(tokens, boundary="document", weights={"b": 2.0})
    _, starts, lengths, weights = read_windows(windows, "train")
    # 21, 4 and 28 targets in windows of 8.
    assert lengths.tolist() == [8, 8, 5, 4, 8, 8, 8, 4]
    assert starts.tolist() == [0, 8, 16, 21, 25, 33, 41, 49]
    assert weights.tolist() == [1, 1, 1, 2, 1, 1, 1, 1]
    metrics = read(windows)
    assert metrics["padding_fraction"]["train"] == pytest.approx(1 - 53 / 64, abs=1e-5)
    assert metrics["targets_seen_per_epoch"]["train"]["2+"] == pytest.approx(4 / 53, abs=1e-5)
    assert read_info(windows).boundary == "document"
    with pytest.raises(UserError, match=r"^sample\.weights: expected names of sources \(a, b\), got c$"):
        run(tokens, "refused", weights={"b": 1.0, "c": 2.0})


def test_each_segmentation_of_train_has_its_own_windows(write_tokens, run):
    names = [f"train-{number}" for number in (1, 2, 10)]
    tokens = write_tokens(DOCUMENTS | {name: [("a", [7] * (40 + len(name)))] for name in names})
    windows = run(tokens)
    assert read_info(windows).segmentations == names
    for name in names:
        assert read_windows(windows, name).stream.tolist() == [END, *[7] * (40 + len(name)), END]


def test_contaminated_documents_are_counted_and_named(write_tokens, run):
    tokens = write_tokens(DOCUMENTS | {"val": [("a", [10, 11, 12, 13, 99]), ("a", [98, 97, 96, 95])]})
    windows = run(tokens, contamination_ngram=3)
    # 10 11 12 and 11 12 13 of the first, nothing of the second; 5 n-grams in all.
    val = {"ngrams": 5, "sampled_one_in": 1, "fraction": 0.4}
    test = {"ngrams": 0, "sampled_one_in": 1, "fraction": 0.0}
    assert read(windows)["contamination"] == {"ngram": 3, "val": val, "test": test}
    documents = [{"document": "val 0", "ngrams": 3, "fraction": 0.66667}]
    splits = {"val": val | {"documents": documents}, "test": test | {"documents": []}}
    assert read(windows, ".details") == {"ngram": 3, "splits": splits}


def test_the_same_tokens_give_the_same_bytes(tokens, run):
    first, second = run(tokens, "first"), run(tokens, "second")
    names = {*(f"{split}.npy" for split in SPLITS), *(f"{split}.parquet" for split in SPLITS), "windows.json"}
    assert {path.name for path in first.iterdir()} == names
    assert all(path.read_bytes() == (second / path.name).read_bytes() for path in first.iterdir())
