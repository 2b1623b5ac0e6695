import csv
import json

import numpy as np
import pytest
import torch

from llm.errors import UserError
from llm.model.config import ModelParams
from llm.model.gpt import GPT, uniform_loss
from llm.train.batches import WindowBatches
from llm.train.checkpoint import load_model
from llm.train.params import OptimizerParams, PretrainParams, ScheduleParams
from stages import pretrain

VOCAB, CONTEXT = 97, 17
PARAMS = PretrainParams(
    max_steps=7,
    batch_size=2,
    clean_share=0.4,
    optimizer=OptimizerParams(matrix_rate=0.02, other_rate=0.01, weight_decay=0.0, clip_norm=10.0),
    schedule=ScheduleParams(warmup_steps=2, decay_share=0.5),
    eval_every_steps=3,
    eval_windows=5,
    checkpoint_every_steps=2,
    keep="last",
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
def run(tmp_path, config, plain_cpu):
    shape = ModelParams(**config.model_dump(exclude={"vocab_size", "context_length"}))

    def run(windows, name="run", params=PARAMS, seed=1):
        folder = tmp_path / name
        (folder / "scratch").mkdir(parents=True, exist_ok=True)
        weights, metrics, curve, picture = (folder / output for output in OUTPUTS)
        pretrain.main(shape, params, seed, windows, weights, metrics, curve, picture, folder / "scratch")
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
    still = OptimizerParams(matrix_rate=1e-9, other_rate=1e-9, weight_decay=0.0, clip_norm=10.0)
    model = load_model(run(windows, seed=3, params=PARAMS.model_copy(update={"optimizer": still})) / "weights")
    fresh = GPT(config, torch.Generator().manual_seed(3))
    torch.testing.assert_close(list(model.parameters()), list(fresh.parameters()), atol=1e-6, rtol=0)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(run, windows, monkeypatch, capsys):
    whole = run(windows, "whole")
    batch_at = WindowBatches.at

    def killed_at(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return batch_at(self, step)

    monkeypatch.setattr(WindowBatches, "at", killed_at)
    with pytest.raises(KeyboardInterrupt):
        run(windows, "killed")
    assert not (whole.parent / "killed" / "weights").exists()
    monkeypatch.setattr(WindowBatches, "at", batch_at)
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
    assert metrics["kept_step"] == 7
    assert metrics["train_loss"] == float(curve[-1]["train_loss"]) < uniform_loss(VOCAB)
    assert metrics["val_loss"] == float(curve[-1]["val_loss"])
    assert [row["step"] for row in curve] == ["3", "6", "7"]


def test_the_best_weights_are_kept_where_they_are_asked_for(run, windows):
    # At a rate that ruins the model, the first look at val is the best one.
    ruinous = OptimizerParams(matrix_rate=2.0, other_rate=2.0, weight_decay=0.0, clip_norm=10.0)
    change = {"keep": "best", "optimizer": ruinous, "eval_every_steps": 1}
    folder = run(windows, params=PARAMS.model_copy(update=change))
    best = min(_curve(folder), key=lambda row: float(row["val_loss"]))
    assert _metrics(folder)["kept_step"] == int(best["step"]) < 7
    assert _metrics(folder)["val_loss"] == float(best["val_loss"])


def test_without_held_out_text_validation_is_left_out(run, tmp_path, write_windows_folder):
    windows = write_windows_folder(tmp_path / "windows", {"train": _documents(11)}, VOCAB, CONTEXT)
    folder = run(windows, params=PARAMS.model_copy(update={"keep": "best"}))
    assert "val_loss" not in _metrics(folder)
    assert _metrics(folder)["kept_step"] == 7
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
