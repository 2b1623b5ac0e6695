import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import Unigram, WordPiece
from tokenizers.trainers import UnigramTrainer, WordPieceTrainer

from llm.model.generate import stream_text
from llm.serve.text import TextStream
from llm.tokens.tokenizer import train_tokenizer
from llm.tokens.words import train_words


def _decode(tokens):
    return bytes(tokens).decode("utf-8", errors="replace")


@given(
    st.binary(max_size=12), st.text("abé", max_size=10), st.lists(st.text("abé", min_size=1, max_size=4), max_size=3)
)
def test_the_pieces_are_those_of_stream_text(noise, text, stop):
    tokens = [*text.encode(), *noise]
    stream, pieces = TextStream(_decode, tuple(stop)), []
    for token in tokens:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    pieces.append(stream.end())
    assert [piece for piece in pieces if piece] == list(stream_text(tokens, _decode, tuple(stop)))
    assert stream.length == len("".join(pieces))


def test_a_token_begins_where_the_text_before_it_ended():
    stream = TextStream(_decode)
    for token in "aéb".encode():
        stream.add(token)
    assert stream.starts == [0, 1, 1, 2]


@pytest.mark.parametrize("kind", ["bpe", "words", "sentencepiece", "wordpiece"])
def test_the_pieces_of_a_text_are_the_text_whatever_its_tokenizer(kind):
    """Some decoders write a token otherwise where a text begins."""
    text = "The river runs, déjà vu 😀 and so on. " * 3
    library = {
        "bpe": lambda: train_tokenizer([text], 280),
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
