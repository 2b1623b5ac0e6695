"""Fixtures of the tests of stages."""

import pytest

from llm.core.tables import TableWriter, tokens_schema


@pytest.fixture
def write_splits(write_windows_folder):
    """A writer of windows/ and tokens/ of documents of ids (a byte each) by split and path, of the source `mine`."""

    def write(folder, documents, context_length, vocab_size=320, **options):
        ids = {split: [list(own) for own in of.values()] for split, of in documents.items()}
        write_windows_folder(folder / "windows", ids, vocab_size, context_length, **options)
        for split in ("train", "val", "test"):
            with TableWriter(folder / "tokens" / f"{split}.parquet", tokens_schema(vocab_size)) as table:
                for path, own in documents.get(split, {}).items():
                    row = {"doc_id": path, "source": "mine", "path": path, "ids": list(own)}
                    table.write(row | {"n_tokens": len(own), "n_bytes": len(own)})
        return {"windows": folder / "windows", "tokens": folder / "tokens"}

    return write
