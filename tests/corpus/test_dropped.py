"""What was dropped: every document is counted, and the report shows the first five of each rule as they are."""

from llm.corpus.dropped import Dropped, describe


def test_documents_and_bytes_are_counted_by_rule() -> None:
    dropped = Dropped()
    for rule, n_bytes in (("empty", 0), ("too_long", 70), ("empty", 2)):
        dropped.add(rule, "a", n_bytes, "")
    assert dropped.counts() == {
        "empty": {"documents": 2, "bytes": 2},
        "too_long": {"documents": 1, "bytes": 70},
    }
    assert dropped.in_words() == "2 empty, 1 too long"


def test_the_report_has_five_examples_a_rule_and_says_how_many_more() -> None:
    dropped = Dropped()
    for number in range(7):
        dropped.add("empty", f"file {number}", 1, "why")
    report = describe({}, {}, [], dropped)
    assert [line for line in report.splitlines() if line.startswith("- ")] == [
        *(f"- `file {number}` · why" for number in range(5)),
        "- and 2 more",
    ]
    assert "| empty | 7 | 7 |" in report


def test_a_text_cannot_write_markdown_into_the_report() -> None:
    dropped = Dropped()
    dropped.add("empty", "a`b\n# c", 1, "# head\n<b>*x*</b> \x1b[31m|")
    (line,) = [line for line in describe({}, {}, [], dropped).splitlines() if line.startswith("- ")]
    assert line == r"- `a'b# c` · \# head \<b\>\*x\*\</b\> \[31m\|"


def test_the_tables_and_the_rules_that_are_off() -> None:
    by_source = {"mine": {"found": 3000, "kept": 2, "bytes": 12345}}
    report = describe(by_source, {"train": {"documents": 2, "bytes": 5}}, ["a_b"], Dropped())
    assert "| mine | 3,000 | 2 | 12,345 |" in report
    assert "| train | 2 | 5 |" in report
    assert "Rules that are turned off: a b." in report
