r"""Raw text in, prepared text out: what every later figure (bytes, bits per byte) refers to.

    RawDocument ──normalise──► text ──rules──► Cleaned: the text, its hash and its signature, or why it is dropped

>>> normalise("A\r\nB\rC")
'A\nB\nC'
>>> normalise("e\u0301")  # two code points for é become one
'é'

All here looks at one document alone, so that documents can be shared out among processes and machines.
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


class Cleaned(NamedTuple):
    """A document after its own rules: kept where `reason` is empty, else dropped, or a note on the file."""

    source: str
    path: str
    readable: bool
    reason: str
    note: str  # of a dropped one: what was wrong with it, or how its text begins
    text: str
    doc_id: str
    n_bytes: int  # of the prepared text in UTF-8; of what was found, where it is dropped
    normalised_bytes: int  # of the raw text that normalising took away or wrote otherwise
    control_bytes: int  # taken out
    signature: bytes  # for near duplicates; empty where they are not looked for


def normalise(text: str) -> str:
    """Unix newlines, Unicode's composed form (NFC), no byte-order mark at the start."""
    text = text.removeprefix("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text)


def bytes_normalised(raw: str) -> int:
    r"""How many bytes of a raw text `normalise` takes away or writes otherwise.

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
    """A name for a text: 32 hexadecimal digits of its sha256. Equal texts have equal names."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def clean(raw: Found, rules: CleanParams) -> Cleaned:
    """What becomes of one document by the rules that look at it alone, the cheapest first."""
    if isinstance(raw, FileNote):
        return _dropped(raw, True, raw.kind, raw.note, 0)
    if isinstance(raw, Unreadable):
        return _dropped(raw, False, raw.reason, raw.problem, raw.n_bytes)
    text = normalise(raw.text)
    normalised_bytes = 0 if text is raw.text or text == raw.text else bytes_normalised(raw.text)
    control_bytes = 0
    if rules.control_characters == "remove" and (found := CONTROLS.findall(text)):
        control_bytes = sum(len(character.encode()) for character in found)
        # What stood on both sides of a control character may compose.
        text = unicodedata.normalize("NFC", CONTROLS.sub("", text))
    encoded = text.encode()
    if reason := _broken_rule(text, rules):
        return _dropped(raw, True, reason, _beginning(text), len(encoded))
    return Cleaned(
        source=raw.source,
        path=raw.path,
        readable=True,
        reason="",
        note="",
        text=text,
        doc_id=hashlib.sha256(encoded).hexdigest()[:32],
        n_bytes=len(encoded),
        normalised_bytes=normalised_bytes,
        control_bytes=control_bytes,
        signature=signature(text, rules.near_duplicates) if rules.near_duplicates else b"",
    )


def _broken_rule(text: str, rules: CleanParams) -> str | None:
    if not text or text.isspace():
        return "empty"
    if rules.min_chars is not None and len(text) < rules.min_chars:
        return "too_few_chars"
    if rules.max_chars is not None and len(text) > rules.max_chars:
        return "too_many_chars"
    if rules.repetition is not None and (broken := repetition(text, rules.repetition)):
        return f"repetition_{broken}"
    return None


def _beginning(text: str, chars: int = 80) -> str:
    """The start of a text on one line."""
    return " ".join(text[: 2 * chars].split())[:chars]


def _dropped(raw: Found, readable: bool, reason: str, note: str, n_bytes: int) -> Cleaned:
    return Cleaned(raw.source, raw.path, readable, reason, note, "", "", n_bytes, 0, 0, b"")
