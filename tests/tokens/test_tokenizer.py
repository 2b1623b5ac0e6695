"""Every kind of tokenizer behind one interface: the ids of its own library, and no special token in any text."""

import json
import random
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from llm.core.errors import UserError
from llm.tokens.bpe import PATTERN, byte_level, from_bytes, train_bpe
from llm.tokens.special import SPECIAL_TOKENS
from llm.tokens.tokenizer import BytePairTokenizer, TiktokenTokenizer, Tokenizer
from llm.tokens.words import train_chars, train_words
from tests.tokens.samples import ANY_TEXT, CORPUS, EDGES


def unigram():
    """Make a tokenizer as SentencePiece does: the model has the special tokens among its pieces."""
    letters = sorted(set("".join(CORPUS)) - {" "})
    pieces = [(name, 0.0) for name in (*SPECIAL_TOKENS, "<unk>", "<s>", "</s>")]
    pieces += [("▁", -3.0), ("▁the", -4.0), ("name", -5.0)] + [(letter, -6.0) for letter in letters]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=6))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([name for name, _ in pieces[:9]])
    return tokenizer


KINDS = {
    "qwen2": (lambda: train_bpe(CORPUS, 440), TiktokenTokenizer),
    "gpt2": (lambda: train_bpe(CORPUS, 440, "gpt2"), TiktokenTokenizer),
    "cl100k": (lambda: train_bpe(CORPUS, 440, "cl100k"), TiktokenTokenizer),
    "llama3": (lambda: train_bpe(CORPUS, 440, "llama3"), TiktokenTokenizer),
    "other pattern": (lambda: train_bpe(CORPUS, 440, r"[\w<|>]+\s?"), BytePairTokenizer),
    "words": (lambda: train_words(CORPUS, 440, 1, keep_whitespace=True), Tokenizer),
    "words alone": (lambda: train_words(CORPUS, 440, 1, keep_whitespace=False), Tokenizer),
    "characters": (lambda: train_chars(CORPUS, 440, 1), Tokenizer),
    "unigram": (unigram, Tokenizer),
}
BYTE_LEVEL = [name for name, (_, kind) in KINDS.items() if kind is not Tokenizer]
OTHERS = [name for name in KINDS if name not in BYTE_LEVEL]
EACH_BYTE_LEVEL = pytest.mark.parametrize("name", BYTE_LEVEL)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    paths = {name: folder / f"{name}.json" for name in KINDS}
    for name, (make, _) in KINDS.items():
        make().save(str(paths[name]))
    return paths


