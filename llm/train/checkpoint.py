"""Save the state of a training run in its scratch folder."""

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch


class Checkpoint:
    """The last saved state of a run, a file that is replaced by rename: a kill leaves the old or the new one."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "state.pt"
        self.curve_path = folder / "curve.tsv"

    def save(self, state: dict[str, Any]) -> None:
        """Save tensors, numbers, texts, lists and dicts of them."""
        part = self.path.with_suffix(".part")
        with part.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                # On a full disk torch reports an unexpected file length; the error of the system is its context.
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None; a truncated file is reported and ignored: the run starts anew."""
        if not self.path.exists():
            return None
        # torch.save writes a zip archive; its index is at the end.
        if not zipfile.is_zipfile(self.path):
            print(f"{self.path}: damaged checkpoint ignored; training starts from step 0", file=sys.stderr)
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        return state
