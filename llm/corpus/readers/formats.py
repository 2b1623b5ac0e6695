"""The documents of one file of any ordinary kind, as a stream.

    a.jsonl     {"text": "One."}⏎{"txt": ""}⏎ ──► RawDocument("mine", "a.jsonl:1", "One."),
                                                  Unreadable("mine", "a.jsonl:2", "no_field", "…", 12)
    b.zip       of c.html.gz                  ──► RawDocument("mine", "b.zip/c.html.gz", "…")

`containers` takes off compression and archives, `encodings` makes UTF-8 of the text; here the suffix beneath decides
what it is: JSON, tables, HTML, or else text. About one document is held at a time, whatever the file's length.
"""

import codecs
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llm.corpus.document import DoubtfulEncoding, FileNote, FoundDialect, RawDocument, Unreadable
from llm.corpus.params import FilesSource, UrlSource
from llm.corpus.readers.containers import BUFFER_BYTES, ContentError, Entry, one_line, open_entries
from llm.corpus.readers.encodings import decode, open_text
from llm.corpus.readers.rows import Dialect, Row, find_dialect, read_rows

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_BATCH = 64  # of a Parquet file: as many texts are held at a time
# What a page does not show; resiliparse itself leaves out scripts, styles and templates.
INVISIBLE = ["head", "title", "script", "style", "template", "[hidden]"] + [
    f'[style*="{rule}" i]'
    for rule in ("display:none", "display: none", "display : none", "visibility:hidden", "visibility: hidden")
]
# JSON can spell half a surrogate pair, which is no character and has no bytes in UTF-8.
HALF_A_PAIR = re.compile("[\ud800-\udfff]")
FIRST_ROW, NEXT_ROW = re.compile(r"\s*\[\s*"), re.compile(r"\s*,\s*|\s*(?=\])")
NOT_SPACE = re.compile(r"\s*\S")
LIMIT_ADVICE = "raise prepare.max_document_bytes"

NEWLINE = rb"(?>\r\n|\r|\n)"

Found = tuple[str, str | ContentError, int]  # what follows the path (":3"), the text or why there is none, its bytes
Reader = Callable[[Entry, FilesSource | UrlSource, int], Iterator[Found | Dialect]]


def read_file(
    file: Path, path: str, source: FilesSource | UrlSource, max_document_bytes: int
) -> Iterator[RawDocument | Unreadable | FileNote]:
    """The documents of `file`, and word of all that gives none; nothing that it holds raises an error.

    `path` is the file's name in the documents' paths, and its suffixes decide how it is read. Reasons beside
    those of `containers.open_entries`: empty, not_text, unsupported_format, unclear_encoding, too_long, bad_row,
    no_field, not_unicode.
    """
    for entry in open_entries(file, path, source.name):
        if isinstance(entry, Unreadable):
            yield entry
        else:
            yield from read_entry(entry, source, max_document_bytes)


def read_entry(
    entry: Entry, source: FilesSource | UrlSource, max_document_bytes: int
) -> Iterator[RawDocument | Unreadable | FileNote]:
    """The documents of what `containers` gives, and word of all that gives none."""
    is_empty = True
    read = READERS.get(entry.suffix, _read_text)
    try:
        if entry.stream.peek(1):
            if entry.suffix != ".parquet":
                assert not isinstance(source.encoding, dict)  # `list_units` looks up the file's own one
                stream, encoding = open_text(entry.stream, entry.suffix, source.encoding)
                entry = entry._replace(stream=stream)
                if encoding.doubt:
                    yield DoubtfulEncoding(source.name, entry.path, encoding.name, encoding.origin, encoding.doubt)
            for item in read(entry, source, max_document_bytes):
                if isinstance(item, Dialect):
                    yield FoundDialect(source.name, entry.path, str(item))
                    continue
                place, found, n_bytes = item
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
    if source.separator is None:
        yield from _whole_document(entry.stream, limit, f"{LIMIT_ADVICE} or name a separator:")
        return
    pieces = _split(entry.stream, source.separator.encode(), limit)
    for number, (piece, n_bytes, is_last) in enumerate(pieces, 1):
        place = "" if number == 1 and is_last else f":{number}"  # `is_undivided` reads this
        if n_bytes > limit:
            yield place, _too_long("a document", n_bytes, limit), n_bytes
        elif piece and not piece.isspace():
            yield place, decode(piece), n_bytes


