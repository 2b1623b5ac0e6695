import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from llm.core.errors import UserError
from llm.export.hf.folder import read_folder
from llm.model.config import ModelParams
from llm.model.gpt import GPT, uniform_loss
from llm.model.weights import load_model
from llm.train.batches import WindowBatches
from llm.train.params import OptimizerParams, PretrainParams, ScheduleParams
from stages import pretrain

ROOT = Path(__file__).resolve().parents[2]
VOCAB, CONTEXT = 97, 17
MUON = OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.01, weight_decay=0.0, max_grad_norm=10.0)
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
    ema_half_life_fraction=0.5,
    tail_fraction=0.5,
    eval_every_steps=3,
    eval_windows=5,
    early_stopping_patience=None,
    checkpoint_every_steps=2,
    checkpoint_selection="last",
    compile="never",
)
OUTPUTS = ("weights", "metrics.json", "curve.tsv", "curve.svg")


def _documents(n, length=30):
    rng = np.random.default_rng(n)
    return [(rng.integers(1, 9, size=length)).tolist() for _ in range(n)]


@pytest.fixture
def windows(tmp_path, write_windows_folder):
    return write_windows_folder(tmp_path / "windows", {"train": _documents(11), "val": _documents(5)}, VOCAB, CONTEXT)


@pytest.fixture
def shape(config):
    return ModelParams(**config.model_dump(exclude={"vocab_size", "context_length"}))


@pytest.fixture
def run(tmp_path, shape, plain_cpu, small_tokenizer_file, monkeypatch):
    monkeypatch.setattr(pretrain, "matmul_peak", lambda machine: 1e9)

    def run(windows, name="run", params=PARAMS, seed=1, shape=shape, tokenizer=small_tokenizer_file):
        folder = tmp_path / name
        (folder / "scratch").mkdir(parents=True, exist_ok=True)
        weights, metrics, curve, picture = (folder / output for output in OUTPUTS)
        places = weights, metrics, curve, picture, folder / "scratch"
        pretrain.main(shape, params, seed, windows, tokenizer, tmp_path / "given", *places)
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


def test_two_runs_write_the_same_bytes(run, windows):
    first, second = _bytes(run(windows, "first")), _bytes(run(windows, "second"))
    assert first == second
    assert len(first) == 5


def test_another_seed_makes_another_model(run, windows):
    first, second = _bytes(run(windows, "first")), _bytes(run(windows, "second", seed=2))
    assert [path.name for path in first if first[path] == second[path]] == ["config.json"]


def test_the_seed_decides_on_the_first_weights(run, windows, config):
    still = MUON.model_copy(update={"muon_lr": 1e-9, "adamw_lr": 1e-9})
    model = load_model(run(windows, seed=3, params=PARAMS.model_copy(update={"optimizer": still})) / "weights")
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


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(run, windows, capsys):
    whole = run(windows, "whole")
    with _killed_at_step_5():
        run(windows, "killed")
    assert not (whole.parent / "killed" / "weights").exists()
    assert _bytes(run(windows, "killed")) == _bytes(whole)
    assert "resumed at step 4" in capsys.readouterr().err


def test_the_written_model_has_the_shape_that_params_and_windows_ask_for(run, windows, config):
    model = load_model(run(windows) / "weights")
    assert model.config == config


def test_metrics_say_what_was_trained_on_what(run, windows):
    folder = run(windows)
    metrics, curve = _metrics(folder), _curve(folder)
    assert metrics["parameters"] == load_model(folder / "weights").n_parameters()
    assert metrics["tokens_seen"] == 7 * 2 * CONTEXT
    assert metrics["epochs"] == round(7 * 2 / 20, 3)  # 11 documents of 31 tokens and one hold 20 windows of 17
    assert metrics["machine"]["device"] == "cpu"
    assert metrics["selected_step"] == 7
    assert metrics["train_loss"] == float(curve[-1]["train_loss"]) < uniform_loss(VOCAB)
    assert metrics["val_loss"] == float(curve[-1]["val_loss"])
    assert [row["step"] for row in curve] == ["3", "6", "7"]


RUINOUS = MUON.model_copy(update={"muon_lr": 2.0, "adamw_lr": 2.0})


def test_the_best_weights_are_kept_where_they_are_asked_for(run, windows):
    # At a rate that ruins the model, the first look at val is the best one.
    change = {"checkpoint_selection": "best", "optimizer": RUINOUS, "eval_every_steps": 1}
    folder = run(windows, params=PARAMS.model_copy(update=change))
    best = min(_curve(folder), key=lambda row: float(row["val_loss"]))
    assert _metrics(folder)["selected_step"] == int(best["step"]) < 7
    assert _metrics(folder)["val_loss"] == float(best["val_loss"])


