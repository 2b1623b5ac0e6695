"""Keep the whole state of a training run in its scratch folder."""

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch


class RunState:
    """A run's whole state in one scratch file, replaced by rename, so that a kill leaves the old or the new one."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "state.pt"
        self.curve_path = folder / "curve.tsv"

    def save(self, state: dict[str, Any]) -> None:
        """Keep the state: tensors, numbers, texts, lists and dicts of them."""
        part = self.path.with_suffix(".part")
        with part.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                # Of a full disk torch says that its file has another length; what the system said comes before it.
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)

    def load(self) -> dict[str, Any] | None:
        """The state that was kept last, or None; one that is cut short is told of and passed over.

        A rename leaves no half a file, but a full or broken disk may. A run from its start ends in the same bytes.
        """
        if not self.path.exists():
            return None
        # What torch.save writes is a zip archive, whose last bytes say what is in it.
        if not zipfile.is_zipfile(self.path):
            print(f"{self.path}: is damaged, so the run begins anew", file=sys.stderr)
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        return state
