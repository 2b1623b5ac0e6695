"""Find stages of dvc.yaml: those that `dvc repro` would run, and those that a target depends on."""

import warnings
from typing import Any

from llm.core.errors import UserError


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


def upstream_stages(target: str | None) -> set[str]:
    """Return the names of a stage and of all that it depends on; of all stages where `target` is None.

    UserError where dvc.yaml has no such stage, or DVC cannot read the working folder's repository.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with warnings.catch_warnings(action="ignore"), Repo() as repo:
            found = repo.stage.collect(target, with_deps=target is not None)
            return {stage.addressing for stage in found}
    except DvcException as error:
        raise UserError(f"dvc.yaml: expected {f'a stage {target}' if target else 'stages'}, got: {error}") from None