def is_undivided(path: str) -> bool:
    """Whether a document's path is that of a whole file: with a `separator`, one in which it does not occur.

    >>> is_undivided("a.txt"), is_undivided("a.txt:1")
    (True, False)
    """
    return re.search(r":\d+$", path) is None


def _read_python(entry: Entry, _: FilesSource | UrlSource, limit: int) -> Iterator[Found]:
    yield from _whole_document(entry.stream, limit)


def _read_html(entry: Entry, _: FilesSource | UrlSource, limit: int) -> Iterator[Found]:
    from resiliparse.extract.html2text import extract_plain_text

    for place, found, n_bytes in _whole_document(entry.stream, limit):
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
            yield "", decode(content), len(content)
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


# JSON, CSV and Parquet: one document a row.


def _read_json_lines(entry: Entry, source: FilesSource | UrlSource, limit: int) -> Iterator[Found]:
    for number, (line, n_bytes) in enumerate(_lines(entry.stream, 2 * limit), 1):
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
        return _field_text(orjson.loads(line), field)
    except orjson.JSONDecodeError:
        if isinstance(text := decode(line), ContentError):
            return text
    try:
        # Slower, and takes what orjson does not: NaN and Infinity, and half a surrogate pair beside the text.
        return _field_text(json.loads(text), field)
    except (ValueError, RecursionError) as error:
        return ContentError("bad_row", f"expected a JSON object, got a line that is none ({one_line(error)})")


def _field_text(row: object, field: str) -> str | ContentError:
    """Return the text of a row, or why there is none."""
    if not isinstance(row, dict):
        return ContentError("bad_row", f"expected a JSON object, got {_json_type(row)}")
    if field not in row:
        return ContentError("no_field", f"expected a field {field}, got {_names(list(row))}")
    text = row[field]
    if not isinstance(text, str):
        return ContentError("not_text", f"expected a string in the field {field}, got {_json_type(text)}")
    if half := HALF_A_PAIR.search(text):
        return ContentError("not_unicode", f"expected Unicode text, got half a surrogate pair, \\u{ord(half[0]):x}")
    return text


def _read_json(entry: Entry, source: FilesSource | UrlSource, limit: int) -> Iterator[Found]:
    """Read an array of objects, JSON lines, one object with the field, or else the text of the file as it is."""
    head = entry.stream.peek(1)
    if re.match(rb"\s*\[\s*[{\]]", head):
        yield from _read_array(entry.stream, source.text_field, limit)
    elif _begins_with_lines(head, source.text_field):
        yield from _read_json_lines(entry, source, limit)
    else:
        for place, found, n_bytes in _whole_document(entry.stream, limit):
            text = _json_text(found.encode(), source.text_field) if isinstance(found, str) else found
            yield place, text if isinstance(text, str) else found, n_bytes


def _begins_with_lines(head: bytes, field: str) -> bool:
    """Return whether the first line is an object that has the field, or the first two are objects."""
    rows: list[object] = []
    for line in head.lstrip().split(b"\n", 2)[:2]:
        with suppress(ValueError, RecursionError):
            rows.append(json.loads(line.decode("utf-8", "replace")))
    objects = [row for row in rows if isinstance(row, dict)]
    return len(objects) == 2 or (len(objects) == 1 and field in objects[0])


