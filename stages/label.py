"""The Python documents of the corpus → two labeled tables, for the finetuning tasks that come built in."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from tqdm import tqdm

from llm import stage
from llm.stage import Input, Output, Param
from llm.text.labels import DOCSTRING, LIBRARY, Function, docstring_rows, find_functions, library_rows
from llm.text.params import LabelParams
from llm.text.tables import SPLITS, TableWriter, iterate_rows, with_reason


def main(
    label: Annotated[LabelParams, Param("label")], corpus: Input, library: Output, docstring: Output, metrics: Output
) -> None:
    """Write the tables `library` and `docstring`; without Python documents both have no rows."""
    dropped = Counter[str]()
    functions: list[Function] = []
    not_parsed: list[str] = []
    for split in SPLITS:
        for row in tqdm(
            iterate_rows(corpus / f"{split}.parquet", ["path", "text"]), desc=f"label {split}", unit=" documents"
        ):
            if row["path"].endswith(".py"):
                found = find_functions(row["path"], split, row["text"])
                functions += found or []
                not_parsed += [row["path"]] if found is None else []
    if not_parsed:
        dropped["documents_not_parsed"] = len(not_parsed)
        print(f"label: {len(not_parsed)} Python documents were not parsed, first {not_parsed[0]}", file=sys.stderr)
    fitting = [function for function in functions if label.min_chars <= len(function.source) <= label.max_chars]
    dropped["too_short_or_long"] = len(functions) - len(fitting)
    fitting.sort(key=lambda function: function.path)
    rows = {
        "library": library_rows(
            fitting, label.n_packages, label.max_rows_per_package, label.max_rows_per_document, dropped
        ),
        "docstring": docstring_rows(fitting, dropped),
    }
    reasons = {}
    no_functions = "the corpus has no Python documents" + (" that can be parsed" if not_parsed else "")
    for path, schema, task in ((library, LIBRARY, "library"), (docstring, DOCSTRING, "docstring")):
        kept = schema
        if reason := _why_empty(task, rows[task]) if functions else no_functions:
            dropped[f"{task}_{reason.replace(' ', '_')}"] = len(rows[task])
            reasons[task], rows[task], kept = reason, [], with_reason(schema, reason)
        _write(path, kept, rows[task])
    report: dict[str, Any] = {
        task: {split: sum(row["split"] == split for row in of_task) for split in SPLITS}
        for task, of_task in rows.items()
    }
    report["library_packages"] = dict(Counter(row["label"] for row in rows["library"]).most_common())
    report["dropped"] = dict(sorted(dropped.items()))
    if reasons:
        report["empty_because"] = reasons
    stage.write_json(metrics, report)


def _why_empty(task: str, rows: list[dict[str, Any]]) -> str | None:
    """Why a task has nothing to be trained and measured on, or None."""
    if task == "library" and not rows:
        return "no package of the corpus is in train and in test"
    missing = [split for split in SPLITS if all(row["split"] != split for row in rows)]
    return f"no function of the corpus is left in {' and '.join(missing)}" if missing else None


def _write(path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    with TableWriter(path, schema) as table:
        for row in rows:
            table.write(row, n_bytes=256)


if __name__ == "__main__":
    stage.run(main)
