"""What every stage does around its work: command line and params in, whole outputs out, clear errors.

A stage is a script with one `main` whose signature says all that it touches:

    def main(params: Annotated[SampleParams, Param("sample")], tokens: Input, windows: Output, metrics: Output):

    if __name__ == "__main__":
        stage.run(main)

`run` takes each `Param` from params.yaml and each `Input` and `Output` from an option of the same name. It
gives `main` other places to write to, and moves them to the outputs by rename when `main` is through: an
output is whole or absent. It hashes code, params and inputs before and after, because DVC records them as
they are at the end: outputs of inputs that changed meanwhile are thrown away. Under DVC it ends when DVC
does. A `Scratch` is a folder that survives a kill, keyed by all of those hashes.
"""

import argparse
import fcntl
import hashlib
import inspect
import json
import os
import platform
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import Field

from llm import params
from llm.closure import import_closure
from llm.errors import UserError

SCRATCH = Path(".scratch")
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
    with _work_folder(script.stem, key) as work:
        shutil.rmtree(work / "outputs", ignore_errors=True)
        staged = {name: _stand_in(given[name], work / "outputs") for name in signature.outputs}
        scratch = {name: work / name for name in signature.scratch}
        for path in scratch.values():
            path.mkdir(exist_ok=True)
        words = {name: given[name] for name in [*signature.inputs, *signature.words]}
        main(**values, **words, **staged, **scratch)
        _refuse_if_changed(before, script, [given[name] for name in signature.inputs])
        if sections() != values:
            raise UserError(f"{given['params']}: changed while the stage ran; its outputs are dropped, run it again")
        if given["runtime"] is not None:
            staged["runtime"] = _stand_in(given["runtime"], work / "outputs")
            write_json(staged["runtime"], _runtime(time.perf_counter() - began))
        for name, path in staged.items():
            assert path.exists(), f"{script.stem} did not write its output {name}"
            _put(path, given[name])
        shutil.rmtree(work)


def _parse(signature: Signature, script: Path, argv: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog=f"python -m stages.{script.stem}", allow_abbrev=False)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="where the knobs stand")
    parser.add_argument("--runtime", type=Path, help="where to write the time and memory that the stage took")
    for name in signature.inputs + signature.outputs:
        kind = "read" if name in signature.inputs else "written"
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"a path that is {kind}")
    for name in signature.words:
        parser.add_argument(f"--{name}", required=True)
    return vars(parser.parse_args(argv))


def file_hash(path: Path) -> str:
    """The sha256 of a file, or of a folder's files and their names, as hexadecimal digits."""
    if path.is_dir():
        files = sorted(inner for inner in path.rglob("*") if inner.is_file() and "__pycache__" not in inner.parts)
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
        raise UserError(f"{', '.join(changed)}: changed while the stage ran; its outputs are dropped, run it again")


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


def _stand_in(target: Path, folder: Path) -> Path:
    """Where an output is written first: under `folder` as it will stand under the root, its folder made."""
    path = folder / target.resolve().relative_to(target.resolve().anchor)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _put(staged: Path, target: Path) -> None:
    """Move an output into its place; what stood there before goes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    staged.replace(target)


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
