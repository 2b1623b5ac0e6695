"""Every kind of tokenizer behind one interface: the ids of its own library, and no special token in any text."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from llm.core.errors import UserError
from llm.tokens.bpe import PATTERN, byte_level, from_bytes, train_bpe
from llm.tokens.special import BOS, END_OF_TEXT, EOS, IM_END, IM_START, PAD, SPECIAL_TOKENS
from llm.tokens.tokenizer import BytePairTokenizer, TiktokenTokenizer, Tokenizer
from llm.tokens.words import train_chars, train_words

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
    *(
        "\U0010ffff",
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
    ),
    *(*SPECIAL_TOKENS, "<|unk|>", "<s>", "</s>"),
]
STRADDLING = st.lists(st.sampled_from(EDGES), max_size=12).map("".join)
ANY_TEXT = st.text() | STRADDLING


def unigram() -> tokenizers.Tokenizer:
    """As SentencePiece makes it: the model holds the special tokens among its pieces."""
    letters = sorted(set("".join(CORPUS)) - {" "})
    pieces = [(name, 0.0) for name in (*SPECIAL_TOKENS, "<unk>", "<s>", "</s>")]
    pieces += [("▁", -3.0), ("▁the", -4.0), ("name", -5.0)] + [(letter, -6.0) for letter in letters]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=6))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([name for name, _ in pieces[:9]])
    return tokenizer


KINDS: dict[str, tuple[Callable[[], tokenizers.Tokenizer], type[Tokenizer]]] = {
    "qwen2": (lambda: train_bpe(CORPUS, 440), TiktokenTokenizer),
    "gpt2": (lambda: train_bpe(CORPUS, 440, "gpt2"), TiktokenTokenizer),
    "cl100k": (lambda: train_bpe(CORPUS, 440, "cl100k"), TiktokenTokenizer),
    "llama3": (lambda: train_bpe(CORPUS, 440, "llama3"), TiktokenTokenizer),
    "own pattern": (lambda: train_bpe(CORPUS, 440, r"[\w<|>]+\s?"), BytePairTokenizer),
    "words": (lambda: train_words(CORPUS, 440, 1, keep_whitespace=True), Tokenizer),
    "words alone": (lambda: train_words(CORPUS, 440, 1, keep_whitespace=False), Tokenizer),
    "characters": (lambda: train_chars(CORPUS, 440, 1), Tokenizer),
    "unigram": (unigram, Tokenizer),
}
BYTE_LEVEL = [name for name, (_, kind) in KINDS.items() if kind is not Tokenizer]
OTHERS = [name for name in KINDS if name not in BYTE_LEVEL]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    paths = {name: folder / f"{name}.json" for name in KINDS}
    for name, (make, _) in KINDS.items():
        make().save(str(paths[name]))
    return paths


@pytest.fixture(scope="module")
def every(paths: dict[str, Path]) -> dict[str, Tokenizer]:
    return {name: Tokenizer.load(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def saved(paths: dict[str, Path]) -> dict[str, tokenizers.Tokenizer]:
    """What anybody else loads; special tokens in a text are told to be ordinary text."""
    loaded = {name: tokenizers.Tokenizer.from_file(str(path)) for name, path in paths.items()}
    for library in loaded.values():
        library.encode_special_tokens = True
    return loaded


@pytest.fixture
def tokenizer(every: dict[str, Tokenizer]) -> Tokenizer:
    return every["qwen2"]


@pytest.fixture
def path(paths: dict[str, Path]) -> Path:
    return paths["qwen2"]


def test_the_quickest_way_is_taken_that_gives_the_same_ids(every: dict[str, Tokenizer]) -> None:
    assert {name: type(tokenizer) for name, tokenizer in every.items()} == {n: kind for n, (_, kind) in KINDS.items()}
    assert [name for name, tokenizer in every.items() if tokenizer.lossless] == BYTE_LEVEL


@pytest.mark.parametrize("name", BYTE_LEVEL)
@settings(max_examples=300)
@given(text=ANY_TEXT)
@example(text="WE'REIT")
def test_decoding_what_was_encoded_gives_the_text_back(every: dict[str, Tokenizer], name: str, text: str) -> None:
    tokenizer = every[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@pytest.mark.parametrize("name", [name for name in KINDS if name != "unigram"])
@settings(max_examples=300)
@given(text=ANY_TEXT)
@example(text="WE'REIT")
def test_the_ids_are_those_of_anybody_who_loads_the_file(
    every: dict[str, Tokenizer], saved: dict[str, tokenizers.Tokenizer], name: str, text: str
) -> None:
    ids = every[name].encode(text)
    assert saved[name].encode(text).ids == ids
    assert saved[name].decode(ids, skip_special_tokens=False) == every[name].decode(ids)


@pytest.mark.parametrize("name", KINDS)
@given(text=ANY_TEXT)
def test_no_text_has_a_reserved_id(every: dict[str, Tokenizer], name: str, text: str) -> None:
    reserved = set(every[name].special.values()) - {every[name].unknown}
    assert reserved.isdisjoint(every[name].encode(text))


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_a_special_token_in_a_text_is_ordinary_text(tokenizer: Tokenizer, path: Path, special: str) -> None:
    assert tokenizers.Tokenizer.from_file(str(path)).encode(special).ids == [tokenizer.special[special]]
    ids = tokenizer.encode(special)
    assert tokenizer.special[special] not in ids
    assert tokenizer.decode(ids) == tokenizer.decode([tokenizer.special[special]]) == special


def test_a_special_token_that_a_model_holds_as_a_piece_is_spelt(every: dict[str, Tokenizer]) -> None:
    tokenizer = every["unigram"]
    spelt = tokenizer.encode("name</s>")
    assert tokenizer.special["</s>"] == 8
    assert [tokenizer.token_bytes(token) for token in spelt] == [b" ", b"name", b"<", b"<unk>", b"s", b">"]
    assert [ids.tolist() for ids in tokenizer.encode_batch(["name</s>"], 1)] == [spelt]


@pytest.mark.parametrize("name", [*BYTE_LEVEL, "words", "words alone", "characters"])
def test_the_reserved_ids_are_distinct_and_come_first(every: dict[str, Tokenizer], name: str) -> None:
    tokenizer = every[name]
    first = {END_OF_TEXT: 0, PAD: 1, BOS: 2, EOS: 3, IM_START: 4, IM_END: 5}
    assert tokenizer.special == (first if name in BYTE_LEVEL else first | {"<|unk|>": 6})
    assert (tokenizer.end_of_text, tokenizer.pad) == (0, 1)
    assert tokenizer.unk_id == (None if name in BYTE_LEVEL else 6)


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_every_byte_has_an_id_and_every_id_other_bytes(every: dict[str, Tokenizer], name: str) -> None:
    tokens = [every[name].token_bytes(token) for token in range(every[name].vocab_size)]
    assert {bytes([byte]) for byte in range(256)} <= set(tokens)
    assert len(set(tokens)) == every[name].vocab_size == 440


@pytest.mark.parametrize("name", KINDS)
def test_an_id_beyond_the_vocabulary_has_no_bytes(every: dict[str, Tokenizer], name: str) -> None:
    with pytest.raises(KeyError):
        every[name].token_bytes(every[name].vocab_size)


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_half_a_character_is_decoded_as_the_mark_for_it(every: dict[str, Tokenizer], name: str) -> None:
    tokenizer = every[name]
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
@pytest.mark.parametrize("name", KINDS)
def test_many_texts_have_the_ids_of_each(every: dict[str, Tokenizer], name: str, n_threads: int) -> None:
    texts = [*CORPUS, "", *EDGES]
    arrays = every[name].encode_batch(texts, n_threads)
    assert {array.dtype for array in arrays} == {np.dtype(np.uint32)}
    assert [array.tolist() for array in arrays] == [every[name].encode(text) for text in texts]


@pytest.mark.parametrize("name", ["qwen2", "words", "unigram"])
def test_other_threads_go_on_while_a_text_is_encoded(every: dict[str, Tokenizer], name: str) -> None:
    text = " ".join(CORPUS) * (1_000_000 // len(" ".join(CORPUS)))
    looks, is_encoded = [time.perf_counter()], threading.Event()

    def look_on() -> None:
        while not is_encoded.wait(0.001):
            looks.append(time.perf_counter())

    thread = threading.Thread(target=look_on)
    thread.start()
    begun = time.perf_counter()
    every[name].encode(text)
    looks.append(time.perf_counter())
    is_encoded.set()
    thread.join()
    assert max(later - earlier for earlier, later in pairwise(looks)) < 0.7 * (looks[-1] - begun)


def test_a_million_spaces_are_no_trouble(tokenizer: Tokenizer, saved: dict[str, tokenizers.Tokenizer]) -> None:
    text = " " * 1_000_001 + "x"
    ids = tokenizer.encode(text)
    assert ids == saved["qwen2"].encode(text).ids
    assert tokenizer.encode_batch([text], 1)[0].tolist() == ids


# Merges as nobody learns them: whether tiktoken would give the same ids is to be found out when the file is loaded.


@st.composite
def merge_lists(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    """Merges of a, b and c, each of two tokens that are there by then, in any order and more than one for a token."""
    tokens, merges = [b"a", b"b", b"c"], []
    for _ in range(draw(st.integers(0, 8))):
        pair = (draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens)))
        if pair not in merges and len(b"".join(pair)) <= 5:
            merges.append(pair)
            tokens.append(b"".join(pair))
    return draw(st.permutations(merges)) if draw(st.booleans()) else merges


def with_merges(merges: Iterable[tuple[bytes, bytes]], whole: list[bytes], ignore_merges: bool) -> tokenizers.Tokenizer:
    """A byte-level BPE with these merges, and tokens that no merge makes."""
    made = [bytes([byte]) for byte in range(256)] + [first + second for first, second in merges] + whole
    ids = {name: number for number, name in enumerate([*SPECIAL_TOKENS, *dict.fromkeys(map(from_bytes, made))])}
    pairs = [(from_bytes(first), from_bytes(second)) for first, second in merges]
    tokenizer = byte_level(models.BPE(vocab=ids, merges=pairs, ignore_merges=ignore_merges), PATTERN)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


@settings(max_examples=150, deadline=None)
@given(
    merges=merge_lists(),
    whole=st.lists(st.text(alphabet="abc", min_size=2, max_size=4).map(str.encode), max_size=2),
    ignore_merges=st.booleans(),
    texts=st.lists(st.text(alphabet="abc", max_size=12), min_size=3, max_size=12),
)
@example(merges=[(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")], whole=[], ignore_merges=False, texts=["abc"])
@example(merges=[(b"a", b"b"), (b"b", b"c")], whole=[b"abcc"], ignore_merges=False, texts=["abcc"])
def test_whatever_the_merges_the_ids_are_the_library_s(
    tmp_path_factory: pytest.TempPathFactory,
    merges: list[tuple[bytes, bytes]],
    whole: list[bytes],
    ignore_merges: bool,
    texts: list[str],
) -> None:
    library = with_merges(merges, whole, ignore_merges)
    path = tmp_path_factory.getbasetemp() / "any.json"
    library.save(str(path))
    loaded = Tokenizer.load(path)
    assert [loaded.encode(text) for text in texts] == [library.encode(text).ids for text in texts]


@pytest.mark.parametrize(
    ("merges", "whole", "ignore_merges", "kind"),
    [
        ([(b"a", b"b"), (b"ab", b"c")], [], False, TiktokenTokenizer),
        ([(b"a", b"b"), (b"ab", b"c"), (b"a", b"bc")], [b"bc"], True, Tokenizer),  # "bc" has no merge
        ([(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")], [], False, Tokenizer),  # "abc" is a+bc by then
        ([(b"b", b"c"), (b"a", b"b"), (b"ab", b"c"), (b"a", b"bc")], [], False, TiktokenTokenizer),
        ([(b"a", b"b")], [b"abcc"], False, Tokenizer),  # tiktoken finds it as a whole piece
        ([(b"a", b"b")], [b"abcc"], True, TiktokenTokenizer),
    ],
)
def test_tiktoken_is_taken_where_no_text_can_tell(
    tmp_path: Path, merges: list[tuple[bytes, bytes]], whole: list[bytes], ignore_merges: bool, kind: type
) -> None:
    with_merges(merges, whole, ignore_merges).save(str(tmp_path / "tokenizer.json"))
    assert type(Tokenizer.load(tmp_path / "tokenizer.json")) is kind


def test_merges_that_are_not_in_the_order_of_ids_are_left_to_the_library(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text())
    content["model"]["merges"].reverse()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert type(loaded) is Tokenizer
    assert loaded.lossless
    assert (
        loaded.encode(CORPUS[0])
        == tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(CORPUS[0]).ids
    )


DROPPING = st.sampled_from([0.01, 0.1, 0.5, 0.9])


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(text=ANY_TEXT, rate=DROPPING, seed=st.integers(0, 99))
def test_with_dropout_the_text_is_the_same_and_the_seed_decides(
    every: dict[str, Tokenizer], name: str, text: str, rate: float, seed: int
) -> None:
    tokenizer = every[name]
    ids = tokenizer.encode_with_dropout(text, rate, random.Random(seed))
    assert tokenizer.decode(ids) == text
    assert set(ids).isdisjoint(tokenizer.special.values())
    assert tokenizer.encode_with_dropout(text, rate, random.Random(seed)) == ids


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(text=ANY_TEXT)
def test_dropping_nothing_is_encoding_and_dropping_all_leaves_bytes(
    every: dict[str, Tokenizer], name: str, text: str
) -> None:
    tokenizer, rng = every[name], random.Random(0)
    assert tokenizer.encode_with_dropout(text, 0.0, rng) == tokenizer.encode(text)
    in_bytes = [tokenizer.token_bytes(token) for token in tokenizer.encode_with_dropout(text, 1.0, rng)]
    assert in_bytes == [bytes([byte]) for byte in text.encode()]


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(text=STRADDLING)
def test_as_good_as_nothing_dropped_is_encoding(every: dict[str, Tokenizer], name: str, text: str) -> None:
    assert every[name].encode_with_dropout(text, 1e-12, random.Random(0)) == every[name].encode(text)


def test_the_more_is_dropped_the_more_tokens_and_no_two_rounds_are_the_same(tokenizer: Tokenizer) -> None:
    text, rng = "".join(CORPUS), random.Random(5)
    lengths = [len(tokenizer.encode_with_dropout(text, rate, rng)) for rate in (0.0, 0.1, 0.4, 0.8, 1.0)]
    assert lengths == sorted(set(lengths))
    assert tokenizer.encode_with_dropout(text, 0.1, rng) != tokenizer.encode_with_dropout(text, 0.1, rng)


@pytest.mark.parametrize("name", BYTE_LEVEL)
@pytest.mark.parametrize("run", ["^", "\u4e2d", "ACGT"])
def test_a_long_run_is_encoded_as_by_the_library_and_merged_with_dropout_in_seconds(
    every: dict[str, Tokenizer], name: str, run: str
) -> None:
    text, tokenizer = run * (100_000 // len(run)), every[name]
    assert tokenizer.encode(text) == tokenizer._library.encode(text, add_special_tokens=False).ids
    began = time.process_time()
    ids = tokenizer.encode_with_dropout(text, 0.1, random.Random(0))
    assert tokenizer.decode(ids) == text
    assert time.process_time() - began < 30  # about 3 s; not cut into parts, hours


@pytest.mark.parametrize("name", OTHERS)
def test_dropout_is_for_merges_only(every: dict[str, Tokenizer], name: str) -> None:
    with pytest.raises(UserError, match="dropout: wanted a byte-level BPE with merges in the order of their ids"):
        every[name].encode_with_dropout("name", 0.1, random.Random(0))


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


def test_a_folder_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wanted a tokenizer\.json"):
        Tokenizer.load(tmp_path)


def damaged(content: dict, damage: str) -> dict:
    model = content["model"]
    if damage == "gap":
        model["vocab"]["zzz"] = len(model["vocab"]) + 1
    elif damage == "two of one id":
        model["vocab"]["zzz"] = 17
    elif damage == "another special id":
        content["added_tokens"][0]["id"] = 7
    elif damage == "unknown merge":
        model["merges"].append(["zzz", "a"])
    elif damage == "no special token":
        content["added_tokens"] = content["added_tokens"][1:]
    elif damage == "an ordinary token":
        content["added_tokens"][1]["special"] = False
    return content


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("gap", "wanted ids from 0 up, each once and without a gap"),
        ("two of one id", "wanted ids from 0 up, each once and without a gap"),
        ("another special id", "wanted ids from 0 up, each once and without a gap"),
        ("unknown merge", "one with a problem: Token `zzz` out of vocabulary"),
        ("no special token", r"<\|endoftext\|> is missing"),
        ("an ordinary token", r"<\|pad\|> is missing"),
    ],
)
def test_a_damaged_tokenizer_is_refused_in_one_line(path: Path, tmp_path: Path, damage: str, told: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(damaged(json.loads(path.read_text()), damage)))
    with pytest.raises(UserError, match=rf"tokenizer\.json: .*{told}") as error:
        Tokenizer.load(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)
