r"""Clean one document: normalise its text, remove control characters, apply the rules that need no other document.

    RawDocument ──normalise──► text ──rules──► Cleaned: the text, its hash and its signature, or why it is dropped

>>> normalise("A\r\nB\rC")
'A\nB\nC'
>>> normalise("e\u0301")  # two code points for é become one
'é'
"""

import hashlib
import re
import unicodedata
from typing import NamedTuple

from llm.corpus.document import FileNote, Found, Unreadable
from llm.corpus.duplicates import signature
from llm.corpus.params import CleanParams
from llm.corpus.repetition import repetition

# C0 and C1 controls but tab, newline and next line (U+0085); DEL; and the byte-order mark inside a text.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ufeff]")
# What composing can change: a run beyond ASCII, with the letter before it that a combining mark may join.
COMPOSABLE = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+")
BEGINNING_CHARS = 80  # of a dropped document, for the report


class Cleaned(NamedTuple):
    """A document after its rules: it stays where `reason` is empty, else it is dropped, or a note on its file."""

    source: str
    path: str
    readable: bool
    reason: str
    note: str  # of a dropped one: what was wrong with it, or how its text begins
    n_bytes: int  # of the text in UTF-8; of what was found, where it is dropped
    text: str = ""
    doc_id: str = ""
    normalised_bytes: int = 0  # of the raw text that normalising removed or changed
    control_bytes: int = 0  # removed
    signature: bytes = b""  # for near duplicates; empty where they are not looked for


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


def clean(raw: Found, rules: CleanParams) -> Cleaned:
    """Return what becomes of one document, by the cheapest rules first."""
    if isinstance(raw, FileNote):
        return Cleaned(raw.source, raw.path, True, raw.kind, raw.note, 0)
    if isinstance(raw, Unreadable):
        return Cleaned(raw.source, raw.path, False, raw.reason, raw.problem, raw.n_bytes)
    text = normalise(raw.text)
    normalised_bytes = 0 if text is raw.text or text == raw.text else bytes_normalised(raw.text)
    control_bytes = 0
    if rules.control_characters == "remove" and (found := CONTROLS.findall(text)):
        control_bytes = sum(len(character.encode()) for character in found)
        # The characters before and after a control character may compose.
        text = unicodedata.normalize("NFC", CONTROLS.sub("", text))
    n_bytes = len(text.encode())
    if reason := _broken_rule(text, rules):
        beginning = " ".join(text[: 2 * BEGINNING_CHARS].split())[:BEGINNING_CHARS]
        return Cleaned(raw.source, raw.path, True, reason, beginning, n_bytes)
    near = rules.near_duplicates
    return Cleaned(
        *(raw.source, raw.path, True, "", "", n_bytes, text, document_id(text), normalised_bytes, control_bytes),
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
