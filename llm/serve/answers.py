"""What was written, in the shapes that OpenAI's clients read: whole answers, and chunks of a stream."""

from dataclasses import dataclass, field
from typing import Any

from llm.serve.draw import Logprob
from llm.serve.engine import Finish, Piece, Written
from llm.serve.schema import ChatRequest, CompletionRequest
from llm.serve.text import TextStream
from llm.tokens.tokenizer import Tokenizer


@dataclass
class Choice:
    """All pieces of one text up to now."""

    text: str = ""
    written: list[Written] = field(default_factory=list)
    prompt: list[Logprob | None] = field(default_factory=list)
    finish: Finish | None = None
    n_tokens: int = 0
    is_new: bool = True

    def add(self, piece: Piece) -> None:
        """Go on by a piece."""
        self.text += piece.text
        self.written += piece.written
        self.prompt += piece.prompt
        self.finish, self.n_tokens, self.is_new = piece.finish, piece.n_tokens, False


def usage(prompts: list[list[int]], choices: list[Choice]) -> dict[str, int]:
    """How many tokens were read, each prompt once, and how many were drawn."""
    read, drawn = sum(map(len, prompts)), sum(choice.n_tokens for choice in choices)
    return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}


class CompletionAnswer:
    """Of /v1/completions."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, asked: CompletionRequest, prompts: list[list[int]], tokenizer: Tokenizer):
        self.asked, self.prompts, self.tokenizer = asked, prompts, tokenizer
        self.max_tokens, self.n_logprobs = asked.max_tokens, asked.logprobs
        self.prompt_logprobs = asked.echo and asked.logprobs is not None

    def choice(self, number: int, choice: Choice) -> dict[str, Any]:
        """A choice of the whole answer."""
        echoed = self._echoed(number)
        return {
            "index": number,
            "text": echoed + choice.text,
            "logprobs": self._logprobs(number, choice.written, choice.prompt, len(echoed)),
            "finish_reason": choice.finish,
        }

    def chunks(self, number: int, piece: Piece, first: bool) -> list[dict[str, Any]]:
        """The chunks of a piece."""
        echoed = self._echoed(number)
        chunk = {
            "index": number,
            "text": (echoed if first else "") + piece.text,
            "logprobs": self._logprobs(number, piece.written, piece.prompt, len(echoed)),
            "finish_reason": piece.finish,
        }
        return [chunk]

    def _echoed(self, number: int) -> str:
        """The prompt, where it is asked for; the id before a text is no part of it."""
        if not self.asked.echo:
            return ""
        prompt = self.asked.prompts[number // self.asked.n]
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)

    def _logprobs(
        self, number: int, written: list[Written], prompt: list[Logprob | None], echoed: int
    ) -> dict[str, Any] | None:
        if self.n_logprobs is None:
            return None
        tokens = [(token.token, token.start + echoed, token.logprob) for token in written]
        if prompt:
            which = number // self.asked.n
            skipped = int(isinstance(self.asked.prompts[which], str))
            ids = self.prompts[which][skipped:]
            text = TextStream(self.tokenizer.decode)
            for token in ids:
                text.add(token)
            tokens = [*zip(ids, text.starts, prompt[skipped:], strict=True), *tokens]
        return {
            "tokens": [token_text(self.tokenizer, token) for token, _, _ in tokens],
            "token_logprobs": [logprob and logprob.logprob for _, _, logprob in tokens],
            "top_logprobs": [logprob and self._likeliest(logprob) for _, _, logprob in tokens],
            "text_offset": [start for _, start, _ in tokens],
        }

    def _likeliest(self, logprob: Logprob) -> dict[str, float]:
        """With the token itself, if it is none of them."""
        told = {**dict(logprob.likeliest), logprob.token: logprob.logprob}
        return {token_text(self.tokenizer, token): value for token, value in told.items()}


class ChatAnswer:
    """Of /v1/chat/completions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"
    prompt_logprobs = False

    def __init__(self, asked: ChatRequest, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.max_tokens = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
        self.n_logprobs = (asked.top_logprobs or 0) if asked.logprobs else None

    def choice(self, number: int, choice: Choice) -> dict[str, Any]:
        """A choice of the whole answer."""
        return {
            "index": number,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice.written),
            "finish_reason": choice.finish,
        }

    def chunks(self, number: int, piece: Piece, first: bool) -> list[dict[str, Any]]:
        """The chunks of a piece: who speaks comes before the first, and why it ended after the last."""
        chunks = []
        if first:
            chunks.append(self._chunk(number, {"role": "assistant", "content": ""}))
        if piece.text or piece.written:
            chunks.append(self._chunk(number, {"content": piece.text}, self._logprobs(piece.written)))
        if piece.finish:
            chunks.append(self._chunk(number, {}, finish=piece.finish))
        return chunks

    def _chunk(
        self, number: int, delta: dict[str, str], logprobs: dict[str, Any] | None = None, finish: Finish | None = None
    ) -> dict[str, Any]:
        return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, written: list[Written]) -> dict[str, Any] | None:
        if self.n_logprobs is None:
            return None
        content = []
        for logprob in (token.logprob for token in written):
            assert logprob
            likeliest = [self._told(*pair) for pair in logprob.likeliest]
            content.append({**self._told(logprob.token, logprob.logprob), "top_logprobs": likeliest})
        return {"content": content, "refusal": None}

    def _told(self, token: int, logprob: float) -> dict[str, Any]:
        letters = list(self.tokenizer.token_bytes(token))
        return {"token": token_text(self.tokenizer, token), "logprob": logprob, "bytes": letters}


def token_text(tokenizer: Tokenizer, token: int) -> str:
    r"""A token as text; bytes that are no whole character are spelt out, as bytes:\xc3."""
    text = tokenizer.decode([token])
    if "\ufffd" not in text:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in tokenizer.token_bytes(token))