def test_without_held_out_text_validation_is_left_out(run, tmp_path, write_windows_folder):
    windows = write_windows_folder(tmp_path / "windows", {"train": _documents(11)}, VOCAB, CONTEXT)
    folder = run(windows, params=PARAMS.model_copy(update={"checkpoint_selection": "best"}))
    assert "val_loss" not in _metrics(folder)
    assert _metrics(folder)["selected_step"] == 7
    assert {row["val_loss"] for row in _curve(folder)} == {""}


@pytest.mark.parametrize("documents", [[], [[5] * 3], [[5] * (CONTEXT - 2)]], ids=["none", "short", "one_token_short"])
def test_a_training_text_no_longer_than_the_context_is_refused(run, tmp_path, write_windows_folder, documents):
    windows = write_windows_folder(tmp_path / "windows", {"train": documents}, VOCAB, CONTEXT)
    n_tokens = len(documents[0]) + 2 if documents else 0
    with pytest.raises(UserError, match=rf"sample\.context_length: .* more than 17 tokens, given {n_tokens}$"):
        run(windows)
    assert not (tmp_path / "run" / "weights").exists()


def test_a_training_text_of_one_window_is_enough(run, tmp_path, write_windows_folder):
    windows = write_windows_folder(tmp_path / "windows", {"train": [[5] * (CONTEXT - 1)]}, VOCAB, CONTEXT)
    assert _metrics(run(windows))["epochs"] == 14


def test_a_folder_without_windows_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="wanted a folder of windows"):
        run(tmp_path / "nowhere")


def test_the_last_steps_learn_from_the_clean_segmentation_and_the_first_from_the_other_ones(
    run, tmp_path, write_windows_folder, monkeypatch
):
    documents = {"train": _documents(5), "train-1": _documents(6), "train-2": _documents(7)}
    windows = write_windows_folder(tmp_path / "dropped", documents, VOCAB, CONTEXT)
    seen = []
    batch_at = WindowBatches.at

    def noting_at(self, step):
        seen.append([len(of.stream) for of in self.segmentations])
        return batch_at(self, step)

    monkeypatch.setattr(WindowBatches, "at", noting_at)
    folder = run(windows)
    # 7 steps, of which the last two fifths are clean.
    clean, *others = (31 * n + 1 for n in (5, 6, 7))
    assert seen == [others] * 4 + [[clean]] * 3
    n_windows = [(31 * n + 1 - 1) // CONTEXT for n in (5, 6, 7)]
    assert n_windows[1] > 8
    assert _metrics(folder)["epochs"] == pytest.approx(8 / n_windows[1] + 6 / n_windows[0], abs=1e-3)


def test_padded_windows_train_too(run, tmp_path, write_windows_folder):
    documents = {"train": _documents(11, length=9), "val": _documents(5, length=20)}
    windows = write_windows_folder(tmp_path / "padded", documents, VOCAB, CONTEXT, boundary="document")
    curve = _curve(run(windows))
    assert float(curve[-1]["train_loss"]) < uniform_loss(VOCAB)


def _change(**change):
    return PARAMS.model_copy(update=change)


def test_micro_batches_learn_what_the_whole_batch_does(run, tmp_path, write_windows_folder):
    # Windows of 10 and of 4 targets beside each other.
    documents = {"train": [[5, 6, 7] * 3, [8, 9, 8]] * 6, "val": _documents(5, length=9)}
    windows = write_windows_folder(tmp_path / "padded", documents, VOCAB, CONTEXT, boundary="document")
    whole = run(windows, "whole")
    parts = run(windows, "parts", _change(micro_batch_size=1))
    models = [load_model(folder / "weights") for folder in (whole, parts)]
    torch.testing.assert_close(*(list(model.parameters()) for model in models), atol=1e-4, rtol=1e-3)
    for row, other in zip(_curve(whole), _curve(parts), strict=True):
        for key in ("train_loss", "val_loss"):
            assert float(row[key]) == pytest.approx(float(other[key]), abs=1e-3)


def test_dropout_is_another_one_at_each_step_and_in_each_part_and_none_at_validation(run, windows, shape, monkeypatch):
    asked, told = [], []
    draw, run_blocks = GPT.dropout_keys, GPT.run_blocks

    def noting_draw(self, seed, step):
        asked.append((seed, step))
        return draw(self, seed, step)

    def noting_run(self, x, cache=None, dropout_keys=None):
        told.append((self.training, dropout_keys is not None))
        return run_blocks(self, x, cache, dropout_keys)

    monkeypatch.setattr(GPT, "dropout_keys", noting_draw)
    monkeypatch.setattr(GPT, "run_blocks", noting_run)
    run(windows, params=_change(micro_batch_size=1), shape=shape.model_copy(update={"dropout": 0.2}), seed=5)
    assert asked == [(5, number) for number in range(7 * 2)]
    assert set(told) == {(True, True), (False, False)}


def test_the_mean_of_the_weights_is_what_is_saved_and_told_of(run, windows):
    plain = run(windows, "plain")
    mean = run(windows, "mean", _change(weight_averaging="tail"))
    assert _metrics(mean)["train_loss"] == _metrics(plain)["train_loss"]
    assert _metrics(mean)["val_loss"] != _metrics(plain)["val_loss"]
    assert (mean / "weights/model.safetensors").read_bytes() != (plain / "weights/model.safetensors").read_bytes()


def test_a_run_that_gets_no_better_ends_early_and_counts_what_it_did(run, windows):
    change = {
        "checkpoint_selection": "best",
        "optimizer": RUINOUS,
        "eval_every_steps": 1,
        "early_stopping_patience": 2,
        "max_steps": 40,
    }
    folder = run(windows, params=_change(**change))
    best = min(_curve(folder), key=lambda row: float(row["val_loss"]))
    last = int(best["step"]) + 2
    assert last < 40
    assert [row["step"] for row in _curve(folder)] == [str(step) for step in range(1, last + 1)]
    assert _metrics(folder)["tokens_seen"] == last * 2 * CONTEXT
    assert _metrics(folder)["epochs"] == round(last * 2 / 20, 3)


def test_an_early_stop_without_held_out_text_is_refused(run, tmp_path, write_windows_folder):
    windows = write_windows_folder(tmp_path / "windows", {"train": _documents(11)}, VOCAB, CONTEXT)
    with pytest.raises(UserError, match=r"^pretrain\.early_stopping_patience: wanted held-out text .* given none$"):
        run(windows, params=_change(checkpoint_selection="best", early_stopping_patience=2))


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("muon", "half of pretrain.optimizer.muon_lr 1e+30 and pretrain.optimizer.adamw_lr 1e+30"),
        ("adamw", "half of pretrain.optimizer.adamw_lr 1e+30"),
    ],
)
def test_a_lost_run_names_the_step_and_the_knobs_to_turn(run, windows, kind, advice):
    far = MUON.model_copy(update={"kind": kind, "muon_lr": 1e30, "adamw_lr": 1e30})
    with pytest.raises(UserError, match=re.escape(f"; try {advice}, or more than 2 pretrain.")) as caught:
        run(windows, params=_change(optimizer=far))
    assert re.match(r"pretrain: the (loss|gradient's norm) is (nan|inf) at step [1-6];", str(caught.value))


