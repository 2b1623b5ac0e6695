"""Reading and cleaning: the same documents in the same order, on one machine and with Ray."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.core.errors import UserError
from llm.corpus.document import Document
from llm.corpus.params import FilesSource
from llm.corpus.prepare import clean_units
from llm.corpus.sources import list_units

NEAR = {"action": "drop", "threshold": 0.8, "ngram": 2, "permutations": 32, "bands": 8}


@pytest.fixture
def clean_with(tmp_path: Path, prepare_params: Callable) -> Callable[[str], list[Document]]:
    """A cleaner of files of several kinds, one of them damaged."""
    rows = [{"text": f"row {number} é\r\n"} for number in range(30)] + [{"no": "text"}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.txt").write_text("one text\x00 with controls")
    (tmp_path / "c.txt.gz").write_bytes(b"\x1f\x8b damaged")
    (tmp_path / "d.txt").write_text(" ")
    source = FilesSource(name="mine", kind="files", globs=[f"{tmp_path.as_posix()}/*"])
    units = list_units(source, tmp_path)
    return lambda engine: list(
        clean_units(units, prepare_params([source], engine=engine, clean={"near_duplicates": NEAR}))
    )


@pytest.mark.filterwarnings("ignore")  # ray's own, of its libraries
def test_ray_cleans_the_same_documents(clean_with: Callable) -> None:
    documents = clean_with("local")
    rows = [f"b.jsonl:{number}" for number in range(1, 32)]
    assert [document.path for document in documents] == ["a.txt", *rows, "c.txt.gz", "d.txt"]
    assert [document.reason for document in documents if document.reason] == ["no_field", "damaged", "empty"]
    assert documents[0].text == "one text with controls"
    assert clean_with("ray") == documents


def test_a_missing_ray_is_one_line(clean_with: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    expected = r"prepare\.engine: expected the package ray, it is not installed \(make extras\)"
    with pytest.raises(UserError, match=expected):
        clean_with("ray")
