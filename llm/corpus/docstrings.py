"""Documentation out of source code: signatures and docstrings of a package's modules, one document per module.

    numpy/_core/shape_base.py  →  def atleast_1d(*arys)

                                  Convert inputs to arrays with at least one dimension.

                                  Scalar inputs are converted to 1-dimensional arrays, whilst
                                  …


                                  def atleast_2d(*arys)
                                  …

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
SKIPPED_FOLDERS = {"test", "tests", "testing", "_vendor", "vendor", "externals", "_vendored", "__pycache__"}
SKIPPED_FILES = {"conftest.py", "setup.py", "version.py", "_version.py", "__config__.py"}


class Entry(NamedTuple):
    """One documented object of a module."""

    signature: str  # `def Series.head(self, n: int=5) -> Series`, `class Series(NDFrame)`, or empty for the module
    docstring: str


def package_files(name: str, lock_file: Path) -> list[tuple[str, Path]]:
    """Return the modules of an installed distribution as (path within site-packages, file), sorted by path.

    Raises `UserError` unless the installed version is the one that `lock_file` pins.
    """
    pinned = _pinned_version(name, lock_file)
    try:
        package = distribution(name)
    except PackageNotFoundError:
        raise UserError(f"{name}: expected version {pinned}, it is not installed; run `make setup`") from None
    installed = package.version.partition("+")[0]  # torch's builds for a processor or a CUDA version differ in this
    if installed != pinned:
        raise UserError(f"{name}: expected version {pinned} of {lock_file}, got {package.version}; run `make setup`")
    found = []
    for file in package.files or ():
        path = PurePosixPath(file)
        if path.suffix == ".py" and ".." not in path.parts and not _is_skipped(path):
            found.append((path.as_posix(), Path(str(package.locate_file(file)))))
    return sorted(found)


def _pinned_version(name: str, lock_file: Path) -> str:
    pattern = rf"(?mi)^{re.escape(name)}==([^\s;]+)"
    pinned = re.search(pattern, lock_file.read_text(encoding="utf-8"))
    if not pinned:
        raise UserError(f"{lock_file}: expected a line {name}==VERSION for a source of docstrings, got none")
    return pinned[1]


def _is_skipped(path: PurePosixPath) -> bool:
    return not SKIPPED_FOLDERS.isdisjoint(path.parts) or path.name in SKIPPED_FILES or path.name.startswith("test_")


def module_text(source: str) -> str:
    r"""Return the signatures and docstrings of a module's source, or an empty text where it has none.

    Raises `SyntaxError` for source that Python 3.11 does not parse, whatever the interpreter.

    >>> module_text("def head(n=5):\n    'Return the first rows.'")
    'def head(n=5)\n\nReturn the first rows.'
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # such as an invalid escape: differs between versions
        tree = ast.parse(source, feature_version=(3, 11))
    entries = [Entry("", docstring)] if (docstring := _docstring(tree)) else []
    entries += _entries(tree.body, "")
    return BETWEEN_ENTRIES.join(f"{entry.signature}\n\n{entry.docstring}".lstrip("\n") for entry in entries)


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
                    yield Entry(_function_signature(node, prefix), docstring)
            case ast.ClassDef():
                if docstring := _docstring(node):
                    bases = ", ".join(_unparse(base) for base in node.bases)
                    yield Entry(f"class {prefix}{node.name}" + (f"({bases})" if bases else ""), docstring)
                yield from _entries(node.body, f"{prefix}{node.name}.")
            case ast.If() | ast.Try():
                yield from _entries(node.body, prefix)
                yield from _entries(node.orelse, prefix)


def _function_signature(node: ast.FunctionDef | ast.AsyncFunctionDef, prefix: str) -> str:
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {_unparse(node.returns)}" if node.returns else ""
    return f"{keyword} {prefix}{node.name}({_unparse(node.args)}){returns}"


def _unparse(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return a docstring without its indentation and with single empty lines, or an empty text."""
    lines = [line.rstrip() for line in (ast.get_docstring(node) or "").splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
