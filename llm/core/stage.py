"""What every stage does around its work: command line and params in, whole outputs out, clear errors.

A stage is a script with one `main` whose signature says all that it touches:

    def main(params: Annotated[WindowParams, Param("sample")], tokens: Input, windows: Output, metrics: Output):

    if __name__ == "__main__":
        stage.run(main)

`run` takes each `Param` from params.yaml and each `Input` and `Output` from the stage's `meta` in dvc.yaml, or from
an option of the same name. It gives `main` other paths to write to, on the outputs' own disks, and moves them to the
outputs by rename when `main` is through: an output is whole or absent. It hashes code, params and inputs before and
after, because DVC records them as they are at the end: outputs of inputs that changed meanwhile are thrown away. Under
DVC it checks all of params.yaml first, so that the first stage of a run refuses what a later one would, and ends when
DVC does. A `Scratch` is a folder that survives a kill, keyed by all of those hashes.
"""

import argparse
import fcntl
import hashlib
import importlib
import inspect
import json
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import Field

from llm.core import params
from llm.core.closure import import_closure
from llm.core.errors import UserError, one_line_errors

SCRATCH, WIRING = Path(".scratch"), Path("dvc.yaml")
CHANGED = "changed while the stage ran; its outputs are dropped, run it again"
NO_CONTENT = {"__pycache__", SCRATCH.name}  # folders in an input that are no part of it
# DVC starts a stage through a shell. Bash becomes the stage; dash stays, and waits for it.
SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}


@dataclass(frozen=True)
class Param:
    """Marks an argument that comes from params.yaml; `{name}` in the key stands for the option `--name`."""

    key: str


@dataclass(frozen=True)
class Place:
    """Marks an argument that is a path, and which kind."""

    kind: str


Seed = Annotated[int, Field(ge=0, lt=2**63), Param("seed")]
Input = Annotated[Path, Place("input")]
Output = Annotated[Path, Place("output")]
Scratch = Annotated[Path, Place("scratch")]


@dataclass(frozen=True)
class Signature:
    """What a stage's `main` takes, by name: params (with their types), inputs, outputs, plain words."""

    params: dict[str, tuple[str, Any]]
    inputs: list[str]
    outputs: list[str]
    scratch: list[str]
    words: list[str]

    @classmethod
    def of(cls, main: Callable[..., None]) -> "Signature":
        """Read it from the annotations."""
        found = cls({}, [], [], [], [])
        kinds = {"input": found.inputs, "output": found.outputs, "scratch": found.scratch}
        for name, hint in get_type_hints(main, include_extras=True).items():
            marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
            if hint is str:
                found.words.append(name)
            for mark in marks:
                if isinstance(mark, Param):
                    found.params[name] = (mark.key, hint)
                elif isinstance(mark, Place):
                    kinds[mark.kind].append(name)
        return found


