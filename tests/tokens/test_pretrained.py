"""Pretrained tokenizers: ids as their own library gives them, and damaged files refused."""

import base64
import json
import pickle

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from llm.core.errors import UserError
from llm.tokens.bpe import PATTERNS, to_bytes, train_bpe
from llm.tokens.pretrained import path_under, read_pretrained
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
    "\0",
]
OTHERS = ["unaffable", "ﬁ", "\u00a0", "##", "▁", "[PAD]", "[CLS]", "</s>", "<s>", "the", *SPECIAL_TOKENS]
TEXT = st.text() | st.lists(st.sampled_from([*FRAGMENTS, *OTHERS])).map("".join)
UNK, BERT_UNK = "<unk>", "[UNK]"
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def make(model, pre_tokenizer=None, decoder=None, normalizer=None, trainer=None, **training):
    origin = tokenizers.Tokenizer(model)
    for part, value in {"pre_tokenizer": pre_tokenizer, "decoder": decoder, "normalizer": normalizer}.items():
        if value is not None:
            setattr(origin, part, value)
    if trainer:
        origin.train_from_iterator(CORPUS, trainer(show_progress=False, **training))
    return origin


def gpt2():
    """ByteLevel splits by itself; <|endoftext|> is at the end of the vocabulary."""
    parts = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    origin = make(models.BPE(), *parts, trainer=trainers.BpeTrainer, vocab_size=320, initial_alphabet=ALPHABET)
    origin.post_processor = processors.ByteLevel(trim_offsets=False)
    origin.add_special_tokens(["<|endoftext|>"])
    return origin


def llama3():
    """Split and ByteLevel, whole pieces before merges, a token before each text."""
    content = json.loads(train_bpe(CORPUS, 330, "llama3").to_str())
    special = {token["content"] for token in content["added_tokens"]}
    pieces = [name for name in content["model"]["vocab"] if name not in special] + ["unaffable"]
    content["model"] |= {"vocab": {name: number for number, name in enumerate(pieces)}, "ignore_merges": True}
    content["added_tokens"] = []
    origin = tokenizers.Tokenizer.from_str(json.dumps(content))
    origin.add_special_tokens(["<|begin_of_text|>"])
    begin = ("<|begin_of_text|>", origin.token_to_id("<|begin_of_text|>"))
    origin.post_processor = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[begin])
    origin.enable_padding()
    origin.enable_truncation(3)
    return origin


def qwen2():
    """Llama 3's kind with NFC, and an added token that is not special."""
    origin = train_bpe(CORPUS, 330, "qwen2")
    origin.normalizer = normalizers.NFC()
    origin.add_tokens(["<tool_call>", "e\u0301e"])
    return origin


