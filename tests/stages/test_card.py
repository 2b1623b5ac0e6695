"""The card stage writes the card of the export and of every finetuned model."""

import hashlib
from pathlib import Path

import pytest

from stages.card import main
from tests.report.samples import FILES, rows_of, write_run


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A folder with everything that a run leaves, as the current one."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    return tmp_path


def test_cards_have_scores_weights_and_the_md5_of_every_file(run):
    main()
    text = (run / "models/export/README.md").read_text()
    for name, content in FILES.items():
        md5 = hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()
        assert (f"| `{name}` | `{md5}` |" in text) == (name.startswith(("data", "models")) and ".keep" not in name)
    assert f"sha256 of `model.safetensors`: `{hashlib.sha256(b'exported').hexdigest()}`" in text.splitlines()
    assert str(run) not in text
    cards = {path.parent.name: path.read_text() for path in (run / "models/cards").rglob("README.md")}
    assert cards.keys() == {"topics", "answers", "none"}
    assert f"`{hashlib.sha256(b'topics').hexdigest()}`" in cards["topics"]
    assert rows_of(cards["answers"])["chosen answer more likely"][0] == "0.5123"
    assert "Skipped" in cards["none"]
    main(card=Path("again.md"), cards=Path("again"))
    assert (run / "again.md").read_text() == text
