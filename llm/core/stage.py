"""Run a stage: params and paths in, whole outputs out, one line for an error.

A stage is a script with one `main`, whose signature declares everything that it reads and writes:

    def main(
        sample: Annotated[WindowParams, Param("sample")],
        tokens: Input = Path("data/tokens"),
        windows: Output = Path("data/windows"),
    ) -> None: ...

    if __name__ == "__main__":
        stage.run(main)

`run` loads each `Param` from params.yaml and takes each path from its default or from the option of the same name. In a
default, `{name}` stands for the option `--name` and `{task.data}` for a value of the param `task`. Outputs are written
to temporary paths and renamed at the end. DVC records code, params and inputs as they are then, so `run` hashes them
before and after, and discards the outputs if they changed. A `Scratch` folder survives a kill; its key is that hash.
"""

import argparse
import fcntl
import importlib
import inspect
import os
import platform
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field

from llm.core import params
from llm.core.closure import import_closure
from llm.core.errors import UserError, one_line_errors
from llm.core.outputs import SCRATCH, digest, file_hash, replace, staged, write_json

CHANGED = "changed while the stage ran, so its outputs are discarded; run it again"
# DVC starts a stage through a shell. Bash becomes the stage by exec; dash stays and waits for it.
SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}


@dataclass(frozen=True)
class Param:
    """Mark an argument that is loaded from params.yaml; `{name}` in the key stands for the option `--name`."""

    key: str


Kind = Literal["input", "output", "scratch"]
Seed = Annotated[int, Field(ge=0, lt=2**63), Param("seed")]
Input = Annotated[Path, "input"]
Output = Annotated[Path, "output"]
Scratch = Annotated[Path, "scratch"]


@dataclass(frozen=True)
class Signature:
    """Everything that a stage's `main` takes, by argument name."""

    params: dict[str, tuple[str, Any]]  # key in params.yaml, type
    paths: dict[str, tuple[Kind, str | None]]  # kind, default
    options: dict[str, str | None]  # plain text from the command line: default, or None if it is required

    @classmethod
    def of(cls, main: Callable[..., None]) -> "Signature":
        """Read the annotations and defaults of `main`."""
        found = cls({}, {}, {})
        parameters = inspect.signature(main).parameters
        for name, hint in get_type_hints(main, include_extras=True).items():
            if name == "return":
                continue
            mark = getattr(hint, "__metadata__", [None])[-1]
            default = parameters[name].default
            default = None if default is inspect.Parameter.empty else str(default)
            if isinstance(mark, Param):
                found.params[name] = (mark.key, hint)
            elif hint is str:
                found.options[name] = default
            else:
                found.paths[name] = (mark, default)
        return found

    def named(self, kind: Kind) -> list[str]:
        """Return the names of the path arguments of a kind."""
        return [name for name, (own, _) in self.paths.items() if own == kind]


@dataclass(frozen=True)
class Call:
    """One run of a stage: its script, its arguments, and where they come from."""

    script: Path
    signature: Signature
    params_file: Path
    values: dict[str, Any]  # of params and options
    paths: dict[str, Path]  # of inputs and outputs

    @classmethod
    def parse(cls, main: Callable[..., None], argv: list[str]) -> "Call":
        """Read the command line and params.yaml; an error in either raises UserError or exits with 2."""
        script, signature = Path(inspect.getfile(main)), Signature.of(main)
        names = [*signature.named("input"), *signature.named("output")]
        parser = argparse.ArgumentParser(prog=f"python -m stages.{script.stem}", allow_abbrev=False)
        parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the params file")
        for name, value in signature.options.items():
            parser.add_argument(f"--{name}", required=value is None, default=value)
        for name in names:
            kind, default = signature.paths[name]
            parser.add_argument(f"--{name}", type=Path, required=default is None, help=f"{kind}, default {default}")
        parser.add_argument("--runtime", type=Path, help="where to write the time and memory of the run")
        given = vars(parser.parse_args(argv))
        options = {name: given[name] for name in signature.options}
        values = options | load_params(signature, given["params"], options)
        paths = {name: given[name] or Path(str(signature.paths[name][1]).format(**values)) for name in names}
        if given["runtime"] or None in map(given.get, names):
            instance = "-".join([script.stem, *filter(None, [options.get("name")])])
            paths["runtime"] = given["runtime"] or Path(f"metrics/runtime/{instance}.json")
        return cls(script, signature, given["params"], values, paths)

    @property
    def inputs(self) -> list[Path]:
        """Return the paths that the stage reads."""
        return [self.paths[name] for name in self.signature.named("input")]

    @property
    def targets(self) -> dict[str, Path]:
        """Return the paths that the stage writes, with the file of its time and memory."""
        return {name: self.paths[name] for name in [*self.signature.named("output"), "runtime"] if name in self.paths}

    def arguments(self, outputs: dict[str, Path], work: Path) -> dict[str, Any]:
        """Return the arguments of `main`: outputs at temporary paths, scratch folders inside `work`."""
        scratch = {name: work / name for name in self.signature.named("scratch")}
        for path in scratch.values():
            path.mkdir(exist_ok=True)
        arguments = self.values | self.paths | outputs | scratch
        return {name: value for name, value in arguments.items() if name != "runtime"}

    def hashes(self) -> dict[str, str]:
        """Return the hash of every file of code and of every input, by path."""
        root = self.script.resolve().parents[1]
        code = {str(path): file_hash(root / path) for path in import_closure(self.script, root)}
        return code | {str(path): file_hash(path) for path in self.inputs}

    def refuse_changes(self, before: dict[str, str]) -> None:
        """Raise UserError if code, inputs or params changed since `before` was taken."""
        after = self.hashes()
        if changed := sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)):
            raise UserError(f"{', '.join(changed)}: {CHANGED}")
        options = {name: self.values[name] for name in self.signature.options}
        if options | load_params(self.signature, self.params_file, options) != self.values:
            raise UserError(f"{self.params_file}: {CHANGED}")


