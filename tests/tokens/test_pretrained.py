"""Tokenizers that are brought along: ids as the library gives them that each comes from, and broken files refused."""

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from llm.core.errors import UserError
from llm.tokens.bpe import PATTERNS, to_bytes, train_bpe
from llm.tokens.pretrained import read_pretrained
from llm.tokens.special import SPECIAL_TOKENS
from llm.tokens.tokenizer import TiktokenTokenizer, Tokenizer

CORPUS = [
    "The river runs, the rain falls; it's 2024 and they'll say we've seen 1234567 déjà vus!!!\r\n",
    "def walk(path):\n    return [name for name in path if name]\n\n\n\t\tunaffable",
    "Größe, naïve, Ελλάδα, 東京都, 한국어, 👩‍👩‍👧 e\u0301",
] * 3
FRAGMENTS = [
    "The",
    " river",
    "'ll",
    "'RE",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "2024",
    " 7",
    "naïve",
    "e\u0301",
    "東京",
    "👩‍👩‍👧",
    "\0",
]
TEXT = st.text() | st.lists(st.sampled_from([*FRAGMENTS, "unaffable", "ﬁ", "\u00a0", "##", "▁", *SPECIAL_TOKENS])).map(
    "".join
)
UNK, BERT_UNK = "<unk>", "[UNK]"
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def gpt2() -> tokenizers.Tokenizer:
    """ByteLevel splits by itself; <|endoftext|> stands at the end of the vocabulary."""
    origin = tokenizers.Tokenizer(models.BPE())
    origin.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    origin.decoder = decoders.ByteLevel()
    origin.post_processor = processors.ByteLevel(trim_offsets=False)
    origin.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=ALPHABET, show_progress=False)
    )
    origin.add_special_tokens(["<|endoftext|>"])
    return origin


def llama3() -> tokenizers.Tokenizer:
    """Split and ByteLevel, whole pieces before merges, a token put before each text."""
    content = json.loads(train_bpe(CORPUS, 330, "llama3").to_str())
    special = {token["content"] for token in content["added_tokens"]}
    pieces = [name for name in content["model"]["vocab"] if name not in special] + ["unaffable"]
    content["model"] |= {"vocab": {name: number for number, name in enumerate(pieces)}, "ignore_merges": True}
    content["added_tokens"] = []
    origin = tokenizers.Tokenizer.from_str(json.dumps(content))
    origin.add_special_tokens(["<|begin_of_text|>"])
    begin = origin.token_to_id("<|begin_of_text|>")
    origin.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)]
    )
    origin.enable_padding()
    origin.enable_truncation(3)
    return origin


def qwen2() -> tokenizers.Tokenizer:
    """As Llama 3's kind, with texts brought to NFC, and an added token that is not special."""
    origin = train_bpe(CORPUS, 330, "qwen2")
    origin.normalizer = normalizers.NFC()
    origin.add_tokens(["<tool_call>", "e\u0301e"])
    return origin


def sentencepiece_bpe() -> tokenizers.Tokenizer:
    """As Llama 2's: a space is "▁", and what has no piece falls back to bytes."""
    origin = tokenizers.Tokenizer(models.BPE(unk_token=UNK, fuse_unk=True, byte_fallback=True))
    origin.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=special, limit_alphabet=40, show_progress=False)
    origin.train_from_iterator([" ".join(CORPUS)], trainer)
    content = json.loads(origin.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    origin = tokenizers.Tokenizer.from_str(json.dumps(content))
    origin.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return origin


def unigram() -> tokenizers.Tokenizer:
    origin = tokenizers.Tokenizer(models.Unigram())
    origin.normalizer = normalizers.NFKC()
    origin.pre_tokenizer = pre_tokenizers.Metaspace()
    origin.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token=UNK, show_progress=False)
    origin.train_from_iterator(CORPUS, trainer)
    origin.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return origin


