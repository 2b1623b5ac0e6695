"""Experiments side by side: Git revisions in; the params and metrics that differ, curves in one picture, samples out.

    HEAD, workspace → pretrain.max_steps             1200                  600
                      evaluate.test.bits_per_byte    1.342 [1.330, 1.353]  1.398 [1.386, 1.410]

An experiment is whatever DVC can read a state of the repository from: a commit, a branch, a tag, the name of a
`dvc exp run`, or `workspace` for the files as they are now.
"""

import csv
import json
import shutil
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from llm.core.errors import UserError
from llm.report.trace import flatten

WORKSPACE = "workspace"
CURVE, SAMPLES = "plots/pretrain/curve.tsv", "reports/samples.md"
ABSENT = "–"
GAP = 2  # blanks between columns


class Interval(NamedTuple):
    """A metric with the interval that it lies in."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Experiment:
    """One column. Params and metrics stand under dotted keys; a curve or samples that can't be read are None."""

    name: str
    params: dict[str, Any]
    metrics: dict[str, Any]
    curve: list[dict[str, float]] | None
    samples: str | None


def compare_runs(names: list[str], root: Path, picture: Path) -> str:
    """What differs between experiments, as text; their learning curves are drawn into `picture`, an SVG.

    Args:
        names: revisions; none are HEAD and the workspace, one is compared with the workspace.
        root: the repository.
        picture: where to write the curves, if any experiment has one.

    Raises:
        UserError: no Git repository with DVC, or a name that is no revision of it.
    """
    names = names or ["HEAD"]
    names = names if len(names) > 1 else [*names, WORKSPACE]
    experiments = [read_experiment(name, root) for name in names]
    width = shutil.get_terminal_size((140, 24)).columns
    parts = [
        difference_table("params", names, [experiment.params for experiment in experiments], width),
        difference_table("metrics", names, [fold_intervals(experiment.metrics) for experiment in experiments], width),
    ]
    curves = [(experiment.name, experiment.curve) for experiment in experiments if experiment.curve]
    if curves:
        draw_curves(curves, picture)
    without = [experiment.name for experiment in experiments if not experiment.curve]
    lines = [f"curves: {picture}"] if curves else []
    lines += [f"curves: {CURVE} is not there in {name}" for name in without]
    samples = {experiment.name: experiment.samples for experiment in experiments}
    lines += [
        f"samples: {SAMPLES} of {name} is in no cache (dvc pull)" for name, text in samples.items() if text is None
    ]
    parts.append("\n".join(lines))
    texts = {name: text for name, text in samples.items() if text is not None}
    if texts:
        parts.append(samples_table(list(texts), list(texts.values()), width))
    return "\n\n".join(parts)


def read_experiment(name: str, root: Path) -> Experiment:
    """Params, metrics, curve and samples of a revision, through DVC; UserError where there is none of that name."""
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]
    from dvc.exceptions import DvcException, NotDvcRepoError  # type: ignore[import-untyped]
    from dvc.scm import RevError, SCMError  # type: ignore[import-untyped]

    try:
        with closing(DVCFileSystem(str(root), rev=None if name == WORKSPACE else name)) as tree:
            param_files = tree.repo.params.show(on_error="raise")[""]["data"]
            metric_files = tree.repo.metrics.show()[""]["data"]
            curve, samples = _read_text(tree, CURVE), _read_text(tree, SAMPLES)
    except RevError:
        raise UserError(f"{name}: wanted a Git revision or the name of an experiment, there is none") from None
    except (SCMError, NotDvcRepoError) as error:
        raise UserError(f"compare: wanted a Git repository with DVC, {' '.join(str(error).split())}") from None
    except DvcException as error:
        raise UserError(f"{name}: wanted params that DVC can read, {' '.join(str(error).split())}") from None
    params: dict[str, Any] = {}
    for result in param_files.values():
        params |= flatten(result["data"])
    # A metrics file that is not there at this revision has an error instead of data.
    metrics = flatten({_short(file): result["data"] for file, result in metric_files.items() if "data" in result})
    if not params and not metrics:
        raise UserError(f"{name}: wanted an experiment, it has neither params nor metrics")
    return Experiment(name, params, metrics, None if curve is None else read_curve(curve), samples)


