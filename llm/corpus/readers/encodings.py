"""The encoding of a file: named by the user, declared by the file, recognised as Unicode, or guessed.

Three detectors guess, and their guess is taken only where they agree: text in a wrong encoding would be noise in the
corpus. Binary data and formats that need a converter (PDF, Office) are refused.
"""

import codecs
import io
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from llm.corpus.readers.streams import BUFFER_BYTES, ChunkStream, ContentError, one_line

MARKS = {  # a UTF-16 mark begins the UTF-32 one, which therefore comes first
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
ANY_MARK = b"|".join(map(re.escape, MARKS))
UTF8 = {"utf-8", "utf-8-sig"}
# Formats that need a converter, by their first bytes and by suffix.
DOCUMENTS = {b"%PDF-": "a PDF document", rb"{\rtf": "an RTF document", b"\xd0\xcf\x11\xe0": "a document of old Office"}
DOCUMENT_SUFFIXES = {".pdf", ".rtf", ".docx", ".pptx", ".xlsx", ".odt", ".odp", ".ods", ".epub"}
# Control characters that no text has: all but bell, backspace, tab, newlines, form feed, end of file and escape.
CONTROLS = bytes([*range(7), *range(14, 26), *range(28, 32)])
MAX_CONTROL_FRACTION = 0.01
DECLARATION_BYTES = 4096
DECLARATIONS = [
    re.compile(rb"""^\s*<\?xml\s[^>]*?encoding\s*=\s*["']([\w.:-]+)["']"""),
    re.compile(rb"""<meta\s[^>]*?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE),
    re.compile(rb"""^@charset\s+"([\w.:-]+)";"""),
]
CODING_COMMENT = re.compile(rb"^(?:[^\n]*\n)?[ \t\f]*#[^\n]*?coding[:=][ \t]*([\w.-]+)")  # PEP 263
GUESS_BYTES = 2000  # of lines with characters beyond ASCII; chardet needs a second for two of these
MAX_CANDIDATES = 4
MIN_CHARACTERS = 3  # beyond ASCII
OTHER_ALPHABETS = {"GREEK", "CYRILLIC", "HEBREW", "ARABIC", "THAI"}
IN_WORDS = "’‘ʼ´·‐‑–—…\xad"  # apostrophes, dashes, the soft hyphen
MAX_ODD_FRACTION = 0.02  # of the characters beyond ASCII
BINARY = "expected text, got binary data"
ENCODING_ADVICE = "name its encoding, such as cp1252 (encoding: in params.yaml, or --encoding)"


class Encoding(NamedTuple):
    """A codec's name, how it was found (named, declared, recognised, guessed), and why it may be wrong."""

    name: str
    origin: str
    doubt: str = ""


def open_text(stream: io.BufferedReader, suffix: str, named: str | None) -> tuple[io.BufferedReader, Encoding]:
    """Return the content in UTF-8 without a byte-order mark, and its encoding; ContentError where it is not text.

    Content that is UTF-8 already is not decoded here, and may have damaged bytes.
    """
    head = stream.peek(1)[:BUFFER_BYTES]
    _refuse_documents(head, suffix)
    is_whole = len(head) < BUFFER_BYTES
    encoding = find_encoding(head, is_whole) if named is None else _check_named(named, head, is_whole)
    if codecs.lookup(encoding.name).name not in UTF8:
        stream = ChunkStream(_recode(stream, encoding)).buffered()
    if stream.peek(1).startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    return stream, encoding


def decode(content: bytes) -> str:
    """Decode UTF-8; ContentError for other bytes."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        _refuse_binary(content)
        problem = f"expected text in UTF-8, got the byte 0x{content[error.start]:02x} at {error.start}"
        raise ContentError("not_text", f"{problem}; {ENCODING_ADVICE}") from None


def _refuse_documents(head: bytes, suffix: str) -> None:
    kind = next((kind for mark, kind in DOCUMENTS.items() if head.startswith(mark)), None)
    if suffix in DOCUMENT_SUFFIXES:
        kind = kind or f"a {suffix} document"
    elif head.startswith(b"PK\x03\x04"):
        kind = "a ZIP archive or a document made of one"
    if kind:
        raise ContentError("unsupported_format", f"expected text, got {kind}; convert it to text")


def _check_named(named: str, head: bytes, is_whole: bool) -> Encoding:
    # Single-byte encodings would decode binary data.
    if _codec(named) in UTF8:
        return Encoding(named, "named")
    if "a".encode(named) == b"a":
        _refuse_binary(head)
    n_good, n_bad = _count_utf8(head, is_whole)
    return Encoding(named, "named", "the file is valid UTF-8" if n_good and not n_bad else "")


def find_encoding(head: bytes, is_whole: bool = True) -> Encoding:
    r"""Return the encoding of a text that begins with `head`; ContentError where there is none, or no clear one.

    >>> find_encoding(b"<?xml version='1.0' encoding='iso-8859-2'?><p>\xb1</p>")
    Encoding(name='iso8859-2', origin='declared', doubt='')
    """
    if mark := re.match(ANY_MARK, head):
        return Encoding(MARKS[mark[0]], "declared")
    utf8 = Encoding("utf-8", "recognised")
    n_good, n_bad = _count_utf8(head, is_whole)
    if n_good and not n_bad:
        return utf8
    if b"\0" in head:
        return _wide_encoding(head, is_ascii=not n_bad)
    declared = _declared_encoding(head)
    if not n_bad:
        return declared or _iso_2022(head) or utf8
    _refuse_binary(head)
    # Letters of two bytes do not come about by chance: where they prevail, this is UTF-8 with damaged bytes.
    return declared or (utf8 if n_good >= n_bad else _guess(head))


def _count_utf8(head: bytes, is_whole: bool) -> tuple[int, int]:
    """Count the characters beyond ASCII in UTF-8, and the bytes that are not UTF-8."""
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(head, is_whole)
    n_bad = len(re.findall("[\udc80-\udcff]", text))
    return len(re.findall("[^\x00-\x7f]", text)) - n_bad, n_bad


def is_binary(content: bytes) -> bool:
    """Return whether bytes hold more zeros and other control characters than a text does."""
    return len(content) - len(content.translate(None, CONTROLS)) > MAX_CONTROL_FRACTION * len(content)


def _refuse_binary(content: bytes) -> None:
    if is_binary(content):
        raise ContentError("not_text", BINARY) from None


def _web_codec(label: str) -> str | None:
    from resiliparse.parse.encoding import map_encoding_to_html5

    return map_encoding_to_html5(label, fallback_utf8=False)


def _declared_encoding(head: bytes) -> Encoding | None:
    head = head[:DECLARATION_BYTES]
    if found := CODING_COMMENT.match(head):
        name = _codec(found[1].decode())
    elif found := next(filter(None, (pattern.search(head) for pattern in DECLARATIONS)), None):
        # The web's names differ from Python's: latin-1 is cp1252, gb2312 is gbk.
        name = _web_codec(found[1].decode()) or _codec(found[1].decode())
    else:
        return None
    # Bytes that could be read as ASCII up to here are not UTF-16.
    return Encoding(name, "declared") if name and not name.startswith(("utf-16", "utf-32")) else None


def _codec(name: str) -> str | None:
    try:
        "".encode(name)  # refuses codecs that are not encodings of text, such as rot13
        return codecs.lookup(name).name
    except (LookupError, UnicodeError):
        return None


def _wide_encoding(head: bytes, is_ascii: bool) -> Encoding:
    """Return UTF-16 or UTF-32 for bytes with zeros, or UTF-8 for ASCII with zeros in it."""
    from charset_normalizer import from_bytes

    # ASCII as UTF-16 has zeros at odd places where the low byte comes first.
    order = "le" if head[1::2].count(0) > head[::2].count(0) else "be"
    if best := from_bytes(head, cp_isolation=[f"utf_16_{order}", f"utf_32_{order}"]).best():
        return Encoding(best.encoding, "guessed", f"confidence {1 - best.chaos:.2f}")
    if is_ascii:
        return Encoding("utf-8", "recognised")
    raise ContentError("not_text", BINARY)


def _iso_2022(head: bytes) -> Encoding | None:
    """Return the encoding of a text that escapes other characters in ASCII bytes, or None."""
    with suppress(ContentError):
        if b"\x1b$" in head and (found := _guess(head)).name.startswith("iso2022"):
            return found
    return None


def _guess(head: bytes) -> Encoding:
    """Return the encoding that three detectors agree on; ContentError with the candidates where they do not.

    chardet's likeliest text has to be uchardet's, and possible for charset-normalizer. Implausible texts are left out;
    where uchardet's is one, charset-normalizer's likeliest is taken instead, if there are enough characters.
    """
    import chardet
    from charset_normalizer import from_bytes
    from resiliparse.parse.encoding import detect_encoding

    sample = _sample(head)
    likely = chardet.detect_all(sample, encoding_era=chardet.EncodingEra.ALL)
    confidences = _by_text(sample, {found["encoding"]: found["confidence"] for found in likely})
    other = _by_text(sample, {detect_encoding(sample, html5_compatible=False): None})
    possible = _by_text(sample, {match.encoding: None for match in from_bytes(sample)})
    best = next(iter(confidences), "")
    n_characters = len(re.findall("[^\x00-\x7f]", best))
    confirming = other or (list(possible)[:1] if n_characters >= MIN_CHARACTERS else [])
    if best in confirming and best in possible:
        name, confidence = confidences[best]
        # Windows' encodings have more characters than ISO's, which the rest of the file may need.
        widest = next(str(wide) for wide in ("cp1252", _web_codec(name), name) if _decoded(sample, wide) == best)
        return Encoding(widest, "guessed", f"confidence {confidence:.2f}")
    raise _unclear([name for name, _ in (confidences | other | possible).values()])


def _unclear(candidates: list[str]) -> ContentError:
    if not candidates:
        return ContentError("not_text", "expected text, got bytes that are text in no known encoding")
    problem = f"expected an encoding that can be recognised, got {' or '.join(candidates[:MAX_CANDIDATES])}"
    return ContentError("unclear_encoding", f"{problem}; {ENCODING_ADVICE}")


def _by_text(sample: bytes, found: dict[str | None, Any]) -> dict[str, tuple[str, Any]]:
    """Map each plausible text of the sample to the name of its first encoding, and that one's value."""
    texts: dict[str, tuple[str, Any]] = {}
    for encoding, value in found.items():
        text = _decoded(sample, encoding)
        if encoding and text is not None and not _is_implausible(text):
            texts.setdefault(text, (_codec(encoding) or encoding, value))
    return texts


def _decoded(sample: bytes, encoding: str | None) -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample) if encoding else None
    except (LookupError, UnicodeError):
        return None


def _is_implausible(text: str) -> bool:
    """Return whether words hold signs, letters of two scripts or capitals inside, as wrong decoding makes them."""
    n_characters = sum(letter > "\x7f" for letter in text)
    text = f" {text} "
    n_odd = sum(map(_count_odd, text, text[1:], text[2:]))
    return n_odd > MAX_ODD_FRACTION * n_characters


def _count_odd(before: str, letter: str, after: str) -> int:
    if (letter + after).isascii():
        return 0
    n_odd = 0
    if letter.isalpha() and after.isalpha():
        scripts = {_script(letter), _script(after)}
        is_mixed = "LATIN" in scripts and not scripts.isdisjoint(OTHER_ALPHABETS)
        n_odd += is_mixed or (letter.islower() and after.isupper())
    is_sign = letter > "\x7f" and letter not in IN_WORDS and unicodedata.category(letter)[0] in "CNPS"
    return n_odd + (is_sign and _script(before) == _script(after) == "LATIN")


def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""


def _sample(head: bytes) -> bytes:
    """Return the first lines with bytes beyond ASCII, cut at a space where the first line is too long."""
    sample = b""
    for line in re.findall(rb"[^\n]*[\x80-\xff\x1b][^\n]*\n?", head):
        if sample and len(sample) + len(line) > GUESS_BYTES:
            break
        sample += line
    if len(sample) <= GUESS_BYTES:
        return sample
    first = next(at for at, byte in enumerate(sample) if byte >= 0x80 or byte == 0x1B)
    begin = sample.rfind(b" ", 0, first) + 1
    piece = sample[begin : begin + GUESS_BYTES]
    return piece[: piece.rfind(b" ")] if b" " in piece else piece


def _recode(stream: io.BufferedReader, encoding: Encoding) -> Iterator[bytes]:
    """Yield UTF-8; all that is before the first wrong byte, then ContentError."""
    block = b""
    decoder = codecs.getincrementaldecoder(encoding.name)()
    try:
        while block := stream.read1(BUFFER_BYTES):
            yield decoder.decode(block).encode()
        yield decoder.decode(b"", True).encode()
    except UnicodeError as error:
        if isinstance(error, UnicodeDecodeError):
            with suppress(UnicodeError):  # codecs such as idna ignore nothing
                yield error.object[: error.start].decode(encoding.name, "ignore").encode()
        problem = f"expected text in {encoding.name} ({encoding.origin}), got other bytes ({one_line(error)})"
        advice = "" if is_binary(block) else f"; {ENCODING_ADVICE}"
        raise ContentError("not_text", problem + advice) from None
