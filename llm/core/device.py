"""Detect the device, precision and threads that training and evaluation run on.

Devices are `cuda` (an NVIDIA GPU), `mps` (a GPU of Apple) and `cpu`. Nothing has been run on `mps` yet: it computes in
float32, uncompiled, and without the kernels, which are for processors. tests/test_accelerator.py checks it there.

They are not params: a laptop and a GPU machine share one params.yaml. On one setting of the machine the output of a
stage is the same bytes; `Machine.key` identifies the setting, and is part of the key of checkpoints.
"""

import ctypes
import hashlib
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from llm.core.errors import UserError

DEVICES = ("cpu", "cuda", "mps")
NO_MEMORY = re.compile("can't allocate memory|MPS backend out of memory|Invalid buffer size")
ACCELERATORS = {"cuda": torch.cuda, "mps": torch.mps}


@dataclass(frozen=True)
class Machine:
    """The device, the precision of matrix products, the threads, and the processes that train together."""

    device: str
    matmul_dtype: str
    threads: int
    compiler: bool
    torch_version: str
    processes: int = 1
    sharded: bool = False  # whether each process holds a part of the weights (FSDP)

    @classmethod
    def find(cls) -> "Machine":
        """Detect the machine; GROUNDUP_DEVICE, GROUNDUP_DTYPE and OMP_NUM_THREADS override the detection.

        GROUNDUP_SHARD=1 shards the weights over the processes of a group. UserError names an invalid variable.
        """
        device = os.environ.get("GROUNDUP_DEVICE") or _find_device()
        dtype = os.environ.get("GROUNDUP_DTYPE") or _find_dtype(device)
        if device not in DEVICES or dtype not in ("bfloat16", "float32"):
            raise UserError(
                f"environment: expected GROUNDUP_DEVICE {', '.join(DEVICES)} and GROUNDUP_DTYPE bfloat16 or float32, "
                f"got {device} and {dtype}"
            )
        processes = dist.get_world_size() if dist.is_initialized() else 1
        sharded = sharding_requested() and dist.is_initialized()
        compiler = any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++"))
        return cls(device, dtype, torch.get_num_threads(), compiler, torch.__version__, processes, sharded)

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of matrix products; weights and sums are float32 in any case."""
        return torch.bfloat16 if self.matmul_dtype == "bfloat16" else torch.float32

    def autocast(self) -> torch.autocast:
        """Return a context in which matrix products are computed in `dtype`."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.matmul_dtype == "bfloat16")

    def retain_freed_memory(self) -> None:
        """Let glibc keep freed memory for reuse, which makes a training step on Linux about a tenth faster."""
        if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "mallopt"):
            m_trim_threshold, m_mmap_threshold = -1, -3
            libc.mallopt(m_mmap_threshold, 32 << 20)
            libc.mallopt(m_trim_threshold, 1 << 30)

    def synchronize(self) -> None:
        """Wait until the device has done all work."""
        if self.device != "cpu":
            ACCELERATORS[self.device].synchronize()

    def available_memory(self) -> int:
        """Return the bytes that can still be allocated: on a GPU there, else those of the machine or its container."""
        if self.device == "cuda":
            return int(torch.cuda.mem_get_info()[0])
        if self.device == "mps":
            return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
        import psutil

        available = int(psutil.virtual_memory().available)
        with suppress(OSError, ValueError):  # no limit reads `max`
            limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
            available = min(available, limit - used)
        return available

    def reset_peak_memory(self) -> None:
        """Give freed memory back and begin a new measurement of `peak_memory`, where the system can."""
        if self.device != "cpu":
            ACCELERATORS[self.device].empty_cache()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError, AttributeError):  # not on Linux
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")

    def peak_memory(self) -> int:
        """Return the most bytes that this process had since its start or `reset_peak_memory`, on a GPU there."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        if self.device == "mps":
            return int(torch.mps.driver_allocated_memory())  # with its cache, which keeps what was freed
        with suppress(OSError, AttributeError):
            found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            return int(found[1]) * 1024  # type: ignore[index]
        # ru_maxrss is in KiB on Linux and in bytes on macOS.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def key(self) -> str:
        """Return a hash of this setting and of the GPU's name, as hexadecimal digits."""
        gpu = torch.cuda.get_device_name() if self.device == "cuda" and torch.cuda.is_available() else ""
        return hashlib.sha256((repr(self) + gpu).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, str | int | bool]:
        """Return the setting as plain values, for metrics."""
        return asdict(self)


def sharding_requested() -> bool:
    """Return whether GROUNDUP_SHARD requests sharded weights; UserError unless it is 0 or 1."""
    shard = os.environ.get("GROUNDUP_SHARD") or "0"
    if shard not in ("0", "1"):
        raise UserError(f"environment: expected GROUNDUP_SHARD 0 or 1, got {shard}")
    return shard == "1"


def _find_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _find_dtype(device: str) -> str:
    """Return bfloat16 if the hardware multiplies it faster than float32."""
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "mps":
        return "float32"  # bfloat16 is emulated on older chips; GROUNDUP_DTYPE=bfloat16 tries it
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bfloat16" if found.get("avx512_bf16") or found.get("amx_bf16") else "float32"


def matmul_peak(machine: Machine, seconds: float = 0.3) -> float:
    """Return the FLOP/s of the fastest of several large square matrix products, in the machine's precision."""
    side = {"cuda": 8192, "mps": 4096}.get(machine.device, 1024)
    generator = torch.Generator(machine.device).manual_seed(0)
    matrix = torch.randn(side, side, generator=generator, device=machine.device, dtype=machine.dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        matrix @ matrix
        machine.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn an out-of-memory error, of the GPU or of the machine, into a UserError with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On CPUs and on mps torch raises a plain RuntimeError.
        if NO_MEMORY.search(str(error)) or isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise UserError(f"out of memory; {advice}") from None
        raise
