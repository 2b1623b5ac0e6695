"""The files of a project that a script reaches through its imports."""

from pathlib import Path

import pytest

from llm.core.closure import import_closure

INIT = '"""A package."""\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project: a script, a package with an inner package, and modules that nobody imports."""
    files = {
        "scripts/__init__.py": INIT,
        "scripts/run.py": "import json\nfrom lib.near import thing\n",
        "scripts/other.py": "import lib.unused\n",
        "lib/__init__.py": INIT,
        "lib/near.py": "from lib.inner import deep\n\nthing = 1\n",
        "lib/unused.py": "",
        "lib/inner/__init__.py": INIT,
        "lib/inner/deep.py": "def late():\n    import lib.late\n",
        "lib/late.py": "import numpy\nfrom lib import near\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def closure(root: Path, script: str) -> list[str]:
    return [path.as_posix() for path in import_closure(root / script, root)]


def test_all_that_is_imported_is_found_directly_or_not_also_inside_functions_and_in_circles(root: Path) -> None:
    assert closure(root, "scripts/run.py") == [
        "lib/__init__.py",
        "lib/inner/__init__.py",
        "lib/inner/deep.py",
        "lib/late.py",
        "lib/near.py",
        "scripts/__init__.py",
        "scripts/run.py",
    ]


def test_a_module_without_imports_of_the_project_is_reached_with_its_packages(root: Path) -> None:
    (root / "scripts" / "run.py").write_text("import os.path\nfrom numpy import array\n")
    assert closure(root, "scripts/run.py") == ["scripts/__init__.py", "scripts/run.py"]


def test_a_name_from_a_package_is_a_module_where_there_is_one(root: Path) -> None:
    (root / "scripts" / "run.py").write_text("from lib import unused, missing\n")
    assert closure(root, "scripts/run.py") == [
        "lib/__init__.py",
        "lib/unused.py",
        "scripts/__init__.py",
        "scripts/run.py",
    ]


def test_what_a_package_imports_comes_with_every_module_of_it(root: Path) -> None:
    (root / "lib" / "inner" / "__init__.py").write_text("import lib.unused\n")
    assert "lib/unused.py" in closure(root, "scripts/run.py")


def test_the_paths_do_not_depend_on_where_the_root_is_seen_from(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_outside = import_closure(root / "scripts" / "run.py", root)
    monkeypatch.chdir(root)
    assert import_closure(Path("scripts/run.py"), Path()) == from_outside


def test_a_relative_import_is_not_overlooked(root: Path) -> None:
    (root / "lib" / "near.py").write_text("from . import unused\n")
    with pytest.raises(AssertionError, match="relative imports are not used here"):
        closure(root, "scripts/run.py")