def sentencepiece_bpe():
    """Llama 2's kind: a space is "▁", and bytes replace what has no piece."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    options = {"trainer": trainers.BpeTrainer, "vocab_size": 350, "special_tokens": special, "limit_alphabet": 40}
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    model = models.BPE(unk_token=UNK, fuse_unk=True, byte_fallback=True)
    content = json.loads(make(model, normalizer=normalizer, **options).to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    origin = tokenizers.Tokenizer.from_str(json.dumps(content))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    origin.decoder = decoders.Sequence(steps)
    return origin


def unigram():
    special = {"special_tokens": ["<unk>", "<s>", "</s>"], "unk_token": UNK}
    parts = pre_tokenizers.Metaspace(), decoders.Metaspace(), normalizers.NFKC()
    origin = make(models.Unigram(), *parts, trainer=trainers.UnigramTrainer, vocab_size=120, **special)
    origin.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return origin


def wordpiece():
    parts = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(), normalizers.BertNormalizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    options = {"trainer": trainers.WordPieceTrainer, "vocab_size": 150, "special_tokens": special}
    origin = make(models.WordPiece(unk_token=BERT_UNK), *parts, **options)
    origin.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return origin


# Name: origin, class, lossless, unknown token, a text and its bytes.
ORIGINS = {
    "gpt2": (gpt2, TiktokenTokenizer, True, None, " é", b" \xc3\xa9"),
    "llama3": (llama3, TiktokenTokenizer, True, None, "the", b"the"),
    "qwen2": (qwen2, Tokenizer, False, None, "the", b"the"),
    "sentencepiece_bpe": (sentencepiece_bpe, Tokenizer, False, "<unk>", "a \0", b" a \0"),
    "unigram": (unigram, Tokenizer, False, "<unk>", "the r", b" the r"),
    "wordpiece": (wordpiece, Tokenizer, False, "[UNK]", "runs", b"runs"),
}


@pytest.fixture(scope="module", params=ORIGINS)
def case(request):
    return ORIGINS[request.param]


@pytest.fixture(scope="module")
def origin(case):
    """A tokenizer as others made it; special tokens in a text are set to be ordinary text."""
    made = case[0]()
    made.encode_special_tokens = True
    return made


def load(origin, folder):
    origin.save(str(folder / "tokenizer.json"))
    return Tokenizer.of(read_pretrained(folder, "qwen2"))


@pytest.fixture(scope="module")
def brought(origin, tmp_path_factory):
    return load(origin, tmp_path_factory.mktemp("origin"))


@settings(max_examples=80, deadline=None)
@given(text=TEXT)
def test_ids_are_those_of_the_origin(origin, brought, text):
    plain = tokenizers.Tokenizer.from_str(origin.to_str())
    plain.encode_special_tokens = True
    plain.no_truncation()
    plain.no_padding()
    ids = plain.encode(text, add_special_tokens=False).ids
    reserved = set(brought.special.values()) - {brought.unk_id}
    if reserved.isdisjoint(ids):
        assert brought.encode(text) == ids
        assert brought.decode(ids) == origin.decode(ids, skip_special_tokens=False)
    assert reserved.isdisjoint(brought.encode(text))
    assert [array.tolist() for array in brought.encode_batch([text], 1)] == [brought.encode(text)]


def test_each_is_read_as_its_kind_and_special_tokens_follow(origin, brought, case):
    _, kind, lossless, unknown, text, expected = case
    assert type(brought) is kind
    assert brought.lossless is lossless
    assert brought.unk_id == (None if unknown is None else origin.token_to_id(unknown))
    assert b"".join(map(brought.token_bytes, brought.encode(text))) == expected
    theirs = origin.get_vocab()
    lacking = [name for name in SPECIAL_TOKENS if name not in theirs]
    vocabulary = theirs | {name: len(theirs) + number for number, name in enumerate(lacking)}
    assert {name: brought.special[name] for name in SPECIAL_TOKENS} == {n: vocabulary[n] for n in SPECIAL_TOKENS}
    assert brought.vocab_size == len(vocabulary)


def test_settings_of_the_origin_are_removed(tmp_path):
    origin = gpt2()
    expected = origin.encode("The river runs").ids
    origin.model.dropout = 0.9
    origin.add_tokens(["<|pad|>"])  # as an ordinary token
    brought = load(origin, tmp_path)
    assert [brought.encode("The river runs") for _ in range(3)] == [expected] * 3
    assert brought.pad == origin.token_to_id("<|pad|>")
    assert brought.pad not in brought.encode("a <|pad|>")


def test_an_unused_id_gets_a_token_that_no_text_has(tmp_path):
    content = json.loads(gpt2().to_str())
    content["added_tokens"][0]["id"] += 3
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    brought = Tokenizer.of(read_pretrained(tmp_path, "qwen2"))
    assert brought.end_of_text == 323
    assert brought.vocab_size == 324 + len(SPECIAL_TOKENS) - 1
    assert brought.decode([321]) == "<|unused_321|>"
    assert {320, 321, 322}.isdisjoint(brought.encode("<|unused_321|>"))


# tiktoken's rank files


def dump(ranks, path):
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items()))
    return path


@pytest.fixture(scope="module", params=PATTERNS)
def ranked(request, tmp_path_factory):
    """An encoding and its rank file, read; one token has no merge, and one id is unused."""
    folder = tmp_path_factory.mktemp("ranks")
    pieces = sorted(train_bpe(CORPUS, 340, request.param).get_vocab().items(), key=lambda item: item[1])
    ranks = {to_bytes(name): rank for rank, (name, _) in enumerate(pieces[len(SPECIAL_TOKENS) :])}
    ranks |= {b"unaffable": len(ranks), b" zq": len(ranks) + 2}
    encoding = tiktoken.Encoding("x", pat_str=PATTERNS[request.param], mergeable_ranks=ranks, special_tokens={})
    dump(ranks, folder / "x.tiktoken")
    return encoding, Tokenizer.of(read_pretrained(folder, request.param))


@settings(max_examples=150)
@given(text=TEXT | st.sampled_from(["unaffable", "unaffable unaffables", " zq zqs"]))
def test_ids_are_those_of_tiktoken(ranked, text):
    encoding, brought = ranked
    ids = encoding.encode_ordinary(text)
    assert type(brought) is TiktokenTokenizer
    assert brought.encode(text) == ids
    assert Tokenizer(brought._library).encode(text) == ids  # which Transformers gives
    assert brought.decode(ids) == text
    assert brought.special == {name: encoding.n_vocab + number for number, name in enumerate(SPECIAL_TOKENS)}


@settings(max_examples=100, deadline=None)
@given(
    tokens=st.lists(st.text(alphabet="abc", min_size=2, max_size=4).map(str.encode), max_size=8, unique=True),
    text=st.text(alphabet="abc", max_size=12),
)
def test_any_ranks_are_read_as_tiktoken_reads_them(tmp_path_factory, tokens, text):
    ranks = {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *tokens])}
    encoding = tiktoken.Encoding("x", pat_str=PATTERNS["gpt2"], mergeable_ranks=ranks, special_tokens={})
    path = dump(ranks, tmp_path_factory.getbasetemp() / "any.tiktoken")
    assert read_pretrained(path, "gpt2").encode(text).ids == encoding.encode_ordinary(text)


@pytest.mark.parametrize(
    ("names", "whole_folder"), [(("vocab.json", "merges.txt"), True), (("encoder.json", "vocab.bpe"), False)]
)
def test_ids_are_those_of_gpt2_s_pair(tmp_path, names, whole_folder):
    origin = gpt2()
    origin.model.save(str(tmp_path))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text()) | {"<|endoftext|>": 320}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    for theirs, ours in zip(("vocab.json", "merges.txt"), names, strict=True):
        (tmp_path / theirs).rename(tmp_path / ours)
    brought = Tokenizer.of(read_pretrained(tmp_path if whole_folder else tmp_path / names[0], "qwen2"))
    texts = [*CORPUS, *FRAGMENTS, "The river's end"]
    assert type(brought) is TiktokenTokenizer
    assert [brought.encode(text) for text in texts] == [origin.encode(text).ids for text in texts]
    assert brought.end_of_text == 320


# What is damaged


def refusal(path, pattern="qwen2"):
    with pytest.raises(UserError) as error:
        read_pretrained(path, pattern)
    assert "\n" not in str(error.value)
    return str(error.value)


GOOD = b"".join(b"%s %d\n" % (base64.b64encode(bytes([byte])), byte) for byte in range(256))
LINE = "line 257: expected a token in base64 and its rank, got "
LETTERS = {letter: number for number, letter in enumerate(ALPHABET)}


def change(**damage):
    """Return a function that damages a tokenizer.json."""

    def apply(content):
        content["model"]["vocab"] |= damage.get("vocab", {})
        content["model"]["merges"] += damage.get("merges", [])
        content["added_tokens"] += [content["added_tokens"][0] | token for token in damage.get("added", [])]
        return content

    return apply


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "expected a tokenizer.json, a .tiktoken file, or a folder with"),
        ({"a.tiktoken": GOOD, "b.tiktoken": GOOD}, "expected a tokenizer.json, a .tiktoken file, or a folder with"),
        ({"x.tiktoken": b""}, "expected all 256 bytes; 256 are missing, first 0x00"),
        ({"x.tiktoken": GOOD[:-9]}, "expected all 256 bytes; 1 are missing, first 0xFF"),
        ({"x.tiktoken": GOOD + b"YWI= x\n"}, LINE + "'YWI= x'"),
        ({"x.tiktoken": pickle.dumps({"a": 1})}, "line 1: expected a token in base64"),
        ({"x.tiktoken": GOOD + b"YWI= -1\n"}, "line 257: expected each token once, with a rank below 2³², got -1"),
        ({"x.tiktoken": GOOD + b"AA== 256\n"}, "line 257: expected each token once"),
        ({"x.tiktoken": GOOD + b"YWI= 7\n"}, "expected an id of its own for each token"),
        *(({"tokenizer.json": content}, "expected a tokenizer.json, got: ") for content in (b"{", b"\xff")),
        ({"tokenizer.json": change(merges=[["zzz", "a"]])}, "Token `zzz` out of vocabulary"),
        ({"tokenizer.json": change(vocab={"zzz": 17})}, "expected an id of its own for each token"),
        ({"tokenizer.json": change(vocab={"zzz": 4_000_000_000})}, "expected ids with few gaps"),
        ({"tokenizer.json": change(added=[{"content": "a", "id": 321}])}, "expected added tokens with the ids"),
        ({"tokenizer.json": lambda content: content | {"model": None}}, "expected a tokenizer.json, got: "),
        ({"vocab.json": LETTERS}, "expected a vocabulary, with its merges in merges.txt"),
        ({"vocab.json": {"a": 0, "b": 1, "ab": 2}, "merges.txt": b"#version: 0.2\na b\n"}, "with all 256 bytes"),
        ({"vocab.json": LETTERS, "merges.txt": b"a b\n"}, "out of vocabulary"),
        ({"vocab.json": LETTERS | {"!</w>": 256}, "merges.txt": b""}, "marks the ends of words"),
    ],
)
def test_a_damaged_tokenizer_is_refused(tmp_path, files, problem):
    for name, content in files.items():
        value = content(json.loads(gpt2().to_str())) if callable(content) else content
        (tmp_path / name).write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    assert refusal(tmp_path).startswith(f"{tmp_path}")
    assert problem in refusal(tmp_path)


def test_models_that_cannot_encode_every_text_are_refused(tmp_path):
    tokenizers.Tokenizer(models.WordPiece({"a": 0}, unk_token=BERT_UNK)).save(str(tmp_path / "tokenizer.json"))
    assert "expected a tokenizer that encodes every text" in refusal(tmp_path)
    content = json.loads(unigram().to_str())
    mask = {"content": "<mask>", "id": len(content["model"]["vocab"]) + 1}
    content["added_tokens"].append(content["added_tokens"][0] | mask)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert "expected ids without a gap behind a Unigram vocabulary" in refusal(tmp_path)


def test_a_rank_file_is_split_by_any_pattern(tmp_path):
    (tmp_path / "x.tiktoken").write_bytes(GOOD)
    assert read_pretrained(tmp_path / "x.tiktoken", r"\S+|\s+").encode("hi there").ids == [*b"hi there"]
    assert refusal(tmp_path / "x.tiktoken", "(").startswith("pattern: expected qwen2, ")


@pytest.mark.parametrize("path", ["/etc/passwd", "given/x", "{given}/../x"])
def test_a_path_that_dvc_does_not_track_is_refused(tmp_path, path):
    given = tmp_path / "given"
    with pytest.raises(UserError, match=r"^tokenize\.pretrained: expected a path under .*given, got "):
        path_under(given, path.format(given=given), "tokenize.pretrained")
    assert path_under(given, None, "key") is None
    assert path_under(given, f"{given}/x", "key") == given / "x"
