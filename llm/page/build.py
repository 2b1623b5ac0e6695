"""A Hugging Face folder of ours → one HTML file that opens offline, with the whole model in it.

    <style>{{ style.css }}</style>              a file of this folder
    <title>{{ title }}</title>                  a value
    <script>{{ engine.js }}</script>            a file; the policy allows it by its hash

The page can load nothing: its Content-Security-Policy refuses all addresses, and scripts that were not built in. Equal
folders give equal bytes.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm.export.hf.tensors import list_tensors
from llm.page.contents import Contents, read_contents
from llm.page.errors import NoPageError

HERE = Path(__file__).parent
MAX_BYTES = 60_000_000  # of a page, where nothing else is asked for
PLACEHOLDER = re.compile(r"\{\{ ([\w./]+) \}\}")
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def build_page(
    folder: Path,
    title: str,
    passages: Sequence[Sequence[str]],
    max_bytes: int = MAX_BYTES,
    chat_template: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return the page of a folder's model, and its figures; each passage is a text, or a pair of texts.

    NoPageError for a model whose page would be larger than `max_bytes`, or could not compute it.
    """
    # Before the weights are read: they take four bytes of base64 for three of float16.
    n_stored = sum(_product(tensor.shape) for tensor in list_tensors(folder).values())
    _check_size(folder, n_stored * 2 * 4 // 3, max_bytes)
    contents = read_contents(folder, chat_template)
    page = render(contents, title, passages)
    _check_size(folder, len(page.encode()), max_bytes)
    n_weights = sum(_product(tensor["shape"]) for tensor in contents.data["tensors"][:-1])
    return page, {"bytes": len(page.encode()), "weights": n_weights}


def _check_size(folder: Path, n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        got = f"the page of {folder} has {n_bytes:,}, {n_bytes / 1e6:.0f} MB"
        raise NoPageError(f"page.max_bytes: expected at most {max_bytes:,}, {got}")


def _product(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def render(contents: Contents, title: str, passages: Sequence[Sequence[str]]) -> str:
    """Return the page, which names its own size."""
    given = [list(column) for column in zip(*passages, strict=True)] or [[]]
    data = {"title": title, "n_bytes": 0, "passages": given[0], "seconds": given[1] if given[1:] else None}
    data |= contents.data
    weights = base64.b64encode(contents.weights).decode()
    while True:  # until the size is that of a page with this size in it
        page = fill({"title": html.escape(title), "data": as_json(data), "weights": weights})
        if data["n_bytes"] == (n_bytes := len(page.encode())):
            return page
        data["n_bytes"] = n_bytes


def fill(values: dict[str, str]) -> str:
    """Return template.html with each placeholder replaced, in one pass: values can contain placeholders."""
    files = {}
    template = (HERE / "template.html").read_text(encoding="utf-8")
    for name in PLACEHOLDER.findall(template):
        if name not in values and name != "security":
            files[name] = (HERE / name).read_text(encoding="utf-8")
    scripts = SCRIPT.findall(PLACEHOLDER.sub(lambda found: files.get(found[1], ""), template))
    filled = values | files | {"security": policy(scripts)}
    return PLACEHOLDER.sub(lambda found: filled[found[1]], template)


def policy(scripts: Sequence[str]) -> str:
    """Return the meta element that allows these scripts, styles in the page, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    rules = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'


def as_json(value: Any) -> str:
    r"""Return JSON for a script element: no text in it can end the element or open a comment.

    >>> as_json({"text": "</script><!--"})
    '{"text":"\\u003c/script>\\u003c!--"}'
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def explain(title: str, reason: str) -> str:
    """Return a page without a model, with the reason."""
    head = f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
    return f"{head}<h1>{html.escape(title)}</h1>\n<p>This page has no model: {html.escape(reason)}</p>\n"
