"""Trace a model back to the raw text: every file and param of dvc.lock on the way, and whether it has changed.

    models/export/hf ← export ← models/pretrained ← pretrain ← data/windows ← sample ← … ← prepare ← data/raw

Hashes are DVC's: the md5 of the bytes of a file, and of the list of its files for a folder. Every file is read and
hashed again, so that a changed byte is found even where size and time of the file are the same.
"""

import json
import os
import platform
import shutil
import subprocess
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from llm.core import params
from llm.core.errors import UserError
from llm.core.outputs import file_md5, listing_hash, md5
from llm.report.metrics import flatten

MAX_LISTED_FILES = 20  # of a folder without differences
KINDS = ("made", "read", "code", "params")
NO_STAGE = "no stage"
NO_RECORD = "; its recorded files are neither in DVC's cache nor in Git"


class Line(NamedTuple):
    """An output, a dependency or a param of a stage: its recorded hash or value, and what differs now."""

    stage: str
    kind: str  # one of KINDS
    name: str
    recorded: str
    difference: str = ""


def trace_back(target: Path, root: Path) -> list[Line]:
    """Return the entries of the stages that a path under `root`, the folder of dvc.lock, came through, the last first.

    Raises:
        UserError: no dvc.lock, no DVC repository, or no stage makes the target.
    """
    root = root.resolve()
    # Links are not resolved: with `cache.type symlink` an output is a link into DVC's cache.
    name = Path(os.path.relpath(root / target, root)).as_posix()
    stages = read_lock(root / "dvc.lock")
    path = walk_back(stages, name)
    if not path:
        raise UserError(f"{target}: expected an output of a stage in dvc.lock, no stage makes it")
    made = {out["path"] for stage in path for out in stages[stage]["outs"]}
    with closing(Disk(root)) as disk:
        lines = [line for stage in path for line in _stage_lines(stage, stages[stage], made, disk)]
        found = [f"{name}/{inner}" for inner in disk.files(name) or {} if inner]
    return lines + [Line(NO_STAGE, "made", file, "", "no stage makes it") for file in _unrecorded(found, stages)]


def _unrecorded(files: list[str], stages: dict[str, dict[str, Any]]) -> list[str]:
    recorded = [entry["path"] for of in stages.values() for entry in of.get("deps", []) + of.get("outs", [])]
    files = [file for file in files if not file.endswith("/.gitignore")]  # DVC itself writes them
    return [file for file in files if not any(_overlap(file, other) for other in recorded)]


def differences(lines: Iterable[Line]) -> list[str]:
    """Return the names of everything that is not as recorded, in order."""
    return list(dict.fromkeys(line.name for line in lines if line.difference))


def render(lines: list[Line]) -> str:
    """Return the trace as text: a block for each stage, and a summary."""
    parts = []
    for stage, own in groupby(lines, key=lambda line: line.stage):
        settings, files = _partition([*own])
        parts.append("\n".join([stage, *_render_files(files), *_render_params(settings)]))
    n_params, n_files = (len({line.name for line in of}) for of in _partition(lines))
    n_stages, differing = len({line.stage for line in lines} - {NO_STAGE}), differences(lines)
    end = f"{len(differing)} differ:\n  " + "\n  ".join(differing) if differing else "all as recorded"
    return "\n\n".join([*parts, f"{n_stages} stages, {n_files} files and folders, {n_params} params; {end}"])


def _partition(lines: list[Line]) -> tuple[list[Line], list[Line]]:
    """Return the params, and all others."""
    return [line for line in lines if line.kind == "params"], [line for line in lines if line.kind != "params"]


def _render_files(files: list[Line]) -> Iterator[str]:
    shown = [line for line in files if line.kind != "code" or line.difference]
    widest = max((len(line.name) for line in shown), default=0)
    for line in shown:
        status = f"DIFFERS: {line.difference}" if line.difference else "as recorded"
        yield f"  {line.kind:<7} {line.name:<{widest}}  {line.recorded:<36} {status}".rstrip()
    if len(shown) < len(files):
        yield f"  code    {len(files) - len(shown)} files and folders as recorded"