def load_params(signature: Signature, path: Path, options: dict[str, str]) -> dict[str, Any]:
    """Return the value of each `Param` argument."""
    return {name: params.load(path, key.format(**options), hint) for name, (key, hint) in signature.params.items()}


def run(main: Callable[..., None]) -> None:
    """Run a stage from the command line; exit with 0, or with 2 and one line that names the user's error."""
    _exit_with_dvc()
    name = Path(inspect.getfile(main)).stem
    try:
        with one_line_errors():
            _run(main, Call.parse(main, sys.argv[1:]))
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; its outputs were not written", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # threads of a library may still work, and would delay Python's own exit by seconds


def _run(main: Callable[..., None], call: Call) -> None:
    started = time.perf_counter()
    if "DVC_STAGE" in os.environ:
        _check_pipeline(call)
    if missing := [path for path in call.inputs if not path.exists()]:
        raise UserError(f"{missing[0]}: expected a file or folder, it is missing")
    _refuse_edits_during_startup(call.script)
    stem, targets = call.script.stem, call.targets
    before = call.hashes()
    key = digest({"stage": stem, "values": repr(call.values), "files": before, "paths": str(call.paths)})[:24]
    with _work_folder(stem, key) as work, staged(targets, f"{stem}-{key}") as temporary:
        disks = [folder for target in targets.values() for folder in (target.parent, target)]
        with one_line_errors(written=[SCRATCH, *disks, Path(tempfile.gettempdir())]):
            main(**call.arguments(temporary, work))
            call.refuse_changes(before)
            if "runtime" in temporary:
                write_runtime(temporary["runtime"], time.perf_counter() - started)
            for name, path in temporary.items():
                assert path.exists(), f"{stem} did not write its output {name}"
                replace(targets[name], path)
        shutil.rmtree(work)


def _check_pipeline(call: Call) -> None:
    """Refuse, before any work, what a later stage of the run would refuse and what DVC could not record."""
    # Not an import statement: the check reads the params of all stages, and no output depends on it.
    importlib.import_module("llm.commands.check").check_params(call.params_file)
    for output in call.targets.values():
        link = next((path for path in reversed(output.parents) if path.is_symlink()), None)
        if link is not None and not link.resolve().is_relative_to(Path.cwd().resolve()):
            raise UserError(
                f"{link}: expected a folder of the repository, got a link to {link.readlink()}, where DVC records no "
                f"outputs; mount the disk there instead, or link single outputs such as {output}"
            )


def _refuse_edits_during_startup(script: Path) -> None:
    """Refuse code that was edited during the imports: what was imported may be the older version."""
    if not sys.platform.startswith("linux"):
        return  # other systems report the start of a process only through another dependency
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    # Clock ticks and file times are up to 10 ms coarse each; Python reads no module in its first 20 ms.
    started = time.time() - age + 0.02
    root = script.resolve().parents[1]
    if edited := [str(path) for path in import_closure(script, root) if (root / path).stat().st_mtime > started]:
        raise UserError(f"{', '.join(edited)}: edited while the stage started; run it again")


@contextmanager
def _work_folder(stage: str, key: str) -> Iterator[Path]:
    """Yield the locked scratch folder of these inputs; refuse it while another process holds the lock."""
    folder = SCRATCH / stage / key
    for wait in (0.1, 0.4, 1.0, 3.0, 0):  # a stage that was just killed may hold its lock for a moment
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The previous holder may have removed the folder between our open and our lock.
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                yield folder
                return
        except BlockingIOError:
            pass
        finally:
            os.close(handle)
        time.sleep(wait)
    raise UserError(f"{folder}: locked by another `{stage}` process")


def write_runtime(path: Path, seconds: float) -> None:
    """Write the time and memory of this process as JSON; nothing in the pipeline depends on it."""
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures = {"seconds": round(seconds, 1), "peak_memory_mb": round(peak / 1e6)}
    torch = sys.modules.get("torch")  # imported only if the stage itself needed it
    if torch is not None and torch.cuda.is_initialized():
        figures["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    elif torch is not None and torch.backends.mps.is_available():
        figures["peak_gpu_memory_mb"] = round(torch.mps.driver_allocated_memory() / 1e6)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "n_cores": os.cpu_count()}
    write_json(path, figures | machine)


def _exit_with_dvc() -> None:
    """Under DVC, exit as soon as the process that started the stage is gone: nothing would record the outputs."""
    if "DVC_STAGE" not in os.environ:
        return
    import psutil

    def ancestors() -> list[int]:
        parent = psutil.Process(os.getppid())
        return [parent.pid, parent.ppid()] if parent.name() in SHELLS else [parent.pid]

    started_by = ancestors()

    def watch() -> None:  # unlike Linux's PR_SET_PDEATHSIG, polling works on macOS and through a shell
        with suppress(psutil.Error):
            while ancestors() == started_by:
                time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
