"""Byte pair encoding against the textbook: the same merges in a few lines, and each pattern against its origin."""

import json
import random
import time
from collections import Counter
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
from tests.tokens.samples import CORPUS, STRADDLING

N_RESERVED = len(SPECIAL_TOKENS) + 256
TEXTBOOK_TEXT = st.text(alphabet="strawiveocnüb !?.\n7") | st.lists(st.sampled_from([" straw", "river"])).map("".join)

# The textbook: Gage 1994, Sennrich et al. 2016 (arXiv:1508.07909), on the bytes of each piece of the split pattern.


def in_bytes(text, pattern):
    return [[bytes([byte]) for byte in piece.encode()] for piece in regex.findall(pattern, text)]


def merge(word, pair):
    merged, rest = [], list(word)
    while rest:
        length = 2 if tuple(rest[:2]) == pair else 1
        merged.append(b"".join(rest[:length]))
        del rest[:length]
    return merged


def learn(text, n_merges, pattern):
    """Merge the most frequent pair, again and again; ties are not allowed."""
    words, merges = in_bytes(text, pattern), []
    for _ in range(n_merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        (best, most), (_, next_most) = counts.most_common(2)
        assert most > next_most, f"a tie after {len(merges)} merges"
        merges.append(best)
        words = [merge(word, best) for word in words]
    return merges


def encode_by_hand(text, merges, pattern):
    """Apply the merge that was learned first, again and again."""
    ranks, tokens = {pair: rank for rank, pair in enumerate(merges)}, []
    for word in in_bytes(text, pattern):
        parts = word
        while known := [pair for pair in pairwise(parts) if pair in ranks]:
            parts = merge(parts, min(known, key=ranks.__getitem__))
        tokens += parts
    return tokens


def merges_of(trained):
    return [(to_bytes(first), to_bytes(second)) for first, second in json.loads(trained.to_str())["model"]["merges"]]


def encoded(trained, text):
    trained.encode_special_tokens = True
    return [to_bytes(token) for token in trained.encode(text).tokens]


def growing_words():
    """Make a text without ties: it has all prefixes of a word, so that an earlier pair is more frequent."""
    words = {" straw": 101, " river": 103, "ocean": 107, "über": 113, "!?.\n": 127}
    return "".join((word[:end] + "7") * times for word, times in words.items() for end in range(1, len(word) + 1))


@pytest.fixture(scope="module", params=PATTERNS)
def pattern(request):
    return request.param


@pytest.fixture(scope="module")
def textbook(pattern):
    """The merges that the textbook learns from a text without ties, and a tokenizer that is trained on it."""
    merges = learn(growing_words(), 18, PATTERNS[pattern])
    return merges, train_bpe([growing_words()], N_RESERVED + len(merges), pattern)


@pytest.fixture(scope="module")
def trained(pattern):
    return train_bpe(CORPUS, 440, pattern)


def test_the_merges_are_those_of_the_textbook_in_order_of_ids(textbook):
    merges, trained = textbook
    assert merges_of(trained) == merges
    assert [to_bytes(trained.id_to_token(N_RESERVED + n)) for n in range(len(merges))] == [a + b for a, b in merges]


@given(text=TEXTBOOK_TEXT)
def test_encoding_is_that_of_the_textbook(textbook, pattern, text):
    merges, trained = textbook
    by_hand = encode_by_hand(text, merges, PATTERNS[pattern])
    assert encoded(trained, text) == by_hand
    ids = {to_bytes(name): token for name, token in trained.get_vocab().items()}
    pairs = {(ids[first], ids[second]): ids[first + second] for first, second in merges}
    pieces = [[ids[byte] for byte in word] for word in in_bytes(text, PATTERNS[pattern])]
    merged = [token for piece in pieces for token in merge_with_dropout(piece, pairs, 0.5, lambda: 0.9)]
    assert merged == [ids[token] for token in by_hand]


@given(text=STRADDLING)
def test_encoding_with_learned_merges_is_that_of_the_textbook(trained, pattern, text):
    by_hand = encode_by_hand(text, merges_of(trained), PATTERNS[pattern])
    assert encoded(trained, text) == by_hand
    assert b"".join(by_hand) == text.encode()


# As tiktoken spells it, with possessive quantifiers.
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


@given(text=STRADDLING)
def test_a_pattern_splits_as_openai_s_and_the_library_s(text):
    for name, original in (("gpt2", r50k_pat_str), ("cl100k", CL100K)):
        # $ is the very end in tiktoken's engine, and before a last newline in `regex`.
        assert regex.findall(PATTERNS[name], text) == regex.findall(original.replace("$", r"\Z"), text)
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    ours = train_bpe([], 300, "gpt2").pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in ours] == [piece for piece, _ in theirs]


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("qwen2", "in 2024", ["in", " ", "2", "0", "2", "4"]),
        ("gpt2", "in 2024", ["in", " 2024"]),
        ("cl100k", "in 2024", ["in", " ", "202", "4"]),
        ("llama3", "in 2024", ["in", " ", "202", "4"]),
        ("cl100k", "a\n  b\n  ", ["a", "\n", " ", " b", "\n  "]),
        ("llama3", "a\n  b\n  ", ["a", "\n", " ", " b", "\n", "  "]),
    ],
)
def test_patterns_differ_in_digits_and_at_the_end(name, text, pieces):
    assert regex.findall(PATTERNS[name], text) == pieces


