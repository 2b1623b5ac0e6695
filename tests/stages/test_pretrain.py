"""Pretraining as a stage: same bytes, resumed runs, choices of data and weights, and refusals."""

import csv
import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from llm.core.errors import UserError
from llm.export.hf.folder import read_folder
from llm.model.config import ModelParams
from llm.model.gpt import GPT, uniform_loss
from llm.model.weights import load_model
from llm.train import pretrain as library
from llm.train.batches import WindowBatches
from llm.train.params import OptimizerParams, PretrainParams, ScheduleParams
from llm.train.pretrain import Pretraining, TrainingBatches
from stages import pretrain

ROOT = Path(__file__).resolve().parents[2]
VOCAB, CONTEXT = 97, 17
MUON = OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.01, weight_decay=0.0, max_grad_norm=10.0)
STILL, RUINOUS = (MUON.model_copy(update={"muon_lr": lr, "adamw_lr": lr}) for lr in (1e-9, 2.0))
PARAMS = PretrainParams(
    max_steps=7,
    batch_size=2,
    micro_batch_size=None,
    final_no_dropout_fraction=0.4,
    init=None,
    init_from=None,
    optimizer=MUON,
    schedule=ScheduleParams(kind="wsd", warmup_steps=2, decay_fraction=0.5, final_lr_fraction=0.0),
    weight_averaging=None,
    ema_half_life_fraction=0.05,
    tail_fraction=0.5,
    eval_every_steps=3,
    eval_windows=5,
    early_stopping_patience=None,
    checkpoint_every_steps=2,
    checkpoint_selection="last",
    compile="never",
)
OUTPUTS = {"weights": "weights", "metrics": "metrics.json", "curve": "curve.tsv"}


def _documents(n, length=30):
    return np.random.default_rng(n).integers(1, 9, size=(n, length)).tolist()


DOCUMENTS = {"train": _documents(11), "val": _documents(5)}


def _change(**change):
    return PARAMS.model_copy(update=change)


@pytest.fixture
def write(tmp_path, write_windows_folder):
    """A writer of a folder of windows."""

    def write(documents, vocab_size=VOCAB, name="windows", **options):
        return write_windows_folder(tmp_path / name, documents, vocab_size, CONTEXT, **options)

    return write


@pytest.fixture
def windows(write):
    return write(DOCUMENTS)


@pytest.fixture
def shape(config):
    return ModelParams(**config.model_dump(exclude={"vocab_size", "context_length"}))


@pytest.fixture
def run(tmp_path, shape, plain_cpu, small_tokenizer_file, monkeypatch):
    monkeypatch.setattr(library, "matmul_peak", lambda machine: 1e9)

    def run(windows, name="run", params=PARAMS, seed=1, shape=shape):
        folder = tmp_path / name
        (folder / "scratch").mkdir(parents=True, exist_ok=True)
        outputs = [folder / output for output in OUTPUTS.values()]
        inputs = windows, small_tokenizer_file, tmp_path / "given"
        pretrain.main(shape.model_dump(), params, seed, folder / "scratch", *inputs, *outputs)
        return folder

    return run


