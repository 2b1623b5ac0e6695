"""From a model back to the raw text: `dvc.lock` in, every file and param on the way and whether it has changed out.

    models/export ← export ← models/pretrained ← pretrain ← data/windows ← sample ← … ← prepare ← data/raw

Hashes are DVC's: the md5 of a file's bytes, and for a folder that of the list of its files. Everything is read and
hashed anew, so that a changed byte shows even where size and time of the file were kept.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

from llm.core import params
from llm.core.errors import UserError

MOST_FILES = 20  # of a folder that are listed where all of them match
NO_STAGE = "no stage"


@dataclass(frozen=True)
class Line:
    """One thing that a stage made, read or was told: its hash or value as recorded, and what is different now."""

    kind: str  # made, read, code or params
    name: str
    recorded: str
    difference: str = ""


@dataclass(frozen=True)
class Step:
    """A stage and what dvc.lock says of it."""

    stage: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Content:
    """A file's md5, or a folder's, whose files then stand here with theirs."""

    md5: str
    files: dict[str, str]


def trace_back(target: Path, root: Path) -> list[Step]:
    """The stages that a file or folder came through, from itself back to the raw text.

    Args:
        target: a path under `root` that a stage makes, or one above or in what a stage makes.
        root: the folder of dvc.lock.

    Raises:
        UserError: no dvc.lock, no DVC repository, or no stage makes the target.
    """
    root = root.resolve()
    # Links stay as they are: with `cache.type symlink` an output is a link into DVC's cache.
    name = Path(os.path.relpath(root / target, root)).as_posix()
    stages = read_lock(root / "dvc.lock")
    way = walk_back(stages, name)
    if not way:
        raise UserError(f"{target}: wanted a file or folder that a stage of dvc.lock makes, no stage makes it")
    made = {out["path"] for stage in way for out in stages[stage]["outs"]}
    known = {entry["path"] for stage in stages.values() for kind in ("deps", "outs") for entry in stage.get(kind, [])}
    with closing(Disk(root)) as disk:
        steps = [_step(stage, stages[stage], made, disk) for stage in way]
        strangers = [
            Line("made", file, "", "no stage makes it")
            for file in disk.files_under(name)
            if not any(_overlap(file, path) for path in known)
        ]
    return [*steps, Step(NO_STAGE, tuple(strangers))] if strangers else steps


def differences(steps: Iterable[Step]) -> list[str]:
    """The names of all that is not as recorded, each once, in order."""
    return list(dict.fromkeys(line.name for step in steps for line in step.lines if line.difference))


def render(steps: list[Step]) -> str:
    """The trace as text, a block a stage, and one line about the whole at the end."""
    width = max(shutil.get_terminal_size((120, 24)).columns, 60)
    parts = ["\n".join([step.stage, *_step_lines(step.lines, width)]) for step in steps]
    lines = [line for step in steps for line in step.lines]
    n_params = len({line.name for line in lines if line.kind == "params"})
    n_files = len({line.name for line in lines if line.kind != "params"})
    n_stages = sum(step.stage != NO_STAGE for step in steps)
    whole = f"{n_stages} stages, {n_files} files and folders, {n_params} params"
    differing = differences(steps)
    end = f"{len(differing)} differ:\n  " + "\n  ".join(differing) if differing else "all as recorded"
    return "\n\n".join([*parts, f"{whole}; {end}"])


def read_lock(path: Path) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.lock; UserError where there is none."""
    if not path.is_file():
        raise UserError(f"{path.name}: wanted the record of a run, there is none in {path.parent}; run dvc repro")
    stages: dict[str, dict[str, Any]] = params.read(path).get("stages", {})
    return stages


def walk_back(stages: dict[str, dict[str, Any]], target: str) -> list[str]:
    """Which stages a path came through, each after all that read from it.

    >>> cut = {"deps": [{"path": "raw"}], "outs": [{"path": "cut"}]}
    >>> walk_back({"cut": cut, "train": {"deps": [{"path": "cut"}], "outs": [{"path": "model"}]}}, "model/weights")
    ['train', 'cut']
    """
    makers = {out["path"]: name for name, stage in stages.items() for out in stage.get("outs", [])}
    readers: dict[str, list[str]] = {}
    waiting = [(target, "")]
    while waiting:
        path, reader = waiting.pop(0)
        for name in dict.fromkeys(maker for out, maker in makers.items() if _overlap(out, path)):
            is_new = name not in readers
            readers.setdefault(name, []).extend([reader] if reader else [])
            if is_new and not _tells_of(stages[name], target):
                waiting += [(dep["path"], name) for dep in stages[name].get("deps", []) if not _is_code(dep["path"])]
    return list(TopologicalSorter(readers).static_order())