@pytest.fixture(scope="module")
def every(paths):
    return {name: Tokenizer.load(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def saved(paths):
    """What others load; special tokens in a text are set to be ordinary text."""
    loaded = {name: tokenizers.Tokenizer.from_file(str(path)) for name, path in paths.items()}
    for library in loaded.values():
        library.encode_special_tokens = True
    return loaded


@pytest.fixture
def tokenizer(every):
    return every["qwen2"]


def test_the_fastest_class_is_chosen(every):
    assert {name: type(tokenizer) for name, tokenizer in every.items()} == {n: kind for n, (_, kind) in KINDS.items()}
    assert [name for name, tokenizer in every.items() if tokenizer.lossless] == BYTE_LEVEL


@EACH_BYTE_LEVEL
@settings(max_examples=200)
@given(text=ANY_TEXT)
@example(text="WE'REIT")
def test_decode_reverses_encode(every, name, text):
    ids = every[name].encode(text)
    assert every[name].decode(ids) == text
    assert b"".join(map(every[name].token_bytes, ids)) == text.encode()


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=200)
@given(text=ANY_TEXT)
@example(text="WE'REIT")
def test_ids_are_the_library_s_and_none_is_reserved(every, saved, name, text):
    ids = every[name].encode(text)
    assert (set(every[name].special.values()) - {every[name].unk_id}).isdisjoint(ids)
    if name != "unigram":
        assert saved[name].encode(text).ids == ids
        assert saved[name].decode(ids, skip_special_tokens=False) == every[name].decode(ids)


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_a_special_token_in_a_text_is_ordinary_text(tokenizer, paths, special):
    assert tokenizers.Tokenizer.from_file(str(paths["qwen2"])).encode(special).ids == [tokenizer.special[special]]
    ids = tokenizer.encode(special)
    assert tokenizer.special[special] not in ids
    assert tokenizer.decode(ids) == tokenizer.decode([tokenizer.special[special]]) == special


def test_a_special_token_among_a_model_s_pieces_is_spelled(every):
    tokenizer = every["unigram"]
    spelled = tokenizer.encode("name</s>")
    assert tokenizer.special["</s>"] == 8
    assert [tokenizer.token_bytes(token) for token in spelled] == [b" ", b"name", b"<", b"<unk>", b"s", b">"]
    assert [ids.tolist() for ids in tokenizer.encode_batch(["name</s>"], 1)] == [spelled]


@pytest.mark.parametrize("name", [*BYTE_LEVEL, "words", "words alone", "characters"])
def test_special_ids_come_first(every, name):
    tokenizer = every[name]
    first = {special: number for number, special in enumerate(SPECIAL_TOKENS)}
    assert tokenizer.special == (first if name in BYTE_LEVEL else first | {"<|unk|>": 6})
    assert (tokenizer.end_of_text, tokenizer.pad) == (0, 1)
    assert tokenizer.unk_id == (None if name in BYTE_LEVEL else 6)
    assert (tokenizer.bos_token, tokenizer.bos_id, tokenizer.prefix_ids) == ("<|endoftext|>", 0, [0])
    assert tokenizer.prompt("") == [0]
    assert tokenizer.eos_ids == {0}


@EACH_BYTE_LEVEL
def test_every_byte_has_an_id_and_every_id_its_own_bytes(every, name):
    tokenizer = every[name]
    tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    assert {bytes([byte]) for byte in range(256)} <= set(tokens)
    assert len(set(tokens)) == tokenizer.vocab_size == 440
    assert tokenizer.decode([tokens.index("é".encode()[:1])]) == "\ufffd"


def test_a_frequent_word_is_one_token_and_an_unseen_one_several(tokenizer):
    assert len(tokenizer.encode(" name")) == 1
    assert 1 < len(tokenizer.encode("pathname")) < len("pathname")
    assert [tokenizer.decode([token]) for token in tokenizer.encode("2024")] == ["2", "0", "2", "4"]
    assert tokenizer.encode("name") + tokenizer.encode(" name") == tokenizer.encode("name name")


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_has_the_ids_of_each_text(every, name):
    texts = [*CORPUS, "", *EDGES]
    arrays = every[name].encode_batch(texts, 3)
    assert {array.dtype for array in arrays} == {np.dtype(np.uint32)}
    assert [array.tolist() for array in arrays] == [every[name].encode(text) for text in texts]


@pytest.mark.parametrize("name", ["qwen2", "words"])
def test_encoding_does_not_block_other_threads(every, name):
    text = " ".join(CORPUS) * (1_000_000 // len(" ".join(CORPUS)))
    ticks, is_encoded = [time.perf_counter()], threading.Event()

    def tick():
        while not is_encoded.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.perf_counter()
    every[name].encode(text)
    ticks.append(time.perf_counter())
    is_encoded.set()
    thread.join()
    assert max(later - earlier for earlier, later in pairwise(ticks)) < 0.7 * (ticks[-1] - began)


def test_a_million_spaces_are_encoded(tokenizer, saved):
    text = " " * 1_000_001 + "x"
    ids = tokenizer.encode(text)
    assert ids == saved["qwen2"].encode(text).ids
    assert tokenizer.encode_batch([text], 1)[0].tolist() == ids


# Merges that no training makes: whether tiktoken gives the same ids is decided when the file is loaded.


@st.composite
def merge_lists(draw):
    """Merges of a, b and c, each of two tokens made before, in any order and maybe several for one token."""
    tokens, merges = [b"a", b"b", b"c"], []
    for _ in range(draw(st.integers(0, 8))):
        pair = (draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens)))
        if pair not in merges and len(b"".join(pair)) <= 5:
            merges.append(pair)
            tokens.append(b"".join(pair))
    return draw(st.permutations(merges)) if draw(st.booleans()) else merges


