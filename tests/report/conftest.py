"""Fixtures of the tests of reports."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run_in_repository() -> Callable[..., None]:
    """Runs commands of Git and DVC in a folder, without the settings of this process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "PYTHON"))}
    author = {f"GIT_{role}_{key}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(folder: Path, *commands: str) -> None:
        for command in commands:
            done = subprocess.run(
                command.split(), cwd=folder, env=kept | author | path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr

    return run
