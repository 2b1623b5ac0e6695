"""Read and clean units one after the other, or on the machines of a Ray cluster; the documents are the same.

    units ──read_unit──► documents ──clean──► Cleaned, in the order of the units

Ray (https://docs.ray.io) is an optional extra. Its workers have to see the files under the same paths.
"""

from collections.abc import Callable, Iterator
from typing import Any

from llm.core.errors import UserError
from llm.corpus.clean import Cleaned, clean
from llm.corpus.params import PrepareParams
from llm.corpus.sources import Unit, read_unit


def clean_units(units: list[Unit], prepare: PrepareParams) -> Iterator[Cleaned]:
    """Yield the documents of all units, in order."""
    max_document_bytes, rules = prepare.max_document_bytes, prepare.clean

    def work(row: dict[str, int]) -> Iterator[dict[str, Any]]:
        for raw in read_unit(units[row["item"]], max_document_bytes):
            yield clean(raw, rules)._asdict()

    if prepare.engine == "ray":
        yield from (Cleaned(**row) for row in _with_ray(work, len(units)))
    else:
        for unit in units:
            for raw in read_unit(unit, max_document_bytes):
                yield clean(raw, rules)


def _with_ray(work: Callable[..., Any], n_items: int) -> Iterator[dict[str, Any]]:
    try:
        import ray.data
    except ImportError:
        raise UserError("prepare.engine: expected the package ray, it is not installed (make extras)") from None
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        yield from ray.data.from_items(list(range(n_items))).flat_map(work).iter_rows()
    finally:
        if started_here:
            ray.shutdown()
