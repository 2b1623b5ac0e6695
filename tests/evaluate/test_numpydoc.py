"""Which sections of a docstring parse: by cases, and beside another parser of the same style."""

import re

import docstring_parser
import pytest

from llm.evaluate.numpydoc import validate_sections

CASES = [  # the body of a section that another one follows, and whether it parses
    ("Parameters", "x, y : array_like, optional\n    Both.", True),
    ("Parameters", "*args, **kwargs\n    Others.", True),
    ("Parameters", "x : int\n\n    The number.\ny : int", True),
    ("Parameters", "x", False),
    ("Parameters", "See also that:\n    x : int", False),
    ("Parameters", "", False),
    ("Returns", "ndarray of shape (n,)\n    The sum.", True),
    ("Returns", "out : ndarray", True),
    ("Raises", "If x is negative, an error.", False),
    ("See Also", "foo : Something.\nnumpy.bar, baz\n    More of it.", True),
    ("See Also", ":func:`~numpy.bar` : It.\n`foo`", True),
    ("See Also", "Look at the other function (it is better).", False),
    ("See also", "foo : Something.", True),
    ("Notes", "Any text.\n\nMore of it.", True),
    ("Examples", "", False),
    ("Paramaters", "x : int\n    The number.", False),
]


def section(title, body):
    return f"{title}\n{'-' * len(title)}\n{body}"


@pytest.mark.parametrize(("title", "body", "parses"), CASES)
def test_a_section_parses_or_does_not(title, body, parses):
    after = "\n\nNotes\n-----\nSome.\n"
    assert validate_sections(f"Sum.\n\n{section(title, body)}{after}def") == [parses, True]
    if parses:
        kind = {"parameters": "param", "attributes": "attribute", "see also": "see_also"}
        text = f"Sum.\n\n{section(title.title(), body)}{after}"
        found = {meta.args[0] for meta in docstring_parser.parse(text, docstring_parser.DocstringStyle.NUMPYDOC).meta}
        assert {kind.get(title.lower(), title.lower()), "notes"} <= found


@pytest.mark.parametrize(
    ("text", "verdicts"),
    [
        ("", []),
        ("No section.\n---\n", [False]),  # an underline that is too short under a title of no section
        ("Returns\n------\nint\n    The sum.\n", [False]),
        ("Returns\n--------\nint\n    The sum.\n", [False]),
        (section("Parameters", ""), []),
        (section("Parameters", "x\n"), []),
        (section("Parameters", "x\n    The number.\n"), [True]),
        (section("Parameters", "x : int\n"), [True]),
        ("Parameters\n-----", []),
        ("Parameters\n-----\n", [False]),
        (section("Paramaters", ""), [False]),
        (section("Notes", "It is so.\n"), [True]),
        # A docstring ends at two empty lines or at its quotes, and is indented as a whole.
        (section("Parameters", "x\n\n\n\ndef f(x)\n\nSum.\n"), [False]),
        (re.sub("^", "    ", section("Parameters", 'x\n"""\nx : int\n    No entry.\n'), flags=re.M), [False]),
        (re.sub("^(?=.)", "\t", section("Returns", "out : int\n    It.\n\n"), flags=re.M), [True]),
        ("    Returns\n-------\nout : int\n    It.\n\n", [False]),
    ],
)
def test_a_section_that_the_end_leaves_undecided_has_no_verdict(text, verdicts):
    assert validate_sections(text) == verdicts
