"""Build the kernels of kernels.c once on a machine, load them, and call them.

They run where the tensors are on the CPU and a C compiler with OpenMP is installed; elsewhere the torch function beside
each in `llm.model.functions` runs. GROUNDUP_KERNELS=0 disables them.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.c")
# Sums may be of vectors; what is not a number stays so, and no flag changes how other libraries compute.
ARITHMETIC = ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math")
FLAGS = ("-O3", "-march=native", *ARITHMETIC, "-fopenmp", "-fPIC", "-shared")

Call = TypeVar("Call", bound=Callable[..., Any])


def replaced_by(kernel: type[torch.autograd.Function]) -> Callable[[Call], Call]:
    """Return a decorator that makes a function run `kernel` where its first argument fits; `__wrapped__` is without."""

    def decorate(function: Call) -> Call:
        @functools.wraps(function)
        def call(x: Tensor, *rest: Any) -> Any:
            return kernel.apply(x, *rest) if fit(x) else function(x, *rest)

        return cast(Call, call)

    return decorate


def fit(x: Tensor) -> bool:
    """Whether kernels run on this tensor: plain, on the CPU, float32 or bfloat16, and not while torch traces."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined]
        and library() is not None
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, which the first use on a machine builds; None without a compiler, after a line."""
    if os.environ.get("GROUNDUP_KERNELS") == "0":
        return None
    try:
        with _writable_folder() as folder:
            return ctypes.CDLL(str(_build(folder)))
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        print(
            f"kernels: {output.strip().splitlines()[0]}; PyTorch's functions run, and training takes 1.7 times as long",
            file=sys.stderr,
        )
        return None


@functools.cache
def key() -> str:
    """Return a hash of source, compiler, flags and processor, which decide the results; empty without kernels."""
    return _key() if library() is not None else ""


def _key() -> str:
    compiler = shutil.which(_compiler())
    if compiler is None:
        raise FileNotFoundError(f"expected a C compiler, got no {_compiler()}")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    return hashlib.sha256(repr((SOURCE.read_bytes(), version, FLAGS, _processor())).encode()).hexdigest()[:16]


def _compiler() -> str:
    return os.environ.get("CC") or "cc"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


@contextmanager
def _writable_folder() -> Iterator[Path]:
    """Yield the folder of built kernels; where it cannot be written, a temporary one."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundup"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if writable:
        yield folder
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)


def _build(folder: Path) -> Path:
    path = folder / f"kernels-{_key()}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            new = Path(scratch) / path.name
            command = [_compiler(), *FLAGS, str(SOURCE), "-o", str(new), "-lm"]
            subprocess.run(command, capture_output=True, text=True, check=True)
            new.replace(path)  # at once: another process may be building the same file
    return path


def addresses(tensors: Sequence[Tensor | None]) -> Any:
    """Return C's array of pointers to tensors, null for None; it does not keep them alive."""
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return pointers([None if tensor is None else tensor.data_ptr() for tensor in tensors])


def pointers(values: Sequence[int | None]) -> Any:
    """Return C's array of pointers."""
    return (ctypes.c_void_p * len(values))(*values)


def integers(values: Sequence[int]) -> Any:
    """Return C's array of longs."""
    return (ctypes.c_long * len(values))(*values)


def run(name: str, x: Tensor, *arguments: Tensor | float | ctypes.Array[ctypes.c_void_p] | None) -> None:
    """Call a kernel, of x's dtype: integers are C's long, other numbers float, None and tensors are pointers."""
    loaded = library()
    assert loaded is not None
    getattr(loaded, f"{name}_{str(x.dtype).removeprefix('torch.')}")(*map(_argument, (x, *arguments)))


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_long(value)
    return ctypes.c_float(value) if isinstance(value, float) else value
