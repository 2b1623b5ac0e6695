"""The report of prepare: documents by source and split, rules with examples, doubtful encodings, dialects."""

from collections.abc import Mapping
from typing import Any

from llm.report.tables import Table

SPECIAL = "\\`*_[]<>|#"


def markdown(details: Mapping[str, Any]) -> str:
    """Return the report in Markdown; text of documents and names of files cannot add Markdown of their own."""
    sources = [[_spaced(name), of["found"], of["documents"], of["bytes"]] for name, of in details["sources"].items()]
    splits = [[split, of["documents"], of["bytes"]] for split, of in details["splits"].items()]
    dropped = [[_spaced(rule), of["documents"], of["bytes"]] for rule, of in details["dropped"].items()]
    parts = [
        "# Documents that prepare kept and dropped",
        _table(["source", "documents found", "documents kept", "bytes kept"], sources),
        _table(["split", "documents", "bytes"], splits),
        "\n".join(f"- {_plain(note)}" for note in details["notes"]),
        _table(["dropped by", "documents", "bytes"], dropped),
    ]
    if off := details["rules_off"]:
        parts.append(f"Rules that are turned off: {_spaced(', '.join(off))}.")
    parts += [_rule(rule, of) for rule, of in details["dropped"].items()]
    if encodings := details["encodings"]:
        advice = "Look at these files; `encoding` in the source names another one, for all files or by glob."
        parts.append(f"## encodings that may be wrong\n\n{advice}\n\n{_items(encodings.items())}")
    if dialects := details["dialects"]:
        lines = "\n".join(_dialect(name, of) for name, of in dialects.items())
        parts.append(f"## tables that commas do not separate\n\n{lines}")
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[Any]]) -> str:
    return str(Table(head, [[name, *(f"{count:,}" for count in counts)] for name, *counts in rows]))


def _rule(rule: str, of: Mapping[str, Any]) -> str:
    more = of["documents"] - len(of["examples"])
    return f"## {_spaced(rule)}\n\n{_items(of['examples'])}" + (f"\n- and {more:,} more" if more else "")


def _items(items: Any) -> str:
    return "\n".join(f"- `{_code(path)}`" + (f" · {_plain(note)}" if note else "") for path, note in items)


def _dialect(dialect: str, of: Mapping[str, Any]) -> str:
    more = of["files"] - len(of["examples"])
    shown = ", ".join(f"`{_code(path)}`" for path in of["examples"])
    return f"- {dialect}: {shown}" + (f" and {more:,} more" if more else "")


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _plain(text: str) -> str:
    """Return a text on one line, with Markdown's signs escaped and without characters that cannot be printed."""
    return "".join(f"\\{char}" if char in SPECIAL else char for char in " ".join(text.split()) if char.isprintable())


def _code(text: str) -> str:
    return "".join(character for character in text if character.isprintable()).replace("`", "'")
