"""Which sections of a docstring parse: by cases, and beside another parser of the same style."""

import re

import docstring_parser
import pytest

from llm.evaluate.numpydoc import judge_sections


def section(title, body, rule="-"):
    return f"{title}\n{rule * len(title)}\n{body}"


NEXT = "\n\nNotes\n-----\nSome.\n"
CASES = {  # the body of a section that another one follows, and whether it parses
    "an entry": ("Parameters", "x : int\n    The number.", True),
    "several names": ("Parameters", "x, y : array_like, optional\n    Both.", True),
    "arguments": ("Parameters", "*args, **kwargs\n    Others.", True),
    "a type and no description": ("Parameters", "x : {'a', 'b'}", True),
    "a description far below": ("Parameters", "x : int\n\n    The number.\ny : int", True),
    "a name alone": ("Parameters", "x", False),
    "a sentence": ("Parameters", "The arguments of this are\nall described elsewhere.", False),
    "a sentence with a description": ("Parameters", "See also that:\n    x : int", False),
    "nothing": ("Parameters", "", False),
    "a type": ("Returns", "ndarray of shape (n,)\n    The sum.", True),
    "a type alone": ("Returns", "ndarray", False),
    "a named value": ("Returns", "out : ndarray", True),
    "a generator's": ("Yields", "int\n    The next.", True),
    "an exception": ("Raises", "ValueError\n    If x < 0.", True),
    "an exception in a sentence": ("Raises", "If x is negative, an error.", False),
    "attributes": ("Attributes", "coef_ : ndarray\n    Weights.", True),
    "names of others": ("See Also", "foo : Something.\nnumpy.bar, baz\n    More of it.", True),
    "roles of others": ("See Also", ":func:`~numpy.bar` : It.\n`foo`", True),
    "a sentence about others": ("See Also", "Look at the other function (it is better).", False),
    "a small title": ("See also", "foo : Something.", True),
    "prose": ("Notes", "Any text.\n\nMore of it.", True),
    "examples": ("Examples", ">>> 1 + 1\n2", True),
    "no examples": ("Examples", "", False),
    "another title": ("Paramaters", "x : int\n    The number.", False),
}


@pytest.mark.parametrize(("title", "body", "parses"), CASES.values(), ids=CASES.keys())
def test_a_section_between_others_parses_or_does_not(title, body, parses):
    assert judge_sections(f"Sum.\n\n{section(title, body)}{NEXT}def") == [parses, True]


@pytest.mark.parametrize(("title", "body", "parses"), [case for case in CASES.values() if case[2]])
def test_what_parses_is_found_by_docstring_parser_too(title, body, parses):
    text = f"Sum.\n\n{section(title.title(), body)}{NEXT}"
    kind = {"other parameters": "other_param", "parameters": "param", "attributes": "attribute", "see also": "see_also"}
    found = {meta.args[0] for meta in docstring_parser.parse(text, docstring_parser.DocstringStyle.NUMPYDOC).meta}
    assert {kind.get(title.lower(), title.lower()), "notes"} <= found


@pytest.mark.parametrize(("title", "rule"), [("Returns", "------"), ("Returns", "--------"), ("Retruns", "-------")])
def test_what_docstring_parser_takes_for_no_heading_does_not_parse(title, rule):
    text = f"Sum.\n\n{title}\n{rule}\nint\n    The sum.\n"
    assert judge_sections(text) == [False]
    assert docstring_parser.parse(text, docstring_parser.DocstringStyle.NUMPYDOC).meta == []


@pytest.mark.parametrize(
    ("text", "verdicts"),
    [
        ("", []),
        ("No section.\n---\n", [False]),  # a rule that is too short under a title of no section
        (section("Parameters", ""), []),
        (section("Parameters", "x"), []),
        (section("Parameters", "x : in"), []),
        (section("Parameters", "x\n"), []),
        (section("Parameters", "x\n    The"), []),
        (section("Parameters", "x\n    The number.\n"), [True]),
        (section("Parameters", "x : int\n"), [True]),
        ("Parameters\n-----", []),
        ("Parameters\n-----\n", [False]),
        (section("Paramaters", ""), [False]),
        (section("Notes", ""), []),
        (section("Notes", "It is"), []),
        (section("Notes", "It is so.\n"), [True]),
        (section("See Also", ""), []),
    ],
)
def test_what_the_end_of_the_text_cuts_off_is_left_out_unless_it_is_decided(text, verdicts):
    assert judge_sections(text) == verdicts


@pytest.mark.parametrize("end", ["\n\n\ndef f(x)\n\nSum.\n", '\n    """\n    x : int\n        No entry.\n'])
def test_a_docstring_ends_at_two_empty_lines_or_at_its_quotes(end):
    indent = "    " if '"""' in end else ""
    text = re.sub("^", indent, section("Parameters", "x") + "\n", flags=re.M) + end
    assert judge_sections(text) == [False]


def test_a_section_is_indented_as_a_whole():
    inside = re.sub("^(?=.)", "\t", section("Returns", "out : int\n    It.\n") + "\n", flags=re.M)
    assert judge_sections(inside) == [True]
    assert judge_sections("    Returns\n-------\nout : int\n    It.\n\n") == [False]