def wordpiece() -> tokenizers.Tokenizer:
    origin = tokenizers.Tokenizer(models.WordPiece(unk_token=BERT_UNK))
    origin.normalizer = normalizers.BertNormalizer()
    origin.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    origin.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    origin.train_from_iterator(CORPUS, trainer)
    origin.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return origin


def word_level() -> tokenizers.Tokenizer:
    """Its special tokens stand in the model's vocabulary, where ordinary words are looked up."""
    origin = tokenizers.Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "the": 2, "river": 3}, unk_token=BERT_UNK))
    origin.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    origin.add_special_tokens(["[PAD]", "[UNK]"])
    return origin


ORIGINS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    function.__name__: function for function in (gpt2, llama3, qwen2, sentencepiece_bpe, unigram, wordpiece, word_level)
}


@pytest.fixture(scope="module", params=ORIGINS)
def origin(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    """A tokenizer as others made it, by its own library; special tokens in a text are told to be ordinary text."""
    made = ORIGINS[request.param]()
    made.encode_special_tokens = True
    return made


def loaded(given: tokenizers.Tokenizer, folder: Path) -> Tokenizer:
    given.save(str(folder / "given.json"))
    return Tokenizer.load(folder / "given.json")


@pytest.fixture(scope="module")
def brought(origin: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("origin")
    origin.save(str(folder / "tokenizer.json"))
    return loaded(read_pretrained(folder, "qwen2"), folder)


def text_ids(origin: tokenizers.Tokenizer, text: str) -> list[int]:
    """Without what a template puts around it, and without padding or truncation."""
    plain = tokenizers.Tokenizer.from_str(origin.to_str())
    plain.encode_special_tokens = True
    plain.no_truncation()
    plain.no_padding()
    return plain.encode(text, add_special_tokens=False).ids


@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_ids_are_those_of_the_origin(origin: tokenizers.Tokenizer, brought: Tokenizer, text: str) -> None:
    ids = text_ids(origin, text)
    assert brought.encode(text) == ids
    assert [array.tolist() for array in brought.encode_batch([text], 1)] == [ids]
    assert brought.decode(ids) == origin.decode(ids, skip_special_tokens=False)


@given(text=st.lists(st.sampled_from(["[PAD]", "[CLS]", "</s>", "<s>", "the", " ", *SPECIAL_TOKENS])).map("".join))
def test_no_text_has_a_special_token_of_the_origin_or_of_ours(brought: Tokenizer, text: str) -> None:
    reserved = set(brought.special.values()) - {brought.unk_id}
    assert reserved.isdisjoint(brought.encode(text))


def test_the_origin_s_tokens_keep_their_ids_and_ours_come_behind(
    origin: tokenizers.Tokenizer, brought: Tokenizer
) -> None:
    theirs = origin.get_vocab()
    lacking = [name for name in SPECIAL_TOKENS if name not in theirs]
    expected = theirs | {name: len(theirs) + number for number, name in enumerate(lacking)}
    assert {name: brought.special[name] for name in SPECIAL_TOKENS} == {name: expected[name] for name in SPECIAL_TOKENS}
    assert brought.vocab_size == len(expected)
    known = [token for token in brought.encode("the river runs") if token not in brought.special.values()]
    assert all(token < len(theirs) for token in known)


@pytest.mark.parametrize(
    ("name", "kind", "lossless", "unknown"),
    [
        ("gpt2", TiktokenTokenizer, True, None),
        ("llama3", TiktokenTokenizer, True, None),
        ("qwen2", Tokenizer, False, None),
        ("sentencepiece_bpe", Tokenizer, False, "<unk>"),
        ("unigram", Tokenizer, False, "<unk>"),
        ("wordpiece", Tokenizer, False, "[UNK]"),
    ],
)
def test_each_is_read_as_what_it_is(tmp_path: Path, name: str, kind: type, lossless: bool, unknown: str | None) -> None:
    origin = ORIGINS[name]()
    origin.save(str(tmp_path / "tokenizer.json"))
    brought = loaded(read_pretrained(tmp_path / "tokenizer.json", "qwen2"), tmp_path)
    assert type(brought) is kind
    assert brought.lossless is lossless
    assert brought.unk_id == (None if unknown is None else origin.token_to_id(unknown))


def test_the_bytes_of_a_token_are_told_for_each_way_of_writing_them(tmp_path: Path) -> None:
    for name, text, expected in [
        ("gpt2", " é", b" \xc3\xa9"),
        ("sentencepiece_bpe", "a \0", b" a \0"),
        ("unigram", "the r", b" the r"),
        ("wordpiece", "runs", b"runs"),
    ]:
        origin = ORIGINS[name]()
        origin.save(str(tmp_path / "tokenizer.json"))
        brought = loaded(read_pretrained(tmp_path, "qwen2"), tmp_path)
        assert b"".join(map(brought.token_bytes, brought.encode(text))) == expected


def test_a_special_token_that_the_origin_has_as_an_ordinary_one_becomes_special(tmp_path: Path) -> None:
    origin = gpt2()
    origin.add_tokens(["<|pad|>"])
    origin.save(str(tmp_path / "tokenizer.json"))
    brought = loaded(read_pretrained(tmp_path, "qwen2"), tmp_path)
    assert brought.pad == origin.token_to_id("<|pad|>")
    assert brought.pad not in brought.encode("a <|pad|>")


def test_dropout_that_the_origin_left_on_is_turned_off(tmp_path: Path) -> None:
    origin = gpt2()
    expected = origin.encode("The river runs").ids
    origin.model.dropout = 0.9
    origin.save(str(tmp_path / "tokenizer.json"))
    assert [read_pretrained(tmp_path, "qwen2").encode("The river runs").ids for _ in range(3)] == [expected] * 3


def test_an_id_that_no_token_has_gets_one_that_no_text_has(tmp_path: Path) -> None:
    content = json.loads(gpt2().to_str())
    end = content["added_tokens"][0]
    end["id"] += 3
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    brought = loaded(read_pretrained(tmp_path, "qwen2"), tmp_path)
    assert brought.end_of_text == end["id"] == 323
    assert brought.vocab_size == 324 + len(SPECIAL_TOKENS) - 1
    assert brought.decode([321]) == "<|unused_321|>"
    assert {320, 321, 322}.isdisjoint(brought.encode("<|unused_321|>"))


# tiktoken's rank files


def ranks_of(trained: tokenizers.Tokenizer) -> dict[bytes, int]:
    pieces = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    return {to_bytes(name): rank for rank, (name, _) in enumerate(pieces[len(SPECIAL_TOKENS) :])}


def dump(ranks: dict[bytes, int], path: Path) -> Path:
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items()))
    return path