@pytest.mark.parametrize(
    ("batch", "micro", "advice"),
    [
        (12, None, "pretrain.micro_batch_size 6, or a shorter sample.context_length than 17"),
        (12, 4, "pretrain.micro_batch_size 2, or a shorter sample.context_length than 17"),
        (9, None, "pretrain.micro_batch_size 3, or a shorter sample.context_length than 17"),
        (9, 1, "a shorter sample.context_length than 17"),
    ],
)
def test_an_exhausted_memory_names_the_knobs_to_turn(run, windows, monkeypatch, batch, micro, advice):
    monkeypatch.setattr(GPT, "run_blocks", lambda *_, **__: torch.empty(2**60, dtype=torch.uint8))
    with pytest.raises(UserError, match=f"^out of memory; try {advice}$"):
        run(windows, params=_change(batch_size=batch, micro_batch_size=micro))


def test_the_model_is_heard_at_each_evaluation(run, windows, capsys):
    run(windows)
    shown = re.findall(r"pretrain: step (\d+) writes '", capsys.readouterr().err)
    assert shown == ["3", "6", "7"]


def test_a_non_causal_model_says_so_and_writes_nothing(run, windows, shape, capsys):
    seeing = shape.model_copy(update={"attention": "trainable"})
    run(windows, shape=seeing)
    told = capsys.readouterr().err
    assert told.count("its losses mean nothing") == 1
    assert "writes" not in told


@pytest.fixture
def go_on(tmp_path, run, write_windows_folder, exported_folder, small_tokenizer_file):
    """A runner of the stage from the weights of a folder under `given`, in their shape."""
    shutil.copytree(exported_folder, tmp_path / "given" / "base")
    documents = {"train": _documents(11), "val": _documents(5)}
    windows = write_windows_folder(tmp_path / "in-ids-of-base", documents, 320, CONTEXT)
    config = read_folder(exported_folder).config
    shape = ModelParams(**config.model_dump(exclude={"vocab_size", "context_length"}))

    def go_on(name="on", init_from=str(tmp_path / "given" / "base"), **changes):
        return run(windows, name, _change(init_from=init_from, **changes), shape=shape, tokenizer=small_tokenizer_file)

    return go_on


