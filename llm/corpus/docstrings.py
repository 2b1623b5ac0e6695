"""Documentation out of source code: signatures and docstrings of a package's modules, one document per module.

Modules are parsed with `ast` and never imported. An entry is a signature, an empty line and the docstring; two empty
lines separate entries, and no docstring contains two in a row, so that `split_entries` is the inverse of `module_text`.
The text depends on the source files alone: no statement here behaves differently in any Python from 3.11 on.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from llm.core.errors import UserError

BETWEEN_ENTRIES = "\n\n\n"
# One line, without the colon that ends it in source code.
SIGNATURE = re.compile(r"(?:async )?def [\w.]+\(.*\)(?: -> .*[^:])?|class [\w.]+(?:\(.*\))?")
# Tests document nothing; vendored copies belong to other packages and differ between builds.
SKIPPED_FOLDERS = {"test", "tests", "testing", "_vendor", "vendor", "externals", "_vendored", "__pycache__", ".."}
SKIPPED_FILES = {"conftest.py", "setup.py", "version.py", "_version.py", "__config__.py"}


class Entry(NamedTuple):
    """One documented object of a module."""

    signature: str  # `def Series.head(self, n: int=5) -> Series`, `class Series(NDFrame)`, or empty for the module
    docstring: str


def package_files(name: str, lock_file: Path) -> list[tuple[str, Path]]:
    """Return the modules of a distribution as (path within site-packages, file), sorted by path.

    UserError where the installed version differs from the pin in `lock_file`.
    """
    pin = re.search(rf"(?mi)^{re.escape(name)}==([^\s;]+)", lock_file.read_text(encoding="utf-8"))
    if not pin:
        raise UserError(f"{lock_file}: expected a line {name}==VERSION for a source of docstrings, got none")
    try:
        package = distribution(name)
    except PackageNotFoundError:
        raise UserError(f"{name}: expected version {pin[1]}, it is not installed; run `make setup`") from None
    # torch's builds for a processor or a CUDA version differ in what follows the plus.
    if package.version.partition("+")[0] != pin[1]:
        raise UserError(f"{name}: expected version {pin[1]} of {lock_file}, got {package.version}; run `make setup`")
    paths = [PurePosixPath(file) for file in package.files or ()]
    return sorted((path.as_posix(), Path(str(package.locate_file(path)))) for path in paths if _is_documented(path))


def _is_documented(path: PurePosixPath) -> bool:
    is_skipped = path.name in SKIPPED_FILES or path.name.startswith("test_")
    return path.suffix == ".py" and SKIPPED_FOLDERS.isdisjoint(path.parts) and not is_skipped


def module_text(source: str) -> str:
    r"""Return the signatures and docstrings of a module's source; SyntaxError for what Python 3.11 does not parse.

    >>> module_text("def head(n=5):\n    'Return the first rows.'")
    'def head(n=5)\n\nReturn the first rows.'
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # such as an invalid escape: differs between versions
        tree = ast.parse(source, feature_version=(3, 11))
    entries = [f"{entry.signature}\n\n{entry.docstring}" for entry in _entries(tree.body, "")]
    return BETWEEN_ENTRIES.join(filter(None, [_docstring(tree), *entries]))


def split_entries(text: str) -> list[Entry]:
    """Return the documented objects of a module's text; the inverse of `module_text`, without the module's own."""
    parts = (part.partition("\n\n") for part in text.split(BETWEEN_ENTRIES))
    return [Entry(head, body) for head, _, body in parts if SIGNATURE.fullmatch(head) and body]


def _entries(body: list[ast.stmt], prefix: str) -> Iterator[Entry]:
    """Yield the documented classes and functions in the file's order, those under `if` and `try` included."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if docstring := _docstring(node):
                    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
                    returns = f" -> {_unparse(node.returns)}" if node.returns else ""
                    yield Entry(f"{keyword} {prefix}{node.name}({_unparse(node.args)}){returns}", docstring)
            case ast.ClassDef():
                if docstring := _docstring(node):
                    bases = ", ".join(map(_unparse, node.bases))
                    yield Entry(f"class {prefix}{node.name}" + (f"({bases})" if bases else ""), docstring)
                yield from _entries(node.body, f"{prefix}{node.name}.")
            case ast.If() | ast.Try():
                yield from _entries(node.body, prefix)
                yield from _entries(node.orelse, prefix)


def _unparse(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return a docstring without its indentation and with single empty lines, or an empty text."""
    lines = [line.rstrip() for line in (ast.get_docstring(node) or "").splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