@pytest.fixture(scope="module", params=PATTERNS)
def ranked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tiktoken.Encoding, Tokenizer]:
    """An encoding and what is read from its ranks; one token is found as a whole piece only, and an id is missing."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = ranks_of(train_bpe(CORPUS, 340, request.param))
    ranks |= {b"unaffable": len(ranks), b" zq": len(ranks) + 2}
    encoding = tiktoken.Encoding("x", pat_str=PATTERNS[request.param], mergeable_ranks=ranks, special_tokens={})
    dump(ranks, folder / "x.tiktoken")
    return encoding, loaded(read_pretrained(folder, request.param), folder)


@settings(max_examples=150)
@given(text=TEXT | st.sampled_from(["unaffable", "unaffable unaffables", " zq zqs"]))
def test_ids_are_those_of_tiktoken(ranked: tuple[tiktoken.Encoding, Tokenizer], text: str) -> None:
    encoding, brought = ranked
    ids = encoding.encode_ordinary(text)
    assert type(brought) is TiktokenTokenizer
    assert brought.encode(text) == ids
    # The library's own ids too, which are what Transformers gives.
    assert Tokenizer(brought._library).encode(text) == ids
    assert brought.decode(ids) == text


def test_the_special_tokens_stand_behind_the_ranks(ranked: tuple[tiktoken.Encoding, Tokenizer]) -> None:
    encoding, brought = ranked
    assert brought.special == {name: encoding.n_vocab + number for number, name in enumerate(SPECIAL_TOKENS)}


@settings(max_examples=100, deadline=None)
@given(
    tokens=st.lists(st.text(alphabet="abc", min_size=2, max_size=4).map(str.encode), max_size=8, unique=True),
    text=st.text(alphabet="abc", max_size=12),
)
def test_any_ranks_are_read_as_tiktoken_reads_them(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[bytes], text: str
) -> None:
    ranks = {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *tokens])}
    encoding = tiktoken.Encoding("x", pat_str=PATTERNS["gpt2"], mergeable_ranks=ranks, special_tokens={})
    path = dump(ranks, tmp_path_factory.getbasetemp() / "any.tiktoken")
    brought = read_pretrained(path, "gpt2")
    assert brought.encode(text).ids == encoding.encode_ordinary(text)


# GPT-2's pair of files


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_ids_are_those_of_gpt2_s_pair(tmp_path: Path, names: tuple[str, str], whole_folder: bool) -> None:
    origin = gpt2()
    origin.model.save(str(tmp_path))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text()) | {"<|endoftext|>": 320}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    for theirs, ours in zip(("vocab.json", "merges.txt"), names, strict=True):
        (tmp_path / theirs).rename(tmp_path / ours)
    brought = loaded(read_pretrained(tmp_path if whole_folder else tmp_path / names[0], "qwen2"), tmp_path)
    texts = [*CORPUS, *FRAGMENTS, "The river's end"]
    assert type(brought) is TiktokenTokenizer
    assert [brought.encode(text) for text in texts] == [origin.encode(text).ids for text in texts]
    assert brought.end_of_text == 320


# What is broken


def refusal(path: Path, pattern: str = "qwen2") -> str:
    with pytest.raises(UserError) as error:
        read_pretrained(path, pattern)
    assert "\n" not in str(error.value)
    return str(error.value)


GOOD = b"".join(b"%s %d\n" % (base64.b64encode(bytes([byte])), byte) for byte in range(256))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "wanted all 256 bytes as tokens; 256 are missing, first 0x00"),
        (GOOD[:-9], "wanted all 256 bytes as tokens; 1 are missing, first 0xFF"),
        (GOOD + b"YWI= x\n", "line 257: wanted a token in base64, a space and its rank, given 'YWI= x'"),
        (GOOD + b"YWI= -1\n", "line 257: wanted a token in base64"),
        (GOOD + b"YWI= 99999999999\n", "line 257: wanted a token in base64"),
        (GOOD + b"YWI=\n", "line 257: wanted a token in base64"),
        (b"!? 0\n" + GOOD, "line 1: wanted a token in base64"),
        (GOOD + b"YWI= 7\n", "line 257: wanted each token and each rank once, given one of line 8 again"),
        (GOOD + b"AA== 256\n", "line 257: wanted each token and each rank once, given one of line 1 again"),
        (GOOD + b"YWI= 4000000000\n", "wanted ids with few gaps, given 257 tokens and ids up to 4000000000"),
        (pickle.dumps({"a": 1}), "line 1: wanted a token in base64"),
    ],
)
def test_a_broken_rank_file_is_refused_by_its_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.tiktoken"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: ")
    assert told in refusal(path)


def test_a_rank_file_takes_a_pattern_of_one_s_own_and_refuses_one_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.tiktoken"
    path.write_bytes(GOOD)
    assert read_pretrained(path, r"\S+|\s+").encode("hi there").ids == [*b"hi there"]
    assert refusal(path, "(").startswith("pattern: wanted qwen2, ")


def change(content: dict, damage: str) -> object:
    model = content["model"]
    if damage == "a merge of unknown tokens":
        model["merges"].append(["zzz", "a"])
    elif damage == "one id twice":
        model["vocab"]["zzz"] = 17
    elif damage == "an id far away":
        model["vocab"]["zzz"] = 4_000_000_000
    elif damage == "an added token with another id":
        content["added_tokens"].append(content["added_tokens"][0] | {"content": "a", "id": 321})
    elif damage == "no model":
        del content["model"]
    elif damage == "a list":
        return [content]
    return content


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("a merge of unknown tokens", "Token `zzz` out of vocabulary"),
        ("one id twice", "wanted an id of its own for each token"),
        ("an id far away", "wanted ids with few gaps"),
        ("an added token with another id", "wanted added tokens with the ids that the vocabulary gives them"),
        ("no model", "wanted a tokenizer.json, given one with a problem"),
        ("a list", "wanted a tokenizer.json, given one with a problem"),
    ],
)
def test_a_broken_tokenizer_json_is_refused(tmp_path: Path, damage: str, told: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(change(json.loads(gpt2().to_str()), damage)))
    assert refusal(path).startswith(f"{path}: ")
    assert told in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", pickle.dumps([1]), b"3"])
def test_json_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: wanted a tokenizer.json, given one with a problem: ")


def test_a_model_that_fails_at_the_first_unknown_word_is_refused(tmp_path: Path) -> None:
    tokenizers.Tokenizer(models.WordPiece({"a": 0}, unk_token=BERT_UNK)).save(str(tmp_path / "tokenizer.json"))
    assert "wanted a tokenizer that encodes every text" in refusal(tmp_path)


def test_a_gap_behind_a_unigram_vocabulary_is_refused(tmp_path: Path) -> None:
    content = json.loads(unigram().to_str())
    content["added_tokens"].append(
        content["added_tokens"][0] | {"content": "<mask>", "id": len(content["model"]["vocab"]) + 1}
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert "wanted ids without a gap behind a Unigram vocabulary" in refusal(tmp_path)


def test_a_path_without_a_tokenizer_is_refused_by_what_is_wanted(tmp_path: Path) -> None:
    wanted = (
        "wanted a tokenizer.json, a .tiktoken file, or a folder with a tokenizer.json or with vocab.json and merges.txt"
    )
    assert refusal(tmp_path / "nothing") == f"{tmp_path / 'nothing'}: {wanted}, there is none"
    (tmp_path / "README.md").write_text("mine")
    assert refusal(tmp_path) == f"{tmp_path}: {wanted}, given a folder without"


@pytest.mark.parametrize(
    ("vocabulary", "merges", "told"),
    [
        (json.dumps({letter: number for number, letter in enumerate(ALPHABET)}), None, "there are none"),
        (json.dumps({"a": 0, "b": 1, "ab": 2}), "#version: 0.2\na b\n", "wanted all 256 bytes"),
        (json.dumps({letter: number for number, letter in enumerate(ALPHABET)}), "a b\n", "out of vocabulary"),
        (json.dumps({letter: number for number, letter in enumerate(ALPHABET)}), "a b c\n", "line 1"),
        ("{", "a b\n", "wanted a vocabulary, with its merges in merges.txt"),
        ("[1]", "a b\n", "wanted a vocabulary, with its merges in merges.txt"),
        (
            json.dumps({letter: number for number, letter in enumerate([*ALPHABET, "!</w>"])}),
            "",
            "marks the ends of words",
        ),
    ],
)
def test_a_broken_pair_is_refused(tmp_path: Path, vocabulary: str, merges: str | None, told: str) -> None:
    (tmp_path / "vocab.json").write_text(vocabulary)
    if merges is not None:
        (tmp_path / "merges.txt").write_text(merges)
    assert told in refusal(tmp_path)
