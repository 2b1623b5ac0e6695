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
        # The text of all tokens before `_end`, which ends with a whole character; those from `_begin` on are decoded
        # anew, for a decoder may write a token in another way where a text begins.
        self._settled, self._begin, self._end = "", 0, 0

    def add(self, token: int) -> str:
        """The piece that this token makes certain. Not to be called after a stop string."""
        assert not self.stopped
        self.tokens.append(token)
        self.starts.append(len(self._whole))
        # A stop string that ended before would have been found before.
        new = max(len(self._whole) - max(map(len, self.stop), default=0), 0)
        self._whole = self._decode().rstrip("\ufffd")
        found = [(at + len(word), at) for word in self.stop if (at := self._whole.find(word, new)) >= 0]
        if found:
            self.stopped = True
            return self._give(min(found)[1])
        begun = max((n for word in self.stop for n in range(1, len(word)) if self._whole.endswith(word[:n])), default=0)
        return self._give(len(self._whole) - begun)

    def end(self) -> str:
        """What was held back, when nothing more comes; nothing after a stop string."""
        if self.stopped:
            return ""
        self._whole = self._decode()
        return self._give(len(self._whole))

    def _decode(self) -> str:
        """The text of all tokens, in a time that does not grow with it."""
        known = self.decode(self.tokens[self._begin : self._end])
        text = self._settled + self.decode(self.tokens[self._begin :])[len(known) :]
        if not text.endswith("\ufffd"):
            self._settled, self._begin, self._end = text, self._end, len(self.tokens)
        return text

    def _give(self, end: int) -> str:
        piece = self._whole[self.length : end]
        self.length = max(self.length, end)
        return piece