def _read_array(stream: io.BufferedReader, field: str, limit: int) -> Iterator[Found]:
    """Read the objects of an array one by one; little more than the longest one is in memory."""
    bytes_to_text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    value_at = json.JSONDecoder().raw_decode
    text, at, number, is_end, n_more = "", 0, 0, False, BUFFER_BYTES
    while not (begin := (NEXT_ROW if number else FIRST_ROW).match(text, at)) or not text.startswith("]", begin.end()):
        problem = "the end of the file"
        try:
            if begin:
                value, end = value_at(text, begin.end())
                if end < len(text) or is_end:
                    number, at, n_more = number + 1, end, BUFFER_BYTES
                    content = text[begin.end() : end].encode("utf-8", "surrogateescape")
                    damage = decode(content)
                    found = damage if isinstance(damage, ContentError) else _field_text(value, field)
                    yield f":{number}", found, len(content)
                    continue
            elif NOT_SPACE.match(text, at):
                problem, is_end = f"{text[at : at + 20]!r}", True
        except json.JSONDecodeError as error:
            problem = one_line(error)
            is_end = is_end or not (error.msg.startswith("Unterminated") or error.pos > len(text) - 20)
        except (ValueError, RecursionError) as error:
            problem, is_end = one_line(error), True
        if is_end:
            problem = f"expected JSON objects to the end of the array, got {problem} in row {number + 1}"
            raise ContentError("bad_row", f"{problem}; what follows is not read")
        if len(text) - at > 2 * limit:
            raise _too_long("a row", len(text) - at, 2 * limit, f"what follows is not read; {LIMIT_ADVICE}")
        # The row may be cut. Each time twice as much is read, for it is parsed anew.
        block = stream.read(n_more)
        is_end = len(block) < n_more
        text, at, n_more = text[at:] + bytes_to_text(block, is_end), 0, 2 * n_more
    assert begin
    if (text[begin.end() + 1 :] + stream.read(BUFFER_BYTES).decode("utf-8", "replace")).strip():
        raise ContentError("bad_row", "expected one JSON array, got more behind it, which is not read")


def _json_type(value: object) -> str:
    kinds = {type(None): "null", bool: "a boolean", list: "an array", dict: "an object", str: "a string"}
    return kinds.get(type(value), "a number")


def _names(names: list[str]) -> str:
    return one_line(", ".join(names)) if names else "none"


def _read_separated(entry: Entry, source: FilesSource | UrlSource, limit: int) -> Iterator[Found | Dialect]:
    dialect = _dialect(entry)
    if dialect.delimiter != ",":
        yield dialect
    rows = _rows(entry.stream, 2 * limit, dialect)
    header, _ = next(rows, (Row(1, []), 0))
    if header.problem:
        raise ContentError("bad_row", header.problem)
    if source.text_field not in header.fields:
        raise ContentError("no_field", f"wanted a column {source.text_field}, given {_names(header.fields)}")
    column = header.fields.index(source.text_field)
    for number, (row, n_bytes) in enumerate(rows, 1):
        if row.problem:
            yield f":{number}", ContentError("bad_row", row.problem), n_bytes
        else:
            yield f":{number}", decode(row.fields[column].encode("utf-8", "surrogateescape")), n_bytes


def _dialect(entry: Entry) -> Dialect:
    """What separates the rows of a table, by its beginning."""
    head = entry.stream.peek(1)
    known = head.decode("utf-8", "surrogateescape")
    is_whole = len(head) < BUFFER_BYTES - len(codecs.BOM_UTF8)
    return find_dialect(lambda: io.StringIO(known, newline=""), entry.suffix, is_whole)


def _rows(stream: io.BufferedReader, limit: int, dialect: Dialect) -> Iterator[tuple[Row, int]]:
    """Each row and its length in bytes."""
    n_bytes = 0

    def lines() -> Iterator[str]:
        nonlocal n_bytes
        while line := stream.readline(limit - n_bytes + 1):
            if n_bytes or not line.isspace():  # blank lines between rows belong to none
                n_bytes += len(line)
            if n_bytes > limit:
                # Where the row ends is not known: the line may stand within quotes.
                raise _too_long("a row", n_bytes, limit, f"what follows is not read; {LIMIT_ADVICE}")
            yield line.decode("utf-8", "surrogateescape")

    for row in read_rows(lines(), dialect):
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
    return decode(text.as_buffer().to_pybytes())


READERS: dict[str, Reader] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".parquet": _read_parquet,
    ".html": _read_html,
    ".htm": _read_html,
    ".xhtml": _read_html,
    ".py": _read_python,
}
