"""The documents of one file of any ordinary kind, as a stream.

    a.jsonl     {"text": "One."}⏎{"txt": ""}⏎ ──► RawDocument("mine", "a.jsonl:1", "One."),
                                                  Unreadable("mine", "a.jsonl:2", "no_field", "…", 12)
    b.zip       of c.html.gz                  ──► RawDocument("mine", "b.zip/c.html.gz", "…")

`containers` takes off compression and archives; here the suffix beneath decides what the bytes are: JSON lines,
tables, HTML, or else text. About one document is held at a time, whatever the file's length.
"""

import codecs
import csv
import io
import re
import shutil
import tempfile
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm.text.containers import BUFFER_BYTES, ChunkStream, ContentError, Entry, one_line, open_entries
from llm.text.params import FilesSource, UrlSource
from llm.text.raw import RawDocument, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_BATCH = 64  # of a Parquet file: as many texts are held at a time
MARKS = [  # a UTF-16 mark begins the UTF-32 one, which therefore comes first
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
# What a page does not show; resiliparse itself leaves out scripts, styles and templates.
INVISIBLE = ["head", "title", "script", "style", "template", "[hidden]"] + [
    f'[style*="{rule}" i]'
    for rule in ("display:none", "display: none", "display : none", "visibility:hidden", "visibility: hidden")
]
LIMIT_ADVICE = "raise prepare.max_document_bytes"
ENCODING_ADVICE = "name the source's encoding:"

NEWLINE = rb"(?>\r\n|\r|\n)"

Found = tuple[str, str | ContentError, int]  # what follows the path (":3"), the text or why there is none, its bytes
Reader = Callable[[Entry, FilesSource | UrlSource, int], Iterator[Found]]


def read_file(
    file: Path, path: str, source: FilesSource | UrlSource, max_document_bytes: int
) -> Iterator[RawDocument | Unreadable]:
    """The documents of `file`, and word of all that gives none; nothing that it holds raises an error.

    `path` is the file's name in the documents' paths, and its suffixes decide how it is read. Reasons beside
    those of `containers.open_entries`: empty, not_text, too_long, bad_row, no_field, not_unicode.
    """
    for entry in open_entries(file, path, source.name):
        if isinstance(entry, Unreadable):
            yield entry
        else:
            yield from read_entry(entry, source, max_document_bytes)


def read_entry(
    entry: Entry, source: FilesSource | UrlSource, max_document_bytes: int
) -> Iterator[RawDocument | Unreadable]:
    """The documents of what `containers` gives, and word of all that gives none."""
    is_empty = True
    read = READERS.get(entry.suffix, _read_text)
    try:
        if entry.stream.peek(1):
            for place, found, n_bytes in read(entry, source, max_document_bytes):
                is_empty = False
                yield _document(source.name, entry.path + place, found, n_bytes, max_document_bytes)
        if is_empty:
            raise ContentError("empty", "wanted text, given none")
    except ContentError as error:
        yield Unreadable(source.name, entry.path, error.reason, error.problem, entry.n_bytes)


def _document(source: str, path: str, found: str | ContentError, n_bytes: int, limit: int) -> RawDocument | Unreadable:
    # A character is at most four bytes: only long texts are encoded to be measured.
    if isinstance(found, str) and len(found) > limit // 4 and len(found.encode()) > limit:
        found = _too_long("a document", len(found.encode()), limit)
    if isinstance(found, ContentError):
        return Unreadable(source, path, found.reason, found.problem, n_bytes)
    return RawDocument(source, path, found)


def _too_long(what: str, n_bytes: int, limit: int, advice: str = LIMIT_ADVICE) -> ContentError:
    return ContentError("too_long", f"wanted {what} of at most {limit} bytes, given {n_bytes}; {advice}")


# Text, HTML and Python: one document a file, or those between separators.


def _read_text(entry: Entry, source: FilesSource | UrlSource, limit: int) -> Iterator[Found]:
    stream = _utf8(entry, source)
    if source.separator is None:
        yield from _whole_document(stream, limit, f"{LIMIT_ADVICE} or name a separator:")
        return
    pieces = _split(stream, source.separator.encode(), limit)
    for number, (piece, n_bytes, is_last) in enumerate(pieces, 1):
        place = "" if number == 1 and is_last else f":{number}"  # `is_undivided` reads this
        if n_bytes > limit:
            yield place, _too_long("a document", n_bytes, limit), n_bytes
        elif piece and not piece.isspace():
            yield place, _decode(piece), n_bytes


def is_undivided(path: str) -> bool:
    """Whether a document's path is that of a whole file: with a `separator`, one in which it does not occur.

    >>> is_undivided("a.txt"), is_undivided("a.txt:1")
    (True, False)
    """
    return re.search(r":\d+$", path) is None


def _read_python(entry: Entry, source: FilesSource | UrlSource, limit: int) -> Iterator[Found]:
    yield from _whole_document(_utf8(entry, source), limit)


def _read_html(entry: Entry, source: FilesSource | UrlSource, limit: int) -> Iterator[Found]:
    from resiliparse.extract.html2text import extract_plain_text

    for place, found, n_bytes in _whole_document(_utf8(entry, source), limit):
        if isinstance(found, ContentError):
            yield place, found, n_bytes
        elif text := extract_plain_text(
            found,
            preserve_formatting=True,
            main_content=False,
            list_bullets=False,
            alt_texts=False,
            links=False,
            form_fields=False,
            noscript=False,
            skip_elements=INVISIBLE,
        ):
            yield place, text, n_bytes


def _whole_document(stream: io.BufferedReader, limit: int, advice: str = LIMIT_ADVICE) -> Iterator[Found]:
    content = stream.read(limit + 1)
    if len(content) <= limit:
        if content:
            yield "", _decode(content), len(content)
        return
    n_bytes = len(content)
    while block := stream.read1(BUFFER_BYTES):
        n_bytes += len(block)
    yield "", _too_long("a document", n_bytes, limit, advice), n_bytes


def _split(stream: io.BufferedReader, separator: bytes, limit: int) -> Iterator[tuple[bytes, int, bool]]:
    """What stands between separators, without a newline next to one; its length; whether it is the last.

    The bytes are b"" for what is too long. A newline in the separator is any newline of the file's: CRLF, CR or LF.
    """
    lines = re.split(rb"\r\n|\r|\n", separator)
    pattern = re.compile(NEWLINE.join(map(re.escape, lines)))
    longest = len(separator) + len(lines)  # what a newline is written as may be longer by a byte
    piece = Piece(limit)
    begun = b""  # the end of what was read: too short for a separator, but one may begin there
    while block := stream.read1(BUFFER_BYTES):
        text = begun + block
        held = text[-1:] if len(lines) > 1 and text.endswith(b"\r") else b""  # its "\n" may follow
        *ends, rest = pattern.split(text.removesuffix(held))
        for end in ends:
            piece.add(end)
            yield *piece.take(is_last=False), False
        cut = max(len(rest) - longest + 1, 0)
        piece.add(rest[:cut])
        begun = rest[cut:] + held
    *ends, rest = pattern.split(begun)
    for end in ends:
        piece.add(end)
        yield *piece.take(is_last=False), False
    piece.add(rest)
    yield *piece.take(is_last=True), True


class Piece:
    """A document that grows by blocks, and is let go when it has grown too long."""

    def __init__(self, limit: int) -> None:
        self._room = limit + len(b"\r\n\r\n")  # the newlines that will be stripped
        self._blocks: list[bytes] = []
        self._n_bytes = 0
        self._is_first = True

    def add(self, block: bytes) -> None:
        """Append a block, or only its length."""
        self._n_bytes += len(block)
        if self._n_bytes > self._room:
            self._blocks = []
        else:
            self._blocks.append(block)

    def take(self, is_last: bool) -> tuple[bytes, int]:
        """The document and its length in bytes; the next one begins."""
        piece, n_bytes = b"".join(self._blocks), self._n_bytes
        if n_bytes <= self._room:
            if not self._is_first:
                piece = re.sub(rb"\A" + NEWLINE, b"", piece)
            if not is_last:
                piece = re.sub(NEWLINE + rb"\Z", b"", piece)
            n_bytes = len(piece)
        self._blocks, self._n_bytes, self._is_first = [], 0, False
        return piece, n_bytes


# JSON lines, CSV and Parquet: one document a row.


def _read_json_lines(entry: Entry, source: FilesSource | UrlSource, limit: int) -> Iterator[Found]:
    for number, (line, n_bytes) in enumerate(_lines(_utf8(entry, source), 2 * limit), 1):
        if n_bytes > 2 * limit:
            yield f":{number}", _too_long("a line", n_bytes, 2 * limit), n_bytes
        elif not line.isspace():
            yield f":{number}", _json_text(line, source.text_field), n_bytes


def _lines(stream: io.BufferedReader, limit: int) -> Iterator[tuple[bytes, int]]:
    """Each line and its length in bytes; b"" for one that is longer than `limit`."""
    while line := stream.readline(limit + 1):
        n_bytes = len(line)
        if n_bytes <= limit:
            yield line, n_bytes
            continue
        while not line.endswith(b"\n") and (line := stream.readline(BUFFER_BYTES)):
            n_bytes += len(line)
        yield b"", n_bytes


def _json_text(line: bytes, field: str) -> str | ContentError:
    import orjson

    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if isinstance(decoded := _decode(line), ContentError):
            return decoded
        # JSON can spell half a surrogate pair, which is no character. orjson says so in these words only.
        reason = "not_unicode" if "surrogate" in str(error) else "bad_row"
        return ContentError(reason, f"wanted a JSON object, given a line that is none ({one_line(error)})")
    if not isinstance(row, dict):
        return ContentError("bad_row", f"wanted a JSON object, given {_json_type(row)}")
    if field not in row:
        return ContentError("no_field", f"wanted a field {field}, given {_names(list(row))}")
    text = row[field]
    if not isinstance(text, str):
        return ContentError("not_text", f"wanted a string in the field {field}, given {_json_type(text)}")
    return text


def _json_type(value: object) -> str:
    kinds = {type(None): "null", bool: "a boolean", list: "an array", dict: "an object", str: "a string"}
    return kinds.get(type(value), "a number")


def _names(names: list[str]) -> str:
    return one_line(", ".join(names)) if names else "none"


def _read_csv(entry: Entry, source: FilesSource | UrlSource, limit: int) -> Iterator[Found]:
    yield from _read_rows(entry, source, limit, csv.excel)


def _read_tsv(entry: Entry, source: FilesSource | UrlSource, limit: int) -> Iterator[Found]:
    yield from _read_rows(entry, source, limit, csv.excel_tab)


def _read_rows(
    entry: Entry, source: FilesSource | UrlSource, limit: int, dialect: type[csv.Dialect]
) -> Iterator[Found]:
    rows = _rows(_utf8(entry, source), 2 * limit, dialect)
    header, _ = next(rows, ([], 0))
    if isinstance(header, ContentError):
        raise header
    if source.text_field not in header:
        raise ContentError("no_field", f"wanted a column {source.text_field}, given {_names(header)}")
    column = header.index(source.text_field)
    for number, (row, n_bytes) in enumerate(rows, 1):
        if isinstance(row, ContentError):
            yield f":{number}", row, n_bytes
        elif len(row) != len(header):
            problem = f"wanted {len(header)} fields, as in the header, given {len(row)}"
            yield f":{number}", ContentError("bad_row", problem), n_bytes
        else:
            yield f":{number}", _decode(row[column].encode("utf-8", "surrogateescape")), n_bytes


def _rows(
    stream: io.BufferedReader, limit: int, dialect: type[csv.Dialect]
) -> Iterator[tuple[list[str] | ContentError, int]]:
    """Each row's fields, or what is wrong with it, and its length in bytes. Blank lines are no rows."""
    # The limit is the whole process's, so it is no bound: `lines` holds one.
    csv.field_size_limit((1 << 31) - 1)
    n_bytes = 0

    def lines() -> Iterator[str]:
        nonlocal n_bytes
        while line := stream.readline(limit - n_bytes + 1):
            n_bytes += len(line)
            if n_bytes > limit:
                # Where the row ends is not known: the line may stand within quotes.
                raise _too_long("a row", n_bytes, limit, f"what follows is not read; {LIMIT_ADVICE}")
            yield line.decode("utf-8", "surrogateescape")

    reader = csv.reader(lines(), dialect, strict=True)
    while True:
        try:
            row: list[str] | ContentError = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = ContentError("bad_row", f"wanted a row of fields, given one with broken quotes ({one_line(error)})")
        if row:
            yield row, n_bytes
        n_bytes = 0


def _read_parquet(entry: Entry, source: FilesSource | UrlSource, _: int) -> Iterator[Found]:
    if entry.stream.seekable():
        yield from _parquet_rows(entry.stream, source.text_field)
        return
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(entry.stream, spool, BUFFER_BYTES)
        yield from _parquet_rows(spool, source.text_field)


def _parquet_rows(stream: object, field: str) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    try:
        # A buffer, for else a whole column of a row group is read at once.
        with parquet.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            _check_column(file.schema_arrow, field)
            number = 0
            for batch in file.iter_batches(ROWS_PER_BATCH, columns=[field], use_threads=False):
                texts = batch.column(0).cast(pa.large_string())
                for text, n_bytes in zip(texts, pc.binary_length(texts).to_pylist(), strict=True):
                    number += 1
                    yield f":{number}", _parquet_text(text, field), n_bytes or 0
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are no Unicode.
        problem = f"wanted a whole Parquet file, given one that is damaged or none ({one_line(error)})"
        raise ContentError("damaged", problem) from None


def _check_column(schema: "pa.Schema", field: str) -> None:
    import pyarrow as pa

    if field not in schema.names:
        raise ContentError("no_field", f"wanted a column {field}, given {_names(schema.names)}")
    kind = schema.types[schema.names.index(field)]
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)):
        raise ContentError("not_text", f"wanted strings in the column {field}, given {one_line(kind)}")


