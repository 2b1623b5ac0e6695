"""The report stage writes everything in reports/, and a browser shows its page as it should."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from llm.core.errors import UserError
from stages.report import main
from tests.report.samples import FILES, write_run


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A folder with everything that a run leaves, as the current one."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    return tmp_path


def test_the_same_run_gives_the_same_files(run):
    main()
    main(reports=Path("again"))
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (run / "reports", run / "again")
    )
    assert first == second
    assert {path.suffix for path in first} == {".md", ".svg", ".html"}
    assert Path("finetune/topics.md") in first


def test_every_file_has_its_md5_on_the_page(run):
    main()
    page = (run / "reports/report.html").read_text()
    for name in FILES:
        row = (
            f"<code>{name}</code></td><td><code>{hashlib.md5(FILES[name].encode(), usedforsecurity=False).hexdigest()}"
        )
        assert (row in page) == (name.startswith(("data", "models")) and ".keep" not in name)
    assert str(run) not in page


def test_many_files_are_one_row_with_a_hash_of_them_all(run):
    def row() -> str:
        main()
        text = (run / "reports/report.html").read_text()
        return text[text.index("data/raw: 102 files") :][:120]

    for number in range(101):
        (run / "data/raw" / f"{number}.txt").write_text("x")
    first = row()
    (run / "data/raw/7.txt").write_text("y")
    assert row() != first


def test_a_task_that_is_not_in_the_params_is_not_shown(run):
    params = json.loads((run / "params.yaml").read_text())
    params["finetune"]["tasks"] = {"topics": {"base": "models/export/hf"}}
    (run / "params.yaml").write_text(json.dumps(params))
    main()
    assert not (run / "reports/finetune/answers.md").exists()
    assert "<h3>answers</h3>" not in (run / "reports/report.html").read_text()


@pytest.mark.parametrize("name", ["pretrain", "finetune/topics", "details/evaluate"])
def test_missing_metrics_are_one_line_with_the_file(run, name):
    (run / f"metrics/{name}.json").unlink()
    with pytest.raises(UserError, match=rf"{name.removeprefix('details/')}\.json: expected a metrics file"):
        main()


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window: the system's own, or the one that Playwright keeps."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (make extras)")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as running:
        executable = found or running.chromium.executable_path
        if not Path(executable).exists():
            pytest.skip("there is no Chromium (playwright install chromium, or the system's package)")
        # In a container the browser may not create a sandbox of its own; the page is ours.
        opened = running.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


def _style(page, selector, name):
    return page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}")


def test_a_browser_shows_the_page_and_fetches_nothing_else(run, browser):
    main()
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
        boxes = [page.locator("svg").nth(at).bounding_box() for at in range(page.locator("svg").count())]
        assert all(box["height"] > 100 for box in boxes)
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
