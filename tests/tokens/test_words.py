"""Words and characters as tokens: which get an id, what is decoded, and that Transformers has the same ids."""

import json
import re
from collections import Counter
from functools import cache

import pytest
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
# Separated, for two adjacent words are another word.
KNOWN = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(SEPARATORS)).map("".join), max_size=9).map("".join)
OTHERS = [*SPECIAL_TOKENS, UNKNOWN, "<|", "e\u0301", "\0", "\x1c", "\ufeff", "zzz"]
ANY_TEXT = st.text() | st.lists(st.sampled_from([*WORDS, *SEPARATORS, *OTHERS])).map("".join)
PIECES = {"keep": r"\w+|(?:(\s)\1*)|[^\w\s]", "drop": r"\w+|[^\w\s]", "char": r"(?s:.)"}


def train(kind, texts, size=500, min_frequency=1):
    if kind == "char":
        return train_chars(texts, size, min_frequency)
    return train_words(texts, size, min_frequency, keep_whitespace=kind == "keep")


@pytest.fixture(scope="module", params=PIECES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    """As in an export: a tokenizer.json beside the settings of Transformers."""
    folder = tmp_path_factory.mktemp(kind)
    train(kind, [*CORPUS, *WORDS, *SEPARATORS]).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT, "pad_token": PAD}
    settings |= {"add_bos_token": False, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.load(folder / "tokenizer.json")


@settings(max_examples=60)
@given(st.lists(st.text(alphabet="ab東 _.\n"), max_size=5), st.integers(1, 3), st.integers(1, 12))
def test_the_vocabulary_is_the_most_frequent_pieces(kind, texts, min_frequency, room):
    counts = Counter(found.group() for text in texts for found in re.finditer(PIECES[kind], text))
    order = sorted(counts, key=lambda piece: (-counts[piece], piece))
    expected = [piece for piece in order if counts[piece] >= min_frequency][:room]
    vocabulary = train(kind, texts, N_RESERVED + room, min_frequency).get_vocab()
    assert sorted(vocabulary, key=vocabulary.__getitem__) == [*SPECIAL_TOKENS, UNKNOWN, *expected]


@given(text=KNOWN)
def test_known_text_is_decoded_or_its_words_without_whitespace(kind, tokenizer, text):
    ids = tokenizer.encode(text)
    pieces = [found.group() for found in re.finditer(PIECES[kind], text)]
    assert tokenizer.unk_id not in ids
    assert [tokenizer.token_bytes(token).decode() for token in ids] == pieces
    assert tokenizer.decode(ids) == (" ".join(pieces) if kind == "drop" else text)


def test_a_run_of_one_whitespace_character_is_one_token():
    kept = train("keep", ["x\n\n    y\t\tz"], 100)
    assert kept.encode("x\n\n    y\t\tz").tokens == ["x", "\n\n", "    ", "y", "\t\t", "z"]
    assert kept.encode("\n\n\n").tokens == [UNKNOWN]


@settings(max_examples=80, deadline=None)
@given(text=ANY_TEXT)
@example(text="".join(map(chr, range(1, 400))))
@example(text=f"{END_OF_TEXT} {UNKNOWN}{PAD}")
def test_transformers_has_the_same_ids_and_none_is_reserved(folder, tokenizer, text):
    assert (set(tokenizer.special.values()) - {tokenizer.unk_id}).isdisjoint(tokenizer.encode(text))
    for theirs in loaded_by_transformers(folder):
        ids = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ids == tokenizer.encode(text)
        assert theirs.decode(ids) == tokenizer.decode(ids)


@cache
def loaded_by_transformers(folder):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    alone = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return [alone, AutoTokenizer.from_pretrained(folder)]


@pytest.mark.parametrize("vocab_size", [2, N_RESERVED])
def test_a_vocabulary_without_room_for_a_word_is_refused(kind, vocab_size):
    with pytest.raises(UserError, match=f"vocab_size: expected more than the 7 special tokens, got {vocab_size}"):
        train(kind, ["a"], vocab_size)