def test_training_goes_on_from_the_weights_of_a_folder(go_on, exported_folder):
    still = MUON.model_copy(update={"muon_lr": 1e-9, "adamw_lr": 1e-9})
    model = load_model(go_on(optimizer=still) / "weights")
    base = read_folder(exported_folder)
    assert model.config == base.config.model_copy(update={"context_length": CONTEXT})
    torch.testing.assert_close(list(model.parameters()), list(base.parameters()), atol=1e-6, rtol=0)


def test_a_run_from_a_folder_that_was_killed_goes_on_to_the_same_bytes(go_on, capsys):
    whole = _bytes(go_on("whole"))
    with _killed_at_step_5():
        go_on("killed")
    assert _bytes(go_on("killed")) == whole
    assert "resumed at step 4" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["elsewhere", "given/../elsewhere"])
def test_weights_that_dvc_does_not_watch_are_refused(go_on, tmp_path, place):
    with pytest.raises(UserError, match=r"pretrain\.init_from: wanted a folder under .*given"):
        go_on(init_from=str(tmp_path / place))


def test_weights_come_from_a_folder_or_are_drawn():
    with pytest.raises(ValidationError, match="wanted init null where init_from is a folder, given init random"):
        PretrainParams(**PARAMS.model_dump() | {"init": "random", "init_from": "data/given/base"})


# Imports once, then runs the stage in a process of its own for each line that it reads; tells its id and how it ended.
STARTER = """
import os, sys
import torch._dynamo
from llm.core import stage
from stages import pretrain
for _ in sys.stdin:
    if not (child := os.fork()):
        sys.exit(stage.run(pretrain.main))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def start_stage(tmp_path, windows, small_tokenizer_file):
    """A starter of the stage with the options of params.yaml in `tmp_path`: its process id, and a way to its end."""
    (tmp_path / "given").mkdir()
    options = {"windows": windows, "tokenizer": small_tokenizer_file, "given": tmp_path / "given"}
    options |= dict(
        zip(["weights", "metrics", "curve", "picture"], (tmp_path / "out" / name for name in OUTPUTS), strict=True)
    )
    command = [sys.executable, "-c", STARTER, *(f"--{option}={path}" for option, path in options.items())]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with (tmp_path / "told").open("w") as told:
        starter = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=told, **pipes)

    def start():
        os.truncate(tmp_path / "told", 0)
        starter.stdin.write("\n")
        return int(starter.stdout.readline()), lambda: int(starter.stdout.readline())

    yield start
    starter.communicate(timeout=60)


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(tmp_path, shape, windows, run, start_stage):
    """As a stage, in processes: killed at drawn moments, then asked to stop in both ways, then left alone."""
    change = {
        "max_steps": 240,
        "eval_every_steps": 10,
        "checkpoint_every_steps": 7,
        "checkpoint_selection": "best",
        "weight_averaging": "ema",
    }
    params = _change(**change, ema_half_life_fraction=0.05)
    shape = shape.model_copy(update={"d_model": 12, "n_heads": 1, "n_kv_heads": 1, "d_ff": 16, "n_layers": 1})
    whole = run(windows, "whole", params, shape=shape)
    sections = {"seed": 1, "model": shape.model_dump(), "pretrain": params.model_dump()}
    (tmp_path / "params.yaml").write_text(json.dumps(sections), encoding="utf-8")
    drawn = random.Random(1)

    def run_until(number):
        """Send a signal some time after the model was first heard, which is in the loop; how it ended, what it told."""
        process, end = start_stage()
        deadline = time.monotonic() + 60
        while " writes " not in (tmp_path / "told").read_text(encoding="utf-8") and time.monotonic() < deadline:
            time.sleep(0.005)
        if number is not None:
            time.sleep(drawn.uniform(0, 0.05))
            os.kill(process, number)
        code = end()
        return code, (tmp_path / "told").read_text(encoding="utf-8")

    for _ in range(3):
        code, told = run_until(signal.SIGKILL)
        assert code == -signal.SIGKILL, told
    for number, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        code, told = run_until(number)
        assert code == expected, told
        (stopped,) = re.findall(r"pretrain: stopped at step (\d+), kept; run again to go on\n", told)
        assert [path.name for path in (tmp_path / "out").iterdir() if path.name != ".scratch"] == []
    code, told = run_until(None)
    assert code == 0, told
    assert f"pretrain: resumed at step {stopped}\n" in told
    assert _bytes(tmp_path / "out") == _bytes(whole)


def test_an_init_that_the_model_cannot_have_is_refused(run, windows, shape):
    params = PARAMS.model_copy(update={"init": "previous_token_heads"})
    with pytest.raises(UserError, match=r"pretrain.init: wanted random or null .* given previous_token_heads"):
        run(windows, params=params, shape=shape.model_copy(update={"family": "gpt2", "n_kv_heads": shape.n_heads}))
