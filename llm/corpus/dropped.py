"""What was dropped on the way, by rule: how many documents and bytes, and the first five of each as examples.

>>> dropped = Dropped()
>>> dropped.add("empty", "mine/a.txt", n_bytes=3, why="")
>>> dropped.counts()
{'empty': {'documents': 1, 'bytes': 3}}
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

N_EXAMPLES = 5


@dataclass
class Rule:
    """What one rule dropped."""

    documents: int = 0
    n_bytes: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)  # path, and why or how it begins


class Dropped:
    """Counts by rule, in the order in which rules first drop something."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}

    def add(self, rule: str, path: str, n_bytes: int, why: str) -> None:
        """Count one document."""
        kept = self.rules.setdefault(rule, Rule())
        kept.documents += 1
        kept.n_bytes += n_bytes
        if len(kept.examples) < N_EXAMPLES:
            kept.examples.append((path, why))

    def counts(self) -> dict[str, dict[str, int]]:
        """For the metrics: documents and bytes by rule, in alphabetical order."""
        return {name: {"documents": rule.documents, "bytes": rule.n_bytes} for name, rule in sorted(self.rules.items())}

    def in_words(self) -> str:
        """One line: `2 empty, 1 exact duplicate`."""
        return ", ".join(f"{rule.documents} {name.replace('_', ' ')}" for name, rule in sorted(self.rules.items()))


def describe(
    by_source: dict[str, dict[str, int]],
    by_split: dict[str, dict[str, int]],
    off: Iterable[str],
    dropped: Dropped,
    notes: Iterable[str] = (),
    encodings: dict[str, str] | None = None,
    dialects: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The report in Markdown: what was found and kept, every rule with its examples, doubtful encodings, dialects."""
    lines = ["# What prepare kept and dropped", ""]
    lines += _table(["source", "documents found", "documents kept", "bytes kept"], by_source)
    lines += ["", *_table(["split", "documents", "bytes"], by_split)]
    lines += [""] + [f"- {_plain(note)}" for note in notes]
    lines += ["", *_table(["dropped by", "documents", "bytes"], dropped.counts()), ""]
    if off := list(off):
        lines += [f"Rules that are turned off: {', '.join(off).replace('_', ' ')}.", ""]
    for name, rule in sorted(dropped.rules.items()):
        lines += [f"## {name.replace('_', ' ')}", ""]
        lines += [f"- `{_code(path)}`" + (f" · {_plain(why)}" if why else "") for path, why in rule.examples]
        if rule.documents > len(rule.examples):
            lines += [f"- and {rule.documents - len(rule.examples):,} more"]
        lines += [""]
    if encodings:
        lines += ["## encodings that may be wrong", ""]
        lines += ["Look at these files; `encoding` in the source names another one, for all files or by glob.", ""]
        lines += [f"- `{_code(path)}` · {_plain(why)}" for path, why in encodings.items()]
        lines += [""]
    if dialects:
        lines += ["## tables that commas do not separate", ""]
        for dialect, paths in dialects.items():
            shown = ", ".join(f"`{_code(path)}`" for path in paths[:N_EXAMPLES])
            more = f" and {len(paths) - N_EXAMPLES:,} more" if len(paths) > N_EXAMPLES else ""
            lines += [f"- {dialect}: {shown}{more}"]
        lines += [""]
    return "\n".join(lines)


def _table(head: list[str], rows: dict[str, dict[str, int]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name, values in rows.items():
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(f"{value:,}" for value in values.values()) + " |")
    return lines


def _plain(text: str) -> str:
    """A text that Markdown shows as it is: on one line, its signs escaped, what cannot be printed left out."""
    printable = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in printable)


def _code(text: str) -> str:
    return "".join(character for character in text if character.isprintable()).replace("`", "'")
