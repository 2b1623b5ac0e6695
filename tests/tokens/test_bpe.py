"""Byte pair encoding held to the textbook: the same merges in a few lines, and each pattern to its origin's."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise, product

import pytest
import regex
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str
from tokenizers import pre_tokenizers

from llm.core.errors import UserError
from llm.tokens.bpe import (
    ALPHABET,
    MAX_PIECE_CHARS,
    MAX_TOKEN_BYTES,
    PATTERN,
    PATTERNS,
    _bounded,
    byte_level,
    from_bytes,
    merge_with_dropout,
    parts_of,
    split_pattern,
    to_bytes,
    train_bpe,
)
from llm.tokens.special import SPECIAL_TOKENS

N_RESERVED = len(SPECIAL_TOKENS) + 256

CORPUS = [
    "def walk(path):\n    return [name for name in path if name]\n\n\n",
    "The river runs, the rain falls; it's 2024 and they'll say: \"we've seen 1234567 déjà vus\"!!!\r\n",
    "Größe, naïve, Ελλάδα, Москва, 東京都, 한국어, हिन्दी, عربي, 👩‍👩‍👧 👍🏽\t\t\t...\n   \n",
    "\nREIT" * 5,  # A merge over the end of 'RE that only words may use.
    "<|endoftext|> <|im_start|>user<|im_end|> <|pad|><|bos|><|eos|> ######## ---------",
] * 3

# Each piece sits on an edge of some rule of a split pattern; a text is any row of them.
EDGES = [
    *("'s", "'RE", "'ll", "'ſ", "'", "it", "IT", "é", "e\u0301", "ß", "東京", "한", "हि", "ع", "ǅ", "ª", "\u0345"),
    *("1", "42", "333", "4444", "٣", "½", "²", "Ⅷ", "一", " ", "  ", "\n", "\r", "\r\n", "\n\n", "\t", "\v", "\f"),
    *("\x1c", "\x85", "\u00a0", "\u2028", "\u3000", "\u200b", "\u200d", "\ufeff", "\ufffd", "\0", "\x7f", "\u00ad"),
    *("\U0010ffff", ".", "...", "!?", "_", "__init__", "(", '"', "€", "👩‍👩‍👧", "👍🏽", "<|", "|>", *SPECIAL_TOKENS),
]
STRADDLING = st.lists(st.sampled_from(EDGES), max_size=12).map("".join)

# The textbook: Gage 1994, Sennrich et al. 2016 (arXiv:1508.07909), on the bytes of each piece of the split pattern.

Merge = tuple[bytes, bytes]


def in_bytes(text: str, pattern: str) -> list[list[bytes]]:
    return [[bytes([byte]) for byte in piece.encode()] for piece in regex.findall(pattern, text)]


def merge(word: list[bytes], pair: Merge) -> list[bytes]:
    merged: list[bytes] = []
    rest = list(word)
    while rest:
        length = 2 if tuple(rest[:2]) == pair else 1
        merged.append(b"".join(rest[:length]))
        del rest[:length]
    return merged


def learn(text: str, n_merges: int, pattern: str) -> list[Merge]:
    """Merge the pair that stands most often, again and again. No two pairs may stand equally often."""
    words = in_bytes(text, pattern)
    merges = []
    for _ in range(n_merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        (best, most), (_, next_most) = counts.most_common(2)
        assert most > next_most, f"a tie after {len(merges)} merges"
        merges.append(best)
        words = [merge(word, best) for word in words]
    return merges


def encode_by_hand(text: str, merges: Iterable[Merge], pattern: str) -> list[bytes]:
    """Apply the merge that was learned first, again and again."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    tokens = []
    for word in in_bytes(text, pattern):
        parts = word
        while known := [pair for pair in pairwise(parts) if pair in ranks]:
            parts = merge(parts, min(known, key=ranks.__getitem__))
        tokens += parts
    return tokens


def merges_of(trained: tokenizers.Tokenizer) -> list[Merge]:
    return [(to_bytes(first), to_bytes(second)) for first, second in json.loads(trained.to_str())["model"]["merges"]]


def encoded(trained: tokenizers.Tokenizer, text: str) -> list[bytes]:
    trained.encode_special_tokens = True
    return [to_bytes(token) for token in trained.encode(text).tokens]


def growing_words() -> str:
    """A text without ties: a word's beginnings all stand in it, so that an earlier pair stands more often."""
    words = {" straw": 101, " river": 103, "ocean": 107, "über": 113, "!?.\n": 127}
    return "".join((word[:end] + "7") * times for word, times in words.items() for end in range(1, len(word) + 1))