def fold_intervals(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics in which a value with its `_low` and `_high` has become one.

    >>> fold_intervals({"bits": 1.18, "bits_low": 1.171, "bits_high": 1.19, "tokens": 12})
    {'bits': Interval(value=1.18, low=1.171, high=1.19), 'tokens': 12}
    """
    folded = dict(metrics)
    for key, value in metrics.items():
        low, high = f"{key}_low", f"{key}_high"
        if low in metrics and high in metrics:
            folded[key] = Interval(value, metrics[low], metrics[high])
            del folded[low], folded[high]
    return folded


def difference_table(title: str, names: list[str], columns: list[dict[str, Any]], width: int) -> str:
    """The keys whose values are not the same in all columns, a row each; and how many are the same.

    >>> print(difference_table("params", ["a", "b"], [{"seed": 1, "d": 2}, {"seed": 1, "d": 3}], 40))
    params   a  b
    d        2  3
    1 is the same in all
    """
    keys = list(dict.fromkeys(key for column in columns for key in column))
    differing = [key for key in keys if any(key not in column or column[key] != columns[0][key] for column in columns)]
    rows = [[key, *(_shown(column[key]) if key in column else ABSENT for column in columns)] for key in differing]
    n_same = len(keys) - len(rows)
    rest = f"{n_same} {'is' if n_same == 1 else 'are'} the same in all"
    if not rows:
        return f"{title}: {rest}"
    rows = [[title, *names], *rows]
    wanted = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    # The keys get what they need, up to half of the line; the experiments share the rest.
    key_width = min(wanted[0] + 1, width // 2)
    each = max((width - key_width) // len(names) - GAP, 12)
    widths = [key_width, *(min(column, each) for column in wanted[1:])]
    return "\n".join([*(line for row in rows for line in columns_of(row, widths)), rest])


def samples_table(names: list[str], texts: list[str], width: int) -> str:
    """Markdown texts in columns. Sections of the same heading stand side by side."""
    each = max((width - GAP * (len(texts) - 1)) // len(texts), 12)
    widths = [each] * len(texts)
    sections = [split_sections(text) for text in texts]
    lines = columns_of(names, widths)
    for heading in dict.fromkeys(heading for found in sections for heading in found):
        lines += ["", heading[0], *columns_of([found.get(heading, "").strip("\n") for found in sections], widths)]
    return "\n".join(lines)


def split_sections(text: str) -> dict[tuple[str, int], str]:
    r"""Markdown by heading, and by which of the headings that read so it is; a `#` within a fence is none.

    >>> split_sections("# a\none\n```\n# two\n```\n# a\nthree\n")
    {('# a', 0): 'one\n```\n# two\n```', ('# a', 1): 'three\n'}
    """
    sections: dict[tuple[str, int], list[str]] = {}
    heading, fence = ("", 0), ""
    for line in text.split("\n"):
        if fence:
            fence = "" if line.rstrip() == fence else fence
        elif line.startswith("```"):
            fence = "`" * (len(line) - len(line.lstrip("`")))
        elif line.startswith("#"):
            heading = (line, sum(known == line for known, _ in sections))
            sections[heading] = []
            continue
        sections.setdefault(heading, []).append(line)
    return {heading: body for heading, lines in sections.items() if (body := "\n".join(lines)) or heading[0]}


def columns_of(cells: list[str], widths: list[int]) -> list[str]:
    """Texts side by side; a line that is wider than its column goes on in the next one.

    >>> columns_of(["abcde", "x"], [3, 3])
    ['abc  x', 'de']
    """
    broken = [
        [line[start : start + width] for line in cell.split("\n") for start in range(0, max(len(line), 1), width)]
        for cell, width in zip(map(_printable, cells), widths, strict=True)
    ]
    gap = " " * GAP
    return [
        gap.join(f"{piece:<{width}}" for piece, width in zip(row, widths, strict=True)).rstrip()
        for row in zip_longest(*broken, fillvalue="")
    ]


def read_curve(table: str) -> list[dict[str, float]]:
    r"""The rows of a learning curve: tab-separated values under a line of names, without those that stand empty.

    >>> read_curve("step\ttrain_loss\tval_loss\n10\t5.5\t\n")
    [{'step': 10.0, 'train_loss': 5.5}]
    """
    rows = csv.DictReader(table.splitlines(), delimiter="\t")
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


def draw_curves(curves: list[tuple[str, list[dict[str, float]]]], path: Path) -> None:
    """Learning curves of several experiments in one picture: a colour each, validation solid, training dashed."""
    import matplotlib

    from llm.report.plots import SETTINGS, new_figure, save_figure

    figure = new_figure(8, 5)
    with matplotlib.rc_context(SETTINGS):
        axes = figure.subplots()
        for number, (name, rows) in enumerate(curves):
            color = f"C{number % 10}"
            for key, style in (("val_loss", "-"), ("train_loss", "--")):
                points = [(row["step"], row[key]) for row in rows if key in row]
                axes.plot(*zip(*points, strict=True), style, color=color) if points else None
            axes.plot([], [], color=color, label=name.replace("$", r"\$"))
        axes.set(xlabel="step", ylabel="loss (nats a token)", title="pretraining: validation loss, training dashed")
        axes.legend()
    save_figure(figure, path)


def _read_text(tree: Any, path: str) -> str | None:
    from dvc.exceptions import DvcException

    try:
        text: str = tree.read_text(path)
    except (DvcException, OSError):  # not there at this revision, or an output that is in no cache
        return None
    return text


def _short(file: str) -> str:
    """A metrics file in a key: metrics/finetune/library.json is finetune/library."""
    path = PurePosixPath(file).with_suffix("")
    return str(path.relative_to("metrics") if path.is_relative_to("metrics") else path)


def _shown(value: Any) -> str:
    if isinstance(value, Interval):
        return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
    return value if isinstance(value, str) and "\n" not in value else json.dumps(value, ensure_ascii=False)


def _printable(text: str) -> str:
    """Without tabs and control characters, which would move the columns or the terminal's cursor."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text.expandtabs(4))
