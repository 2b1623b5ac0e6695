"""The device, precision and threads that work runs on, and errors of memory."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from llm.core import device
from llm.core.device import Machine, matmul_peak, memory_advice
from llm.core.errors import UserError

MACHINE = Machine("cpu", "float32", threads=1, compiler=False, torch_version="any")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", None])
def test_the_environment_overrides_the_detected_dtype(monkeypatch, dtype):
    monkeypatch.setenv("GROUNDUP_DEVICE", "cpu")
    monkeypatch.setenv("GROUNDUP_DTYPE", dtype or "")
    machine = Machine.find()
    assert machine.device == "cpu"
    assert dtype in (None, machine.matmul_dtype)
    with machine.autocast():
        product = torch.ones(2, 3) @ torch.ones(3, 5)
        assert (torch.ones(2) + torch.ones(2)).dtype == torch.float32
    assert product.dtype == machine.dtype
    assert (product == 3).all()


@pytest.mark.parametrize(
    ("name", "value"), [("GROUNDUP_DEVICE", "abacus"), ("GROUNDUP_DTYPE", "float16"), ("GROUNDUP_SHARD", "yes")]
)
def test_an_unknown_setting_is_one_line(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"{name}.*{value}") as caught:
        Machine.find()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("present", "expected"), [((True, True), "cuda"), ((False, True), "mps"), ((False, False), "cpu")]
)
def test_a_gpu_is_found_where_there_is_one(monkeypatch, present, expected):
    for name in ("GROUNDUP_DEVICE", "GROUNDUP_DTYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present[0])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: present[1])
    machine = Machine.find()
    assert machine.device == expected
    assert expected == "cpu" or machine.matmul_dtype == {"cuda": "bfloat16", "mps": "float32"}[expected]
    assert machine.dtype in (torch.bfloat16, torch.float32)


def test_memory_is_that_of_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7, 9))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 4)
    assert [replace(MACHINE, device=name).available_memory() for name in ("cuda", "mps")] == [7, 26]
    assert [replace(MACHINE, device=name).peak_memory() for name in ("cuda", "mps")] == [5, 4]
    assert MACHINE.available_memory() > 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory of a process can be reset on Linux only")
def test_the_peak_of_memory_is_measured_anew():
    MACHINE.reset_peak_memory()
    before = MACHINE.peak_memory()
    some = torch.ones(50_000_000)
    assert MACHINE.peak_memory() > before + 1e8
    del some
    MACHINE.reset_peak_memory()
    assert MACHINE.peak_memory() < before + 1e8


def test_cxx_names_the_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "my-compiler")
    assert not Machine.find().compiler
    (tmp_path / "my-compiler").touch(mode=0o755)
    assert Machine.find().compiler


OTHERS = {"device": "cuda", "matmul_dtype": "bfloat16", "threads": 7, "compiler": True, "torch_version": "another"}
OTHERS |= {"processes": 2, "sharded": True}


@pytest.mark.parametrize("name", OTHERS)
def test_the_key_differs_for_every_setting(name):
    assert MACHINE.key() == replace(MACHINE).key()
    assert MACHINE.key() != replace(MACHINE, **{name: OTHERS[name]}).key()
    assert Machine(**json.loads(json.dumps(MACHINE.describe()))) == MACHINE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_is_that_of_the_fastest_product(monkeypatch, dtype):
    # The start, the start and end of each product, the time when the budget is over.
    clock = iter([0.0, 0.0, 0.2, 0.2, 0.25, 0.25, 0.4, 0.4])
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(clock))
    before = torch.get_rng_state()
    assert matmul_peak(replace(MACHINE, matmul_dtype=dtype)) == pytest.approx(2 * 1024**3 / 0.05)
    assert torch.equal(torch.get_rng_state(), before)


def exhaust(error):
    if error is None:
        torch.empty(2**60, dtype=torch.uint8)
    raise error


MPS = RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nTried"), MPS, MemoryError(), None])
def test_exhausted_memory_gets_advice_in_one_line(error):
    with pytest.raises(UserError, match=r"^out of memory; try less$"), memory_advice("try less"):
        exhaust(error)
    with pytest.raises(RuntimeError, match="another"), memory_advice("try less"):
        exhaust(RuntimeError("another"))