def with_merges(merges, whole, ignore_merges):
    """Make a byte-level BPE with these merges, and tokens that no merge makes."""
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
def test_with_any_merges_the_ids_are_the_library_s(merges, whole, ignore_merges, texts):
    library = with_merges(merges, whole, ignore_merges)
    loaded = Tokenizer.of(tokenizers.Tokenizer.from_str(library.to_str()))
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
def test_tiktoken_is_used_where_ids_cannot_differ(merges, whole, ignore_merges, kind):
    assert type(Tokenizer.of(with_merges(merges, whole, ignore_merges))) is kind


@EACH_BYTE_LEVEL
@given(text=ANY_TEXT, dropout_p=st.sampled_from([0.0, 1e-12, 0.01, 0.1, 0.5, 0.9, 1.0]), seed=st.integers(0, 99))
def test_with_dropout_the_text_stays_and_the_seed_decides(every, name, text, dropout_p, seed):
    tokenizer = every[name]
    ids = tokenizer.encode_with_dropout(text, dropout_p, random.Random(seed))
    assert tokenizer.decode(ids) == text
    assert set(ids).isdisjoint(tokenizer.special.values())
    assert tokenizer.encode_with_dropout(text, dropout_p, random.Random(seed)) == ids
    if dropout_p < 1e-9:
        assert ids == tokenizer.encode(text)
    if dropout_p == 1:
        assert [tokenizer.token_bytes(token) for token in ids] == [bytes([byte]) for byte in text.encode()]


@EACH_BYTE_LEVEL
@pytest.mark.parametrize("run", ["^", "\u4e2d", "ACGT"])
def test_a_long_run_is_merged_with_dropout_in_seconds(every, name, run):
    text, tokenizer = run * (100_000 // len(run)), every[name]
    assert tokenizer.encode(text) == tokenizer._library.encode(text, add_special_tokens=False).ids
    began = time.process_time()
    assert tokenizer.decode(tokenizer.encode_with_dropout(text, 0.1, random.Random(0))) == text
    assert time.process_time() - began < 30  # about 3 s; not cut into parts, hours


@pytest.mark.parametrize("name", OTHERS)
def test_dropout_is_for_merges_only(every, name):
    with pytest.raises(UserError, match="dropout: expected a byte-level BPE with merges in the order of their ids"):
        every[name].encode_with_dropout("name", 0.1, random.Random(0))


NOT_TOKENIZERS = [None, b"{", b"\xff", b"{}"]
NOT_TOKENIZERS += [b'{"added_tokens": [], "model": {"vocab": {}}, "pre_tokenizer": null}']
SEQUENCE = "expected ids from 0 up, each once and without a gap"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda of: of["model"]["vocab"].update(zzz=len(of["model"]["vocab"]) + 1), SEQUENCE),
        (lambda of: of["model"]["vocab"].update(zzz=17), SEQUENCE),
        (lambda of: of["added_tokens"][0].update(id=7), SEQUENCE),
        (lambda of: of["model"]["merges"].append(["zzz", "a"]), "Token `zzz` out of vocabulary"),
        (lambda of: of["added_tokens"].pop(0), "<|endoftext|> is missing"),
        (lambda of: of["added_tokens"][1].update(special=False), "<|pad|> is missing"),
        *((content, "expected a tokenizer.json") for content in NOT_TOKENIZERS),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(paths, tmp_path, damage, problem):
    path = tmp_path / "tokenizer.json"
    if callable(damage):
        content = json.loads(paths["qwen2"].read_text())
        damage(content)
        path.write_text(json.dumps(content))
    elif damage is not None:
        path.write_bytes(damage)
    with pytest.raises(UserError) as error:
        Tokenizer.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["qwen2", "words"])
def test_an_id_beyond_the_vocabulary_has_no_bytes(every, name):
    with pytest.raises(KeyError):
        every[name].token_bytes(every[name].vocab_size)
