"""Parse the sections of numpydoc docstrings: https://numpydoc.readthedocs.io/en/latest/format.html.

A section of entries has at least one: `name : type`, or either alone where an indented description follows. A section
at the end of a text that is correct so far has no verdict, for the text may be cut anywhere.
"""

import re

_NAMED = re.compile(r"[\w.*`][^\s:]*(, *[\w.*`][^\s:]*)*( *:.*)?")
_TYPED = re.compile(r"\S.*")  # a type or an exception may be described in any words
_ENTRIES = dict.fromkeys(("Parameters", "Other Parameters", "Receives", "Attributes"), _NAMED)
_ENTRIES |= dict.fromkeys(("Returns", "Yields", "Raises", "Warns"), _TYPED)
TITLES = {*_ENTRIES, "See Also", "Notes", "References", "Examples", "Warnings", "Methods"}
TITLES |= {"Summary", "Extended Summary"}
# In "See Also": an indented description, or names with a role or backticks and a description.
_ITEM = r"(:[\w:+.-]+:)?`?[\w.~*-]+`?"
_ITEMS = re.compile(rf" .*|{_ITEM}(, *{_ITEM})*[,.]?( *:.*)?")
_HEADING = re.compile(
    r"^(?P<indent>[ \t]*)(?P<title>\S.*?)[ \t]*\n(?P<rule_indent>[ \t]*)(?P<rule>-{3,})[ \t]*\n", re.M
)
_END = re.compile(r"^[ \t]*\n[ \t]*\n|^.*(\"\"\"|''').*$", re.M)  # of a docstring: two blank lines, or its quotes


def validate_sections(text: str) -> list[bool]:
    r"""Return whether each section of a text parses, without one that the end of the text leaves undecided.

    >>> validate_sections("Sum.\n\nReturns\n-------\nout : int\n    The sum.\n\nNotes\n----\nIt")
    [True, False]
    """
    lines = text[: text.rfind("\n") + 1]
    headings = [*_HEADING.finditer(lines)]
    verdicts = []
    for heading, following in zip(headings, [*headings[1:], None], strict=False):
        end = following.start() if following else len(lines)
        stop = _END.search(lines, heading.end(), end)
        verdict = _parses(heading, lines[heading.end() : stop.start() if stop else end])
        if verdict is not None or stop or following:
            verdicts.append(bool(verdict))
    return verdicts


def _parses(heading: re.Match[str], body: str) -> bool | None:
    """Return whether a section parses; None where more of its body could make it parse."""
    title, indent = heading["title"].title(), heading["indent"]
    if title not in TITLES or (indent, len(title)) != (heading["rule_indent"], len(heading["rule"])):
        return False
    lines = [line[len(indent) :].expandtabs().rstrip() for line in body.splitlines() if line.strip()]
    if not lines:
        return None
    if title in _ENTRIES:
        return _has_entry(_ENTRIES[title], lines) or None
    return title != "See Also" or all(map(_ITEMS.fullmatch, lines))


def _has_entry(form: re.Pattern[str], lines: list[str]) -> bool:
    pairs = zip(lines, [*lines[1:], ""], strict=False)
    return any(form.fullmatch(line) and (" : " in line or below.startswith(" ")) for line, below in pairs)
