"""List the files of this project that a script imports, directly or not.

    stages/tokenize.py → [llm/__init__.py, llm/core/errors.py, …, stages/__init__.py, stages/tokenize.py]

DVC does not follow imports. `llm.core.stage` hashes these files, and a test compares them with the deps in dvc.yaml.
The source is parsed, not run, so an import inside a function counts as well.
"""

import ast
from pathlib import Path


def import_closure(script: Path, root: Path) -> list[Path]:
    """Return the files under `root` that `script` imports, and the script itself, relative to root and sorted."""
    found: set[Path] = set()
    waiting = [script.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for name in _imported(path):
            waiting.extend(_files_of(name, root.resolve()))
        waiting.extend(_packages_above(path, root.resolve()))
    return sorted(path.relative_to(root.resolve()) for path in found)


def _imported(path: Path) -> set[str]:
    """Return the dotted names that a file may import: `from a.b import c` gives a.b and a.b.c."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative imports are not used here"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _files_of(name: str, root: Path) -> list[Path]:
    path = root.joinpath(*name.split("."))
    return [path for path in (path.with_suffix(".py"), path / "__init__.py") if path.is_file()]


def _packages_above(path: Path, root: Path) -> list[Path]:
    return [init for folder in path.parents if folder != root and (init := folder / "__init__.py").is_file()]
