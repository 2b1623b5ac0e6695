"""The docstrings of the corpus → two labeled tables, for the finetuning tasks that come built in."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from tqdm import tqdm

from llm.core import stage
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param
from llm.core.tables import SPLITS, TableWriter, iterate_rows, with_reason
from llm.corpus.labels import DOCSTRING, LIBRARY, Documented, docstring_rows, find_documented, library_rows
from llm.corpus.params import LabelParams


def main(
    label: Annotated[LabelParams, Param("label")],
    corpus: Input = Path("data/corpus"),
    library: Output = Path("data/labeled/builtin/library.parquet"),
    docstring: Output = Path("data/labeled/builtin/docstring.parquet"),
    metrics: Output = Path("metrics/label.json"),
) -> None:
    """Write the tables `library` and `docstring`; for a corpus without docstrings both have no rows."""
    dropped = Counter[str]()
    found: list[Documented] = []
    for split in SPLITS:
        rows = iterate_rows(corpus / f"{split}.parquet", ["path", "text"])
        for row in tqdm(rows, desc=f"label {split}", unit=" documents"):
            if row["path"].endswith(".py"):
                found += find_documented(row["path"], split, row["text"])
    found.sort(key=lambda one: one.path)
    tables = {
        "library": library_rows(found, label, dropped),
        "docstring": docstring_rows(found, label.max_answer_chars, dropped),
    }
    reasons = {}
    for path, schema, task in ((library, LIBRARY, "library"), (docstring, DOCSTRING, "docstring")):
        kept = schema
        if reason := _why_empty(task, tables[task]) if found else "the corpus has no docstrings":
            dropped[f"{task}_{reason.replace(' ', '_')}"] = len(tables[task])
            reasons[task], tables[task], kept = reason, [], with_reason(schema, reason)
        _write(path, kept, tables[task])
    report: dict[str, Any] = {
        task: {split: sum(row["split"] == split for row in of_task) for split in SPLITS}
        for task, of_task in tables.items()
    }
    report["library_packages"] = dict(Counter(row["label"] for row in tables["library"]).most_common())
    report["dropped"] = dict(sorted(dropped.items()))
    if reasons:
        report["empty_reason"] = reasons
    write_json(metrics, report)


def _why_empty(task: str, rows: list[dict[str, Any]]) -> str | None:
    """Return why a task has nothing to be trained and measured on, or None."""
    if task == "library" and not rows:
        return "no package of the corpus is in train and in test"
    missing = [split for split in SPLITS if all(row["split"] != split for row in rows)]
    return f"no docstring of the corpus is left in {' and '.join(missing)}" if missing else None


def _write(path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    with TableWriter(path, schema) as table:
        for row in rows:
            table.write(row, n_bytes=256)


if __name__ == "__main__":
    stage.run(main)
