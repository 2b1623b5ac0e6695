"""Deltas of generated text in the shapes that OpenAI's clients read: whole responses, and chunks of a stream."""

from typing import Any

from llm.model.text_stream import TextStream
from llm.serve.engine import Delta, SampledToken
from llm.serve.sampler import Logprob
from llm.serve.schema import ChatRequest, CompletionRequest
from llm.tokens.tokenizer import Tokenizer

Json = dict[str, Any]


class CompletionResponse:
    """The response of /v1/completions."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, request: CompletionRequest, prompts: list[list[int]], tokenizer: Tokenizer):
        self.request, self.prompts, self.tokenizer = request, prompts, tokenizer
        self.max_tokens, self.n_logprobs = request.max_tokens, request.logprobs
        self.prompt_logprobs = request.echo and request.logprobs is not None

    def choice(self, number: int, delta: Delta, first: bool = True) -> Json:
        """Return a choice of the whole response, or of a chunk; the echo comes with the first."""
        echo = self._echo(number)
        return {
            "index": number,
            "text": (echo if first else "") + delta.text,
            "logprobs": self._logprobs(number, delta, len(echo)),
            "finish_reason": delta.finish,
        }

    def chunks(self, number: int, delta: Delta, first: bool) -> list[Json]:
        """Return the choices of the chunks for a delta."""
        return [self.choice(number, delta, first)]

    def _echo(self, number: int) -> str:
        """Return the prompt if asked for, without the id that precedes a text."""
        if not self.request.echo:
            return ""
        prompt = self.request.prompts[number // self.request.n]
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)

    def _logprobs(self, number: int, delta: Delta, n_echo: int) -> Json | None:
        if self.n_logprobs is None:
            return None
        tokens = self._prompt_tokens(number // self.request.n, delta) if delta.prompt else []
        tokens += [(token.token, token.start + n_echo, token.logprob) for token in delta.tokens]
        return {
            "tokens": [token_text(self.tokenizer, token) for token, _, _ in tokens],
            "token_logprobs": [logprob and logprob.logprob for _, _, logprob in tokens],
            "top_logprobs": [logprob and self._top(logprob) for _, _, logprob in tokens],
            "text_offset": [start for _, start, _ in tokens],
        }

    def _prompt_tokens(self, prompt: int, delta: Delta) -> list[tuple[int, int, Logprob | None]]:
        skipped = int(isinstance(self.request.prompts[prompt], str))
        ids, text = self.prompts[prompt][skipped:], TextStream(self.tokenizer.decode)
        for token in ids:
            text.add(token)
        return list(zip(ids, text.starts, delta.prompt[skipped:], strict=True))

    def _top(self, logprob: Logprob) -> dict[str, float]:
        """Return the most probable tokens, and the token itself."""
        values = {**dict(logprob.top), logprob.token: logprob.logprob}
        return {token_text(self.tokenizer, token): value for token, value in values.items()}


class ChatResponse:
    """The response of /v1/chat/completions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"
    prompt_logprobs = False

    def __init__(self, request: ChatRequest, prompts: list[list[int]], tokenizer: Tokenizer):
        self.request, self.prompts, self.tokenizer = request, prompts, tokenizer
        limit = request.max_completion_tokens
        self.max_tokens = request.max_tokens if limit is None else limit
        self.n_logprobs = (request.top_logprobs or 0) if request.logprobs else None

    def choice(self, number: int, delta: Delta) -> Json:
        """Return a choice of the whole response."""
        message = {"role": "assistant", "content": delta.text, "refusal": None}
        logprobs = self._logprobs(delta.tokens)
        return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": delta.finish}

    def chunks(self, number: int, delta: Delta, first: bool) -> list[Json]:
        """Return the choices of the chunks for a delta: the role before the first, the finish reason after the last."""
        parts: list[tuple[Json, Json | None, str | None]] = []
        if first:
            parts.append(({"role": "assistant", "content": ""}, None, None))
        if delta.text or delta.tokens:
            parts.append(({"content": delta.text}, self._logprobs(delta.tokens), None))
        if delta.finish:
            parts.append(({}, None, delta.finish))
        return [
            {"index": number, "delta": part, "logprobs": logprobs, "finish_reason": finish}
            for part, logprobs, finish in parts
        ]

    def _logprobs(self, tokens: list[SampledToken]) -> Json | None:
        if self.n_logprobs is None:
            return None
        logprobs = [token.logprob for token in tokens if token.logprob]
        content = [
            {**self._entry(of.token, of.logprob), "top_logprobs": [self._entry(*pair) for pair in of.top]}
            for of in logprobs
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> Json:
        text = token_text(self.tokenizer, token)
        return {"token": text, "logprob": logprob, "bytes": list(self.tokenizer.token_bytes(token))}


def token_text(tokenizer: Tokenizer, token: int) -> str:
    r"""Return a token as text; bytes of an incomplete character are escaped, as bytes:\xc3."""
    text = tokenizer.decode([token])
    if "\ufffd" not in text:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in tokenizer.token_bytes(token))
