"""Count what prepare reads, changes, drops and keeps, for its metrics and its report."""

import platform
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from llm.core.errors import UserError
from llm.core.tables import SPLITS
from llm.corpus.document import DIALECT, DOUBTFUL_ENCODING, Document
from llm.corpus.formats import is_undivided
from llm.corpus.params import PrepareParams, PythonSource, Source
from llm.corpus.sources import library_hash

# Reasons that are common in folders and archives, so that they never end the stage.
HARMLESS = {"empty", "hidden"}
N_EXAMPLES = 5


@dataclass
class Counts:
    """Documents by source, by split, and by the rule that dropped them; notes on files."""

    found: Counter[str] = field(default_factory=Counter)  # documents by source
    kept: Counter[tuple[str, str]] = field(default_factory=Counter)  # documents or bytes, a split or "source NAME"
    changed: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)  # documents, bytes, and the first five
    encodings: dict[str, str] = field(default_factory=dict)  # that may be wrong, by path
    dialects: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # paths of tables
    undivided: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # paths by source

    def read(self, document: Document, source: Source) -> bool:
        """Count a document, and return whether it stays; UserError where it may neither be read nor skipped."""
        if document.reason == DOUBTFUL_ENCODING:
            self.encodings[document.path] = document.note
        elif document.reason == DIALECT:
            self.dialects[document.note].append(document.path)
        else:
            self.found[source.name] += 1
            if getattr(source, "separator", None) and document.readable and is_undivided(document.path):
                self.undivided[source.name].append(document.path)
            is_harmless = document.readable or document.reason in HARMLESS
            if not is_harmless and getattr(source, "on_error", "skip") == "fail":
                place = f"source {source.name}: {document.path}"
                raise UserError(f"{place}: {document.note} (on_error: skip leaves it out)")
            if document.reason:
                self.drop(document.reason, document.path, document.n_bytes, document.note)
        self.changed["documents"] += document.normalised_bytes > 0
        self.changed["bytes"] += document.normalised_bytes
        self.changed["control_bytes"] += document.control_bytes
        return not document.reason

    def drop(self, rule: str, path: str, n_bytes: int, note: str = "") -> None:
        """Count a dropped document.

        >>> counts = Counts()
        >>> counts.drop("empty", "mine/a.txt", n_bytes=3)
        >>> counts.dropped
        {'empty': {'documents': 1, 'bytes': 3, 'examples': [['mine/a.txt', '']]}}
        """
        of_rule = self.dropped.setdefault(rule, {"documents": 0, "bytes": 0, "examples": []})
        of_rule["documents"] += 1
        of_rule["bytes"] += n_bytes
        if len(of_rule["examples"]) < N_EXAMPLES:
            of_rule["examples"].append([path, note])

    def keep(self, rows: pa.Table, split: str) -> None:
        """Count rows of the corpus."""
        by_source = rows.group_by("source").aggregate([("n_bytes", "sum"), ("n_bytes", "count")])
        for row in by_source.to_pylist():
            for group in (split, f"source {row['source']}"):
                self.kept["documents", group] += row["n_bytes_count"]
                self.kept["bytes", group] += row["n_bytes_sum"]

    def dropped_in_words(self) -> str:
        """Return how many documents each rule dropped."""
        return ", ".join(f"{of['documents']} {rule.replace('_', ' ')}" for rule, of in sorted(self.dropped.items()))

    def metrics(self, prepare: PrepareParams, n_repeated: int) -> dict[str, Any]:
        """Return the figures of metrics/prepare.json."""
        metrics: dict[str, Any] = {
            "documents": {split: self.kept["documents", split] for split in SPLITS},
            "bytes": {split: self.kept["bytes", split] for split in SPLITS},
            "split_method": prepare.split.method,
            "bytes_by_source": {source.name: self.kept["bytes", f"source {source.name}"] for source in prepare.sources},
            "changed_by_normalising": {key: self.changed[key] for key in ("documents", "bytes")},
            "control_character_bytes_removed": self.changed["control_bytes"],
            "repeated_docstrings": n_repeated,
            "dropped": {
                rule: {"documents": of["documents"], "bytes": of["bytes"]} for rule, of in sorted(self.dropped.items())
            },
        }
        if self.encodings:
            metrics["files_of_doubtful_encoding"] = len(self.encodings)
        if any(isinstance(source, PythonSource) for source in prepare.sources):
            metrics["python"] = {"version": platform.python_version(), "library_sha256": library_hash()}
        return metrics

    def details(self, prepare: PrepareParams, notes: list[str]) -> dict[str, Any]:
        """Return the figures, examples and notes of the report."""

        def kept(group: str) -> dict[str, int]:
            return {key: self.kept[key, group] for key in ("documents", "bytes")}

        names = [source.name for source in prepare.sources]
        return {
            "sources": {name: {"found": self.found[name]} | kept(f"source {name}") for name in names},
            "splits": {split: kept(split) for split in SPLITS},
            "notes": notes,
            "rules_off": [name for name, value in prepare.clean.model_dump().items() if value in (None, "keep")],
            "dropped": dict(sorted(self.dropped.items())),
            "encodings": self.encodings,
            "dialects": {
                dialect: {"files": len(paths), "examples": paths[:N_EXAMPLES]}
                for dialect, paths in self.dialects.items()
            },
        }
