r"""Parse the sections of numpydoc docstrings in a text: a title over a line of dashes, and a body.

    |Returns
    |-------              as long as the title
    |out : ndarray        an entry: `name : type`, or either alone
    |    The sum.         its description is indented

As the numpydoc guide has it (https://numpydoc.readthedocs.io/en/latest/format.html): a title of the guide, and in a
section of entries at least one. A name or a type alone is one where a description follows, for any sentence looks so.
A text may begin and end anywhere: a section that nothing is wrong with so far, but whose verdict lies beyond the end,
has none.
"""

import re

TITLES = {"Parameters", "Other Parameters", "Receives", "Attributes", "Returns", "Yields", "Raises", "Warns"}
TITLES |= {"See Also", "Notes", "References", "Examples", "Warnings", "Methods", "Summary", "Extended Summary"}
_NAMED = re.compile(r"[\w.*`][^\s:]*(, *[\w.*`][^\s:]*)*( *:.*)?")
_TYPED = re.compile(r"\S.*")  # a type or an exception may be described in any words
_ENTRIES = dict.fromkeys(("Parameters", "Other Parameters", "Receives", "Attributes"), _NAMED)
_ENTRIES |= dict.fromkeys(("Returns", "Yields", "Raises", "Warns"), _TYPED)
# A name, a role in front of it or backticks around it; several, and what they are.
_ITEM = r"(:[\w:+.-]+:)?`?[\w.~*-]+`?"
_ITEMS = re.compile(rf"{_ITEM}(, *{_ITEM})*[,.]?( *:.*)?")
_HEADING = re.compile(
    r"^(?P<indent>[ \t]*)(?P<title>\S.*?)[ \t]*\n(?P<rule_indent>[ \t]*)(?P<rule>-{3,})[ \t]*\n", re.M
)
_END = re.compile(r"^[ \t]*\n[ \t]*\n|^.*(\"\"\"|''').*$", re.M)  # of a docstring: two blank lines, or its quotes


def judge_sections(text: str) -> list[bool]:
    r"""Return whether each section of a text parses; one that the end of the text leaves undecided is left out.

    >>> judge_sections("Sum.\n\nReturns\n-------\nout : int\n    The sum.\n\nNotes\n----\nIt")
    [True, False]
    """
    whole = text[: text.rfind("\n") + 1]
    headings = [*_HEADING.finditer(whole)]
    verdicts = []
    for number, heading in enumerate(headings):
        is_last = number + 1 == len(headings)
        end = len(whole) if is_last else headings[number + 1].start()
        stop = _END.search(whole, heading.end(), end)
        verdict = _score_targets(heading, whole[heading.end() : stop.start() if stop else end])
        if verdict is None and not (stop is None and is_last):
            verdict = False
        if verdict is not None:
            verdicts.append(verdict)
    return verdicts


def _score_targets(heading: re.Match[str], body: str) -> bool | None:
    """Return whether a section parses; None where more of its body could make it parse."""
    title = heading["title"].title()
    is_sound = len(heading["rule"]) == len(heading["title"]) and heading["rule_indent"] == heading["indent"]
    if title not in TITLES or not is_sound:
        return False
    indent = len(heading["indent"])
    lines = [line[indent:].expandtabs() for line in body.splitlines() if line.strip()]
    if title in _ENTRIES:
        entries = zip(lines, [*lines[1:], ""], strict=False)
        return any(_is_entry(_ENTRIES[title], line.rstrip(), below) for line, below in entries) or None
    if title == "See Also":
        return all(line[0] == " " or _ITEMS.fullmatch(line.rstrip()) for line in lines) if lines else None
    return True if lines else None


def _is_entry(form: re.Pattern[str], line: str, below: str) -> bool:
    return bool(form.fullmatch(line)) and (" : " in line or below.startswith(" "))
