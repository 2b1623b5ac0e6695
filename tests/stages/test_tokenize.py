"""Documents in, ids out: a tokenizer that saw the train split alone, and every text behind its ids."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.text.params import TokenizeParams
from llm.text.tables import SPLITS, read_table
from llm.text.tokenizer import Tokenizer
from stages.tokenize import main

CORPUS = {
    "train": {"a": "the river runs and the rain runs\n" * 3, "b": "a house, déjà vu\n", "c": "<|endoftext|>"},
    "val": {"d": "the train runs\n"},
    "test": {"e": "zebras buzz 東京\n", "f": "the end"},
}


@pytest.fixture
def run(tmp_path: Path, write_corpus: Callable[..., Path]) -> Callable[..., Path]:
    """A runner of the stage; gives back the folder with tokenizer.json, tokens and metrics.json."""

    def run(documents: dict[str, dict[str, str]], name: str = "run", vocab_size: int = 300) -> Path:
        folder = tmp_path / name
        corpus = write_corpus(folder / "corpus", documents)
        section = TokenizeParams(vocab_size=vocab_size)
        main(section, corpus, folder / "tokenizer.json", folder / "tokens", folder / "metrics.json")
        return folder

    return run


def test_decoding_the_ids_of_a_row_gives_its_document_back(run: Callable[..., Path]) -> None:
    folder = run(CORPUS)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    for split in SPLITS:
        documents = read_table(folder / "corpus" / f"{split}.parquet").to_pylist()
        rows = read_table(folder / "tokens" / f"{split}.parquet").to_pylist()
        assert [tokenizer.decode(row["ids"]) for row in rows] == list(CORPUS[split].values())
        assert [(row["doc_id"], row["n_bytes"]) for row in rows] == [(d["doc_id"], d["n_bytes"]) for d in documents]


def test_the_tokenizer_has_seen_nothing_that_is_held_out(run: Callable[..., Path]) -> None:
    folder = run(CORPUS)
    other = run({"train": CORPUS["train"], "test": {"g": "other held out text " * 50}}, name="other")
    assert (folder / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()
    changed = run(CORPUS | {"train": {"g": "other text to train on " * 50}}, name="changed")
    assert (folder / "tokenizer.json").read_bytes() != (changed / "tokenizer.json").read_bytes()


def test_the_same_corpus_gives_the_same_bytes(run: Callable[..., Path]) -> None:
    first, second = run(CORPUS, "first"), run(CORPUS, "second")
    for name in ["tokenizer.json", "metrics.json", *(f"tokens/{split}.parquet" for split in SPLITS)]:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_metrics_count_the_tokens_and_what_each_is_worth(run: Callable[..., Path]) -> None:
    folder = run(CORPUS)
    metrics = json.loads((folder / "metrics.json").read_text())
    used = set()
    for split in SPLITS:
        rows = read_table(folder / "tokens" / f"{split}.parquet").to_pylist()
        used.update(*(row["ids"] for row in rows))
        n_tokens = sum(len(row["ids"]) for row in rows)
        n_bytes = sum(len(text.encode()) for text in CORPUS[split].values())
        assert metrics["tokens"][split] == n_tokens
        assert metrics["bytes_per_token"][split] == pytest.approx(n_bytes / n_tokens, abs=1e-4)
    assert metrics["vocab_size"] == 300
    assert metrics["vocab_used"] == len(used)


def test_a_corpus_too_small_for_the_vocabulary_has_the_size_that_it_reached(run: Callable[..., Path]) -> None:
    folder = run({"train": {"a": "abab"}}, vocab_size=5000)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    assert json.loads((folder / "metrics.json").read_text())["vocab_size"] == tokenizer.vocab_size == 264
