"""What a source yields and cleaning completes: documents, content that gave none, and notes on files."""

from typing import NamedTuple

from llm.corpus.readers.streams import ContentError

# Reasons of notes on files: an encoding that may be wrong, and how the rows of a table are separated.
DOUBTFUL_ENCODING, DIALECT = "doubtful_encoding", "dialect"


class Document(NamedTuple):
    """A text; with a `reason` one that is dropped, or a note on a file; if not `readable`, content without a text."""

    source: str
    path: str  # within the source
    text: str = ""
    reason: str = ""  # a word to count by
    note: str = ""  # expected …, got …; or how a dropped text begins
    n_bytes: int = 0  # of the clean text in UTF-8; of what was found, where it is dropped
    readable: bool = True
    doc_id: str = ""
    normalised_bytes: int = 0  # of the raw text that normalising removed or changed
    control_bytes: int = 0  # removed
    signature: bytes = b""  # for near duplicates; empty where they are not looked for


def unreadable(source: str, path: str, error: ContentError, n_bytes: int) -> Document:
    """Return the entry for content that cannot be read."""
    return Document(source, path, reason=error.reason, note=str(error), n_bytes=n_bytes, readable=False)
