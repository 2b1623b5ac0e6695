"""Compare experiments: the params and metrics that differ, learning curves in one picture, samples side by side.

    HEAD, workspace → pretrain.max_steps                   1200                  600
                      evaluate.test.model.bits_per_byte    1.342 [1.330, 1.353]  1.398 [1.386, 1.410]

An experiment is any state of the repository that DVC can read: a commit, a branch, a tag, the name of a `dvc exp run`,
or `workspace` for the files as they are now.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm.core.errors import UserError
from llm.report.metrics import Score, flatten, fold_intervals
from llm.report.stages import read_curve
from llm.report.summary import visible
from llm.report.tables import ABSENT, Code

WORKSPACE = "workspace"
CURVE, DETAILS = "plots/pretrain/curve.tsv", "metrics/details/evaluate.json"


class Experiment(NamedTuple):
    """Params and metrics by dotted key, a curve, generated texts by prompt."""

    params: dict[str, Any]
    metrics: dict[str, Score]
    curve: list[dict[str, float]]  # empty where it cannot be read
    samples: dict[str, str] | None


def compare_runs(names: list[str], root: Path, picture: Path) -> str:
    """Return the differences between revisions as text; their learning curves are written to `picture`, an SVG.

    One revision alone is compared with the workspace. UserError where there is no repository with DVC, or where a name
    is no revision.
    """
    names = names if len(names) > 1 else [*names, WORKSPACE]
    found = {name: read_experiment(name, root) for name in names}
    tables = [difference_table(of, names, [getattr(found[name], of) for name in names]) for of in ("params", "metrics")]
    notes = _draw({name: of.curve for name, of in found.items()}, picture)
    texts = {name: of.samples for name, of in found.items() if of.samples is not None}
    notes += [f"samples: {DETAILS} of {name} is in no cache (dvc pull)" for name in found if name not in texts]
    return "\n\n".join([*tables, "\n".join(notes), samples_table(texts)]).rstrip("\n")


def _draw(curves: dict[str, list[dict[str, float]]], picture: Path) -> list[str]:
    """Draw the curves that exist; return lines that name the picture and the experiments without a curve."""
    lines = [f"curves: {name} has no {CURVE}" for name in curves if not curves[name]]
    if len(lines) == len(curves):
        return lines
    from llm.report.plots import draw_curves

    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(draw_curves({name: of for name, of in curves.items() if of}), encoding="utf-8")
    return [f"curves: {picture}", *lines]


def read_experiment(name: str, root: Path) -> Experiment:
    """Read a revision through DVC; UserError where there is none of that name."""
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]
    from dvc.exceptions import DvcException, NotDvcRepoError  # type: ignore[import-untyped]
    from dvc.scm import RevError, SCMError  # type: ignore[import-untyped]
    from dvc_data.index import DataIndexDirError

    def read_text(path: str) -> str:
        try:
            return str(tree.read_text(path))
        except (DvcException, DataIndexDirError, OSError):  # not at this revision, or an output that is in no cache
            return ""

    params: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    try:
        with closing(DVCFileSystem(str(root), rev=None if name == WORKSPACE else name)) as tree:
            for of in tree.repo.params.show(on_error="raise")[""]["data"].values():
                params |= flatten(of["data"])
            for file, of in tree.repo.metrics.show()[""]["data"].items():  # a file that is absent has no data
                metrics |= flatten(of.get("data", {}), f"{file.removeprefix('metrics/').removesuffix('.json')}.")
            curve, details = read_text(CURVE), read_text(DETAILS)
    except RevError:
        raise UserError(f"{name}: expected a Git revision or the name of an experiment, got neither") from None
    except (SCMError, NotDvcRepoError) as error:
        raise UserError(f"compare: expected a Git repository with DVC, {' '.join(str(error).split())}") from None
    except DvcException as error:
        raise UserError(f"{name}: expected params that DVC can read, {' '.join(str(error).split())}") from None
    if not params and not metrics:
        raise UserError(f"{name}: expected an experiment, got neither params nor metrics")
    return Experiment(params, fold_intervals(metrics), read_curve(curve.splitlines()), _samples(details))


def _samples(details: str) -> dict[str, str] | None:
    if not details:
        return None
    return {f"{Code(of['prompt'])}, {of['method']}": of["text"] for of in json.loads(details).get("samples", [])}


def difference_table(head: str, names: list[str], columns: Sequence[dict[str, Any]]) -> str:
    """Return a row for each key whose values differ, and how many keys do not."""
    keys = list(dict.fromkeys(key for column in columns for key in column))
    differing = [key for key in keys if any(of.get(key, ABSENT) != columns[0].get(key, ABSENT) for of in columns)]
    n_same = len(keys) - len(differing)
    rest = f"{n_same} {'is' if n_same == 1 else 'are'} the same in all"
    if not differing:
        return f"{head}: {rest}"
    rows = [[key, *(_show(column.get(key, ABSENT)) for column in columns)] for key in differing]
    return f"{in_columns([head, *names], *rows)}\n{rest}"


def _show(value: Any) -> str:
    if isinstance(value, Score):
        return value.show(3) if value.low is not None else _show(value.value)
    return value if isinstance(value, str) and "\n" not in value else json.dumps(value, ensure_ascii=False)


def samples_table(texts: Mapping[str, Mapping[str, str]]) -> str:
    """Return generated texts in columns, those of the same prompt side by side."""
    parts = [in_columns([*texts], equal=True)] if texts else []
    for prompt in dict.fromkeys(prompt for samples in texts.values() for prompt in samples):
        parts.append(f"## {prompt}\n{in_columns([of.get(prompt, '') for of in texts.values()], equal=True)}")
    return "\n\n".join(parts)


def in_columns(*rows: Sequence[str], equal: bool = False) -> str:
    """Return rows of texts in columns as wide as the terminal; a long line continues in the next one.

    >>> print(in_columns(["params", "a", "b"], ["model.d_model", "2", "3"]))
    params         a  b
    model.d_model  2  3
    """
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False, expand=equal)
    for _ in rows[0]:
        table.add_column(overflow="fold", ratio=1 if equal else None)
    for row in rows:
        table.add_row(*(Text(visible(cell).expandtabs(4)) for cell in row))
    console = Console(width=shutil.get_terminal_size((140, 24)).columns, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))
