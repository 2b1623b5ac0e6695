"""The stages report and card write everything that presents a run, and a browser shows the page as it should."""

import hashlib
from pathlib import Path

import pytest

from llm.report.views import lineage
from stages import card
from stages.report import main
from tests.report.samples import FILES, rows_of, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with everything that a run leaves, and its reports."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    (folder / "models/page.html").write_text("a model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main()
    return folder


def test_the_same_run_gives_the_same_files(run, monkeypatch, tmp_path):
    monkeypatch.chdir(run)
    main(reports=tmp_path)
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (run / "reports", tmp_path)
    )
    assert first == second
    assert first[Path("model.html")] == b"a model"  # beside the report, for its links
    assert {path.suffix for path in first} == {".md", ".svg", ".html"}
    assert {Path("finetune/topics.md"), Path("evaluation.md"), Path("finetune/topics/curve.svg")} < first.keys()


def test_every_file_has_its_md5_on_the_page_and_in_the_card(run, monkeypatch):
    monkeypatch.chdir(run)
    card.main()
    page, text = Path("reports/report.html").read_text(), Path("models/export/README.md").read_text()
    for name, content in FILES.items():
        md5 = hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()
        is_artifact = name.startswith(("data", "models")) and ".keep" not in name
        assert (f"<code>{name}</code></th><td><code>{md5}" in page) == is_artifact
        assert (f"| `{name}` | `{md5}` |" in text) == is_artifact
    assert str(run) not in page + text
    assert f"sha256 of `model.safetensors`: `{hashlib.sha256(b'exported').hexdigest()}`" in text.splitlines()
    cards = {path.parent.name: path.read_text() for path in Path("models/cards").rglob("README.md")}
    assert cards.keys() == {"topics", "answers", "none"}
    assert f"`{hashlib.sha256(b'topics').hexdigest()}`" in cards["topics"]
    assert rows_of(cards["answers"])["chosen answer more likely"][0] == "0.5123"
    assert "Skipped" in cards["none"]


def test_many_files_are_one_row_with_a_hash_of_them_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("data/raw")
    folder.mkdir(parents=True)
    for number in range(101):
        (folder / f"{number}.txt").write_text("x")
    ((name, md5),) = lineage(Path("data")).rows
    assert name.text == "data/raw: 101 files, the md5 of their list"
    (folder / "7.txt").write_text("y")
    assert lineage(Path("data")).rows[0][1] != md5


def _style(page, selector, name):
    return page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}")


def test_a_browser_shows_the_page_and_fetches_nothing_else(run, browser):
    address = (run / "reports/report.html").as_uri()
    requests, messages, colors = [], [], []
    for width, scheme in ((1200, "light"), (360, "light"), (360, "dark")):
        page = browser.new_page(viewport={"width": width, "height": 740}, color_scheme=scheme)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colors.append([_style(page, "body", name) for name in ("backgroundColor", "color")])
        # A picture keeps its white background, so that its black text can be read.
        assert _style(page, ".picture", "backgroundColor") == "rgb(255, 255, 255)"
        boxes = [image.bounding_box() for image in page.locator(".picture img").all()]
        assert boxes and all(box["height"] > 100 for box in boxes)
        # Wide tables scroll in a box of their own.
        scrolls = "[...document.querySelectorAll('.scroll')].map(box => [box.clientWidth, box.scrollWidth])"
        sizes = page.evaluate(scrolls)
        assert all(own <= width for own, _ in sizes)
        assert width > 360 or any(inside > own for own, inside in sizes)
        page.close()
    assert requests == [address] * 3
    assert messages == []
    assert colors[0] == colors[1]
    assert colors[0][0] != colors[2][0] and colors[0][1] != colors[2][1]
