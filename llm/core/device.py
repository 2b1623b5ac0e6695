"""The machine that the work runs on: device, precision, threads. Found at the start, never a param.

A laptop and a GPU machine share one pipeline and one params.yaml. On the same setting of the machine a stage's
output is the same bytes; `Machine.key` names that setting, and the scratch of a killed run is found by it.
"""

import ctypes
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist

from llm.core.errors import UserError


@dataclass(frozen=True)
class Machine:
    """Where tensors live, in which precision matrices are multiplied, on how many threads, compiled or not.

    And by how many processes, of which this is one: `llm.train.launch` starts them.
    """

    device: str
    matmul_dtype: str
    threads: int
    compiler: bool
    torch_version: str
    processes: int = 1  # that train together
    sharded: bool = False  # whether each of them has a part of the weights only

    @classmethod
    def find(cls) -> "Machine":
        """Look at the machine. GROUNDUP_DEVICE, GROUNDUP_DTYPE and OMP_NUM_THREADS overrule what is found.

        GROUNDUP_SHARD=1 shares the weights out over the processes of a group. UserError names the variable.
        """
        device = os.environ.get("GROUNDUP_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = os.environ.get("GROUNDUP_DTYPE") or ("bfloat16" if _fast_at_bfloat16(device) else "float32")
        if device not in ("cpu", "cuda") or dtype not in ("bfloat16", "float32"):
            raise UserError(
                f"environment: expected GROUNDUP_DEVICE cpu or cuda and GROUNDUP_DTYPE bfloat16 or float32, "
                f"got {device} and {dtype}"
            )
        processes = dist.get_world_size() if dist.is_initialized() else 1
        sharded = sharding_requested() and dist.is_initialized()
        compiler = any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++"))
        return cls(device, dtype, torch.get_num_threads(), compiler, torch.__version__, processes, sharded)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of matrix products; weights and sums are float32 whatever it is."""
        return torch.bfloat16 if self.matmul_dtype == "bfloat16" else torch.float32

    def autocast(self) -> torch.autocast:
        """A context in which matrices are multiplied in `dtype`."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.matmul_dtype == "bfloat16")

    def retain_freed_memory(self) -> None:
        """Have freed memory kept and used again: on Linux a training step is about a tenth faster for it.

        By default glibc gives every large tensor back to the system, which then clears its pages for the next.
        """
        if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "mallopt"):
            m_trim_threshold, m_mmap_threshold = -1, -3
            libc.mallopt(m_mmap_threshold, 32 << 20)
            libc.mallopt(m_trim_threshold, 1 << 30)

    def key(self) -> str:
        """A short name of this setting, in hexadecimal; another model of GPU is another setting."""
        gpu = torch.cuda.get_device_name() if self.device == "cuda" and torch.cuda.is_available() else ""
        return hashlib.sha256((repr(self) + gpu).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, str | int | bool]:
        """The setting as plain values, for metrics."""
        return asdict(self)


def sharding_requested() -> bool:
    """Whether GROUNDUP_SHARD asks for sharded weights; UserError where it is neither 0 nor 1."""
    shard = os.environ.get("GROUNDUP_SHARD") or "0"
    if shard not in ("0", "1"):
        raise UserError(f"environment: expected GROUNDUP_SHARD 0 or 1, got {shard}")
    return shard == "1"


def _fast_at_bfloat16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def matmul_peak(machine: Machine, seconds: float = 0.3) -> float:
    """Multiply-adds × 2 a second in the best of some large square matrix products, in the machine's precision.

    What a training step reaches can be measured by it. Shapes that fit the caches better may be a little faster.
    """
    side = 8192 if machine.device == "cuda" else 1024
    drawn = torch.Generator(machine.device).manual_seed(0)
    matrix = torch.randn(side, side, generator=drawn, device=machine.device, dtype=machine.dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        matrix @ matrix
        if machine.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn an exhausted memory, the GPU's or the machine's, into a UserError that says what to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On the CPU torch raises no class of its own.
        of_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        if of_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise UserError(f"out of memory; {advice}") from None
        raise
