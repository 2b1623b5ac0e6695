import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm.__main__ import app
from llm.errors import UserError
from llm.readme import BEGIN, END, write_block

FIGURES = "bits per byte\n  this model 1.0\n"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_the_block_is_replaced_and_all_else_keeps_its_bytes(tmp_path, ends):
    before, after = "# Déjà vu\t\n\n```console\nkeep\n```\n", "\n\n\nmore  \n`x`"
    page = tmp_path / "README.md"
    page.write_bytes(f"{before}{BEGIN}\nold\n```console\nold\n```\n{END}{after}".replace("\n", ends).encode())
    write_block(page, FIGURES)
    first = page.read_bytes()
    block = f"{BEGIN}\n```console\n$ make repro\n…\n{FIGURES}```\n{END}"
    assert first == f"{before}{block}{after}".replace("\n", ends).encode()
    write_block(page, FIGURES)
    assert page.read_bytes() == first


def test_a_text_with_fences_does_not_end_the_block(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    write_block(page, "````python\nx\n````\n")
    assert page.read_text().split("\n")[1] == "`````console"


@pytest.mark.parametrize("content", [None, "", f"{END}\n{BEGIN}\n", BEGIN])
def test_a_page_without_the_markers_is_refused_and_left_alone(tmp_path, content):
    page = tmp_path / "README.md"
    if content is not None:
        page.write_text(content)
    with pytest.raises(UserError, match=r"README\.md: expected the lines .*, got none"):
        write_block(page, FIGURES)
    assert not page.exists() if content is None else page.read_text() == content


def test_the_command_writes_what_summary_prints(tmp_path):
    page, metrics = tmp_path / "README.md", tmp_path / "metrics"
    page.write_text(f"{BEGIN}\n{END}\n")
    words = ["readme", str(page), "--metrics", str(metrics), "--reports", str(tmp_path)]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert page.read_text() == f"{BEGIN}\n{END}\n"
    metrics.mkdir()
    (metrics / "evaluate.json").write_text('{"test": {"bits_per_byte": 1.25}}')
    assert CliRunner().invoke(app, words).exit_code == 0
    printed = CliRunner().invoke(app, ["summary", str(metrics), "--reports", str(tmp_path)]).stdout
    assert "1.250" in printed
    assert f"…\n{printed}```\n" in page.read_text()


def test_the_projects_own_page_has_the_markers(tmp_path):
    page = shutil.copy(Path(__file__).parents[1] / "README.md", tmp_path)
    write_block(Path(page), FIGURES)
    assert FIGURES in Path(page).read_text()
