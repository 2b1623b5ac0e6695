import json
from dataclasses import replace

import pytest
import torch

from llm.core import device as runtime
from llm.core.device import Machine, matmul_peak, memory_advice
from llm.core.errors import UserError

MACHINE = Machine("cpu", "float32", threads=1, compiler=False, torch_version="any")


def test_the_environment_overrules_what_is_found(monkeypatch):
    monkeypatch.setenv("GROUNDUP_DEVICE", "cpu")
    for dtype, expected in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        monkeypatch.setenv("GROUNDUP_DTYPE", dtype)
        machine = Machine.find()
        assert (machine.device, machine.matmul_dtype, machine.dtype) == ("cpu", dtype, expected)


def test_what_is_found_without_the_environment_is_a_machine_that_can_multiply(monkeypatch):
    monkeypatch.delenv("GROUNDUP_DEVICE", raising=False)
    monkeypatch.delenv("GROUNDUP_DTYPE", raising=False)
    machine = Machine.find()
    with machine.autocast():
        product = torch.ones(2, 3, device=machine.device) @ torch.ones(3, 5, device=machine.device)
    assert product.dtype == machine.dtype
    assert (product == 3).all()


@pytest.mark.parametrize(
    ("name", "value"), [("GROUNDUP_DEVICE", "abacus"), ("GROUNDUP_DTYPE", "float16"), ("GROUNDUP_SHARD", "yes")]
)
def test_an_unknown_setting_is_refused_in_one_line(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"{name}.*{value}") as caught:
        Machine.find()
    assert "\n" not in str(caught.value)


def test_without_a_group_nothing_is_sharded(monkeypatch):
    monkeypatch.setenv("GROUNDUP_SHARD", "1")
    machine = Machine.find()
    assert (machine.processes, machine.sharded) == (1, False)


def test_the_compiler_that_cxx_names_is_the_one_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "my-compiler")
    assert not Machine.find().compiler
    (tmp_path / "my-compiler").touch(mode=0o755)
    assert Machine.find().compiler


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_matrix_products_take_the_machines_precision(dtype):
    x = torch.ones(2, 3)
    with replace(MACHINE, matmul_dtype=dtype).autocast():
        assert str((x @ x.T).dtype) == f"torch.{dtype}"
        assert (x + x).dtype == torch.float32


@pytest.mark.parametrize(
    "other",
    [
        {"device": "cuda"},
        {"matmul_dtype": "bfloat16"},
        {"threads": 7},
        {"compiler": True},
        {"torch_version": "another"},
        {"processes": 2},
        {"sharded": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_the_key_names_one_setting_and_no_other(other):
    assert MACHINE.key() == replace(MACHINE).key()
    assert MACHINE.key() != replace(MACHINE, **other).key()
    assert int(MACHINE.key(), 16) > 0


def test_a_description_holds_the_whole_setting_and_survives_json():
    assert Machine(**json.loads(json.dumps(MACHINE.describe()))) == MACHINE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_is_that_of_the_best_product_and_nothing_random_is_touched(monkeypatch, dtype):
    # When it begins, when each product begins and ends, when the time is up.
    clock = iter([0.0, 0.0, 0.2, 0.2, 0.25, 0.25, 0.4, 0.4])
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: next(clock))
    before = torch.get_rng_state()
    assert matmul_peak(replace(MACHINE, matmul_dtype=dtype)) == pytest.approx(2 * 1024**3 / 0.05)
    assert torch.equal(torch.get_rng_state(), before)


def _too_large():
    return torch.empty(2**60, dtype=torch.uint8)


def _cuda_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")


def _python_is_full():
    raise MemoryError


@pytest.mark.parametrize("fill", [_too_large, _cuda_is_full, _python_is_full])
def test_an_exhausted_memory_gets_advice_in_one_line(fill):
    with pytest.raises(UserError, match=r"^out of memory; try less$"), memory_advice("try less"):
        fill()


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="another"), memory_advice("try less"):
        raise RuntimeError("another")
