"""Checkpoints that survive a kill, and damaged ones that are ignored."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.train.checkpoint import Checkpoint
from llm.train.curve import Curve

STATE = {"step": 7, "text": "x", "none": None, "rows": [{"loss": 0.5}], "weights": {"a": torch.arange(9999.0)}}


def test_the_last_saved_state_is_loaded(tmp_path):
    assert Checkpoint(tmp_path / "scratch").load() is None
    Checkpoint(tmp_path / "scratch").save({"step": 3})
    Checkpoint(tmp_path / "scratch").save(STATE)
    state = Checkpoint(tmp_path / "scratch").load()
    assert torch.equal(state.pop("weights")["a"], torch.arange(9999.0))
    assert state == {key: value for key, value in STATE.items() if key != "weights"}


def test_a_failed_save_leaves_the_old_state(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"step": 3})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save({"step": 4, "function": lambda: None})
    assert checkpoint.load() == {"step": 3}
    checkpoint.path.with_suffix(".part").unlink()
    checkpoint.path.with_suffix(".part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save({"weights": torch.zeros(100_000)})


class _Code:
    ran = False

    def __reduce__(self):
        return _run, ()


def _run():
    _Code.ran = True


def test_a_state_never_runs_as_code(tmp_path):
    torch.save({"step": _Code()}, Checkpoint(tmp_path).path)
    with pytest.raises(Exception, match="weights_only"):
        Checkpoint(tmp_path).load()
    assert not _Code.ran


@pytest.mark.parametrize("fraction", [0, 0.0001, 0.01, 0.5, 0.99, 0.9999])
def test_a_truncated_state_is_reported_and_ignored(tmp_path, capsys, fraction):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(STATE)
    content = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(content[: int(fraction * len(content))])
    assert checkpoint.load() is None
    assert capsys.readouterr().err == f"{checkpoint.path}: damaged checkpoint ignored; training starts from step 0\n"


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_other_bytes_are_ignored(tmp_path_factory, content):
    checkpoint = Checkpoint(tmp_path_factory.mktemp("state"))
    checkpoint.path.write_bytes(content)
    assert checkpoint.load() is None


@pytest.mark.parametrize(
    ("losses", "best", "since"), [([2.0], 1, 0), ([2.0, 1.0], 2, 0), ([1.0, 2.0, 1.0], 1, 2), ([3.0, 2.0, 2.0], 2, 1)]
)
def test_of_equal_rows_the_first_is_the_best(losses, best, since):
    curve = Curve([{"step": step, "val_loss": loss} for step, loss in enumerate(losses, start=1)])
    assert (curve.best()["step"], curve.evals_since_best()) == (best, since)


def test_without_validation_the_last_row_is_the_best():
    curve = Curve([{"step": 1, "train_loss": 1.0}, {"step": 2, "train_loss": 2.0}])
    assert (curve.best()["step"], curve.evals_since_best(), Curve().evals_since_best()) == (2, 0, 0)


def test_a_curve_is_tab_separated_values(tmp_path):
    rows = [{"step": 1, "train_loss": 2.5, "lr_factor": 1.0, "val_loss": 2.0}, {"step": 2, "train_loss": 2.25}]
    Curve(rows).write(tmp_path / "curve")
    assert (tmp_path / "curve").read_text() == "step\ttrain_loss\tval_loss\tlr_factor\n1\t2.5\t2.0\t1.0\n2\t2.25\t\t\n"