def _parquet_text(text: "pa.LargeStringScalar", field: str) -> str | ContentError:
    if not text.is_valid:
        return ContentError("no_field", f"wanted a string in the column {field}, given null")
    return _decode(text.as_buffer().to_pybytes())


READERS: dict[str, Reader] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".html": _read_html,
    ".htm": _read_html,
    ".xhtml": _read_html,
    ".py": _read_python,
}


# Bytes to characters: every format above reads UTF-8.


def detect_encoding(head: bytes, is_whole: bool = True) -> str | None:
    r"""The encoding of a text that begins with `head`: UTF-8, UTF-16, UTF-32, Latin-1 or its like; None for no text.

    A byte-order mark decides, then whether it is UTF-8. Only where it is not does a library guess, and only among
    encodings that it tells apart: to take Russian for Greek is worse than to ask.

    >>> detect_encoding("é".encode()), detect_encoding(b"caf\xe9"), detect_encoding("hello".encode("utf-16-be"))
    ('utf-8', 'cp1252', 'utf_16_be')
    >>> detect_encoding("Привет".encode("koi8-r")) is None
    True
    """
    for mark, encoding in MARKS:
        if head.startswith(mark):
            return encoding
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(head, is_whole)
    n_bad = len(re.findall("[\udc80-\udcff]", text))
    n_good = len(re.findall("[^\x00-\x7f]", text)) - n_bad
    if n_bad == 0 and (n_good or b"\0" not in head):
        return "utf-8"
    if b"\0" in head:
        # ASCII as UTF-16 is valid UTF-8 with zeros: at odd places, where the low byte comes first.
        order = "le" if head[1::2].count(0) > head[::2].count(0) else "be"
        wide = _guess_encoding(head, [f"utf_16_{order}", f"utf_32_{order}"])
        return wide or (None if n_bad else "utf-8")
    # Letters of two bytes do not come about by chance: this is UTF-8 with damage, which its lines will show.
    return "utf-8" if n_good >= n_bad else _guess_encoding(head, ["cp1252", "latin_1"])


