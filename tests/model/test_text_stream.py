import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import Unigram, WordPiece
from tokenizers.trainers import UnigramTrainer, WordPieceTrainer

from llm.model.text_stream import TextStream, stream_text
from llm.tokens.bpe import train_bpe
from llm.tokens.words import train_words


def _decode(tokens):
    return bytes(tokens).decode("utf-8", errors="replace")


letters = st.text("abé", max_size=12)


@given(letters, st.lists(st.text("abé", min_size=1, max_size=4), max_size=3))
def test_streamed_text_ends_before_the_first_stop_string(text, stop):
    # A byte a token, so that characters and stop strings are cut everywhere.
    ends = [n for n in range(len(text) + 1) if any(text[:n].endswith(word) for word in stop)]
    if ends:
        begun = [ends[0] - len(word) for word in stop if text[: ends[0]].endswith(word)]
        expected = text[: min(begun)]
    else:
        expected = text
    pieces = list(stream_text(list(text.encode()), _decode, tuple(stop)))
    assert "".join(pieces) == expected
    assert all(pieces)


def test_text_comes_as_soon_as_it_is_certain():
    asked = []

    def tokens():
        for letter in "one, two; three":
            asked.append(letter)
            yield ord(letter)

    stream = stream_text(tokens(), lambda ids: "".join(map(chr, ids)), stop=(", three", "; t"))
    came = [(piece, "".join(asked)) for piece in stream]
    assert came[:3] == [("o", "o"), ("n", "on"), ("e", "one")]
    assert came[3] == (", tw", "one, tw")
    assert "".join(piece for piece, _ in came) == "one, two"
    assert "".join(asked) == "one, two; t"


def test_a_token_begins_where_the_text_before_it_ended():
    stream = TextStream(_decode)
    for token in "aéb".encode():
        stream.add(token)
    assert stream.starts == [0, 1, 1, 2]


@pytest.mark.parametrize("kind", ["bpe", "words", "sentencepiece", "wordpiece"])
def test_pieces_add_up_to_the_text_for_every_tokenizer(kind):
    """Some decoders write a token otherwise where a text begins."""
    text = "The river runs, déjà vu 😀 and so on. " * 3
    library = {
        "bpe": lambda: train_bpe([text], 280),
        "words": lambda: train_words([text], 100, 1, keep_whitespace=False),
        "sentencepiece": lambda: _train(Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace(), UnigramTrainer),
        "wordpiece": lambda: _train(
            WordPiece(), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(), WordPieceTrainer
        ),
    }[kind]()
    ids = library.encode(text, add_special_tokens=False).ids
    stream = TextStream(library.decode)
    pieces = [stream.add(token) for token in ids]
    assert "".join(pieces) + stream.end() == library.decode(ids)
    assert sum(map(bool, pieces)) > 10


def _train(model, pre_tokenizer, decoder, trainer):
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer, library.decoder = pre_tokenizer, decoder
    library.train_from_iterator(["The river runs, déjà vu and so on. 😀"] * 9, trainer(vocab_size=60))
    return library


def test_a_long_text_is_not_decoded_anew_at_each_token():
    decoded = []

    def decode(tokens):
        decoded.append(len(tokens))
        return _decode(tokens)

    stream = TextStream(decode, stop=("never",))
    for token in ("é" * 500).encode():
        stream.add(token)
    assert stream.length == 500
    assert max(decoded) <= 4


def test_half_a_character_is_returned_at_the_end():
    assert list(stream_text("hé".encode()[:2], _decode)) == ["h", "\ufffd"]
