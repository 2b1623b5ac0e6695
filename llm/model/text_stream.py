"""The text of tokens that come one by one, up to a stop string.

token ids → TextStream.add, or stream_text → pieces of text, each as soon as it is final
"""

from collections.abc import Callable, Iterable, Iterator


def stream_text(tokens: Iterable[int], decode: Callable[[list[int]], str], stop: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the text of tokens in pieces, each as soon as it is final; it ends before the first `stop` string.

    >>> words = ["one", "two", "six"]
    >>> list(stream_text([0, 1, 2], lambda ids: "".join(words[token] for token in ids), stop=("os",)))
    ['one', 'tw']
    """
    text = TextStream(decode, stop)
    for token in tokens:
        if piece := text.add(token):
            yield piece
        if text.stopped:
            return
    if rest := text.end():
        yield rest


class TextStream:
    r"""The text of tokens that come one by one, up to the `stop` string that is complete first.

    Held back are bytes of an incomplete character, and an end that may begin a stop string.

    >>> text = TextStream(lambda ids: bytes(ids).decode("utf-8", errors="replace"), stop=("!",))
    >>> [text.add(token) for token in "hé!".encode()], text.stopped
    (['h', '', 'é', ''], True)
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: tuple[str, ...] = ()):
        self.decode, self.stop, self.stopped = decode, stop, False
        self.tokens: list[int] = []
        self.starts: list[int] = []  # where in the text each token begins
        self.length = 0  # of the text that was returned
        self._text = ""
        # `_complete` is the text of the first `_end` tokens, which ends with a whole character. Tokens from `_begin` on
        # are decoded again with new ones: a decoder may write a token in another way where a text begins.
        self._complete, self._begin, self._end = "", 0, 0

    def add(self, token: int) -> str:
        """Return the text that this token makes final. Not to be called after a stop string."""
        assert not self.stopped
        self.tokens.append(token)
        self.starts.append(len(self._text))
        # A stop string that ended before would have been found before.
        new = max(len(self._text) - max(map(len, self.stop), default=0), 0)
        self._text = self._decode().rstrip("\ufffd")
        found = [(at + len(word), at) for word in self.stop if (at := self._text.find(word, new)) >= 0]
        if found:
            self.stopped = True
            return self._take(min(found)[1])
        begun = max((n for word in self.stop for n in range(1, len(word)) if self._text.endswith(word[:n])), default=0)
        return self._take(len(self._text) - begun)

    def end(self) -> str:
        """Return what was held back, when no token follows; nothing after a stop string."""
        if self.stopped:
            return ""
        self._text = self._decode()
        return self._take(len(self._text))

    def _decode(self) -> str:
        """Return the text of all tokens, in constant time per token."""
        known = self.decode(self.tokens[self._begin : self._end])
        text = self._complete + self.decode(self.tokens[self._begin :])[len(known) :]
        if not text.endswith("\ufffd"):
            self._complete, self._begin, self._end = text, self._end, len(self.tokens)
        return text

    def _take(self, end: int) -> str:
        piece = self._text[self.length : end]
        self.length = max(self.length, end)
        return piece
