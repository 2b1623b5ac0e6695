"""The tokenizer held to the textbook: byte pair encoding in a few lines, and two libraries that have to agree."""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm.errors import UserError
from llm.text.tokenizer import (
    BOS,
    END_OF_TEXT,
    EOS,
    IM_END,
    IM_START,
    PAD,
    PATTERN,
    SPECIAL_TOKENS,
    Tokenizer,
    batched_texts,
    train_tokenizer,
)

N_RESERVED = len(SPECIAL_TOKENS) + 256

CORPUS = [
    "def walk(path):\n    return [name for name in path if name]\n\n\n",
    "The river runs, the rain falls; it's 2024 and they'll say: \"we've seen 1234567 déjà vus\"!!!\r\n",
    "Größe, naïve, Ελλάδα, Москва, 東京都, 한국어, हिन्दी, عربي, 👩‍👩‍👧 👍🏽\t\t\t...\n   \n",
    "\nREIT" * 5,  # A merge over the end of 'RE that only words may use.
    "<|endoftext|> <|im_start|>user<|im_end|> <|pad|><|bos|><|eos|> ######## ---------",
] * 3

# Each piece sits on an edge of some rule of the split pattern; a text is any row of them.
EDGES = [
    *("'s", "'RE", "'ll", "'ſ", "'", "it", "IT", "é", "e\u0301", "ß", "東京", "한", "हि", "ع", "ǅ", "ª", "\u0345"),
    *("1", "42", "٣", "½", "²", "Ⅷ", "一", " ", "  ", "\n", "\r", "\r\n", "\n\n", "\t", "\v", "\f", "\x1c", "\x85"),
    *("\u00a0", "\u2028", "\u3000", "\u200b", "\u200d", "\ufeff", "\ufffd", "\0", "\x7f", "\u00ad", "\U0010ffff"),
    *(
        ".",
        "...",
        "!?",
        "_",
        "__init__",
        "(",
        '"',
        "€",
        "👩‍👩‍👧",
        "👍🏽",
        "<|",
        "|>",
        "<|endof",
        "text|>",
        *SPECIAL_TOKENS,
    ),
]
STRADDLING = st.lists(st.sampled_from(EDGES), max_size=12).map("".join)
ANY_TEXT = st.text() | STRADDLING


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(CORPUS, 440).save(str(path))
    return path


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def saved(path: Path) -> tokenizers.Tokenizer:
    """What anybody else loads; special tokens in a text are told to be ordinary text."""
    saved = tokenizers.Tokenizer.from_file(str(path))
    saved.encode_special_tokens = True
    return saved


# The textbook: Gage 1994, Sennrich et al. 2016 (arXiv:1508.07909), on the bytes of each piece of the split pattern.

Merge = tuple[bytes, bytes]


def in_bytes(text: str) -> list[list[bytes]]:
    return [[bytes([byte]) for byte in piece.encode()] for piece in regex.findall(PATTERN, text)]


def merge(word: list[bytes], pair: Merge) -> list[bytes]:
    merged: list[bytes] = []
    rest = list(word)
    while rest:
        length = 2 if tuple(rest[:2]) == pair else 1
        merged.append(b"".join(rest[:length]))
        del rest[:length]
    return merged


def learn(text: str, n_merges: int) -> list[Merge]:
    """Merge the pair that stands most often, again and again. No two pairs may stand equally often."""
    words = in_bytes(text)
    merges = []
    for _ in range(n_merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        (best, most), (_, next_most) = counts.most_common(2)
        assert most > next_most, f"a tie after {len(merges)} merges"
        merges.append(best)
        words = [merge(word, best) for word in words]
    return merges


def encode_by_hand(text: str, merges: Iterable[Merge]) -> list[bytes]:
    """Apply the merge that was learned first, again and again."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    tokens = []
    for word in in_bytes(text):
        while known := [pair for pair in pairwise(word) if pair in ranks]:
            word = merge(word, min(known, key=ranks.__getitem__))  # noqa: PLW2901 (the word is what changes)
        tokens += word
    return tokens


def merges_of(path: Path) -> list[Merge]:
    """The merges in a tokenizer.json, in bytes."""
    model, loaded = json.loads(path.read_text())["model"], Tokenizer.load(path)
    return [tuple(loaded.token_bytes(model["vocab"][half]) for half in pair) for pair in model["merges"]]


def growing_words() -> str:
    """A text without ties: a word's beginnings all stand in it, so that an earlier pair stands more often."""
    words = {" straw": 101, " river": 103, "ocean": 107, "über": 113, "!?.\n": 127}
    return "".join((word[:end] + "7") * times for word, times in words.items() for end in range(1, len(word) + 1))


@pytest.fixture(scope="module")
def textbook(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Merge], Path]:
    """The merges that the textbook learns from a text without ties, and the tokenizer.json trained on it."""
    merges = learn(growing_words(), 20)
    path = tmp_path_factory.mktemp("textbook") / "tokenizer.json"
    train_tokenizer([growing_words()], N_RESERVED + len(merges)).save(str(path))
    return merges, path


def test_the_merges_are_those_of_the_textbook(textbook: tuple[list[Merge], Path]) -> None:
    merges, path = textbook
    assert merges_of(path) == merges
    loaded = Tokenizer.load(path)
    assert [loaded.token_bytes(N_RESERVED + n) for n in range(len(merges))] == [
        first + second for first, second in merges
    ]


@given(
    text=st.text(alphabet="strawiveocnüb !?.\n7") | st.lists(st.sampled_from([" straw", "river", "über"])).map("".join)
)
def test_encoding_with_the_textbook_s_merges_is_encoding_by_hand(textbook: tuple[list[Merge], Path], text: str) -> None:
    merges, path = textbook
    loaded = Tokenizer.load(path)
    assert [loaded.token_bytes(token) for token in loaded.encode(text)] == encode_by_hand(text, merges)


