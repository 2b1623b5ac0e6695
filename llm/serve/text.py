"""The text of tokens that come one by one: `llm.model.generate.stream_text` for somebody who is given its tokens.

    add(token) → the text that is certain now, and was not before;  end() → the rest

There a generator asks for tokens; a server's texts take turns and are told theirs. A test holds the two together.
"""

from collections.abc import Callable


class TextStream:
    r"""A text as it is certain, up to the first of the `stop` strings; `stopped` says that one was found.

    >>> text = TextStream(lambda ids: bytes(ids).decode("utf-8", errors="replace"), stop=("!",))
    >>> [text.add(token) for token in "hé!".encode()], text.stopped
    (['h', '', 'é', ''], True)
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: tuple[str, ...] = ()):
        self.decode, self.stop, self.stopped = decode, stop, False
        self.tokens: list[int] = []
        self.starts: list[int] = []  # where in the text each token begins
        self.length = 0  # of the text that was given out
        self._whole = ""

    def add(self, token: int) -> str:
        """The piece that this token makes certain. Not to be called after a stop string."""
        assert not self.stopped
        self.tokens.append(token)
        self.starts.append(len(self._whole))
        self._whole = self.decode(self.tokens).rstrip("\ufffd")
        found = [
            (self._whole.index(word) + len(word), self._whole.index(word)) for word in self.stop if word in self._whole
        ]
        if found:
            self.stopped = True
            return self._give(min(found)[1])
        begun = max((n for word in self.stop for n in range(1, len(word)) if self._whole.endswith(word[:n])), default=0)
        return self._give(len(self._whole) - begun)

    def end(self) -> str:
        """What was held back, when nothing more comes; nothing after a stop string."""
        if self.stopped:
            return ""
        self._whole = self.decode(self.tokens)
        return self._give(len(self._whole))

    def _give(self, end: int) -> str:
        piece = self._whole[self.length : end]
        self.length = max(self.length, end)
        return piece
