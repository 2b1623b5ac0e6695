"""How a tokenizer serves a text: bytes a token, the share of its vocabulary in use, unknown words, token lengths.

    usage.add("train", sources, n_bytes, [ids, ids]) … ──► figures for the metrics, a report to read

What a tokenizer is worth shows in bytes a token: the fewer tokens a text takes, the more of it fits a context.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.tokens.tokenizer import Tokenizer

N_SHOWN = 20


class Usage:
    """Counts over batches of encoded documents."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)  # of each token, in all splits
        self._tokens, self._bytes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()

    def add(
        self, split: str, sources: Iterable[str], n_bytes: Iterable[int], encoded: Sequence[NDArray[np.integer]]
    ) -> None:
        """Count documents: the source, the bytes and the ids of each."""
        for source, size, ids in zip(sources, n_bytes, encoded, strict=True):
            self._tokens[split, source] += len(ids)
            self._bytes[split, source] += size
        if encoded:
            self.counts += np.bincount(np.concatenate(encoded), minlength=len(self.counts))

    def figures(self) -> dict[str, Any]:
        """For the metrics."""
        splits, sources = (dict.fromkeys(pair[part] for pair in self._bytes) for part in (0, 1))
        unknown = self.tokenizer.unk_id
        return {
            "vocab_size": self.tokenizer.vocab_size,
            "vocab_used": int((self.counts > 0).sum()),
            "lossless": self.tokenizer.lossless,
            "unknown_share": round(int(self.counts[unknown]) / max(int(self.counts.sum()), 1), 6) if unknown else 0.0,
            "tokens": {split: self._sum(self._tokens, 0, split) for split in splits},
            "bytes_per_token": {split: self._bytes_per_token(0, split) for split in splits},
            "bytes_per_token_by_source": {source: self._bytes_per_token(1, source) for source in sources},
        }

    def lengths(self) -> NDArray[np.int64]:
        """The bytes of each token of the vocabulary; special tokens have 0."""
        special = set(self.tokenizer.special.values())
        sizes = [0 if id_ in special else len(self.tokenizer.token_bytes(id_)) for id_ in range(len(self.counts))]
        return np.array(sizes, dtype=np.int64)

    def report(self) -> str:
        """The longest tokens and the most frequent ones, in Markdown."""
        lengths = self.lengths()
        lines = ["# The vocabulary", ""]
        for title, order in (("Longest tokens", lengths), ("Most frequent tokens", self.counts)):
            # Equal ones in the order of their ids.
            ids = np.lexsort((np.arange(len(order)), -order))[:N_SHOWN]
            lines += [f"## {title}", "", "| id | token | bytes | times in the text |", "| ---: | --- | ---: | ---: |"]
            lines += [f"| {id_} | {self._shown(int(id_))} | {lengths[id_]} | {self.counts[id_]:,} |" for id_ in ids]
            lines += [""]
        return "\n".join(lines)

    def _shown(self, id_: int) -> str:
        text = repr(self.tokenizer.token_bytes(id_).decode("utf-8", errors="replace"))
        return "`" + text.replace("`", "'").replace("|", "\\|") + "`"

    def _bytes_per_token(self, part: int, name: str) -> float:
        return round(self._sum(self._bytes, part, name) / max(self._sum(self._tokens, part, name), 1), 4)

    @staticmethod
    def _sum(counter: Counter[tuple[str, str]], part: int, name: str) -> int:
        return sum(count for pair, count in counter.items() if pair[part] == name)
