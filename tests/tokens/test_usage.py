"""How a tokenizer serves a text, counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from llm.tokens.tokenize import token_lengths
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_words


@pytest.fixture
def words(tmp_path: Path) -> Tokenizer:
    path = tmp_path / "tokenizer.json"
    train_words(["the cat and the dog"], 100, 1, "drop").save(str(path))
    return Tokenizer.load(path)


def test_tokens_bytes_and_unknown_words_are_counted_by_split_and_source(words: Tokenizer) -> None:
    usage = Usage(words)
    texts = [("a", "the cat"), ("b", "the bird and the fish"), ("a", "dog")]
    encoded = [np.array(words.encode(text)) for _, text in texts]
    usage.add("train", ["a", "b"], [7, 21], encoded[:2])
    usage.add("val", ["a"], [3], encoded[2:])
    figures = usage.figures()
    assert figures["tokens"] == {"train": 7, "val": 1}
    assert figures["bytes_per_token"] == {"train": 4.0, "val": 3.0}
    assert figures["bytes_per_token_by_source"] == {"a": pytest.approx(10 / 3, abs=1e-4), "b": pytest.approx(21 / 5)}
    assert figures["unknown_share"] == 2 / 8
    assert figures["vocab_used"] == 5  # the, cat, and, dog, and the unknown one
    assert usage.counts.sum() == 8
    assert not figures["lossless"]


def test_a_split_without_documents_is_left_out(words: Tokenizer) -> None:
    usage = Usage(words)
    usage.add("train", ["a"], [3], [np.array(words.encode("the"))])
    usage.add("test", [], [], [])
    assert set(usage.figures()["tokens"]) == {"train"}


def test_the_report_has_the_longest_and_the_most_frequent_tokens(small_tokenizer_file: Path) -> None:
    tokenizer = Tokenizer.load(small_tokenizer_file)
    usage = Usage(tokenizer)
    usage.add("train", ["a"], [9], [np.array(tokenizer.encode("||| river" * 3))])
    longest, frequent = usage.report().split("## Most frequent")
    sizes = [len(tokenizer.token_bytes(id_)) for id_ in range(6, tokenizer.vocab_size)]
    assert f"| {max(sizes)} |" in longest.splitlines()[6]
    assert "| `'\\|'` | 1 | 9 |" in frequent


def test_special_tokens_have_no_length(small_tokenizer_file: Path) -> None:
    tokenizer = Tokenizer.load(small_tokenizer_file)
    lengths = token_lengths(tokenizer)
    assert {int(lengths[id_]) for id_ in tokenizer.special.values()} == {0}
    assert (lengths[6:] > 0).all()
