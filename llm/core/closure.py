"""List the files of this project that a script imports, directly or not.

    stages/tokenize.py → [llm/__init__.py, llm/core/errors.py, …, stages/__init__.py, stages/tokenize.py]

DVC does not follow imports. `llm.core.stage` hashes these files, and a test compares them with the deps in dvc.yaml.
The source is parsed, not run, so an import inside a function counts as well.
"""

import ast
from pathlib import Path


def import_closure(script: Path, root: Path) -> list[Path]:
    """Return the files under `root` that `script` imports, and the script itself, relative to root and sorted."""
    root = root.resolve()
    found: set[Path] = set()
    waiting = [script.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            candidates = [root.joinpath(*name.split(".")) for name in _imported(path)]
            files = [file for one in candidates for file in (one.with_suffix(".py"), one / "__init__.py")]
            files += [folder / "__init__.py" for folder in path.parents if folder != root]
            waiting += filter(Path.is_file, files)
    return sorted(path.relative_to(root) for path in found)


def _imported(path: Path) -> set[str]:
    """Return the dotted names that a file may import: `from a.b import c` gives a.b and a.b.c."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative imports are not used here"
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return names