def _render_params(settings: list[Line]) -> Iterator[str]:
    yield from (f"  params  {of.name}: {of.recorded}, DIFFERS: {of.difference}" for of in settings if of.difference)
    width = max(shutil.get_terminal_size((120, 24)).columns, 60)
    wrapper = textwrap.TextWrapper(width, "  params  ", " " * 10, break_long_words=False, break_on_hyphens=False)
    yield from wrapper.wrap(", ".join(f"{of.name} {of.recorded}" for of in settings if not of.difference))


def read_lock(path: Path) -> dict[str, dict[str, Any]]:
    """Return the stages of a dvc.lock; UserError where there is none."""
    if not path.is_file():
        raise UserError(f"{path.name}: expected the record of a run in {path.parent}, got none; run dvc repro")
    stages: dict[str, dict[str, Any]] = params.read(path).get("stages", {})
    return stages


def walk_back(stages: dict[str, dict[str, Any]], target: str) -> list[str]:
    """Return the stages that a path came through, each after all that read from it.

    >>> cut = {"deps": [{"path": "raw"}], "outs": [{"path": "cut"}]}
    >>> walk_back({"cut": cut, "train": {"deps": [{"path": "cut"}], "outs": [{"path": "model"}]}}, "model/weights")
    ['train', 'cut']
    """
    order: list[str] = []

    def visit(path: str) -> None:
        for name, stage in stages.items():
            if name not in order and any(_overlap(out["path"], path) for out in stage.get("outs", [])):
                for dep in stage.get("deps", []):
                    visit(dep["path"])
                order.append(name)

    visit(target)
    return order[::-1]


class Disk:
    """The files of the repository as they are now; each path is hashed once."""

    def __init__(self, root: Path):
        from dvc.exceptions import DvcException  # type: ignore[import-untyped]
        from dvc.repo import Repo  # type: ignore[import-untyped]

        try:
            self.repo = Repo(str(root))
        except DvcException as error:
            raise UserError(f"{root}: expected a DVC repository, {' '.join(str(error).split())}") from None
        self.root, self.close = root, self.repo.close
        self._files: dict[str, dict[str, str] | None] = {}

    def files(self, path: str) -> dict[str, str] | None:
        """Return the md5 of each file of a folder, or of a file by an empty name; None where there is neither."""
        if path not in self._files:
            self._files[path] = self._hash(self.root / path)
        return self._files[path]

    def md5(self, path: str) -> str:
        """Return DVC's hash of a file or folder that exists."""
        files = self.files(path) or {}
        return files.get("") or listing_hash(files)

    def _hash(self, path: Path) -> dict[str, str] | None:
        if not path.is_dir():
            return {"": file_md5(path)} if path.is_file() else None
        found = map(Path, self.repo.dvcignore.find(self.repo.fs, str(path)))  # without what .dvcignore names
        return {file.relative_to(path).as_posix(): file_md5(file) for file in sorted(found)}

    def recorded_files(self, path: str, recorded: str) -> dict[str, str] | None:
        """Return the files that a path had at this hash, by DVC's cache or the commit of dvc.lock; None in neither."""
        if not recorded.endswith(".dir"):
            return {"": recorded}
        try:
            listing = json.loads(Path(self.repo.cache.local.oid_to_path(recorded)).read_bytes())
            files = {entry["relpath"]: entry["md5"] for entry in listing}
        except (OSError, ValueError, TypeError, KeyError):  # absent or damaged
            files = self._committed_files(path)
        return files if listing_hash(files) == recorded else None

    def _committed_files(self, path: str) -> dict[str, str]:
        def git(*words: str) -> bytes:
            return subprocess.run(["git", *words], cwd=self.root, capture_output=True, check=False).stdout

        revision = git("log", "-1", "--format=%H", "--", "dvc.lock").decode().strip()
        names = git("ls-tree", "-r", "-z", "--name-only", f"{revision}:{path}").decode().split("\0")[:-1]
        return {name: md5(git("cat-file", "blob", f"{revision}:{path}/{name}")) for name in names}