@pytest.fixture(scope="module", params=PATTERNS)
def pattern(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def textbook(pattern: str) -> tuple[list[Merge], tokenizers.Tokenizer]:
    """The merges that the textbook learns from a text without ties, and what is trained on it."""
    merges = learn(growing_words(), 18, PATTERNS[pattern])
    return merges, train_bpe([growing_words()], N_RESERVED + len(merges), pattern)


@pytest.fixture(scope="module")
def trained(pattern: str) -> tokenizers.Tokenizer:
    return train_bpe(CORPUS, 440, pattern)


Textbook = tuple[list[Merge], tokenizers.Tokenizer]


def test_the_merges_are_those_of_the_textbook_and_ids_go_up_with_them(textbook: Textbook) -> None:
    merges, trained = textbook
    assert merges_of(trained) == merges
    assert [to_bytes(trained.id_to_token(N_RESERVED + n)) for n in range(len(merges))] == [a + b for a, b in merges]


@given(text=st.text(alphabet="strawiveocnüb !?.\n7") | st.lists(st.sampled_from([" straw", "river"])).map("".join))
def test_encoding_with_the_textbook_s_merges_is_encoding_by_hand(textbook: Textbook, pattern: str, text: str) -> None:
    merges, trained = textbook
    assert encoded(trained, text) == encode_by_hand(text, merges, PATTERNS[pattern])


@given(text=STRADDLING)
def test_encoding_with_the_learned_merges_is_encoding_by_hand(
    trained: tokenizers.Tokenizer, pattern: str, text: str
) -> None:
    by_hand = encode_by_hand(text, merges_of(trained), PATTERNS[pattern])
    assert encoded(trained, text) == by_hand
    assert b"".join(by_hand) == text.encode()


# As tiktoken spells it, with possessive quantifiers.
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


@pytest.mark.parametrize(("name", "original"), [("gpt2", r50k_pat_str), ("cl100k", CL100K)])
@given(text=STRADDLING)
def test_a_named_pattern_splits_as_openai_s_own_spelling(name: str, original: str, text: str) -> None:
    # $ is the very end in tiktoken's engine, and before a last newline in `regex`.
    assert regex.findall(PATTERNS[name], text) == regex.findall(original.replace("$", r"\Z"), text)


@given(text=STRADDLING)
def test_the_gpt2_pattern_splits_as_the_library_s_own(text: str) -> None:
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    ours = train_bpe([], 300, "gpt2").pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in ours] == [piece for piece, _ in theirs]


def test_digits_stand_alone_or_together_as_the_pattern_says() -> None:
    pieces = {name: regex.findall(expression, "in 2024") for name, expression in PATTERNS.items()}
    assert pieces == {
        "qwen2": ["in", " ", "2", "0", "2", "4"],
        "gpt2": ["in", " 2024"],
        "cl100k": ["in", " ", "202", "4"],
        "llama3": ["in", " ", "202", "4"],
    }


def test_the_end_of_a_text_is_where_gpt_4_and_llama_3_differ() -> None:
    pieces = {name: regex.findall(PATTERNS[name], "a\n  b\n  ") for name in ("cl100k", "llama3")}
    assert pieces == {
        "cl100k": ["a", "\n", " ", " b", "\n  "],
        "llama3": ["a", "\n", " ", " b", "\n", "  "],
    }


def test_a_name_is_the_pattern_that_published_tokenizers_carry() -> None:
    after = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    before = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    assert PATTERNS["qwen2"] == before + r"\p{N}" + after
    assert PATTERNS["llama3"] == before + r"\p{N}{1,3}" + after


def test_a_pattern_of_one_s_own_is_used_and_loses_nothing_between_its_matches() -> None:
    trained = train_bpe(["ab-ab-ab"], N_RESERVED + 1, "[a-z]+")
    assert encoded(trained, "ab-ab.-") == [b"ab", b"-", b"ab", b".", b"-"]


@pytest.mark.parametrize("wrong", ["(", "[z-a]", "(?i:x", r"\p{Nonsense}"])
def test_a_pattern_that_is_none_is_refused_by_one_line(wrong: str) -> None:
    with pytest.raises(
        UserError, match="pattern: wanted qwen2, gpt2, cl100k, llama3 or a regular expression, given"
    ) as error:
        split_pattern(wrong)
    assert wrong in str(error.value)
    assert "\n" not in str(error.value)


def test_no_merge_makes_a_special_token_of_letters_whatever_the_pattern() -> None:
    texts = ["<|endoftext|> x<|im_end|>y <|endoftext|>" * 50]
    trained = train_bpe(texts, 600, r"\S+|\s+")
    made = {first + second for first, second in merges_of(trained)}
    assert not [token for token in made if any(special.encode() in token for special in SPECIAL_TOKENS)]
    assert b"endoftext|>" in made
    assert set(encoded(trained, texts[0])).isdisjoint(special.encode() for special in SPECIAL_TOKENS)


def test_training_depends_on_the_texts_and_not_on_their_order() -> None:
    once = train_bpe(CORPUS, 400, "qwen2").to_str()
    assert train_bpe(iter(CORPUS), 400, PATTERN).to_str() == once
    assert train_bpe(CORPUS[::-1], 400, "qwen2").to_str() == once
    assert train_bpe(CORPUS[:1] * 5, 400, "qwen2").to_str() != once


def test_a_corpus_that_runs_out_of_pairs_gives_fewer_tokens() -> None:
    assert train_bpe(["abab"], 1000, "qwen2").get_vocab_size() == N_RESERVED + 2


