import pytest

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
