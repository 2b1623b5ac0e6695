"""Find the stages that `dvc repro` would run: those that changed, and the stages after them."""

import warnings
from typing import Any


def outdated_stages() -> set[str] | None:
    """Return their names, such as `finetune@library`; None where DVC cannot read the working folder's repository.

    A stage whose outputs DVC would restore from its cache counts as one that runs.
    """
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]

    try:
        with warnings.catch_warnings(action="ignore"), Repo() as repo:  # warnings of DVC's own code
            changed, graph = repo.status(), repo.index.graph
    except DvcException:
        return None
    waiting: list[Any] = [stage for stage in graph if stage.addressing in changed]
    found = set[str]()
    while waiting:
        stage = waiting.pop()
        if stage.addressing not in found:
            found.add(stage.addressing)
            waiting += graph.predecessors(stage)  # edges lead from a stage to what it depends on
    return found
