"""The report of prepare: tables, rules with their examples, and no Markdown of the documents' own."""

from typing import Any

from llm.report.prepare import markdown


def details(**changes: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"sources": {}, "splits": {}, "notes": [], "rules_off": [], "dropped": {}}
    return empty | {"encodings": {}, "dialects": {}} | changes


def test_tables_notes_and_rules_are_shown() -> None:
    report = markdown(
        details(
            sources={"mine": {"found": 3000, "documents": 2, "bytes": 12345}},
            splits={"train": {"documents": 2, "bytes": 5}},
            notes=["Split by document."],
            rules_off=["a_b"],
            dropped={"too_long": {"documents": 7, "bytes": 9, "examples": [[f"f{n}", "why"] for n in range(5)]}},
            encodings={"a.txt": "koi8-r, guessed, confidence 0.9"},
            dialects={"separated by tabs": {"files": 6, "examples": ["a.tsv", "b.tsv"]}},
        )
    )
    for line in (
        "| mine | 3,000 | 2 | 12,345 |",
        "| train | 2 | 5 |",
        "- Split by document.",
        "| too long | 7 | 9 |",
        "Rules that are turned off: a b.",
        "## too long",
        *(f"- `f{n}` · why" for n in range(5)),
        "- and 2 more",
        "- `a.txt` · koi8-r, guessed, confidence 0.9",
        "- separated by tabs: `a.tsv`, `b.tsv` and 4 more",
    ):
        assert line in report.splitlines()


def test_documents_cannot_add_markdown() -> None:
    evil = {"documents": 1, "bytes": 1, "examples": [["a`b\n# c", "# head\n<b>*x*</b> \x1b[31m|"]]}
    (line,) = [line for line in markdown(details(dropped={"empty": evil})).splitlines() if line.startswith("- ")]
    assert line == r"- `` a`b # c `` · \# head \<b\>\*x\*\</b\> \[31m\|"
