"""Blocks of figures in pages: written from metrics, everything else of a page is kept."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.report.figures import BLOCK, WRITERS, write_figures

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/questions.md"]
BEGIN, END = "<!-- figures: summary -->", "<!-- end of figures -->"
SUMMARY = "bits per byte\n  this model 1.0\n"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_block_is_replaced_and_all_else_keeps_its_bytes(tmp_path, ends):
    before, after = "# Déjà vu\t\n\n```console\nkeep\n```\n", "\n\n\nmore  \n`x`"
    page = tmp_path / "README.md"
    page.write_bytes(f"{before}{BEGIN}\nold\n```console\nold\n```\n{END}{after}".replace("\n", ends).encode())
    write_figures(page, tmp_path, SUMMARY)
    first = page.read_bytes()
    block = f"{BEGIN}\n```console\n$ make repro\n…\n{SUMMARY}```\n{END}"
    assert first == f"{before}{block}{after}".replace("\n", ends).encode()
    write_figures(page, tmp_path, SUMMARY)
    assert page.read_bytes() == first


def test_a_text_with_fences_does_not_end_the_block(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    write_figures(page, tmp_path, "````python\nx\n````\n")
    assert page.read_text().split("\n")[1] == "`````console"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "got no such block"),
        ("", "got no such block"),
        (f"{END}\n{BEGIN}\n", "got no such block"),
        (f"<!-- figures: loss -->\n{END}", "expected a block of summary, run, .*, got loss"),
        (f"<!-- figures: library -->\n{END}", "expected the metrics of a run, got none"),
        (f"<!-- figures: quality -->\n{END}", "expected 'quality' for the block quality, got none"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_and_left_alone(tmp_path, content, problem):
    page = tmp_path / "README.md"
    if content is not None:
        page.write_text(content)
    (tmp_path / "evaluate.json").write_text("{}")
    with pytest.raises(UserError, match=problem):
        write_figures(page, tmp_path, SUMMARY)
    assert not page.exists() if content is None else page.read_text() == content


def test_the_command_writes_what_summary_prints(tmp_path):
    page, metrics = tmp_path / "README.md", tmp_path / "metrics"
    page.write_text(f"{BEGIN}\n{END}\n")
    words = ["figures", str(page), "--metrics", str(metrics), "--reports", str(tmp_path)]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert page.read_text() == f"{BEGIN}\n{END}\n"
    metrics.mkdir()
    (metrics / "evaluate.json").write_text('{"test": {"bits_per_byte": 1.25}}')
    assert CliRunner().invoke(app, words).exit_code == 0
    printed = CliRunner().invoke(app, ["summary", str(metrics), "--reports", str(tmp_path)]).stdout
    assert "1.250" in printed
    assert f"…\n{printed}```\n" in page.read_text()


@pytest.mark.parametrize("name", PAGES)
def test_the_figures_of_the_projects_own_pages_are_those_of_its_metrics(tmp_path, name):
    page = Path(shutil.copy(ROOT / name, tmp_path))
    write_figures(page, ROOT / "metrics", SUMMARY)
    # What the model wrote is no metric, and seconds differ from run to run.
    shown, written = (
        [found[0] for found in BLOCK.finditer(path.read_text()) if found["name"] not in {"summary", "run"}]
        for path in (ROOT / name, page)
    )
    assert written == shown


def test_every_block_is_shown():
    shown = {found["name"] for name in PAGES for found in BLOCK.finditer((ROOT / name).read_text())}
    assert shown == {"summary", *WRITERS}
