"""Prepared text: one kind of newline, one form of each character, and a name that the text alone decides."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.text.clean import document_id, normalise

ANY_TEXT = st.text() | st.lists(st.sampled_from(["\r", "\n", "\ufeff", "e", "\u0301", "a"])).map("".join)


@given(ANY_TEXT)
def test_prepared_text_is_composed_and_has_unix_newlines_only(text: str) -> None:
    prepared = normalise(text)
    assert "\r" not in prepared
    assert unicodedata.is_normalized("NFC", prepared)


@given(ANY_TEXT.filter(lambda text: not text.startswith("\ufeff\ufeff")))
def test_preparing_prepared_text_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(ANY_TEXT)
def test_the_newline_of_no_system_makes_another_text(text: str) -> None:
    unix = text.replace("\r", "")
    assert normalise(unix) == normalise(unix.replace("\n", "\r\n")) == normalise(unix.replace("\n", "\r"))


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("a\r\n\r\nb\rc\n", "a\n\nb\nc\n"),
        ("\n\r", "\n\n"),
        ("\ufeffa\ufeff", "a\ufeff"),
        ("e\u0301", "é"),
        ("한", "한"),
        ("ﬁ ½ ①", "ﬁ ½ ①"),
        ("  a\t\n", "  a\t\n"),
    ],
)
def test_newlines_marks_and_composition_change_and_nothing_else(text: str, prepared: str) -> None:
    assert normalise(text) == prepared


def test_a_text_has_one_name_and_another_text_another() -> None:
    names = [document_id(text) for text in ("", "a", "b", "a\n", "é", "e\u0301")]
    assert len(set(names)) == len(names)
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)
    # sha256("abc") as FIPS 180 gives it: names stay the same from one version of the project to the next.
    assert document_id("abc") == "ba7816bf8f01cfea414140de5dae2223"
