"""The documents of one file of any ordinary kind, as a stream.

    a.jsonl     {"text": "One."}⏎{"txt": ""}⏎ ──► Document("mine", "a.jsonl:1", "One."),
                                                  Document("mine", "a.jsonl:2", "", "no_field", "…", 12, False)
    b.zip       of c.html.gz                  ──► Document("mine", "b.zip/c.html.gz", "…")

`containers` removes compression and archives, `readers.encodings` makes UTF-8 of the text, `readers.rows` reads rows;
other files are HTML or text. About one document is in memory at a time.
"""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm.corpus.containers import Entry, open_entries, system_error
from llm.corpus.document import DIALECT, DOUBTFUL_ENCODING, Document, unreadable
from llm.corpus.params import FilesSource, UrlSource
from llm.corpus.readers.encodings import decode, open_text
from llm.corpus.readers.rows import SUFFIXES, Rows, check_unicode, json_type, parse, rows_of
from llm.corpus.readers.streams import BUFFER_BYTES, LIMIT_ADVICE, ContentError, one_line, too_long

# What a page does not show; resiliparse itself leaves out scripts, styles and templates.
INVISIBLE = ["head", "title", "script", "style", "template", "[hidden]"] + [
    f'[style*="{rule}" i]'
    for rule in ("display:none", "display: none", "display : none", "visibility:hidden", "visibility: hidden")
]
NEWLINE = rb"(?>\r\n|\r|\n)"

LocalSource = FilesSource | UrlSource
Text = tuple[str, str | ContentError, int]  # what follows the path (":3"), the text or why there is none, its bytes


def read_file(file: Path, path: str, source: LocalSource, max_document_bytes: int) -> Iterator[Document]:
    """Yield the documents of `file`, and all that gives none; nothing that the file holds raises an error.

    `path` is the file's name in the documents' paths, and its suffixes decide how it is read. Reasons beside
    those of `containers.open_entries`: empty, not_text, unsupported_format, unclear_encoding, too_long, bad_row,
    no_field, not_unicode.
    """
    for entry in open_entries(file, path):
        is_empty = True
        try:
            if isinstance(entry.content, ContentError):
                raise entry.content
            documents = _read(entry, entry.content, source, max_document_bytes) if entry.content.peek(1) else ()
            for found in documents:
                is_empty = is_empty and found.reason in (DIALECT, DOUBTFUL_ENCODING)
                yield found
            if is_empty:
                raise ContentError("empty", "expected text, got none")
        except (ContentError, OSError) as error:
            problem = error if isinstance(error, ContentError) else system_error(error)
            yield unreadable(source.name, entry.path, problem, entry.n_bytes)


def _read(entry: Entry, stream: io.BufferedReader, source: LocalSource, limit: int) -> Iterator[Document]:
    suffix = entry.suffix
    if suffix != ".parquet":
        assert not isinstance(source.encoding, dict)  # `list_units` has chosen the file's own
        stream, encoding = open_text(stream, suffix, source.encoding)
        if encoding.doubt:
            yield Document(source.name, entry.path, reason=DOUBTFUL_ENCODING, note=", ".join(encoding))
    elif not stream.seekable():  # within a container
        stream = io.BufferedReader(io.BytesIO(stream.read()))
    if _has_rows(stream, suffix, source.text_field):
        rows = rows_of(stream, suffix, column=source.text_field, max_row_bytes=2 * limit)
        if rows.dialect and rows.dialect.delimiter != ",":
            yield Document(source.name, entry.path, reason=DIALECT, note=str(rows.dialect))
        texts = _row_texts(rows, source.text_field)
    else:
        texts = READERS.get(suffix, _read_text)(stream, source, limit)
    for place, text, n_bytes in texts:
        yield to_document(source.name, entry.path + place, text, n_bytes, limit)


def to_document(source: str, path: str, text: str | ContentError, n_bytes: int, limit: int) -> Document:
    """Return the document, or the error in its place; a text of more than `limit` bytes is too long."""
    # A character has at most four bytes: only long texts are encoded to be measured.
    if isinstance(text, str) and len(text) > limit // 4 and len(text.encode()) > limit:
        text = too_long("a document", len(text.encode()), limit)
    return unreadable(source, path, text, n_bytes) if isinstance(text, ContentError) else Document(source, path, text)


def attempt(read: Callable[..., str], *arguments: Any) -> str | ContentError:
    """Return the text that `read` returns, or its ContentError."""
    try:
        return read(*arguments)
    except ContentError as error:
        return error


def _has_rows(stream: io.BufferedReader, suffix: str, field: str) -> bool:
    """Return whether a file has rows: a .json with an array of objects, an object with the field, or two objects."""
    if suffix != ".json":
        return suffix in SUFFIXES
    head = stream.peek(1)
    if re.match(rb"\s*\[\s*[{\]]", head):
        return True
    rows = [parse(line) for line in head.lstrip().split(b"\n", 2)[:2]]
    objects = [row for row in rows if isinstance(row, dict)]
    return len(objects) == 2 or (len(objects) == 1 and field in objects[0])


