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
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from llm.core import params
from llm.core.errors import UserError
from llm.core.outputs import file_md5, listing_hash, md5
from llm.report.metrics import flatten

MAX_LISTED_FILES = 20  # of a folder without differences
CODE = ("llm", "stages")  # folders
NO_STAGE = "no stage"


class Line(NamedTuple):
    """An output, a dependency or a param of a stage: its recorded hash or value, and what differs now."""

    kind: str  # made, read, code or params
    name: str
    recorded: str
    difference: str = ""


class Step(NamedTuple):
    """A stage and its entries in dvc.lock."""

    stage: str
    lines: list[Line]


class Content(NamedTuple):
    """The md5 of a file, or of a folder and of its files."""

    md5: str
    files: dict[str, str]


def trace_back(target: Path, root: Path) -> list[Step]:
    """Return the stages that a path under `root`, the folder of dvc.lock, came through, the last one first.

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
        steps = [_step(stage, stages[stage], made, disk) for stage in path]
        content = disk.content(name)
    strangers = [f"{name}/{file}" for file in _unrecorded(stages, name, content)]
    if strangers:
        steps.append(Step(NO_STAGE, [Line("made", file, "", "no stage makes it") for file in strangers]))
    return steps


def _unrecorded(stages: dict[str, dict[str, Any]], folder: str, content: Content | None) -> list[str]:
    """Return the files of a folder that belong to no stage; DVC itself writes .gitignore."""
    recorded = [entry["path"] for of in stages.values() for kind in ("deps", "outs") for entry in of.get(kind, [])]
    files = [file for file in (content.files if content else {}) if PurePosixPath(file).name != ".gitignore"]
    return [file for file in files if not any(_overlap(f"{folder}/{file}", other) for other in recorded)]


def differences(steps: Iterable[Step]) -> list[str]:
    """Return the names of everything that is not as recorded, in order."""
    return list(dict.fromkeys(line.name for step in steps for line in step.lines if line.difference))


def render(steps: list[Step]) -> str:
    """Return the trace as text: a block for each stage, and a summary."""
    width = max(shutil.get_terminal_size((120, 24)).columns, 60)
    parts = ["\n".join([step.stage, *_render_files(step.lines), *_render_params(step.lines, width)]) for step in steps]
    names = {(line.kind == "params", line.name) for step in steps for line in step.lines}
    n_params = sum(is_param for is_param, _ in names)
    n_stages = sum(step.stage != NO_STAGE for step in steps)
    counts = f"{n_stages} stages, {len(names) - n_params} files and folders, {n_params} params"
    differing = differences(steps)
    end = f"{len(differing)} differ:\n  " + "\n  ".join(differing) if differing else "all as recorded"
    return "\n\n".join([*parts, f"{counts}; {end}"])


def _render_files(lines: list[Line]) -> Iterator[str]:
    files = [line for line in lines if line.kind != "params"]
    shown = [line for line in files if line.kind != "code" or line.difference]
    widest = max((len(line.name) for line in shown), default=0)
    for line in shown:
        status = f"DIFFERS: {line.difference}" if line.difference else "as recorded"
        yield f"  {line.kind:<7} {line.name:<{widest}}  {line.recorded:<36} {status}".rstrip()
    if len(shown) < len(files):
        yield f"  code    {len(files) - len(shown)} files and folders as recorded"


def _render_params(lines: list[Line], width: int) -> Iterator[str]:
    values = [line for line in lines if line.kind == "params"]
    yield from (f"  params  {of.name}: {of.recorded}, DIFFERS: {of.difference}" for of in values if of.difference)
    same = ", ".join(f"{of.name} {of.recorded}" for of in values if not of.difference)
    wrapper = textwrap.TextWrapper(width, "  params  ", " " * 10, break_long_words=False, break_on_hyphens=False)
    yield from wrapper.wrap(same)


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
        self._contents: dict[str, Content | None] = {}

    def content(self, path: str) -> Content | None:
        """Return the hash of a file or folder, None where there is none."""
        if path not in self._contents:
            self._contents[path] = self._hash(self.root / path)
        return self._contents[path]

    def _hash(self, path: Path) -> Content | None:
        if not path.is_dir():
            return Content(file_md5(path), {}) if path.is_file() else None
        found = map(Path, self.repo.dvcignore.find(self.repo.fs, str(path)))  # without what .dvcignore names
        files = {file.relative_to(path).as_posix(): file_md5(file) for file in sorted(found)}
        return Content(listing_hash(files), files)

    def recorded_files(self, path: str, recorded: str) -> dict[str, str] | None:
        """Return the files that a folder had at this hash, from DVC's cache or from Git; None if neither has them."""
        if not recorded.endswith(".dir"):
            return {}
        committed = [self._committed_files(path, of) for of in (["--", "dvc.lock"], [])]
        sources = [self._cached_files(recorded), *committed]
        return next((files for files in sources if listing_hash(files) == recorded), None)

    def damage(self, md5: str) -> str:
        """Return what is wrong with the copy in DVC's cache; empty where it is intact or absent."""
        copy = self._cache_path(md5)
        is_intact = not copy.is_file() or file_md5(copy) == md5.removesuffix(".dir")
        return "" if is_intact else f"its copy in DVC's cache has other bytes: {copy}"

    def _cache_path(self, md5: str) -> Path:
        return Path(self.repo.cache.local.oid_to_path(md5))

    def _cached_files(self, md5: str) -> dict[str, str]:
        try:
            return {entry["relpath"]: entry["md5"] for entry in json.loads(self._cache_path(md5).read_bytes())}
        except (OSError, ValueError, TypeError, KeyError):  # absent or damaged: the caller checks the hash
            return {}

    def _committed_files(self, path: str, of: list[str]) -> dict[str, str]:
        """Return the files of a folder in the last commit that `git log` finds."""

        def git(*words: str) -> bytes:
            return subprocess.run(["git", *words], cwd=self.root, capture_output=True, check=False).stdout

        revision = git("log", "-1", "--format=%H", *of).decode().strip()
        names = git("ls-tree", "-r", "-z", "--name-only", f"{revision}:{path}").decode().split("\0")[:-1]
        return {name: md5(git("cat-file", "blob", f"{revision}:{path}/{name}")) for name in names}


