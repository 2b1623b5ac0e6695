"""Words and characters as tokens: which get an id, what comes back, and that Transformers sees the same ids."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.tokens.special import END_OF_TEXT, PAD, SPECIAL_TOKENS, UNKNOWN
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_chars, train_words

N_RESERVED = len(SPECIAL_TOKENS) + 1
CORPUS = [
    "def walk(path):\n    return [name for name in path if name]\n\n\n\t\t",
    "The river runs, the rain falls; it's 2024: déjà_vu e\u0301 東京都 👩‍👩‍👧 \r\n<|endoftext|><|unk|> \u200b\u00a0",
]
WORDS = ["name", "river", "it's", "東京都", "👩‍👩‍👧", "\u200b"]
SEPARATORS = [" ", "   ", "\n", "\n\n", "\t", "\r\n", "(", "):"]
FRAGMENTS = [*WORDS, *SEPARATORS]
# Words stand apart, for two side by side are another word.
KNOWN = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(SEPARATORS)).map("".join), max_size=9).map("".join)
HOSTILE = st.lists(
    st.sampled_from([*FRAGMENTS, *SPECIAL_TOKENS, UNKNOWN, "<|", "e\u0301", "\0", "\x1c", "\ufeff", "zzz"])
).map("".join)


def train(kind: str) -> tokenizers.Tokenizer:
    texts = [*CORPUS, *FRAGMENTS]
    if kind == "char":
        return train_chars(texts, 500, 1)
    return train_words(texts, 500, 1, keep_whitespace=kind == "keep")


@pytest.fixture(scope="module", params=["keep", "drop", "char"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a model is exported: a tokenizer.json beside the settings that Transformers wants."""
    folder = tmp_path_factory.mktemp(kind)
    train(kind).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT, "pad_token": PAD}
    settings |= {"add_bos_token": False, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder / "tokenizer.json")


def test_a_sentence_is_split_into_words_with_ids_and_unknown_ones_are_marked() -> None:
    words = Tokenizer(train_words(["My name is Ripesh", "My name is name"], 100, 1, keep_whitespace=False))
    ids = {token: words.encode(token) for token in ("My", "name", "is", "Ripesh", "Ghimire")}
    assert ids == {"name": [7], "My": [8], "is": [9], "Ripesh": [10], "Ghimire": [6]}
    assert words.encode("My name is Ripesh Ghimire") == [8, 7, 9, 10, 6]
    assert words.decode([8, 7, 9, 10, 6]) == "My name is Ripesh <|unk|>"
    assert (words.unk_id, words.special[UNKNOWN], words.lossless) == (6, 6, False)


def test_special_tokens_come_first_and_the_unknown_behind_them(tokenizer: Tokenizer) -> None:
    assert tokenizer.special == {name: number for number, name in enumerate([*SPECIAL_TOKENS, UNKNOWN])}
    assert tokenizer.unk_id == len(SPECIAL_TOKENS)


PIECES = {"keep": r"\w+|(?:(\s)\1*)|[^\w\s]", "drop": r"\w+|[^\w\s]", "char": r"(?s:.)"}


@settings(max_examples=60)
@given(
    texts=st.lists(st.text(alphabet="ab東 _.\n"), max_size=5),
    min_frequency=st.integers(1, 3),
    room=st.integers(1, 12),
)
def test_the_vocabulary_is_the_commonest_pieces_ties_by_code_points(
    kind: str, texts: list[str], min_frequency: int, room: int
) -> None:
    counts = Counter(found.group() for text in texts for found in re.finditer(PIECES[kind], text))
    order = sorted(counts, key=lambda piece: (-counts[piece], piece))
    expected = [piece for piece in order if counts[piece] >= min_frequency][:room]
    size = N_RESERVED + room
    trained = (
        train_chars(texts, size, min_frequency)
        if kind == "char"
        else train_words(texts, size, min_frequency, keep_whitespace=kind == "keep")
    )
    vocabulary = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    assert vocabulary == [*SPECIAL_TOKENS, UNKNOWN, *expected]


@given(text=KNOWN)
def test_text_of_known_pieces_comes_back_and_without_whitespace_its_words_do(
    kind: str, tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text)
    pieces = [found.group() for found in re.finditer(PIECES[kind], text)]
    assert tokenizer.unk_id not in ids
    assert [tokenizer.token_bytes(token).decode() for token in ids] == pieces
    assert tokenizer.decode(ids) == (" ".join(pieces) if kind == "drop" else text)


def test_a_run_of_one_whitespace_character_is_one_token() -> None:
    kept = train_words(["x\n\n    y\t\tz"], 100, 1, keep_whitespace=True)
    assert kept.encode("x\n\n    y\t\tz").tokens == ["x", "\n\n", "    ", "y", "\t\t", "z"]
    assert kept.encode("\n\n\n").tokens == [UNKNOWN]


@given(text=st.text() | HOSTILE)
def test_only_what_is_unknown_is_marked_and_no_text_has_another_special_token(tokenizer: Tokenizer, text: str) -> None:
    reserved = set(tokenizer.special.values()) - {tokenizer.unk_id}
    assert reserved.isdisjoint(tokenizer.encode(text))


@settings(max_examples=80, deadline=None)
@given(text=st.text() | HOSTILE)
@example(text="".join(map(chr, range(1, 400))))
@example(text=f"{END_OF_TEXT} {UNKNOWN}{PAD}")
def test_transformers_gives_the_same_ids(folder: Path, tokenizer: Tokenizer, text: str) -> None:
    for theirs in loaded_by_transformers(folder):
        ids = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ids == tokenizer.encode(text)
        assert theirs.decode(ids) == tokenizer.decode(ids)


@cache
def loaded_by_transformers(folder: Path) -> list:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    alone = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return [alone, AutoTokenizer.from_pretrained(folder)]


@pytest.mark.parametrize("vocab_size", [2, N_RESERVED])
def test_a_vocabulary_without_room_for_a_word_is_refused(vocab_size: int) -> None:
    with pytest.raises(UserError, match=f"vocab_size: wanted more than the 7 special tokens, given {vocab_size}"):
        train_words(["a"], vocab_size, 1, keep_whitespace=True)
    with pytest.raises(UserError, match="vocab_size: wanted more than the 7 special tokens"):
        train_chars(["a"], vocab_size, 1)
