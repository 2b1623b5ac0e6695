"""Blocks of figures in pages: written from metrics; the rest of a page keeps its bytes."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.report.figures import BLOCK, PICTURES, SPINE, WRITERS, write_figures
from tests.report.samples import CONTENT

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/questions.md"]
BEGIN, END = "<!-- figures: {} -->", "<!-- end of figures -->"
VARYING = {"run", "spine"}  # seconds differ from run to run, line counts from commit to commit
SUMMARY = "bits per byte\n  this model 1.0\n"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The path of a page in the current folder, beside a folder of metrics."""
    monkeypatch.chdir(tmp_path)
    runtime = {"pretrain": {"seconds": 75.2, "peak_memory_mb": 1500}, "export": {"seconds": 80.0, "peak_memory_mb": 9}}
    for name, of in (CONTENT | {f"runtime/{stage}": of for stage, of in runtime.items()}).items():
        path = Path(f"metrics/{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(of))
    return Path("README.md")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_block_is_replaced_and_the_rest_keeps_its_bytes(page, ends):
    before, after, begin = "# Déjà vu\t\n\n```console\nkeep\n```\n", "\n\n\nmore  \n`x`", BEGIN.format("summary")
    page.write_bytes(f"{before}{begin}\nold\n```console\nold\n```\n{END}{after}".replace("\n", ends).encode())
    block = f"{begin}\n```console\n$ make repro\n…\n{SUMMARY}```\n{END}"
    for _ in range(2):
        write_figures(page, Path("metrics"), SUMMARY)
        assert page.read_bytes() == f"{before}{block}{after}".replace("\n", ends).encode()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("run", "minutes 35 seconds, and at most 1.5 GB of memory.\nSeconds by stage: export 80, pretrain 75."),
        ("bits per byte", "| this model | 1.250 [1.125, 1.500] | 1.375 [1.125, 1.500] |"),
        ("bits per byte", "On test, this model minus xz -9e, given the training text: -0.160 [-0.200, -0.120]"),
        ("quality", "| real words | 0.917 [0.900, 0.930] | 0.953 |"),
    ],
)
def test_a_block_shows_the_metrics(page, name, line):
    page.write_text(f"{BEGIN.format(name)}\n{END}")
    write_figures(page, Path("metrics"), SUMMARY)
    assert line in page.read_text()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "got no such block"),
        (f"{END}\n{BEGIN.format('run')}\n", "got no such block"),
        (f"{BEGIN.format('loss')}\n{END}", "expected a block of summary, run, .*, got loss"),
        (f"{BEGIN.format('library')}\n{END}", r"finetune/library\.json: expected a metrics file"),
    ],
)
def test_a_page_that_cannot_be_written_stays_as_it_is(page, content, problem):
    page.write_text(content)
    with pytest.raises(UserError, match=problem):
        write_figures(page, Path("metrics"), SUMMARY)
    assert page.read_text() == content
    with pytest.raises(UserError, match="got no such block"):
        write_figures(Path("none.md"), Path("metrics"), SUMMARY)


def test_the_command_writes_the_summary_and_copies_pictures(page):
    page.write_text(f"{BEGIN.format('summary')}\n{END}\n")
    assert CliRunner().invoke(app, ["figures", "README.md", "--metrics", "nowhere"]).exit_code == 1
    Path("reports").mkdir()
    (Path("reports") / PICTURES[0]).write_text("<svg/>")
    assert CliRunner().invoke(app, ["figures", "README.md"]).exit_code == 0
    printed = CliRunner().invoke(app, ["summary"]).stdout
    assert "1.375 [1.125, 1.500]" in printed and f"…\n{printed}```\n" in page.read_text()
    assert (Path("docs/pictures") / PICTURES[0]).read_text() == "<svg/>"


def test_our_own_pages_have_every_block_and_the_figures_of_the_metrics(tmp_path):
    found = {name: BLOCK.finditer((ROOT / name).read_text()) for name in PAGES}
    shown = {name: {block["name"]: block[0] for block in blocks} for name, blocks in found.items()}
    assert {*shown["README.md"], *shown["docs/questions.md"]} == {"summary", *WRITERS}
    assert [name for name in SPINE if not (ROOT / name).is_file()] == []
    for name in PAGES:
        page = Path(shutil.copy(ROOT / name, tmp_path))
        write_figures(page, ROOT / "metrics", SUMMARY)
        written = {block["name"]: block[0] for block in BLOCK.finditer(page.read_text())}
        assert [of for of in written.keys() & WRITERS.keys() - VARYING if written[of] != shown[name][of]] == []
