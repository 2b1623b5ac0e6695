"""Replace the sources of text in params.yaml by the user's own files under data/raw.

    data/raw/letters/a.txt, …  ──►  {name: letters, kind: files, globs: ["data/raw/letters/**/*"], on_error: skip}

One source per folder or file. What cannot be read is skipped and counted by the stage prepare.
"""

import glob
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm.commands.check import check_params
from llm.commands.presets import edited
from llm.core.errors import UserError

RAW = Path("data/raw")  # which the stage prepare depends on
N_SHOWN = 8  # kinds of files, the most frequent ones


def use_text(target: Path, paths: Sequence[Path]) -> list[str]:
    """Write the sources into the params file `target`; return lines on the files and on the next commands.

    UserError for a path outside of data/raw, or without files; `target` is then unchanged.
    """
    check_params(target)
    sources, lines = list[dict[str, Any]](), list[str]()
    for path in paths:
        files = _files(path)
        pattern = glob.escape(path.as_posix()) + ("/**/*" if path.is_dir() else "")
        name = _name_of(path, {source["name"] for source in sources})
        sources.append({"name": name, "kind": "files", "globs": [pattern], "on_error": "skip"})
        kinds = Counter(file.suffix or "no suffix" for file in files).most_common(N_SHOWN)
        n_bytes = sum(file.stat().st_size for file in files)
        lines.append(f"{name}: {n_bytes:,} bytes; files: {', '.join(f'{kind} {count:,}' for kind, count in kinds)}")
    with edited(target) as content:
        replaced = [source["name"] for source in content["prepare"]["sources"]]
        content["prepare"]["sources"] = sources
    check_params(target)
    tracked = [] if RAW.with_suffix(".dvc").is_file() else [f"  dvc add {RAW}"]
    return [*lines, f"replaced: {', '.join(replaced)}", "next:", *tracked, "  python -m llm plan --minutes 10"]


def _files(path: Path) -> list[Path]:
    if ".." in path.parts or not path.is_relative_to(RAW):
        raise UserError(f"{path}: expected a folder or file under {RAW}, whose files DVC tracks; copy it there")
    found = [path] if path.is_file() else sorted(of for of in path.rglob("*") if of.is_file() and of.name != ".keep")
    if not found:
        raise UserError(f"{path}: expected files of text, got {'none' if path.is_dir() else 'no such path'}")
    return found


def _name_of(path: Path, taken: set[str]) -> str:
    """Return a name for a source: that of the path, in the letters that a name may have."""
    stem = "mine" if path == RAW else re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "mine"
    number = 2
    name = stem
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name
