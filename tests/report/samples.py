"""A small run: params, metrics and details as stages write them (run.json), and ways to change them."""

import json
from pathlib import Path
from typing import Any

RUN: dict[str, Any] = json.loads(Path(__file__).with_name("run.json").read_text(encoding="utf-8"))
PARAMS, CONTENT, DETAILS, FILES = (RUN[name] for name in ("params", "metrics", "details", "files"))
CONFIG, EVALUATE, MEMORISE = PARAMS["model"], DETAILS["evaluate"], DETAILS["memorise"]
SPLIT, EXAMPLE = EVALUATE["splits"]["val"], DETAILS["finetune/answers"]["answers"][0]
MODEL, RECALL = SPLIT["model"], MEMORISE["train"]["model"]


def merged(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings with some values replaced, and without those that are `...`."""
    inner = {
        key: merged(content[key], of)
        for key, of in changes.items()
        if isinstance(of, dict) and of and isinstance(content.get(key), dict)
    }
    return {key: of for key, of in (content | changes | inner).items() if of is not ...}


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of every table row of Markdown, by its first cell."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in rows}


def write_run(folder: Path) -> None:
    """Write everything that a run leaves for its reports under a folder."""
    found = FILES | {"params.yaml": json.dumps(PARAMS)}
    found |= {f"metrics/{name}.json": json.dumps(of) for name, of in CONTENT.items()}
    found |= {f"metrics/details/{name}.json": json.dumps(of) for name, of in DETAILS.items()}
    for name, text in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
