"""The tokenizer in a browser gives the ids of the library's, whatever the text."""

import json
import random

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from llm.page.errors import NoPageError
from llm.page.vocabulary import describe_tokenizer
from llm.tokens.bpe import PATTERNS, train_bpe
from llm.tokens.special import SPECIAL_TOKENS
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_chars, train_words
from tests.tokens.samples import CORPUS, EDGES

MADE = {
    **{pattern: lambda pattern=pattern: train_bpe(CORPUS, 440, pattern) for pattern in PATTERNS},
    "words": lambda: train_words(CORPUS, 440, 1, keep_whitespace=True),
    "words alone": lambda: train_words(CORPUS, 440, 1, keep_whitespace=False),
    "characters": lambda: train_chars(CORPUS, 440, 1),
    "whole pieces first": lambda: with_ignored_merges(train_bpe(CORPUS, 440, "llama3")),
}
DRAW = random.Random(1)
STRADDLING = ["".join(DRAW.choices(EDGES, k=DRAW.randint(2, 12))) for _ in range(600)]
# Letters of every script and each kind of whitespace; browser and library may know other versions of Unicode, so that
# only the blocks that have been full for decades are here.
LETTERS = [
    f"x{chr(code)}1 {chr(code)}{chr(code)} a"
    for code in (*range(0x250), *range(0x2000, 0x2060), *range(0x3000, 0x3100))
]
TEXTS = [*EDGES, *CORPUS, *STRADDLING, *LETTERS, "", "<|endoftext|>" * 2, "\nREIT" * 9]


def with_ignored_merges(library):
    content = json.loads(library.to_str())
    content["model"]["ignore_merges"] = True
    content["model"]["merges"] = content["model"]["merges"][::2]  # many tokens are found as whole pieces alone
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def unigram():
    library = tokenizers.Tokenizer(models.Unigram([(name, -1.0) for name in (*SPECIAL_TOKENS, "<unk>", "a")], unk_id=6))
    library.add_special_tokens([*SPECIAL_TOKENS])
    return library


def of_words():
    library = train_words(CORPUS, 100, 1, keep_whitespace=True)
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    return library


def describe(library):
    tokenizer = Tokenizer.of(library)
    return tokenizer, describe_tokenizer(library, tokenizer, [0])


@pytest.fixture(scope="module")
def opened(open_page, exported_folder):
    return open_page(exported_folder)


@pytest.mark.parametrize("name", MADE)
def test_ids_and_texts_are_those_of_the_library(opened, name):
    tokenizer, data = describe(MADE[name]())
    script = """(data, texts) => { const own = new Tokenizer(data);
        return texts.map((text) => { const ids = own.ids(text); return [ids, own.decode(ids)]; }); }"""
    got = dict(zip(TEXTS, opened.run(script, data, TEXTS), strict=True))
    expected = {text: [(ids := tokenizer.encode(text)), tokenizer.decode(ids)] for text in TEXTS}
    assert {text: of for text, of in got.items() if of != expected[text]} == {}


@pytest.mark.parametrize("name", ["qwen2", "words"])
def test_tokens_have_their_places_and_bytes(opened, name):
    tokenizer, data = describe(MADE[name]())
    text = "it's déjà 👍🏽 東京\r\n<|pad|> the river"
    tokens = opened.run("(data, text) => new Tokenizer(data).encode(text)", data, text)
    units = text.encode("utf-16-le")
    assert [token["id"] for token in tokens] == tokenizer.encode(text)
    for token, id_ in zip(tokens, tokenizer.encode(text), strict=True):
        place = units[2 * token["start"] : 2 * token["end"]].decode("utf-16-le")  # whole characters
        assert bytes(token["bytes"]) == tokenizer.token_bytes(id_)
        assert bytes(token["bytes"]) in place.encode() or id_ == tokenizer.unk_id
    assert tokens[0]["start"] == 0 and tokens[-1]["end"] == len(units) // 2


def test_merges_lead_from_bytes_to_the_token(opened):
    tokenizer, data = describe(MADE["qwen2"]())
    script = "(data) => { const own = new Tokenizer(data); return data.tokens.map((_, id) => own.merges(id)); }"
    steps = opened.run(script, data)
    for token, of in enumerate(steps):
        assert of[-1] == [token]
        if token not in tokenizer.special.values():
            whole = tokenizer.token_bytes(token)
            assert len(of) == len(whole)
            assert all(b"".join(map(tokenizer.token_bytes, step)) == whole for step in of)


def test_a_half_of_a_surrogate_pair_is_a_replacement_character(opened):
    _, data = describe(MADE["qwen2"]())
    script = """(data) => { const own = new Tokenizer(data), half = '👍'.slice(0, 1);
        return [own.ids('a' + half), own.ids('a\\ufffd')]; }"""
    first, second = opened.run(script, data)
    assert first == second


def test_a_long_piece_takes_no_minute(opened):
    _, data = describe(MADE["qwen2"]())
    script = """(data) => { const own = new Tokenizer(data), start = performance.now();
        own.ids('xyz'.repeat(8000));
        return performance.now() - start; }"""
    assert opened.run(script, data) < 15_000


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: train_bpe(CORPUS, 400, r"[\w<|>]+\s?"), "tokenize.pattern: expected qwen2, gpt2, cl100k, llama3"),
        (unigram, "expected byte-level BPE, words or characters as made here, got another Unigram"),
        (of_words, "expected byte-level BPE, words or characters as made here, got another WordLevel"),
    ],
)
def test_another_tokenizer_is_refused_in_one_line(make, problem):
    with pytest.raises(NoPageError, match=problem) as refused:
        describe(make())
    assert "\n" not in str(refused.value)