def _guess_encoding(head: bytes, encodings: list[str]) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(head, cp_isolation=encodings).best()
    return best.encoding if best else None


def _utf8(entry: Entry, source: FilesSource | UrlSource) -> io.BufferedReader:
    """The entry's bytes in UTF-8, without a byte-order mark. Where they were UTF-8 before, they may hold damage."""
    stream = entry.stream
    head = stream.peek(1)[:BUFFER_BYTES]
    encoding = source.encoding or detect_encoding(head, is_whole=len(head) < BUFFER_BYTES)
    if source.encoding is None and entry.suffix == ".py" and encoding != "utf-8":
        encoding = _coding_comment(head) or encoding
    if encoding is None:
        raise ContentError("not_text", f"wanted text, given bytes in no encoding that is recognised; {ENCODING_ADVICE}")
    if codecs.lookup(encoding).name not in {"utf-8", "utf-8-sig"}:
        stream = ChunkStream(_recode(stream, encoding)).buffered()
    if stream.peek(1).startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    return stream


def _coding_comment(head: bytes) -> str | None:
    r"""What the first two lines of a Python file name as its encoding, if they do.

    >>> _coding_comment(b"# coding: koi8-r\n")
    'koi8-r'
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(head).readline)
    except SyntaxError:
        return None
    return None if encoding.startswith("utf-8") else encoding


def _recode(stream: io.BufferedReader, encoding: str) -> Iterator[bytes]:
    try:
        "a".encode(encoding)  # Refuses codecs that are no encoding of text, such as rot13.
        decoder = codecs.getincrementaldecoder(encoding)()
        while block := stream.read1(BUFFER_BYTES):
            yield from _decode_block(decoder, block)
        yield decoder.decode(b"", True).encode()
    except (LookupError, UnicodeError) as error:
        problem = f"wanted text in {encoding}, given something else ({one_line(error)}); {ENCODING_ADVICE}"
        raise ContentError("not_text", problem) from None


def _decode_block(decoder: codecs.IncrementalDecoder, block: bytes) -> Iterator[bytes]:
    before = decoder.getstate()
    try:
        yield decoder.decode(block).encode()
    except UnicodeDecodeError as error:
        decoder.setstate(before)
        n_wrong = len(error.object) - error.start  # counted from the end: a beginning may be left of the last block
        yield decoder.decode(block[: max(len(block) - n_wrong, 0)]).encode()
        raise


def _decode(content: bytes) -> str | ContentError:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        given = f"given the byte 0x{content[error.start]:02x} at {error.start}"
        return ContentError("not_text", f"wanted text in UTF-8, {given}; {ENCODING_ADVICE}")
