"""Reading and cleaning: the same rows in the same order, whatever does the work."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.core.errors import UserError
from llm.corpus.clean import Cleaned
from llm.corpus.engine import clean_units
from llm.corpus.params import FilesSource, PrepareParams
from llm.corpus.sources import list_units

NEAR = {"action": "drop", "threshold": 0.8, "ngram": 2, "permutations": 32, "bands": 8}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Files of several kinds, one of them damaged."""
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [{"text": f"row {number} é\r\n"} for number in range(30)] + [{"no": "text"}]
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "a.txt").write_text("one text\x00 with controls")
    (folder / "c.txt.gz").write_bytes(b"\x1f\x8b damaged")
    (folder / "d.txt").write_text(" ")
    return folder


def clean_with(engine: str, raw: Path, prepare_params: Callable[..., PrepareParams]) -> list[Cleaned]:
    source = FilesSource(name="mine", kind="files", globs=[f"{raw.as_posix()}/*"])
    params = prepare_params([source], engine=engine, clean={"near_duplicates": NEAR})
    return list(clean_units(list_units(source, raw), params))


def test_here_documents_come_in_the_order_of_their_units(raw: Path, prepare_params: Callable) -> None:
    documents = clean_with("local", raw, prepare_params)
    rows = [f"b.jsonl:{number}" for number in range(1, 32)]
    assert [document.path for document in documents] == ["a.txt", *rows, "c.txt.gz", "d.txt"]
    assert [document.reason for document in documents if document.reason] == ["no_field", "damaged", "empty"]
    assert documents[0].text == "one text with controls"


@pytest.mark.filterwarnings("ignore")  # ray's own, of its libraries
def test_ray_gives_what_is_given_here(raw: Path, prepare_params: Callable) -> None:
    assert clean_with("ray", raw, prepare_params) == clean_with("local", raw, prepare_params)


def test_without_ray_the_line_says_how_to_get_it(
    raw: Path, prepare_params: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(
        UserError, match=r"prepare\.engine: expected the package ray, it is not installed \(make extras\)"
    ):
        clean_with("ray", raw, prepare_params)
