"""Sources in params.yaml → documents of prepared text, split into train, val and test."""

import math
import platform
import sys
from collections import Counter
from contextlib import ExitStack
from typing import Annotated

from tqdm import tqdm

from llm import stage
from llm.errors import UserError
from llm.stage import Input, Output, Param
from llm.text.clean import document_id, normalise
from llm.text.params import PrepareParams, PythonSource
from llm.text.sources import library_hash, read_source, untracked_files
from llm.text.split import cut, is_chosen, split_of
from llm.text.tables import CORPUS, SPLITS, TableWriter


def main(prepare: Annotated[PrepareParams, Param("prepare")], raw: Input, corpus: Output, metrics: Output) -> None:
    """Write `corpus`/{train,val,test}.parquet and count what was kept and what was dropped."""
    for file in untracked_files(prepare.sources, raw):
        print(
            f"prepare: warning: {file} is not tracked, `dvc add {file}` makes it part of the version", file=sys.stderr
        )
    documents, n_bytes, skipped = Counter[str](), Counter[str](), Counter[str]()
    seen: set[str] = set()
    changed_bytes = 0
    with ExitStack() as stack:
        tables = {split: stack.enter_context(TableWriter(corpus / f"{split}.parquet", CORPUS)) for split in SPLITS}
        progress = stack.enter_context(tqdm(desc="prepare", unit=" documents"))
        for source in prepare.sources:
            for raw_document in read_source(source, raw, skipped):
                text = normalise(raw_document.text)
                changed_bytes += abs(len(raw_document.text.encode()) - len(text.encode()))
                doc_id = document_id(text)
                if not text.strip():
                    skipped["empty"] += 1
                    continue
                if doc_id in seen:
                    skipped["duplicate"] += 1
                    continue
                seen.add(doc_id)
                parts = _split(text, doc_id, prepare)
                skipped["beyond_share"] += not parts
                for split, part in parts.items():
                    size = len(part.encode())
                    row = {"doc_id": doc_id if part == text else document_id(part), "source": source.name}
                    tables[split].write(row | {"path": raw_document.path, "text": part, "n_bytes": size}, n_bytes=size)
                    documents[split] += 1
                    n_bytes[split] += size
                    n_bytes[f"source {source.name}"] += size
                progress.update()
    if not documents["train"]:
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in skipped.items() if count)
        held_out = f"{documents['val'] + documents['test']} held out"
        raise UserError(
            f"prepare.sources: wanted at least one document to train on, given none ({reasons or held_out})"
        )
    report = {
        "documents": {split: documents[split] for split in SPLITS},
        "bytes": {split: n_bytes[split] for split in SPLITS},
        "bytes_by_source": {source.name: n_bytes[f"source {source.name}"] for source in prepare.sources},
        "bytes_changed_by_normalising": changed_bytes,
        "skipped": {
            reason: skipped[reason] for reason in ("empty", "duplicate", "not_utf8", "not_decodable", "beyond_share")
        },
    }
    if any(isinstance(source, PythonSource) for source in prepare.sources):
        report["python"] = {"version": platform.python_version(), "library_sha256": library_hash()}
    stage.write_json(metrics, report)


def _split(text: str, doc_id: str, prepare: PrepareParams) -> dict[str, str]:
    """What of a text goes to which split: all of it, its parts, or nothing if it is beyond the share."""
    shares = prepare.split
    if shares.method == "document":
        chosen = is_chosen(doc_id, prepare.share)
        return {split_of(doc_id, shares.val, shares.test): text} if chosen else {}
    return cut(text[: math.ceil(len(text) * prepare.share)], shares.val, shares.test)


if __name__ == "__main__":
    stage.run(main)
