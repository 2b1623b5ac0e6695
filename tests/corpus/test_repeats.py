"""Which docstrings repeat earlier ones."""

import pytest

from llm.corpus.docstrings import BETWEEN_ENTRIES
from llm.corpus.repeats import RepeatFilter

LONG = " ".join(f"word{number}" for number in range(40))


@pytest.mark.parametrize(
    ("first", "second", "is_left_out"),
    [
        (LONG, LONG, True),
        (LONG, LONG.replace("word20", "another"), True),
        (LONG, f"{LONG} {LONG[::-1]}", False),
        ("Return the result.", "Return the result.", False),
        (LONG, LONG[::-1], False),
        (f"{LONG} {LONG[::-1]}", LONG, True),
    ],
    ids=["the same", "one word differs", "more", "short", "others", "a part"],
)
def test_a_docstring_that_repeats_earlier_ones_is_left_out(first: str, second: str, is_left_out: bool) -> None:
    repeats = RepeatFilter()
    one, other = f"def f()\n\n{first}", f"class A\n\n{second}"
    assert repeats.apply(f"{one}{BETWEEN_ENTRIES}def g()\n\nBrief.") == (f"{one}{BETWEEN_ENTRIES}def g()\n\nBrief.", 0)
    own = f"A module.{BETWEEN_ENTRIES}{other}"
    assert repeats.apply(own) == (("A module.", 1) if is_left_out else (own, 0))