def listing_hash(files: dict[str, str]) -> str:
    """The hash of a folder as DVC has it, of the md5 of each file by its path in the folder.

    >>> listing_hash({"b": "3b5d5c3712955042212316173ccf37be", "a": "60b725f10c9c85c70d97880dfe8191b3"})
    '562ee692a592790b08e880eff9046f72.dir'
    """
    listing = [{"md5": files[path], "relpath": path} for path in sorted(files)]
    return _md5(json.dumps(listing).encode()) + ".dir"


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of nested mappings, by its dotted key.

    >>> flatten({"model": {"d_model": 192, "layers": [1, 2]}, "seed": 1})
    {'model.d_model': 192, 'model.layers': [1, 2], 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


class Disk:
    """What lies in the repository now. Each path is hashed once."""

    def __init__(self, root: Path):
        from dvc.exceptions import DvcException  # type: ignore[import-untyped]
        from dvc.repo import Repo  # type: ignore[import-untyped]

        try:
            self.repo = Repo(str(root))
        except DvcException as error:
            raise UserError(f"{root}: wanted a DVC repository, {' '.join(str(error).split())}") from None
        self.root = root
        self._seen: dict[str, Content | None] = {}
        self._recorded: dict[str, dict[str, str] | None] = {}
        self._trees: list[Any] = []  # commits, opened when the first is wanted

    def close(self) -> None:
        """Let go of DVC's databases."""
        self.repo.close()
        for tree in self._trees:
            tree.close()

    def content(self, path: str) -> Content | None:
        """The hash of a file or folder, None where there is nothing."""
        if path not in self._seen:
            self._seen[path] = self._hash(path)
        return self._seen[path]

    def files_under(self, path: str) -> list[str]:
        """The files of a folder, by their paths from the root; without the .gitignore that DVC writes itself."""
        content = self.content(path)
        inside = content.files if content else {}
        return [str(PurePosixPath(path, name)) for name in inside if PurePosixPath(name).name != ".gitignore"]

    def recorded_files(self, path: str, md5: str) -> dict[str, str] | None:
        """The files that a folder had when it had this hash: from DVC's cache, else from Git; None if in neither.

        Each source is believed only where its files give the hash.
        """
        if md5 not in self._recorded:
            sources = self._sources(path, md5)
            self._recorded[md5] = next((files for files in sources if listing_hash(files) == md5), None)
        return self._recorded[md5]

    def damage(self, md5: str) -> str:
        """What is wrong with the copy that DVC's cache has under a hash; nothing where it has none."""
        copy = self._cache_path(md5)
        if not copy.is_file() or file_md5(copy) == md5.removesuffix(".dir"):
            return ""
        shown = copy.relative_to(self.root) if copy.is_relative_to(self.root) else copy
        return f"its copy in the cache has other bytes: {shown.as_posix()}"

    def _hash(self, path: str) -> Content | None:
        place = self.root / path
        if place.is_dir():
            # DVC leaves out what .dvcignore names.
            found = (Path(file) for file in self.repo.dvcignore.find(self.repo.fs, str(place)))
            files = {file.relative_to(place).as_posix(): file_md5(file) for file in sorted(found)}
            return Content(listing_hash(files), files)
        return Content(file_md5(place), {}) if place.is_file() else None

    def _cache_path(self, md5: str) -> Path:
        return Path(self.repo.cache.local.oid_to_path(md5))

    def _sources(self, path: str, md5: str) -> Iterator[dict[str, str]]:
        yield self._cached_files(md5)
        for tree in self._commits():
            yield self._committed_files(path, tree)

    def _cached_files(self, md5: str) -> dict[str, str]:
        try:
            listing = json.loads(self._cache_path(md5).read_bytes())
            return {entry["relpath"]: entry["md5"] for entry in listing}
        except (OSError, ValueError, TypeError, KeyError):  # none there, or damaged: the caller checks the hash
            return {}

    def _commits(self) -> list[Any]:
        """Where Git may have a folder as the lock recorded it: in the lock's own commit, and in the last one."""
        from dvc.api import DVCFileSystem  # type: ignore[import-untyped]

        if not self._trees:
            log = ["git", "log", "-1", "--format=%H"]
            runs = (
                subprocess.run([*log, *which], cwd=self.root, capture_output=True, text=True, check=False)
                for which in (["--", "dvc.lock"], [])
            )
            revs = dict.fromkeys(rev for run in runs if (rev := run.stdout.strip()))
            self._trees = [DVCFileSystem(str(self.root), rev=rev) for rev in revs]
        return self._trees

    def _committed_files(self, path: str, tree: Any) -> dict[str, str]:
        from dvc.exceptions import DvcException
        from dvc_data.index import DataIndexDirError

        try:
            found = [PurePosixPath(file) for file in tree.find(path)]
            return {str(file.relative_to(path)): _md5(tree.read_bytes(str(file))) for file in found}
        except (DvcException, DataIndexDirError, OSError):  # nothing of that name in it, or in no cache
            return {}


def _step(name: str, stage: dict[str, Any], made: set[str], disk: Disk) -> Step:
    lines: list[Line] = []
    deps = stage.get("deps", [])
    for out in stage["outs"]:
        lines += _path_lines("made", out, disk, lists_all=True)
    for dep in deps:
        is_raw = not any(_overlap(dep["path"], out) for out in made)
        lines += _path_lines("code" if _is_code(dep["path"]) else "read", dep, disk, lists_all=is_raw)
    if not any(_overlap(dep["path"], out) for dep in deps for out in made):
        metrics = [disk.root / out["path"] for out in stage["outs"] if out["path"].endswith(".json")]
        lines += [line for path in metrics if (line := _library_line(path))]
    order = ["made", "read", "code"]
    lines.sort(key=lambda line: order.index(line.kind))
    for file, values in stage.get("params", {}).items():
        lines += _param_lines(values, params.read(disk.root / file))
    return Step(name, tuple(lines))


def _path_lines(kind: str, entry: dict[str, Any], disk: Disk, lists_all: bool) -> list[Line]:
    """A path and, where it is a folder, those of its files that differ; `lists_all` the others too, if they are few."""
    path, recorded = entry["path"], entry["md5"]
    now = disk.content(path)
    if now is None:
        return [Line(kind, path, recorded, "missing")]
    if not recorded.endswith(".dir"):
        changed = "" if now.md5 == recorded else f"on disk {now.md5}"
        return [Line(kind, path, recorded, changed or disk.damage(recorded))]
    if now.md5 == recorded:
        then, changed = now.files, disk.damage(recorded)
    else:
        listed = disk.recorded_files(path, recorded)
        if listed is None:
            unknown = "what it held stands neither in DVC's cache nor in Git"
            return [Line(kind, path, recorded, f"on disk {now.md5}; {unknown}")]
        then, changed = listed, f"on disk {now.md5}"
    files = [
        Line(kind, f"{path}/{name}", then.get(name, ""), _file_difference(then.get(name), now.files.get(name), disk))
        for name in sorted(then | now.files)
    ]
    shown = [line for line in files if line.difference or (lists_all and len(files) <= MOST_FILES)]
    return [Line(kind, path, recorded, changed), *shown]


def _file_difference(then: str | None, now: str | None, disk: Disk) -> str:
    if then is None:
        return f"added since: {now}"
    if now is None:
        return "missing"
    return disk.damage(then) if now == then else f"on disk {now}"


def _param_lines(recorded: dict[str, Any], content: dict[str, Any]) -> list[Line]:
    now: dict[str, Any] = {}
    for key in recorded:
        try:
            now[key] = params.find(content, key, Path("params.yaml"))
        except UserError:
            continue
    then, now = flatten(recorded), flatten(now)
    lines = []
    for key in then | now:
        was, is_ = (
            json.dumps(values[key], ensure_ascii=False) if key in values else "absent" for values in (then, now)
        )
        same = key in then and key in now and then[key] == now[key]
        lines.append(Line("params", key, was, "" if same else f"now {is_}"))
    return lines


def _library_line(metrics: Path) -> Line | None:
    """Which standard library was read, as the metrics of prepare say; DVC cannot watch it."""
    try:
        python = json.loads(metrics.read_bytes())["python"]
        version, recorded = python["version"], python["library_sha256"]
    except (OSError, ValueError, TypeError, KeyError):  # no metrics, or of a text without the standard library
        return None
    from llm.corpus.sources import library_hash

    name = f"the standard library of Python {version}"
    if platform.python_version() != version:
        return Line("read", name, recorded, f"now Python {platform.python_version()}")
    now = library_hash()
    return Line("read", name, recorded, "" if now == recorded else f"now {now}")


def _tells_of(stage: dict[str, Any], target: str) -> bool:
    """Whether a stage reads a file of the target and puts another beside it, as the model card does.

    What it reads besides, the scores of every later stage for one, is not where the model came from.
    """

    def touches(kind: str) -> bool:
        entries = [entry for entry in stage.get(kind, []) if str(PurePosixPath(entry["path"]).parent) == target]
        return any(not entry["md5"].endswith(".dir") for entry in entries)

    return touches("deps") and touches("outs")


def _step_lines(lines: tuple[Line, ...], width: int) -> list[str]:
    shown = []
    files = [line for line in lines if line.kind in ("made", "read") or (line.kind == "code" and line.difference)]
    widest = max((len(line.name) for line in files), default=0)
    for line in files:
        status = f"DIFFERS: {line.difference}" if line.difference else "as recorded"
        shown.append(f"  {line.kind:<7} {line.name:<{widest}}  {line.recorded:<36} {status}".rstrip())
    n_same = sum(line.kind == "code" and not line.difference for line in lines)
    if n_same:
        shown.append(f"  code    {n_same} files as recorded")
    for line in lines:
        if line.kind == "params" and line.difference:
            shown.append(f"  params  {line.name}: {line.recorded}, DIFFERS: {line.difference}")
    same = ", ".join(f"{line.name} {line.recorded}" for line in lines if line.kind == "params" and not line.difference)
    if same:
        indent = " " * 10
        wrapper = textwrap.TextWrapper(width, "  params  ", indent, break_long_words=False, break_on_hyphens=False)
        shown += wrapper.wrap(same)
    return shown


def _overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one lies in the other."""
    return PurePosixPath(one).is_relative_to(other) or PurePosixPath(other).is_relative_to(one)


def _is_code(path: str) -> bool:
    return path.endswith(".py")


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def file_md5(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
