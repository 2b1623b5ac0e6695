"""The machine that the work runs on: device, precision, threads. Found at the start, never a param.

A laptop and a GPU machine share one pipeline and one params.yaml. On the same setting of the machine a stage's
output is the same bytes; `Machine.key` names that setting, and the scratch of a killed run is found by it.
"""

import ctypes
import hashlib
import os
import shutil
import sys
from dataclasses import asdict, dataclass

import torch

from llm.errors import UserError


@dataclass(frozen=True)
class Machine:
    """Where tensors live, in which precision matrices are multiplied, on how many threads, compiled or not."""

    device: str
    matmul_dtype: str
    threads: int
    compiler: bool
    torch_version: str

    @classmethod
    def find(cls) -> "Machine":
        """Look at the machine. GROUNDUP_DEVICE, GROUNDUP_DTYPE and OMP_NUM_THREADS overrule what is found."""
        device = os.environ.get("GROUNDUP_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = os.environ.get("GROUNDUP_DTYPE") or ("bfloat16" if _fast_at_bfloat16(device) else "float32")
        if device not in ("cpu", "cuda") or dtype not in ("bfloat16", "float32"):
            raise UserError(
                f"environment: wanted GROUNDUP_DEVICE cpu or cuda and GROUNDUP_DTYPE bfloat16 or float32, "
                f"given {device} and {dtype}"
            )
        compiler = any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++"))
        return cls(device, dtype, torch.get_num_threads(), compiler, torch.__version__)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of matrix products; weights and sums are float32 whatever it is."""
        return torch.bfloat16 if self.matmul_dtype == "bfloat16" else torch.float32

    def autocast(self) -> torch.autocast:
        """A context in which matrices are multiplied in `dtype`."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.matmul_dtype == "bfloat16")

    def keep_memory(self) -> None:
        """Have freed memory kept and used again: on Linux a training step is about a tenth faster for it.

        By default glibc gives every large tensor back to the system, which then clears its pages for the next.
        """
        if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "mallopt"):
            m_trim_threshold, m_mmap_threshold = -1, -3
            libc.mallopt(m_mmap_threshold, 32 << 20)
            libc.mallopt(m_trim_threshold, 1 << 30)

    def key(self) -> str:
        """A short name of this setting, in hexadecimal."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, str | int | bool]:
        """The setting as plain values, for metrics."""
        return asdict(self)


def _fast_at_bfloat16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