def _metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def _curve(folder):
    with (folder / "curve.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _bytes(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "scratch" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_the_seed_decides_on_every_byte(run, windows, config):
    first, same, other = (_bytes(run(windows, name, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first == same
    assert len(first) == 4
    assert [path.name for path in first if first[path] == other[path]] == ["config.json"]
    model = load_model(run(windows, "still", _change(optimizer=STILL), seed=3) / "weights")
    fresh = GPT(config, torch.Generator().manual_seed(3))
    torch.testing.assert_close(list(model.parameters()), list(fresh.parameters()), atol=1e-6, rtol=0)


@contextmanager
def _killed_at_step_5():
    batch_at = WindowBatches.at

    def killed(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return batch_at(self, step)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(WindowBatches, "at", killed)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_killed_run_resumes_to_the_same_bytes(run, windows, capsys):
    whole = run(windows, "whole")
    with _killed_at_step_5():
        run(windows, "killed")
    assert not (whole.parent / "killed" / "weights").exists()
    assert _bytes(run(windows, "killed")) == _bytes(whole)
    assert "resumed at step 4" in capsys.readouterr().err


def test_metrics_describe_the_run_and_its_model(run, windows, config, capsys):
    folder = run(windows)
    metrics, curve, model = _metrics(folder), _curve(folder), load_model(folder / "weights")
    assert model.config == config
    assert metrics["parameters"] == model.n_parameters()
    assert metrics["tokens_seen"] == 7 * 2 * CONTEXT
    assert metrics["epochs"] == round(7 * 2 / 20, 3)  # 11 documents of 31 tokens, and one: 20 windows of 17
    assert metrics["machine"]["device"] == "cpu"
    assert metrics["selected_step"] == 7
    assert metrics["train_loss"] == float(curve[-1]["train_loss"]) < uniform_loss(VOCAB)
    assert metrics["val_loss"] == float(curve[-1]["val_loss"])
    assert [row["step"] for row in curve] == ["3", "6", "7"]
    assert re.findall(r"pretrain: step (\d+) writes '", capsys.readouterr().err) == ["3", "6", "7"]


def test_the_best_weights_are_selected_and_end_a_run(run, windows):
    # At a ruinous learning rate the first evaluations are the best.
    change = {"checkpoint_selection": "best", "optimizer": RUINOUS, "eval_every_steps": 1, "max_steps": 40}
    folder = run(windows, params=_change(early_stopping_patience=2, **change))
    metrics, curve = _metrics(folder), _curve(folder)
    best = min(curve, key=lambda row: float(row["val_loss"]))
    last = int(best["step"]) + 2
    assert metrics["selected_step"] == int(best["step"])
    assert metrics["val_loss"] == float(best["val_loss"])
    assert [row["step"] for row in curve] == [str(step) for step in range(1, last + 1)]
    assert (metrics["tokens_seen"], metrics["epochs"]) == (last * 2 * CONTEXT, round(last * 2 / 20, 3))


def test_without_held_out_text_nothing_is_validated(run, write):
    windows = write({"train": DOCUMENTS["train"]})
    folder = run(windows, params=_change(checkpoint_selection="best"))
    assert "val_loss" not in _metrics(folder)
    assert _metrics(folder)["selected_step"] == 7
    assert {row["val_loss"] for row in _curve(folder)} == {""}
    with pytest.raises(UserError, match=r"^pretrain\.early_stopping_patience: expected held-out text .* got none$"):
        run(windows, "patient", _change(checkpoint_selection="best", early_stopping_patience=2))


@pytest.mark.parametrize("documents", [[], [[5] * (CONTEXT - 2)], [[5] * (CONTEXT - 1)]])
def test_the_training_text_must_exceed_the_context(run, write, documents):
    windows = write({"train": documents})
    n_tokens = len(documents[0]) + 2 if documents else 0
    if n_tokens > CONTEXT:
        assert _metrics(run(windows))["epochs"] == 14
    else:
        with pytest.raises(UserError, match=rf"sample\.context_length: expected more than 17 .* got {n_tokens}$"):
            run(windows)


@pytest.mark.parametrize(("fraction", "n_steps", "expected"), [(0.4, 7, 4), (None, 7, 6), (None, 100, 94)])
def test_number_of_steps_with_bpe_dropout(write, fraction, n_steps, expected):
    windows = write({"train": _documents(5), "train-1": _documents(6)})
    params = _change(max_steps=n_steps, final_no_dropout_fraction=fraction)
    job = Pretraining(None, params, 1, windows, None, None, None)
    assert TrainingBatches(job).n_dropout_steps == expected  # 1.3 epochs of nine windows are 6 steps of 2


def test_the_last_steps_are_without_bpe_dropout(run, write, monkeypatch):
    windows = write({"train": _documents(5), "train-1": _documents(6), "train-2": _documents(7)})
    seen, batch_at = [], WindowBatches.at

    def noting_at(self, step):
        seen.append([len(of.stream) for of in self.segmentations])
        return batch_at(self, step)

    monkeypatch.setattr(WindowBatches, "at", noting_at)
    folder = run(windows)
    plain, *dropout = (31 * n + 1 for n in (5, 6, 7))
    assert seen == [dropout] * 4 + [[plain]] * 3  # two fifths of 7 steps
    n_windows = [31 * n // CONTEXT for n in (5, 6)]
    assert n_windows[1] > 8
    assert _metrics(folder)["epochs"] == pytest.approx(8 / n_windows[1] + 6 / n_windows[0], abs=1e-3)


def test_each_micro_batch_has_its_own_dropout_and_validation_none(run, windows, shape, monkeypatch):
    keys, calls = [], []
    dropout_keys, run_blocks = GPT.dropout_keys, GPT.run_blocks

    def noting_keys(self, seed, step):
        keys.append((seed, step))
        return dropout_keys(self, seed, step)

    def noting_run(self, *args, dropout_keys=None, **options):
        calls.append((self.training, dropout_keys is not None))
        return run_blocks(self, *args, dropout_keys=dropout_keys, **options)

    monkeypatch.setattr(GPT, "dropout_keys", noting_keys)
    monkeypatch.setattr(GPT, "run_blocks", noting_run)
    run(windows, params=_change(micro_batch_size=1), shape=shape.model_copy(update={"dropout": 0.2}), seed=5)
    assert keys == [(5, number) for number in range(7 * 2)]
    assert set(calls) == {(True, True), (False, False)}


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("muon", "half of pretrain.optimizer.muon_lr 1e+30 and pretrain.optimizer.adamw_lr 1e+30"),
        ("adamw", "half of pretrain.optimizer.adamw_lr 1e+30"),
    ],
)
def test_a_diverged_run_names_the_step_and_the_params(run, windows, kind, hint):
    optimizer = MUON.model_copy(update={"kind": kind, "muon_lr": 1e30, "adamw_lr": 1e30})
    with pytest.raises(UserError, match=re.escape(f"; try {hint}, or more than 2 pretrain.")) as caught:
        run(windows, params=_change(optimizer=optimizer))
    assert re.match(r"pretrain: the (loss|gradient's norm) is (nan|inf) at step [1-6];", str(caught.value))


@pytest.mark.parametrize(("batch", "micro", "smaller"), [(12, 4, 2), (9, None, 3), (9, 1, None)])
def test_exhausted_memory_names_the_params(run, windows, monkeypatch, batch, micro, smaller):
    monkeypatch.setattr(GPT, "run_blocks", lambda *_, **__: torch.empty(2**60, dtype=torch.uint8))
    hint = f"pretrain.micro_batch_size {smaller}, or " if smaller else ""
    with pytest.raises(UserError, match=f"^out of memory; try {hint}a shorter sample.context_length than 17$"):
        run(windows, params=_change(batch_size=batch, micro_batch_size=micro))


@pytest.mark.parametrize(
    ("processes", "rows", "micro", "expected"),
    [
        (2, 6, 3, 3),
        (4, 8, None, 2),
        (2, 9, None, "a multiple of 2 processes, got 9"),
        (2, 6, 2, "a multiple of micro_batch_size 2 x 2 processes, got 6"),
    ],
)
def test_a_batch_is_divided_between_processes(monkeypatch, processes, rows, micro, expected):
    monkeypatch.setattr(library.parallel, "n_processes", lambda: processes)
    params = _change(batch_size=rows, micro_batch_size=micro)
    if isinstance(expected, int):
        assert library.micro_batch_size(params) == expected
    else:
        with pytest.raises(UserError, match=rf"^pretrain\.batch_size: expected {expected}$"):
            library.micro_batch_size(params)


def test_a_model_that_sees_the_future_is_reported(run, windows, shape, capsys):
    run(windows, shape=shape.model_copy(update={"attention": "trainable"}))
    output = capsys.readouterr().err
    assert output.count("is not causal: each position attends") == 1
    assert "writes" not in output


def test_an_init_that_the_model_cannot_have_is_refused(run, windows, shape):
    gpt2 = shape.model_copy(update={"family": "gpt2", "n_kv_heads": shape.n_heads})
    with pytest.raises(UserError, match=r"pretrain.init: expected random or null .* got previous_token_heads"):
        run(windows, params=_change(init="previous_token_heads"), shape=gpt2)


def test_training_starts_from_the_weights_of_a_folder(tmp_path, run, write, exported_folder, capsys):
    shutil.copytree(exported_folder, tmp_path / "given" / "base")
    windows, base = write(DOCUMENTS, vocab_size=320), read_folder(exported_folder)
    shape = ModelParams(**base.config.model_dump(exclude={"vocab_size", "context_length"}))

    def start(name, folder="given/base", **changes):
        return run(windows, name, _change(init_from=str(tmp_path / folder), **changes), shape=shape)

    model = load_model(start("still", optimizer=STILL) / "weights")
    own = shape.model_copy(update={"family": None, "d_model": None, "n_layers": None, "norm_eps": None})
    unstated = run(windows, "unstated", _change(init_from=str(tmp_path / "given/base"), optimizer=STILL), shape=own)
    assert _bytes(unstated) == _bytes(tmp_path / "still")
    assert model.config == base.config.model_copy(update={"context_length": CONTEXT})
    torch.testing.assert_close(list(model.parameters()), list(base.parameters()), atol=1e-6, rtol=0)
    with _killed_at_step_5():
        start("killed")
    assert _bytes(start("killed")) == _bytes(start("whole"))
    assert "resumed at step 4" in capsys.readouterr().err
    for folder in ("elsewhere", "given/../elsewhere"):
        with pytest.raises(UserError, match=r"pretrain\.init_from: expected a path under .*given"):
            start("refused", folder)
