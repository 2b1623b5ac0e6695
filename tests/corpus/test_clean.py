"""Cleaned text: one kind of newline, one form of each character, and a name that the text alone decides."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.corpus.clean import bytes_normalised, clean, document_id, normalise
from llm.corpus.document import Document
from llm.corpus.params import CleanParams

OFF = {"control_characters": "keep", "exact_duplicates": "keep"}
OFF |= dict.fromkeys(("min_chars", "max_chars", "repetition", "near_duplicates"))
NEAR = {"action": "drop", "threshold": 0.8, "ngram": 2, "permutations": 32, "bands": 8}
ANY_TEXT = st.text() | st.lists(st.sampled_from(["\r", "\n", "\ufeff", "e", "\u0301", "a"])).map("".join)
LINES = "line\nline\nline\nline\n"


def cleaned(text: str, **rules: object) -> Document:
    return clean(Document("mine", "a.txt", text), CleanParams(**(OFF | rules)))


@given(ANY_TEXT)
def test_normalised_text_has_one_form(text: str) -> None:
    normal = normalise(text)
    assert "\r" not in normal and unicodedata.is_normalized("NFC", normal)
    assert normalise(normal) == normal.removeprefix("\ufeff")
    assert (bytes_normalised(text) > 0) == (normal != text)
    unix = text.replace("\r", "")
    assert normalise(unix) == normalise(unix.replace("\n", "\r\n")) == normalise(unix.replace("\n", "\r"))


@pytest.mark.parametrize(
    ("text", "normal", "n_bytes"),
    [
        ("a\r\n\r\nb\rc\n", "a\n\nb\nc\n", 3),
        ("\n\r", "\n\n", 1),
        ("\ufeffa\ufeff", "a\ufeff", 3),
        ("e\u0301 e\u0301 é", "é é é", 6),
        ("\u212b", "Å", 3),
        ("ﬁ ½ ①  a\t\n", "ﬁ ½ ①  a\t\n", 0),
    ],
)
def test_newlines_marks_and_composition_change(text: str, normal: str, n_bytes: int) -> None:
    assert (normalise(text), bytes_normalised(text)) == (normal, n_bytes)


def test_a_document_that_stays_has_its_text_name_and_size() -> None:
    document = cleaned("caf\u0065\u0301\r\n", near_duplicates=NEAR)
    assert document[:7] == ("mine", "a.txt", "café\n", "", "", 6, True)
    assert (document.normalised_bytes, document.doc_id) == (4, document_id("café\n"))
    assert document.signature and not cleaned("some words").signature


def test_control_characters_are_removed() -> None:
    text = "a\x00b\x1b[0m\tc\n\x7f\x85\ufeffd\x0c"
    assert cleaned(text).text == text
    document = cleaned(text, control_characters="remove")
    assert (document.text, document.control_bytes) == ("ab[0m\tc\n\x85d", 1 + 1 + 1 + 3 + 1)
    assert cleaned("e\x00\u0301", control_characters="remove").text == "é"


@given(ANY_TEXT | st.text(alphabet=st.characters(categories=["Cc", "Cf", "Mn", "L"])))
def test_cleaning_clean_text_changes_nothing(text: str) -> None:
    once = cleaned(text, control_characters="remove")
    if not once.reason:
        again = cleaned(once.text, control_characters="remove")
        assert (again.text, again.normalised_bytes, again.control_bytes) == (once.text, 0, 0)


@pytest.mark.parametrize(
    ("text", "rules", "reason"),
    [
        ("", {}, "empty"),
        (" \n\t", {}, "empty"),
        ("\x00", {"control_characters": "remove"}, "empty"),
        ("abc", {"min_chars": 4}, "too_few_chars"),
        ("abcde", {"max_chars": 4}, "too_many_chars"),
        (LINES, {"repetition": {}}, "repetition_duplicate_lines"),
        (LINES, {}, ""),
    ],
)
def test_each_rule_drops_documents(text: str, rules: dict, reason: str) -> None:
    document = cleaned(text, **rules)
    assert (document.reason, document.readable, bool(document.text)) == (reason, True, not reason)


def test_a_dropped_document_has_a_note() -> None:
    document = cleaned("first line\nsecond " + "word " * 50, max_chars=10)
    assert document.note.startswith("first line second word") and len(document.note) == 80
    assert document.n_bytes == 18 + 250
    unreadable = Document("mine", "a.gz", "", "damaged", "expected a gzip file, got none", 12, readable=False)
    assert clean(unreadable, CleanParams(**OFF)) == unreadable
