"""What a finetuned model has forgotten: bits per byte of held-out text of the kind that pretraining was on.

Measured by text and not by ids, so that a base with a tokenizer of its own is measured by the same bytes. Windows are
bounded, and so are the logits held at a time: attention's memory and time grow with the square of a base's context.
"""

from pathlib import Path

import numpy as np

from llm.core.device import Machine
from llm.core.tables import iterate_rows
from llm.evaluate.likelihood import plan_spans, score_tokens, summarise
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

N_BYTES = 1 << 16
MOST_POSITIONS = 1024  # of a window
MOST_LOGITS = 1 << 25  # at a time


def read_held_out(path: Path, n_bytes: int = N_BYTES) -> list[str]:
    """The first texts of a corpus table, in order, up to `n_bytes` of UTF-8; the last one may be cut short."""
    texts: list[str] = []
    for row in iterate_rows(path, ["text"]):
        if n_bytes <= 0:
            break
        text = row["text"].encode()[:n_bytes].decode(errors="ignore")
        n_bytes -= len(row["text"].encode())
        texts.append(text)
    return [text for text in texts if text]


def base_figures(
    model: GPT, texts: list[str], tokenizer: Tokenizer, batch_size: int, machine: Machine, label: str
) -> dict[str, float]:
    """Bits for each UTF-8 byte of the texts, `base_bits_per_byte`; nothing where there is no text.

    Windows have the base's context, of MOST_POSITIONS tokens at most.
    """
    if not texts:
        return {}
    stream = np.array([token for text in texts for token in (tokenizer.bos_id, *tokenizer.encode(text))])
    length = min(model.config.context_length, MOST_POSITIONS)
    batch_size = max(1, min(batch_size, MOST_LOGITS // (length * model.config.vocab_size)))
    nats = score_tokens(model, stream, plan_spans(len(stream), length, length), batch_size, machine, label).nats
    return {"base_bits_per_byte": summarise(nats, sum(len(text.encode()) for text in texts))["bits_per_byte"]}
