"""Prepared text: one kind of newline, one form of each character, and a name that the text alone decides."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.corpus.clean import bytes_normalised, clean, document_id, normalise
from llm.corpus.document import RawDocument, Unreadable
from llm.corpus.params import CleanParams

OFF = {
    "control_characters": "keep",
    "min_chars": None,
    "max_chars": None,
    "repetition": None,
    "exact_duplicates": "keep",
    "near_duplicates": None,
}
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


def cleaned(text: str, **rules: object):
    return clean(RawDocument("mine", "a.txt", text), CleanParams(**(OFF | rules)))


@given(ANY_TEXT)
def test_bytes_are_counted_as_normalised_exactly_where_the_text_changes(text: str) -> None:
    assert (bytes_normalised(text) > 0) == (normalise(text) != text)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("plain é\n", 0), ("a\r\nb\rc", 2), ("\ufeffa", 3), ("xe\u0301y", 3), ("e\u0301 e\u0301 é", 6), ("\u212b", 3)],
)
def test_normalised_bytes_are_those_that_were_taken_away_or_written_otherwise(text: str, n_bytes: int) -> None:
    assert bytes_normalised(text) == n_bytes


def test_a_document_that_passes_has_its_text_its_name_and_its_size() -> None:
    document = cleaned("caf\u0065\u0301\r\n")
    assert (document.text, document.n_bytes, document.normalised_bytes) == ("café\n", 6, 4)
    assert document.doc_id == document_id("café\n")
    assert (document.source, document.path, document.readable, document.reason) == ("mine", "a.txt", True, "")


def test_control_characters_go_and_tabs_and_newlines_stay() -> None:
    text = "a\x00b\x1b[0m\tc\n\x7f\x85\ufeffd\x0c"
    assert cleaned(text).text == text
    document = cleaned(text, control_characters="remove")
    assert document.text == "ab[0m\tc\n\x85d"
    assert document.control_bytes == 1 + 1 + 1 + 3 + 1
    assert cleaned("e\x00\u0301", control_characters="remove").text == "é"


@given(ANY_TEXT | st.text(alphabet=st.characters(categories=["Cc", "Cf", "Mn", "L"])))
def test_cleaning_what_is_clean_changes_nothing(text: str) -> None:
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
        ("abcd", {"min_chars": 4, "max_chars": 4}, ""),
        ("abcde", {"max_chars": 4}, "too_many_chars"),
        ("line\nline\nline\nline\n", {"repetition": {}}, "repetition_duplicate_lines"),
        ("line\nline\nline\nline\n", {}, ""),
    ],
)
def test_each_rule_drops_what_breaks_it_and_names_itself(text: str, rules: dict, reason: str) -> None:
    document = cleaned(text, **rules)
    assert document.reason == reason
    assert document.readable
    assert bool(document.text) == (not reason)


def test_the_note_of_a_dropped_document_is_how_it_begins_on_one_line() -> None:
    document = cleaned("first line\nsecond " + "word " * 50, max_chars=10)
    assert document.note.startswith("first line second word")
    assert len(document.note) == 80
    assert document.n_bytes == 18 + 250


def test_what_could_not_be_read_stays_what_it_was() -> None:
    unreadable = Unreadable("mine", "a.gz", "damaged", "wanted a gzip file, given none", 12)
    document = clean(unreadable, CleanParams(**OFF))
    assert (document.readable, document.reason, document.note) == (False, "damaged", unreadable.problem)
    assert (document.path, document.n_bytes, document.text) == ("a.gz", 12, "")


def test_a_signature_is_made_only_where_near_duplicates_are_looked_for() -> None:
    near = {"action": "drop", "threshold": 0.8, "ngram": 2, "permutations": 32, "bands": 8}
    assert cleaned("some words here").signature == b""
    assert cleaned("some words here", near_duplicates=near).signature