def _step(name: str, stage: dict[str, Any], made: set[str], disk: Disk) -> Step:
    lines: list[Line] = []
    for out in stage["outs"]:
        lines += _path_lines("made", out, disk, lists_all=True)
    for dep in stage.get("deps", []):
        is_made = any(_overlap(dep["path"], out) for out in made)
        kind = "code" if PurePosixPath(dep["path"]).parts[0] in CODE else "read"
        lines += _path_lines(kind, dep, disk, lists_all=kind == "read" and not is_made)
    if name == "prepare" and (line := _library_line(disk.root / "metrics" / "prepare.json")):
        lines.append(line)
    lines.sort(key=lambda line: ["made", "read", "code"].index(line.kind))
    for file, values in stage.get("params", {}).items():
        lines += _param_lines(values, params.read(disk.root / file))
    return Step(name, lines)


def _path_lines(kind: str, entry: dict[str, Any], disk: Disk, lists_all: bool) -> list[Line]:
    """Return a path and those of its files that differ; with `lists_all` the others too, if they are few."""
    path, recorded = entry["path"], entry["md5"]
    now = disk.content(path)
    if now is None:
        return [Line(kind, path, recorded, "missing")]
    changed = f"on disk {now.md5}" if now.md5 != recorded else disk.damage(recorded)
    then = now.files if now.md5 == recorded else disk.recorded_files(path, recorded)
    if then is None:
        changed = f"{changed}; its recorded files are neither in DVC's cache nor in Git"
    files = [] if then is None else _folder_lines(kind, path, then, now.files, disk)
    lists_all = lists_all and len(files) <= MAX_LISTED_FILES
    return [Line(kind, path, recorded, changed), *(line for line in files if line.difference or lists_all)]


def _folder_lines(kind: str, path: str, then: dict[str, str], now: dict[str, str], disk: Disk) -> list[Line]:
    return [
        Line(kind, f"{path}/{name}", then.get(name, ""), _file_difference(then.get(name), now.get(name), disk))
        for name in sorted(then | now)
    ]


def _file_difference(then: str | None, now: str | None, disk: Disk) -> str:
    if then is None:
        return f"added since: {now}"
    if now is None:
        return "missing"
    return disk.damage(then) if now == then else f"on disk {now}"


def _param_lines(recorded: dict[str, Any], content: dict[str, Any]) -> Iterator[Line]:
    now: dict[str, Any] = {}
    for key in recorded:
        try:
            now[key] = params.find(content, key, Path("params.yaml"))
        except UserError:
            continue
    then, now = flatten(recorded), flatten(now)
    for key in then | now:
        was, is_ = (json.dumps(of[key], ensure_ascii=False) if key in of else "absent" for of in (then, now))
        is_same = key in then and key in now and then[key] == now[key]
        yield Line("params", key, was, "" if is_same else f"now {is_}")


def _library_line(metrics: Path) -> Line | None:
    """Return the standard library that was read, as the metrics of prepare record it; DVC has no hash of it."""
    try:
        python = json.loads(metrics.read_bytes())["python"]
        version, recorded = python["version"], python["library_sha256"]
    except (OSError, ValueError, TypeError, KeyError):  # no metrics, or of a text without the standard library
        return None
    from llm.corpus.sources import library_hash

    name, found = f"the standard library of Python {version}", platform.python_version()
    now = f"Python {found}" if found != version else library_hash()
    return Line("read", name, recorded, "" if now == recorded else f"now {now}")


def _overlap(one: str, other: str) -> bool:
    """Return whether two paths are the same, or one contains the other."""
    return PurePosixPath(one).is_relative_to(other) or PurePosixPath(other).is_relative_to(one)
