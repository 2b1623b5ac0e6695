"""Forgetting: bits per byte of a finetuned model on held-out text of the pretraining corpus.

Bytes, not tokens, so that bases with other tokenizers are comparable. Windows and logits are bounded: attention grows
with the square of the base's context.
"""

from pathlib import Path

import numpy as np

from llm.core.device import Machine
from llm.core.tables import iterate_rows
from llm.evaluate.likelihood import plan_spans, score_tokens, summarise
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

N_BYTES = 1 << 16
MAX_POSITIONS = 1024  # of a window
MAX_LOGITS = 1 << 25  # in memory at a time


def read_held_out(path: Path, n_bytes: int = N_BYTES) -> list[str]:
    """Return the first `n_bytes` of UTF-8 of a corpus table as texts."""
    texts: list[str] = []
    for row in iterate_rows(path, ["text"]):
        if n_bytes <= 0:
            break
        texts.append(row["text"].encode()[:n_bytes].decode(errors="ignore"))
        n_bytes -= len(row["text"].encode())
    return [text for text in texts if text]


def base_figures(
    model: GPT, texts: list[str], tokenizer: Tokenizer, batch_size: int, machine: Machine, label: str
) -> dict[str, float]:
    """Return `base_bits_per_byte` of the texts, in windows of the base's context; nothing without text."""
    if not texts:
        return {}
    stream = np.array([token for text in texts for token in (tokenizer.bos_id, *tokenizer.encode(text))])
    length = min(model.config.context_length, MAX_POSITIONS)
    batch_size = max(1, min(batch_size, MAX_LOGITS // (length * model.config.vocab_size)))
    nats = score_tokens(model, stream, plan_spans(len(stream), length, length), batch_size, machine, label).nats
    return {"base_bits_per_byte": summarise(nats, sum(len(text.encode()) for text in texts))["bits_per_byte"]}
