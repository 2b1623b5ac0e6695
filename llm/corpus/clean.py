"""Clean one document: normalise its text, remove control characters, apply the rules that need no other document."""

import hashlib
import re
import unicodedata

from llm.corpus.document import Document
from llm.corpus.duplicates import signature
from llm.corpus.params import CleanParams
from llm.corpus.repetition import repetition

# C0 and C1 controls but tab, newline and next line (U+0085); DEL; and the byte-order mark inside a text.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ufeff]")
# What composing can change: a run beyond ASCII, with the letter before it that a combining mark may join.
COMPOSABLE = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+")
BEGINNING_CHARS = 80  # of a dropped document, for the report


def normalise(text: str) -> str:
    """Return the text with Unix newlines, in Unicode's composed form (NFC), without a byte-order mark at its start."""
    text = text.removeprefix("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text)


def bytes_normalised(raw: str) -> int:
    r"""Count the bytes of a raw text that `normalise` removes or changes.

    >>> bytes_normalised("\ufeffA\r\nB")  # the mark has three, the carriage return one
    4
    >>> bytes_normalised("cafe\u0301")  # e and two bytes of accent become é
    3
    """
    n_bytes = 3 * raw.startswith("\ufeff") + raw.count("\r")
    if not unicodedata.is_normalized("NFC", raw):
        pieces = COMPOSABLE.findall(raw.removeprefix("\ufeff"))
        n_bytes += sum(len(piece.encode()) for piece in pieces if not unicodedata.is_normalized("NFC", piece))
    return n_bytes


def document_id(text: str) -> str:
    """Return a name for a text: 32 hexadecimal digits of its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def clean(document: Document, rules: CleanParams) -> Document:
    """Return the document with clean text, or the reason why it is dropped; the cheapest rules come first."""
    if document.reason:
        return document
    text = normalise(document.text)
    normalised_bytes = 0 if text == document.text else bytes_normalised(document.text)
    control_bytes = 0
    if rules.control_characters == "remove" and (found := CONTROLS.findall(text)):
        control_bytes = len("".join(found).encode())
        # The characters before and after a control character may compose.
        text = unicodedata.normalize("NFC", CONTROLS.sub("", text))
    n_bytes = len(text.encode())
    if reason := _broken_rule(text, rules):
        beginning = " ".join(text[: 2 * BEGINNING_CHARS].split())[:BEGINNING_CHARS]
        return document._replace(text="", reason=reason, note=beginning, n_bytes=n_bytes)
    near = rules.near_duplicates
    return document._replace(
        text=text,
        n_bytes=n_bytes,
        doc_id=document_id(text),
        normalised_bytes=normalised_bytes,
        control_bytes=control_bytes,
        signature=signature(text, near) if near else b"",
    )


def _broken_rule(text: str, rules: CleanParams) -> str:
    if not text or text.isspace():
        return "empty"
    if rules.min_chars is not None and len(text) < rules.min_chars:
        return "too_few_chars"
    if rules.max_chars is not None and len(text) > rules.max_chars:
        return "too_many_chars"
    broken = repetition(text, rules.repetition) if rules.repetition is not None else None
    return f"repetition_{broken}" if broken else ""
