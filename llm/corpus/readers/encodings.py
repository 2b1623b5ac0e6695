"""The encoding of a file: named by the user, declared by the file, recognised as Unicode, or guessed.

Detectors guess, and their guess is taken only where two agree: text in a wrong encoding would be noise in the corpus.
Binary data and formats that need a converter (PDF, Office) are refused.
"""

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

import regex  # type: ignore[import-untyped]

from llm.corpus.readers.streams import BUFFER_BYTES, ChunkStream, ContentError, one_line

MARKS = {  # a UTF-16 mark begins the UTF-32 one, which therefore comes first
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
ANY_MARK = re.compile(b"|".join(map(re.escape, MARKS)))
UTF8 = {"utf-8", "utf-8-sig"}
# Formats that need a converter, by their first bytes and by suffix.
DOCUMENTS = {b"%PDF-": "a PDF document", rb"{\rtf": "an RTF document", b"\xd0\xcf\x11\xe0": "a document of old Office"}
ZIPPED = {b"PK\x03\x04": "a ZIP archive or a document made of one"}
DOCUMENT_SUFFIXES = {".pdf", ".rtf", ".docx", ".pptx", ".xlsx", ".odt", ".odp", ".ods", ".epub"}
# Control characters that no text has: all but bell, backspace, tab, newlines, form feed, end of file and escape.
CONTROLS = bytes([*range(7), *range(14, 26), *range(28, 32)])
MAX_CONTROL_FRACTION = 0.01
CODING_COMMENT = re.compile(rb"^(?:[^\n]*\n)?[ \t\f]*#[^\n]*?coding[:=][ \t]*([\w.-]+)")  # PEP 263
DECLARATIONS = [
    re.compile(rb"""^\s*<\?xml\s[^>]*?encoding\s*=\s*["']([\w.:-]+)["']"""),
    re.compile(rb"""<meta\s[^>]*?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE),
    re.compile(rb"""^@charset\s+"([\w.:-]+)";"""),
]
GUESS_BYTES = 2000  # of lines with characters beyond ASCII; chardet needs a second for two of these
MIN_CHARACTERS = 3  # beyond ASCII
# Wrong decoding makes capitals and signs (but apostrophes, dashes and the soft hyphen) within words, and mixes scripts.
_OTHER_ALPHABET = r"[\p{Greek}\p{Cyrillic}\p{Hebrew}\p{Arabic}\p{Thai}]"
ODD = regex.compile(
    r"(?V1)\p{Ll}[\p{Lu}--[A-Z]]|[\p{Ll}--[a-z]]\p{Lu}"
    r"|\p{Latin}[[\p{C}\p{N}\p{P}\p{S}]--[\x00-\x7f’‘ʼ´·‐‑–—…\xad]]\p{Latin}"
    rf"|\p{{Latin}}{_OTHER_ALPHABET}|{_OTHER_ALPHABET}\p{{Latin}}"
)
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
    marks = DOCUMENTS if suffix in DOCUMENT_SUFFIXES else DOCUMENTS | ZIPPED
    kind = next((kind for mark, kind in marks.items() if head.startswith(mark)), None)
    if kind or suffix in DOCUMENT_SUFFIXES:
        raise ContentError(
            "unsupported_format", f"expected text, got {kind or f'a {suffix} document'}; convert it to text"
        )
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


def _check_named(named: str, head: bytes, is_whole: bool) -> Encoding:
    if _codec(named) in UTF8:
        return Encoding(named, "named")
    if "a".encode(named) == b"a":  # single-byte encodings would decode binary data
        _refuse_binary(head)
    n_good, n_bad = _count_utf8(head, is_whole)
    return Encoding(named, "named", "the file is valid UTF-8" if n_good and not n_bad else "")


def find_encoding(head: bytes, is_whole: bool = True) -> Encoding:
    r"""Return the encoding of a text that begins with `head`; ContentError where there is none, or no clear one.

    >>> find_encoding(b"<?xml version='1.0' encoding='iso-8859-2'?><p>\xb1</p>")
    Encoding(name='iso8859-2', origin='declared', doubt='')
    """
    if mark := ANY_MARK.match(head):
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


def _refuse_binary(content: bytes) -> None:
    """Raise ContentError for more zeros and other control characters than a text has."""
    if len(content) - len(content.translate(None, CONTROLS)) > MAX_CONTROL_FRACTION * len(content):
        raise ContentError("not_text", BINARY) from None


def _codec(name: str) -> str | None:
    try:
        "".encode(name)  # refuses codecs that are not encodings of text, such as rot13
        return codecs.lookup(name).name
    except (LookupError, UnicodeError):
        return None


def _web_codec(label: str) -> str | None:
    from resiliparse.parse.encoding import map_encoding_to_html5

    return map_encoding_to_html5(label, fallback_utf8=False)


def _declared_encoding(head: bytes) -> Encoding | None:
    head = head[:4096]
    name = None
    if found := CODING_COMMENT.match(head):
        name = _codec(found[1].decode())
    elif found := next(filter(None, (pattern.search(head) for pattern in DECLARATIONS)), None):
        # The web's names differ from Python's: latin-1 is cp1252, gb2312 is gbk.
        name = _web_codec(found[1].decode()) or _codec(found[1].decode())
    # Bytes that could be read as ASCII up to here are not UTF-16.
    return Encoding(name, "declared") if name and not name.startswith(("utf-16", "utf-32")) else None


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
    """Return the encoding of a text that escapes other characters in ASCII bytes."""
    with suppress(ContentError):
        if b"\x1b$" in head and (found := _guess(head)).name.startswith("iso2022"):
            return found
    return None


def _guess(head: bytes) -> Encoding:
    """Return the encoding that detectors agree on; ContentError with the candidates where they do not.

    chardet's likeliest text has to be uchardet's or, where that one is implausible, charset-normalizer's likeliest. Of
    few characters both others have to find it.
    """
    import chardet
    from charset_normalizer import from_bytes
    from resiliparse.parse.encoding import detect_encoding

    sample = _sample(head)
    likely = {found["encoding"]: found for found in chardet.detect_all(sample, encoding_era=chardet.EncodingEra.ALL)}
    names = _by_text(sample, likely)
    confirming = _by_text(sample, [detect_encoding(sample, html5_compatible=False)])
    possible = _by_text(sample, [match.encoding for match in from_bytes(sample)])
    best = next(iter(names), "")
    if _n_beyond_ascii(best) < MIN_CHARACTERS:
        agreeing = {*confirming} & {*possible}
    else:
        agreeing = {*(confirming or list(possible)[:1])}
    if best in agreeing:
        name = _widest(names[best], sample, best)
        return Encoding(name, "guessed", f"confidence {likely[names[best]]['confidence']:.2f}")
    candidates = [_codec(name) or name for name in (names | confirming | possible).values()]
    if not candidates:
        raise ContentError("not_text", "expected text, got bytes that are text in no known encoding")
    problem = f"expected an encoding that can be recognised, got {' or '.join(candidates[:4])}"
    raise ContentError("unclear_encoding", f"{problem}; {ENCODING_ADVICE}")


def _widest(name: str, sample: bytes, text: str) -> str:
    """Return Windows' encoding that contains ISO's: the rest of the file may need its characters."""
    wide = next((wide for wide in ("cp1252", _web_codec(name)) if wide and _decoded(sample, wide) == text), name)
    return _codec(wide) or wide


def _by_text(sample: bytes, names: Iterable[str | None]) -> dict[str, str]:
    """Map each plausible text of the sample to the first encoding that gives it."""
    texts: dict[str, str] = {}
    for name in names:
        text = _decoded(sample, name)
        if name and text is not None and len(ODD.findall(f" {text} ")) <= MAX_ODD_FRACTION * _n_beyond_ascii(text):
            texts.setdefault(text, name)
    return texts


def _n_beyond_ascii(text: str) -> int:
    return len(re.findall("[^\x00-\x7f]", text))


def _decoded(sample: bytes, encoding: str | None) -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample) if encoding else None
    except (LookupError, UnicodeError):
        return None


def _sample(head: bytes) -> bytes:
    """Return lines with bytes beyond ASCII, from the first such word on where they are too long."""
    sample = b"".join(re.findall(rb"[^\n]*[\x80-\xff\x1b][^\n]*\n?", head))
    if len(sample) <= GUESS_BYTES:
        return sample
    first = re.search(rb"[^ \n]*[\x80-\xff\x1b]", sample)
    assert first
    piece = sample[first.start() : first.start() + GUESS_BYTES]
    return piece[: piece.rfind(b" ") + 1] or piece


def _recode(stream: io.BufferedReader, encoding: Encoding) -> Iterator[bytes]:
    """Yield UTF-8; all that is before the first wrong byte, then ContentError."""
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
        raise ContentError("not_text", f"{problem}; {ENCODING_ADVICE}") from None
