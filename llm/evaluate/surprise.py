r"""Texts token by token: what each stands for, and how much it surprises the model, in nats.

    ids [257, 9]  ──spell──► ["im", "port\n"]
                  ──surprises──► [7.31, 0.02] nats, each after <|endoftext|> and the tokens before it

A token that the model gave the probability p costs -ln p nats: 0.69 for one in two, 2.3 for one in ten.
"""

from collections.abc import Sequence

import numpy as np

from llm.core.device import Machine
from llm.evaluate.likelihood import plan_document_spans, score_tokens
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer


def spell(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    r"""What each of the ids stands for, so that they can be read one by one; joined, they read as the text.

    Bytes that are a part of a character stand as \xc3, and so do control characters other than tabs and line breaks.
    Where the tokenizer drops whitespace, the blank that its decoder puts before a token stands in that token.

    >>> from llm.tokens.bpe import PATTERN
    >>> from llm.tokens.tokenizer import TiktokenTokenizer, train_tokenizer
    >>> tokenizer = TiktokenTokenizer(train_tokenizer(["hi hi"], 263), PATTERN)
    >>> spell(tokenizer, tokenizer.encode("hi\tö\0"))
    ['hi', '\t', '\\xc3', '\\xb6', '\\x00']
    """
    bare = [tokenizer.token_bytes(token).decode("utf-8", errors="backslashreplace") for token in ids]
    pieces = bare[:1]
    for at in range(1, len(ids)):
        apart = tokenizer.decode(ids[at - 1 : at + 1]) == f"{bare[at - 1]} {bare[at]}"
        pieces.append(f" {bare[at]}" if apart else bare[at])
    return [_visible(piece) for piece in pieces]


def _visible(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


def surprises(
    model: GPT, texts: Sequence[Sequence[int]], end_of_text: int, stride: int, batch_size: int, machine: Machine
) -> list[list[float]]:
    """Nats of every token of every text, each text after the end of text alone, as `score_tokens` scores documents.

    `stride` is in tokens, as in `plan_spans`. A model that sees the future says what it costs to look.
    """
    stream = np.array([end_of_text, *(token for text in texts for token in (*text, end_of_text))], dtype=np.int64)
    spans = plan_document_spans(stream, end_of_text, model.config.context_length, stride)
    nats = score_tokens(model, stream, spans, batch_size, machine, "report").nats  # (len(stream) - 1,)
    ends = np.cumsum([len(text) + 1 for text in texts])
    return [nats[end - len(text) - 1 : end - 1].tolist() for text, end in zip(texts, ends, strict=True)]