def run(main: Callable[..., None]) -> None:
    """Run a stage as the command line says; exits 0, or 2 with one line that says what the user got wrong."""
    _end_with_dvc()
    script = Path(inspect.getfile(main))
    try:
        with one_line_errors():
            _run(main, script, sys.argv[1:])
    except UserError as error:
        print(f"{script.stem}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{script.stem}: interrupted; nothing was written to its outputs", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # a library's threads may still work, and would slow down Python's own way out by seconds


def _run(main: Callable[..., None], script: Path, argv: list[str]) -> None:
    began = time.perf_counter()
    signature = Signature.of(main)
    given = _parse(signature, script, argv)
    if "DVC_STAGE" in os.environ:
        _check_pipeline(given["params"], [given[name] for name in signature.outputs])
    keys = {name: key.format(**given) for name, (key, _) in signature.params.items()}

    def sections() -> dict[str, Any]:
        return {name: params.load(given["params"], keys[name], hint) for name, (_, hint) in signature.params.items()}

    for name in signature.inputs:
        if not given[name].exists():
            raise UserError(f"--{name}: wanted a file or folder, there is no {given[name]}")
    values = sections()
    _refuse_if_edited_since_start(script)
    before = _snapshot(script, [given[name] for name in signature.inputs])
    key = _digest({"stage": script.stem, "values": repr(values), "files": before, "words": str(given)})
    targets = {name: given[name] for name in signature.outputs}
    if given["runtime"] is not None:
        targets["runtime"] = given["runtime"]
    with _work_folder(script.stem, key) as work, _staged(targets, f"{script.stem}-{key[:24]}") as staged:
        scratch = {name: work / name for name in signature.scratch}
        for path in scratch.values():
            path.mkdir(exist_ok=True)
        words = {name: given[name] for name in [*signature.inputs, *signature.words]}
        outputs = {name: staged[name] for name in signature.outputs}
        places = [folder for target in targets.values() for folder in (target.parent, target)]
        with one_line_errors(written=[SCRATCH, *places, Path(tempfile.gettempdir())]):
            main(**values, **words, **outputs, **scratch)
            _refuse_if_changed(before, script, [given[name] for name in signature.inputs])
            if sections() != values:
                raise UserError(f"{given['params']}: {CHANGED}")
            if "runtime" in staged:
                write_json(staged["runtime"], _runtime(time.perf_counter() - began))
            for name, path in staged.items():
                assert path.exists(), f"{script.stem} did not write its output {name}"
                _put(path, targets[name])
        shutil.rmtree(work)


def _parse(signature: Signature, script: Path, argv: list[str]) -> dict[str, Any]:
    """Read the command line; a path that it does not name is the one in dvc.yaml."""
    parser = argparse.ArgumentParser(prog=f"python -m stages.{script.stem}", allow_abbrev=False)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the params file")
    parser.add_argument("--runtime", type=Path, help="where to write the time and memory that the stage took")
    for name in signature.inputs + signature.outputs:
        kind = "read" if name in signature.inputs else "written"
        parser.add_argument(f"--{name}", type=Path, help=f"a path that is {kind}")
    for name in signature.words:
        parser.add_argument(f"--{name}")
    given = vars(parser.parse_args(argv))
    names = [*signature.inputs, *signature.outputs, *signature.words]
    if any(given[name] is None for name in names) and WIRING.exists():
        wired = wired_paths(WIRING, script.stem, given["params"], given.get("name"))
        for name in {*names, "runtime"} & wired.keys():
            given[name] = given[name] or (wired[name] if name in signature.words else Path(wired[name]))
    if missing := [name for name in names if given[name] is None]:
        parser.error(f"expected {', '.join(f'--{name}' for name in missing)} or the stage's meta in {WIRING}")
    return given


def wired_paths(wiring: Path, stage: str, params_file: Path, name: str | None) -> dict[str, str]:
    """Return the paths of a stage's arguments, as its `meta` in dvc.yaml has them.

    Of a stage that stands there for each `name` of a mapping in params.yaml, with the values of that one.
    """
    content = params.find(params.read(wiring), f"stages.{stage}", wiring)
    values: dict[str, Any] = {"key": name}
    if "foreach" in content and name is not None:
        item = params.find(params.read(params_file), f"{content['foreach'].strip('${}')}.{name}", params_file)
        values |= {f"item.{key}": value for key, value in item.items()}
    wired: dict[str, str] = content.get("do", content).get("meta", {})
    return {
        argument: re.sub(r"\$\{([\w.]+)\}", lambda found: str(values.get(found[1])), path)
        for argument, path in wired.items()
    }


def _check_pipeline(params_file: Path, outputs: Iterable[Path]) -> None:
    """Refuse what a later stage of the run would refuse, and what DVC could not record, before any work is done."""
    # Not an import statement: the check reads params of all stages, and no output depends on it.
    importlib.import_module("llm.commands.check").check_params(params_file)
    root = Path.cwd().resolve()
    for output in outputs:
        link = next((path for path in reversed(output.parents) if path.is_symlink()), None)
        if link is not None and not link.resolve().is_relative_to(root):
            raise UserError(
                f"{link}: expected a folder of the repository, got a link to {link.readlink()}, where DVC records no "
                f"outputs; mount the disk there instead, or link single outputs such as {output}"
            )


def file_hash(path: Path) -> str:
    """The sha256 of a file, or of a folder's files and their names, as hexadecimal digits."""
    if path.is_dir():
        files = sorted(inner for inner in path.rglob("*") if inner.is_file() and not NO_CONTENT & {*inner.parts})
        return _digest({str(inner.relative_to(path)): file_hash(inner) for inner in files})
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _snapshot(script: Path, inputs: list[Path]) -> dict[str, str]:
    root = script.resolve().parents[1]
    code = {str(path): file_hash(root / path) for path in import_closure(script, root)}
    return code | {str(path): file_hash(path) for path in inputs}


def _refuse_if_changed(before: dict[str, str], script: Path, inputs: list[Path]) -> None:
    after = _snapshot(script, inputs)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        raise UserError(f"{', '.join(changed)}: {CHANGED}")


def _refuse_if_edited_since_start(script: Path) -> None:
    """The imports took a second or two: what was edited in that time may not be what was imported."""
    if not sys.platform.startswith("linux"):
        return  # No other system tells a process when it began without one more dependency.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    # Ticks and file times are up to 10 ms coarse each; Python reads no module in its first 20 ms.
    began = time.time() - age + 0.02
    root = script.resolve().parents[1]
    edited = [str(path) for path in import_closure(script, root) if (root / path).stat().st_mtime > began]
    if edited:
        raise UserError(f"{', '.join(edited)}: edited while the stage started, run it again")


@contextmanager
def _work_folder(stage: str, key: str) -> Iterator[Path]:
    """The stage's scratch folder for these inputs; refuses when another process works in it."""
    folder = SCRATCH / stage / key[:24]
    # A stage that was just killed may take a moment to let go of its lock.
    for wait in (0.1, 0.4, 1.0, 3.0, 0):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have finished and removed the folder between our open and our lock.
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                yield folder
                return
        except BlockingIOError:
            pass
        finally:
            os.close(handle)
        time.sleep(wait)
    raise UserError(f"{folder}: wanted it for itself, another {stage} works in it")


@contextmanager
def _staged(targets: dict[str, Path], key: str) -> Iterator[dict[str, Path]]:
    """Yield a path to write each output to, on the disk where it ends; the folders of these paths end with the block.

    Outputs that stand side by side are written side by side.
    """
    folders = {name: (target if _is_held(target) else target.parent) / SCRATCH for name, target in targets.items()}
    made = {above for folder in folders.values() for above in (folder, *folder.parents) if not above.exists()}
    try:
        for folder in {*folders.values()}:
            shutil.rmtree(folder / key, ignore_errors=True)  # of a run that was killed
            (folder / key).mkdir(parents=True)
        yield {name: folders[name] / key / target.name for name, target in targets.items()}
    finally:
        for folder in {*folders.values()}:
            shutil.rmtree(folder / key, ignore_errors=True)
        for folder in sorted({*folders.values(), *made}, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):
                folder.rmdir()  # unless an output is there, or another stage writes there


def _is_held(target: Path) -> bool:
    """Whether an output is a folder that cannot be replaced: a link to another disk, or where one is mounted."""
    return target.is_dir() and (target.is_symlink() or target.is_mount())


def _put(staged: Path, target: Path) -> None:
    """Move an output into its place; what stood there before goes."""
    if _is_held(target):
        for old in target.iterdir():
            if old.name != SCRATCH.name:
                _remove(old)
        for new in staged.iterdir():
            new.replace(target / new.name)
    else:
        _remove(target)
        staged.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write metrics as JSON: sorted as given, floats as they are, one value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _runtime(seconds: float) -> dict[str, Any]:
    # ru_maxrss counts KiB on Linux and bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    torch = sys.modules.get("torch")  # a stage that needs none does not wait for it
    gpu = {}
    if torch is not None and torch.cuda.is_initialized():
        gpu = {"peak_gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6)}
    return {
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(peak / 1e6),
        **gpu,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "n_cores": os.cpu_count(),
    }


def _end_with_dvc() -> None:
    """Under DVC, end as soon as the process that started the stage is gone: nobody would record its outputs.

    DVC does not stop its stage when it is killed. The wait is a thread of half-second steps and not Linux's
    PR_SET_PDEATHSIG, so that it works on macOS too, and through a shell that stays between DVC and the stage.
    """
    if "DVC_STAGE" not in os.environ:
        return
    import psutil

    def above() -> list[int]:
        parent = psutil.Process(os.getppid())
        return [parent.pid, parent.ppid()] if parent.name() in SHELLS else [parent.pid]

    started_by = above()

    def watch() -> None:
        with suppress(psutil.Error):
            while above() == started_by:
                time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
