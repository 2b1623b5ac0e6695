"""The report of prepare: documents by source and split, rules with examples, doubtful encodings, dialects."""

from collections.abc import Mapping
from typing import Any

from llm.report.tables import Table, render


def markdown(details: Mapping[str, Any]) -> str:
    """Return the report in Markdown; text of documents and names of files cannot add Markdown of their own."""
    sources, splits, dropped = (details[part].items() for part in ("sources", "splits", "dropped"))
    return render(
        "prepare.md.jinja",
        details=details,
        sources=Table(
            ["source", "documents found", "documents kept", "bytes kept"],
            [[name, of["found"], of["documents"], of["bytes"]] for name, of in sources],
        ),
        splits=Table(["split", "documents", "bytes"], [[split, of["documents"], of["bytes"]] for split, of in splits]),
        dropped=Table(
            ["dropped by", "documents", "bytes"],
            [[rule.replace("_", " "), of["documents"], of["bytes"]] for rule, of in dropped],
        ),
    )