def _stage_lines(name: str, stage: dict[str, Any], made: set[str], disk: Disk) -> list[Line]:
    lines: list[Line] = []
    for out in stage["outs"]:
        lines += _path_lines(name, "made", out, disk, lists_all=True)
    for dep in stage.get("deps", []):
        kind = "code" if PurePosixPath(dep["path"]).parts[0] in ("llm", "stages") else "read"
        is_raw = kind == "read" and not any(_overlap(dep["path"], out) for out in made)
        lines += _path_lines(name, kind, dep, disk, lists_all=is_raw)
    if name == "prepare":
        lines += _library_lines(disk.root / "metrics" / "prepare.json")
    for file, values in stage.get("params", {}).items():
        lines += _param_lines(name, values, params.read(disk.root / file))
    return sorted(lines, key=lambda line: KINDS.index(line.kind))


def _path_lines(stage: str, kind: str, entry: dict[str, Any], disk: Disk, lists_all: bool) -> list[Line]:
    """Return a path and those of its files that differ; with `lists_all` the others too, if they are few."""
    path, recorded = entry["path"], entry["md5"]
    now = disk.files(path)
    if now is None:
        return [Line(stage, kind, path, recorded, "missing")]
    found = disk.md5(path)
    then = now if found == recorded else disk.recorded_files(path, recorded)
    changed = "" if found == recorded else f"on disk {found}{NO_RECORD * (then is None)}"
    lines = [] if then is None else _file_lines(stage, kind, path, then, now)
    if not lists_all or len(lines) > MAX_LISTED_FILES:
        lines = [line for line in lines if line.difference]
    return [Line(stage, kind, path, recorded, changed), *lines]


def _file_lines(stage: str, kind: str, folder: str, then: dict[str, str], now: dict[str, str]) -> list[Line]:
    lines = []
    for name in sorted({*then, *now} - {""}):
        difference = f"on disk {now[name]}" if name in now else "missing"
        if name not in then:
            difference = f"added since: {now[name]}"
        same = then.get(name) == now.get(name)
        lines.append(Line(stage, kind, f"{folder}/{name}", then.get(name, ""), "" if same else difference))
    return lines


def _param_lines(stage: str, recorded: dict[str, Any], content: dict[str, Any]) -> Iterator[Line]:
    now: dict[str, Any] = {}
    for key in recorded:
        try:
            now |= flatten({key: params.find(content, key, Path("params.yaml"))})
        except UserError:
            continue
    then = flatten(recorded)
    for key in then | now:
        was, is_ = (json.dumps(of[key], ensure_ascii=False) if key in of else "absent" for of in (then, now))
        yield Line(stage, "params", key, was, "" if then.get(key, ...) == now.get(key, ...) else f"now {is_}")


def _library_lines(metrics: Path) -> Iterator[Line]:
    """Yield the standard library that was read, as the metrics of prepare record it; DVC has no hash of it."""
    try:
        python = json.loads(metrics.read_bytes())["python"]
    except (OSError, ValueError, KeyError):  # no metrics, or of a text without the standard library
        return
    from llm.corpus.sources import library_hash

    version, found = python["version"], platform.python_version()
    now = f"Python {found}" if found != version else library_hash()
    difference = "" if now == python["library_sha256"] else f"now {now}"
    yield Line("prepare", "read", f"the standard library of Python {version}", python["library_sha256"], difference)


def _overlap(one: str, other: str) -> bool:
    """Return whether two paths are the same, or one contains the other."""
    return PurePosixPath(one).is_relative_to(other) or PurePosixPath(other).is_relative_to(one)