@given(text=STRADDLING)
def test_encoding_with_the_learned_merges_is_encoding_by_hand(path: Path, tokenizer: Tokenizer, text: str) -> None:
    assert [tokenizer.token_bytes(token) for token in tokenizer.encode(text)] == encode_by_hand(text, merges_of(path))


@settings(max_examples=500)
@given(text=ANY_TEXT)
def test_decoding_what_was_encoded_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@settings(max_examples=500)
@given(text=ANY_TEXT)
@example(text="WE'REIT")
def test_both_libraries_give_the_same_ids(tokenizer: Tokenizer, saved: tokenizers.Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert saved.encode(text).ids == ids
    assert saved.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=60)
@given(
    texts=st.lists(st.text(alphabet="ab '\n", max_size=20), max_size=6),
    n_merges=st.integers(0, 40),
    text=st.text(alphabet="ab '\n"),
)
def test_both_libraries_give_the_same_ids_whatever_the_merges(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], n_merges: int, text: str
) -> None:
    trained = train_tokenizer(texts, N_RESERVED + n_merges)
    path = tmp_path_factory.getbasetemp() / "any.json"
    trained.save(str(path))
    assert Tokenizer.load(path).encode(text) == trained.encode(text).ids


@given(text=ANY_TEXT)
def test_no_text_has_a_reserved_id(tokenizer: Tokenizer, text: str) -> None:
    assert set(tokenizer.encode(text)).isdisjoint(tokenizer.special.values())


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_a_special_token_in_a_text_is_ordinary_text(tokenizer: Tokenizer, path: Path, special: str) -> None:
    assert tokenizers.Tokenizer.from_file(str(path)).encode(special).ids == [tokenizer.special[special]]
    ids = tokenizer.encode(special)
    assert tokenizer.special[special] not in ids
    assert tokenizer.decode(ids) == tokenizer.decode([tokenizer.special[special]]) == special


def test_the_reserved_ids_are_distinct_and_come_first(tokenizer: Tokenizer) -> None:
    assert tokenizer.special == {END_OF_TEXT: 0, PAD: 1, BOS: 2, EOS: 3, IM_START: 4, IM_END: 5}
    assert tokenizer.end_of_text == 0
    assert tokenizer.pad == 1


def test_every_byte_has_an_id_and_every_id_other_bytes(tokenizer: Tokenizer) -> None:
    tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    assert {bytes([byte]) for byte in range(256)} <= set(tokens)
    assert len(set(tokens)) == tokenizer.vocab_size == 440


def test_half_a_character_is_decoded_as_the_mark_for_it(tokenizer: Tokenizer) -> None:
    first_byte = next(n for n in range(tokenizer.vocab_size) if tokenizer.token_bytes(n) == "é".encode()[:1])
    assert tokenizer.decode([first_byte]) == "\ufffd"


def test_a_word_that_was_often_seen_is_one_token_and_an_unseen_one_is_several(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(" name")) == 1
    assert 1 < len(tokenizer.encode("pathname")) < len("pathname")


def test_digits_stand_alone_and_words_keep_the_space_before_them(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode([token]) for token in tokenizer.encode("2024")] == ["2", "0", "2", "4"]
    ids = tokenizer.encode("name name")
    assert tokenizer.encode("name") + tokenizer.encode(" name") == ids


@pytest.mark.parametrize("n_threads", [1, 3])
def test_many_texts_have_the_ids_of_each(tokenizer: Tokenizer, n_threads: int) -> None:
    texts = [*CORPUS, "", *EDGES]
    assert tokenizer.encode_batch(texts, n_threads) == [tokenizer.encode(text) for text in texts]


def test_training_depends_on_the_texts_and_not_on_their_order() -> None:
    once = train_tokenizer(CORPUS, 400).to_str()
    assert train_tokenizer(iter(CORPUS), 400).to_str() == once
    assert train_tokenizer(CORPUS[::-1], 400).to_str() == once
    assert train_tokenizer(CORPUS[:1] * 5, 400).to_str() != once


def test_a_corpus_that_runs_out_of_pairs_gives_fewer_tokens() -> None:
    assert train_tokenizer(["abab"], 1000).get_vocab_size() == N_RESERVED + 2


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"[]", b"\xff", b"{}", b'{"added_tokens": [], "model": {"vocab": {}}, "pre_tokenizer": null}'],
)
def test_a_file_that_is_no_tokenizer_is_refused_by_its_name(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: wanted a ") as error:
        Tokenizer.load(path)
    assert "\n" not in str(error.value)


def test_a_tokenizer_with_a_gap_in_its_ids_or_without_a_special_token_is_refused(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text())
    gap = json.loads(path.read_text())
    del gap["model"]["vocab"][" name".replace(" ", "Ġ")]
    content["added_tokens"] = content["added_tokens"][1:]
    for broken in (gap, content):
        (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match="wanted"):
            Tokenizer.load(tmp_path / "tokenizer.json")


@given(st.lists(st.integers(0, 100)), st.integers(1, 150))
def test_batches_are_the_rows_in_order_each_just_large_enough(sizes: list[int], batch_bytes: int) -> None:
    rows = [{"n_bytes": size, "place": place} for place, size in enumerate(sizes)]
    batches = list(batched_texts(rows, batch_bytes))
    assert [row for batch in batches for row in batch] == rows
    weights = [[row["n_bytes"] for row in batch] for batch in batches]
    assert all(sum(weight[:-1]) < batch_bytes for weight in weights)
    assert all(sum(weight) >= batch_bytes for weight in weights[:-1])
    assert all(batches)
