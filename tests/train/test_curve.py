from llm.train.curve import Curve, append_row, write_curve


def _curve(*val_losses):
    return Curve([{"step": step, "val_loss": loss} for step, loss in enumerate(val_losses, start=1)])


def test_of_equally_good_rows_the_first_is_the_best():
    assert _curve(3.0, 2.0, 2.0).best()["step"] == 2


def test_evaluations_count_from_the_best_row():
    assert [_curve(*losses).evals_since_best() for losses in ([], [2.0], [2.0, 1.0], [1.0, 2.0, 1.0])] == [0, 0, 0, 2]


def test_without_validation_the_last_row_is_the_best():
    curve = Curve([{"step": 1, "train_loss": 1.0}, {"step": 2, "train_loss": 2.0}])
    assert curve.best()["step"] == 2
    assert curve.evals_since_best() == 0


def test_a_table_that_grew_row_by_row_is_the_one_written_whole(tmp_path):
    rows = [
        {"step": 1, "train_loss": 2.5, "lr_factor": 1.0, "val_loss": 2.0},
        {"step": 2, "train_loss": 2.25, "lr_factor": 0.5},
    ]
    write_curve(tmp_path / "whole", rows)
    write_curve(tmp_path / "grown", rows[:1])
    append_row(tmp_path / "grown", rows[1])
    text = (tmp_path / "whole").read_text(encoding="utf-8")
    assert text == "step\ttrain_loss\tval_loss\tlr_factor\n1\t2.5\t2.0\t1.0\n2\t2.25\t\t0.5\n"
    assert (tmp_path / "grown").read_text(encoding="utf-8") == text
