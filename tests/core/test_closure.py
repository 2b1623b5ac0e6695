"""The files of a project that a script imports, directly or not."""

from pathlib import Path

import pytest

from llm.core.closure import import_closure

FILES = {
    "scripts/__init__.py": "",
    "scripts/run.py": "import json\nfrom lib.near import thing\n",
    "lib/__init__.py": "",
    "lib/near.py": "from lib.inner import deep\n\nthing = 1\n",
    "lib/unused.py": "",
    "lib/inner/__init__.py": "",
    "lib/inner/deep.py": "def late():\n    import lib.late\n",
    "lib/late.py": "import numpy\nfrom lib import near\n",
}
PACKAGES = ["scripts/__init__.py", "scripts/run.py"]
NEAR = ["lib/__init__.py", "lib/inner/__init__.py", "lib/inner/deep.py", "lib/late.py", "lib/near.py", *PACKAGES]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, NEAR),  # also imports inside of functions, and circular ones
        ({"scripts/run.py": "import os.path\nfrom numpy import array\n"}, PACKAGES),
        ({"scripts/run.py": "from lib import unused, missing\n"}, ["lib/__init__.py", "lib/unused.py", *PACKAGES]),
        ({"lib/inner/__init__.py": "import lib.unused\n"}, sorted([*NEAR, "lib/unused.py"])),
    ],
)
def test_the_closure(changes: dict[str, str], expected: list[str], tmp_path: Path, monkeypatch) -> None:
    for name, text in (FILES | changes).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = import_closure(tmp_path / "scripts/run.py", tmp_path)
    assert [path.as_posix() for path in found] == expected
    monkeypatch.chdir(tmp_path)
    assert import_closure(Path("scripts/run.py"), Path()) == found
