"""The rows of a dataset that the library `datasets` loads: one from the Hub, or a folder of JSON Lines or Parquet.

    {"text": "The rain falls."}  ──► RawDocument("mine", "train:1", "The rain falls.")
    {"text": null}               ──► Unreadable("mine", "train:2", "no_field", "…", 0)

Rows are streamed in the dataset's order: no more than a few of them are held in memory or stored on disk.
"""

from collections.abc import Iterator, Mapping

from llm.core.errors import UserError
from llm.corpus.document import RawDocument, Unreadable
from llm.corpus.params import HuggingFaceSource


def read_dataset(source: HuggingFaceSource, max_document_bytes: int) -> Iterator[RawDocument | Unreadable]:
    """One document a row, or word of a row without one; `path` is the split and the row's number from 1.

    A row gives no document when its text is missing or null ("no_field"), no string ("not_text"), not to be written
    in UTF-8 ("not_unicode") or longer in it than `max_document_bytes` ("too_long"). UserError if the library is not
    installed, finds no such dataset, config, split or column, or cannot read on: it cannot skip a broken row.
    """
    for number, row in enumerate(_rows(source), start=1):
        yield _document(source, f"{source.split}:{number}", row.get(source.text_field), max_document_bytes)


def _rows(source: HuggingFaceSource) -> Iterator[Mapping[str, object]]:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"source {source.name}: expected the package datasets, it is not installed (make extras)"
        ) from None
    try:
        rows = datasets.load_dataset(
            source.dataset, source.config, split=source.split, revision=source.revision, streaming=True
        )
        if rows.column_names is not None:  # some formats tell their columns only row by row
            _check_column(source, rows.column_names)
            # Unread columns cost nothing; images, for one, would be decoded.
            rows = rows.select_columns(source.text_field)
        yield from rows
    except UserError:
        raise
    except Exception as error:  # the library raises what its file systems and formats raise: there is no common kind
        given = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"source {source.name}: wanted the dataset {source.dataset}, config {source.config}, "
            f"split {source.split}, revision {source.revision}, given {given}"
        ) from error


def _check_column(source: HuggingFaceSource, columns: list[str]) -> None:
    if source.text_field not in columns:
        raise UserError(
            f"source {source.name}: text_field: wanted a column of {source.dataset} ({', '.join(columns)}), "
            f"given {source.text_field}"
        )


def _document(source: HuggingFaceSource, path: str, text: object, max_document_bytes: int) -> RawDocument | Unreadable:
    def unreadable(reason: str, wanted: str, given: str, n_bytes: int = 0) -> Unreadable:
        problem = f"wanted {wanted} in the field {source.text_field}, given {given}"
        return Unreadable(source.name, path, reason, problem, n_bytes)

    if text is None:
        return unreadable("no_field", "text", "nothing")
    if not isinstance(text, str):
        return unreadable("not_text", "text", type(text).__name__)
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError:
        n_bytes = len(text.encode(errors="surrogatepass"))
        return unreadable("not_unicode", "Unicode text", "a lone surrogate", n_bytes)
    if n_bytes > max_document_bytes:
        return unreadable("too_long", f"at most {max_document_bytes} bytes", str(n_bytes), n_bytes)
    return RawDocument(source.name, path, text)
