"""Reading and cleaning, a unit at a time: here, or on the machines of a Ray cluster. The rows are the same.

    units ──read_unit──► documents ──clean──► Cleaned, in the order of the units

Ray (https://docs.ray.io) is an optional extra. Its workers have to see the files under the same paths.
"""

from collections.abc import Iterator

from llm.core.errors import UserError
from llm.corpus.clean import Cleaned, clean
from llm.corpus.params import CleanParams, PrepareParams
from llm.corpus.sources import Unit, read_unit


def clean_units(units: list[Unit], prepare: PrepareParams) -> Iterator[Cleaned]:
    """All documents of all units, in order."""
    if prepare.engine == "ray":
        yield from _with_ray(units, prepare)
    else:
        for unit in units:
            yield from _clean_unit(unit, prepare.max_document_bytes, prepare.clean)


def _clean_unit(unit: Unit, max_document_bytes: int, rules: CleanParams) -> Iterator[Cleaned]:
    for raw in read_unit(unit, max_document_bytes):
        yield clean(raw, rules)


def _with_ray(units: list[Unit], prepare: PrepareParams) -> Iterator[Cleaned]:
    try:
        import ray.data
    except ImportError:
        raise UserError("prepare.engine: expected the package ray, it is not installed (make extras)") from None
    max_document_bytes, rules = prepare.max_document_bytes, prepare.clean

    def work(row: dict[str, int]) -> Iterator[dict[str, object]]:
        for document in _clean_unit(units[row["item"]], max_document_bytes, rules):
            yield document._asdict()

    started_here = not ray.is_initialized()
    if started_here:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        for row in ray.data.from_items(list(range(len(units)))).flat_map(work).iter_rows():
            yield Cleaned(**row)
    finally:
        if started_here:
            ray.shutdown()