def _row_texts(rows: Rows, field: str) -> Iterator[Text]:
    column = rows.columns.index(field) if rows.columns else 0
    for row in rows:
        yield f":{row.number}", row.problem or attempt(_row_text, row.values, field, column), row.n_bytes


def _row_text(values: Any, field: str, column: int) -> str:
    if isinstance(values, dict):
        return field_text(values, field)
    check_unicode([values[column]])
    return str(values[column])


def field_text(row: Any, field: str) -> str:
    """Return the text of a row; ContentError where it has none."""
    if row.get(field) is None:
        got = "null" if field in row else one_line(", ".join(row)) or "none"
        raise ContentError("no_field", f"expected a field {field}, got {got}")
    if not isinstance(text := row[field], str):
        raise ContentError("not_text", f"expected a string in the field {field}, got {json_type(text)}")
    check_unicode(text)
    return text


def _read_text(stream: io.BufferedReader, source: LocalSource, limit: int) -> Iterator[Text]:
    """Yield the text between separators, or all of it."""
    if source.separator is None:
        yield from _whole_document(stream, limit, f"{LIMIT_ADVICE} or name a separator:")
        return
    for number, (piece, n_bytes, is_last) in enumerate(_split(stream, source.separator.encode(), limit), 1):
        place = "" if number == 1 and is_last else f":{number}"  # `is_undivided` reads this
        if n_bytes > limit:
            yield place, too_long("a document", n_bytes, limit), n_bytes
        elif piece and not piece.isspace():
            yield place, attempt(decode, piece), n_bytes


def is_undivided(path: str) -> bool:
    """Return whether a document's path is that of a whole file: with a `separator`, one in which it does not occur."""
    return re.search(r":\d+$", path) is None


def _read_object(stream: io.BufferedReader, source: LocalSource, limit: int) -> Iterator[Text]:
    """Yield the field of one JSON object, or else the text of the file as it is."""
    for place, whole, n_bytes in _whole_document(stream, limit):
        value = parse(whole.encode()) if isinstance(whole, str) else None
        field = attempt(field_text, value, source.text_field) if isinstance(value, dict) else whole
        yield place, field if isinstance(field, str) else whole, n_bytes


def _read_html(stream: io.BufferedReader, _: LocalSource, limit: int) -> Iterator[Text]:
    from resiliparse.extract.html2text import extract_plain_text

    off = dict.fromkeys(("main_content", "list_bullets", "alt_texts", "links", "form_fields", "noscript"), False)
    for place, page, n_bytes in _whole_document(stream, limit):
        text = page
        if isinstance(page, str):
            text = extract_plain_text(page, preserve_formatting=True, skip_elements=INVISIBLE, **off)
        if text:
            yield place, text, n_bytes


READERS: dict[str, Callable[[io.BufferedReader, LocalSource, int], Iterator[Text]]] = {
    ".json": _read_object,
    ".html": _read_html,
    ".htm": _read_html,
    ".xhtml": _read_html,
    ".py": lambda stream, _, limit: _whole_document(stream, limit),
}


def _whole_document(stream: io.BufferedReader, limit: int, advice: str = LIMIT_ADVICE) -> Iterator[Text]:
    content = stream.read(limit + 1)
    if len(content) > limit:
        n_bytes = len(content) + sum(map(len, iter(lambda: stream.read1(BUFFER_BYTES), b"")))
        yield "", too_long("a document", n_bytes, limit, advice=advice), n_bytes
    elif content:
        yield "", attempt(decode, content), len(content)


def _split(stream: io.BufferedReader, separator: bytes, limit: int) -> Iterator[tuple[bytes, int, bool]]:
    """Yield the bytes between separators, without a newline next to one; their length; whether they are the last.

    Bytes that are too many are not kept. A newline in the separator is any newline of the file's: CRLF, CR or LF.
    """
    pattern = re.compile(NEWLINE.join(map(re.escape, re.split(NEWLINE, separator))))
    longest = 2 * len(separator)  # a newline of the file may be longer by a byte
    first, last = re.compile(rb"\A" + NEWLINE), re.compile(NEWLINE + rb"\Z")
    begun, n_dropped, is_first = b"", 0, True
    while block := stream.read1(BUFFER_BYTES):
        while block.endswith(b"\r") and (more := stream.read(1)):  # perhaps the newline that it begins
            block += more
        *ended, begun = pattern.split(begun + block)
        for piece in ended:
            whole = last.sub(b"", piece if is_first else first.sub(b"", piece))
            yield whole, n_dropped + len(whole), False
            n_dropped, is_first = 0, False
        if len(begun) > limit + longest + 4:  # 4: the newlines that are removed
            n_dropped += len(begun) - longest
            begun = begun[-longest:]
    whole = begun if is_first else first.sub(b"", begun)
    yield whole, n_dropped + len(whole), True