@given(text=STRADDLING)
def test_ordinary_text_is_split_for_training_as_it_is_for_encoding(pattern: str, text: str) -> None:
    for expression in (PATTERNS[pattern], r"\S+|\s+"):
        plain = byte_level(tokenizers.models.BPE(), expression).pre_tokenizer
        assert _bounded(expression).pre_tokenize_str(text) == plain.pre_tokenize_str(text)


@pytest.mark.parametrize("run", ["^", "a", "\u4e2d", " ", "\n", " \n", "x\u0301", "!\n", "7", "a\n"])
def test_a_long_run_is_learned_from_in_parts_and_encoded_as_one(pattern: str, run: str) -> None:
    text = run * 10_000
    for expression in (PATTERNS[pattern], r"[\s\S]+"):
        pieces = _bounded(expression).pre_tokenize_str(text)
        assert max(end - start for _, (start, end) in pieces) <= 2 * MAX_PIECE_CHARS + 1
        assert [start for _, (start, _) in pieces[1:]] == [end for _, (_, end) in pieces[:-1]]
    trained = train_bpe([text, *CORPUS], 440, pattern)
    plain = byte_level(tokenizers.models.BPE(), PATTERNS[pattern]).pre_tokenizer
    assert trained.pre_tokenizer.pre_tokenize_str(text) == plain.pre_tokenize_str(text)
    assert b"".join(encoded(trained, text)) == text.encode()
    assert max(len(to_bytes(name)) for name in trained.get_vocab() if name not in SPECIAL_TOKENS) <= MAX_TOKEN_BYTES


def test_training_on_a_long_run_takes_seconds() -> None:
    rng = random.Random(0)
    began = time.process_time()
    train_bpe(["".join(rng.choices("ACGT", k=300_000))], 2048, "qwen2")
    assert time.process_time() - began < 20  # 1.3 s; unbounded 80


def test_every_byte_is_written_as_the_library_writes_it() -> None:
    assert set(ALPHABET) == set(pre_tokenizers.ByteLevel.alphabet())
    for byte in range(128):  # as text, every byte below 128 is a character of its own
        [(written, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(byte))
        assert to_bytes(written) == bytes([byte])


@given(token=st.binary())
def test_bytes_come_back_from_how_they_are_written(token: bytes) -> None:
    assert to_bytes(from_bytes(token)) == token


def test_a_token_comes_down_to_the_pair_that_it_was_merged_from(trained: tokenizers.Tokenizer) -> None:
    special = set(SPECIAL_TOKENS)
    ranks = {to_bytes(name): rank for name, rank in trained.get_vocab().items() if name not in special}
    merges = merges_of(trained)
    assert [parts_of(first + second, ranks) for first, second in merges] == [[*pair] for pair in merges]


def test_a_token_that_no_merge_makes_comes_down_to_more_parts_than_two() -> None:
    assert parts_of(b"abc", {b"abc": 5, b"xy": 1}) == [b"a", b"b", b"c"]
    assert parts_of(b"abcd", {b"abcd": 5, b"bc": 1}) == [b"a", b"bc", b"d"]


def test_a_token_may_be_made_of_one_that_stands_behind_it() -> None:
    assert parts_of(b"abc", {b"abc": 5, b"ab": 6}) == [b"ab", b"c"]


def outcomes(rate: float) -> Counter[tuple[int, ...]]:
    """What "a b c" becomes for each way that three draws may fall, below the rate or not."""
    a, b, c, ab, bc, abc = range(6)
    merges = {(a, b): ab, (b, c): bc, (ab, c): abc}
    ways = product((0.0, 0.75), repeat=3)
    return Counter(tuple(merge_with_dropout([a, b, c], merges, rate, iter(way).__next__)) for way in ways)


def test_each_possible_merge_is_dropped_on_its_own_and_the_lowest_of_the_rest_is_made() -> None:
    # Both dropped: a b c. Only ab dropped: a bc, and that is it. ab kept: ab c, and then abc or not. A quarter each.
    assert outcomes(rate=0.5) == {(0, 1, 2): 2, (0, 4): 2, (3, 2): 2, (5,): 2}
    assert outcomes(rate=0.0) == {(5,): 8}
    assert outcomes(rate=1.0) == {(0, 1, 2): 8}


def always(value: float) -> Callable[[], float]:
    return lambda: value


@given(text=st.text(alphabet="strawiveocnüb !?.\n7"))
def test_with_nothing_dropped_pieces_are_merged_as_by_hand(textbook: Textbook, pattern: str, text: str) -> None:
    merges, trained = textbook
    ids = {to_bytes(name): token for name, token in trained.get_vocab().items()}
    pairs = {(ids[first], ids[second]): ids[first + second] for first, second in merges}
    pieces = [[ids[byte] for byte in word] for word in in_bytes(text, PATTERNS[pattern])]
    merged = [token for piece in pieces for token in merge_with_dropout(piece, pairs, 0.5, always(0.9))]
    assert merged == [ids[token] for token in encode_by_hand(text, merges, PATTERNS[pattern])]
