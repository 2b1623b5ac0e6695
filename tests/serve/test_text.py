from hypothesis import given
from hypothesis import strategies as st

from llm.model.generate import stream_text
from llm.serve.text import TextStream


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