def test_a_named_pattern_is_that_of_published_tokenizers():
    before = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    after = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    assert (PATTERNS["qwen2"], PATTERNS["llama3"]) == (before + r"\p{N}" + after, before + r"\p{N}{1,3}" + after)


@pytest.mark.parametrize("wrong", ["(", r"\p{Nonsense}"])
def test_an_invalid_pattern_is_refused(wrong):
    with pytest.raises(
        UserError, match="pattern: expected qwen2, gpt2, cl100k, llama3 or a regular expression"
    ) as error:
        split_pattern(wrong)
    assert wrong in str(error.value)
    assert "\n" not in str(error.value)


def test_no_merge_makes_a_special_token_of_characters():
    texts = ["<|endoftext|> x<|im_end|>y <|endoftext|>" * 50]
    trained = train_bpe(texts, 600, r"\S+|\s+")
    made = {first + second for first, second in merges_of(trained)}
    assert not [token for token in made if any(special.encode() in token for special in SPECIAL_TOKENS)]
    assert b"endoftext|>" in made
    assert set(encoded(trained, texts[0])).isdisjoint(special.encode() for special in SPECIAL_TOKENS)


def test_training_depends_on_the_texts_and_not_on_their_order():
    once = train_bpe(CORPUS, 400).to_str()
    assert train_bpe(iter(CORPUS[::-1]), 400, PATTERNS["qwen2"]).to_str() == once
    assert train_bpe(CORPUS[:1] * 5, 400).to_str() != once
    assert train_bpe(["abab"], 1000).get_vocab_size() == N_RESERVED + 2  # it runs out of pairs


@given(text=STRADDLING)
def test_ordinary_text_is_split_in_training_as_in_encoding(pattern, text):
    for expression in (PATTERNS[pattern], r"\S+|\s+"):
        plain = byte_level(tokenizers.models.BPE(), expression).pre_tokenizer
        assert _bounded(expression).pre_tokenize_str(text) == plain.pre_tokenize_str(text)


@pytest.mark.parametrize("run", ["\u4e2d", " \n", "x\u0301"])
def test_a_long_run_is_cut_in_training_and_encoded_whole(pattern, run):
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


def test_training_on_a_long_run_takes_seconds():
    rng, began = random.Random(0), time.process_time()
    train_bpe(["".join(rng.choices("ACGT", k=300_000))], 2048)
    assert time.process_time() - began < 20  # 1.3 s; without bounds 80


@given(token=st.binary())
def test_bytes_are_written_as_the_library_writes_them(token):
    assert to_bytes(from_bytes(token)) == token
    assert set(ALPHABET) == set(pre_tokenizers.ByteLevel.alphabet())
    for byte in {byte for byte in token if byte < 128}:
        [(written, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(byte))
        assert to_bytes(written) == bytes([byte])


@pytest.mark.parametrize(
    ("token", "ranks", "parts"),
    [
        (b"abc", {b"abc": 5, b"xy": 1}, [b"a", b"b", b"c"]),
        (b"abcd", {b"abcd": 5, b"bc": 1}, [b"a", b"bc", b"d"]),
        (b"abc", {b"abc": 5, b"ab": 6}, [b"ab", b"c"]),
    ],
)
def test_a_token_has_more_than_two_parts_without_a_merge(token, ranks, parts):
    assert parts_of(token, ranks) == parts


def test_a_token_s_parts_are_the_pair_of_its_merge(trained):
    vocabulary = trained.get_vocab().items()
    ranks = {to_bytes(name): rank for name, rank in vocabulary if name not in SPECIAL_TOKENS}
    merges = merges_of(trained)
    assert [parts_of(first + second, ranks) for first, second in merges] == [[*pair] for pair in merges]


@pytest.mark.parametrize(
    ("dropout_p", "expected"),
    [
        # Both dropped: a b c. Only ab dropped: a bc. ab kept: ab c, and then abc or not. A quarter each.
        (0.5, {(0, 1, 2): 2, (0, 4): 2, (3, 2): 2, (5,): 2}),
        (0.0, {(5,): 8}),
        (1.0, {(0, 1, 2): 8}),
    ],
)
def test_each_possible_merge_is_dropped_on_its_own(dropout_p, expected):
    a, b, c, ab, bc, abc = range(6)
    merges = {(a, b): ab, (b, c): bc, (ab, c): abc}
    draws = product((0.0, 0.75), repeat=3)
    assert Counter(tuple(merge_with_dropout([a, b, c], merges, dropout_p, iter(d).__next__)) for d in draws) == expected
