"""The rows of a dataset that the library `datasets` loads: from the Hub, or a folder of JSON Lines or Parquet.

Rows are streamed in the dataset's order: only a few are in memory or on disk.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from llm.core.errors import UserError
from llm.corpus.document import Document
from llm.corpus.formats import attempt, field_text, to_document
from llm.corpus.params import HuggingFaceSource


def read_dataset(source: HuggingFaceSource, max_document_bytes: int) -> Iterator[Document]:
    """Yield one document a row; `path` is the split and the row's number from 1.

    UserError where the library is not installed, finds no such dataset, config, split or column, or cannot read on.
    """
    for number, row in enumerate(_rows(source), start=1):
        text = attempt(field_text, row, source.text_field)
        n_bytes = len(text.encode()) if isinstance(text, str) else 0
        yield to_document(source.name, f"{source.split}:{number}", text, n_bytes, max_document_bytes)


def check_dataset(source: HuggingFaceSource, raw: Path) -> None:
    """Raise UserError for a local dataset that DVC does not watch."""
    folder = Path(source.dataset)
    if not folder.exists():
        return  # a name on the Hub, unless the library finds none
    expected = f"source {source.name}: dataset: expected a name on the Hub or a folder under {raw.as_posix()}/"
    if not folder.resolve().is_relative_to(raw.resolve()):
        raise UserError(f"{expected}, got {source.dataset}; copy it there")
    if link := next((path for path in folder.rglob("*") if path.is_symlink() and path.is_dir()), None):
        raise UserError(f"{expected} without links, got {link}; copy it there")


def _rows(source: HuggingFaceSource) -> Iterator[Mapping[str, object]]:
    where = f"source {source.name}:"
    try:
        import datasets
    except ImportError:
        raise UserError(f"{where} expected the package datasets, it is not installed (make extras)") from None
    name, field = source.dataset, source.text_field
    try:
        rows = datasets.load_dataset(name, source.config, split=source.split, revision=source.revision, streaming=True)
        columns = rows.column_names
        if columns is not None and field not in columns:  # some formats have columns only row by row
            raise UserError(f"{where} text_field: expected a column of {name} ({', '.join(columns)}), got {field}")
        # Other columns are not read; images, for one, would be decoded.
        yield from rows if columns is None else rows.select_columns(field)
    except UserError:
        raise
    except Exception as error:  # the library raises whatever its file systems and formats raise
        got = " ".join(str(error).split()) or type(error).__name__
        at = f"config {source.config}, split {source.split}, revision {source.revision}"
        raise UserError(f"{where} expected the dataset {name}, {at}, got {got}") from error
