"""Kernels are built once for a machine; without them the torch functions run."""

import stat

import pytest
import torch

from llm.model import kernels


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty folder of built kernels, with nothing loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GROUNDUP_KERNELS", raising=False)
    _forget()
    yield tmp_path
    monkeypatch.undo()
    _forget()


def _forget():
    kernels.library.cache_clear()
    kernels.key.cache_clear()


def _script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def _fits():
    return kernels.fit(torch.zeros(1))


def test_they_are_built_once_and_loaded_again(fresh, monkeypatch):
    assert _fits()
    (built,) = (fresh / "cache" / "groundup").iterdir()
    assert built.name == f"kernels-{kernels.key()}.so"
    _forget()
    monkeypatch.setattr(kernels, "FLAGS", (*kernels.FLAGS, "-DANOTHER"))
    assert _fits()
    assert len(list(built.parent.iterdir())) == 2  # one for each setting of the compiler
    before = kernels.key()
    monkeypatch.setattr(kernels, "SOURCE", fresh / "other.c")
    kernels.SOURCE.write_text("int other;")
    _forget()
    assert kernels.key() != before


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [(None, "expected a C compiler, got no "), ("echo 'no such option' >&2; exit 1", "no such option"), ("exit 1", "")],
)
def test_without_a_compiler_a_line_says_what_it_costs(fresh, monkeypatch, capsys, compiler, reason):
    monkeypatch.setenv("CC", str(fresh / "cc") if compiler is None else _script(fresh / "cc", compiler))
    assert not _fits()
    assert not _fits()
    (line,) = capsys.readouterr().err.splitlines()  # once
    assert line.startswith(f"kernels: {reason}")
    assert line.endswith("PyTorch's functions run, and training takes 1.7 times as long")
    assert kernels.key() == ""
    cache = fresh / "cache" / "groundup"
    assert not cache.exists() or not list(cache.iterdir())


def test_they_can_be_disabled(fresh, monkeypatch, capsys):
    monkeypatch.setenv("GROUNDUP_KERNELS", "0")
    assert not _fits()
    assert capsys.readouterr().err == ""


def test_without_a_folder_to_keep_them_they_are_built_for_the_process(fresh, monkeypatch):
    (fresh / "cache").write_text("a file, not a folder")
    assert _fits()
    assert list(fresh.iterdir()) == [fresh / "cache"]


@pytest.mark.parametrize(
    "x", [torch.zeros(2, dtype=torch.float64), torch.zeros(2, device="meta"), torch.zeros(2).int()]
)
def test_other_tensors_do_not_fit(x):
    assert not kernels.fit(x)
