"""A JSONL of distinct documents through prepare, tokenize and sample: time, peak memory, and what arrives.

    python -m bench.scale [GIGABYTES]          2 if nothing is said; `make bench` takes 0.2

The documents are drawn: words of the standard library by Zipf's law, about 2 kB each, each with its number.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from tqdm import tqdm

from llm.corpus.params import PythonSource
from llm.corpus.sources import list_units, read_unit

WORDS_A_DOCUMENT, N_DRAWN = 320, 2000


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 0.2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_documents, n_bytes = write_documents(folder / "raw" / "documents.jsonl", int(gigabytes * 1e9))
        print(f"{n_documents:,} documents, {n_bytes / 1e6:,.0f} MB of text")
        runs = {near: run_stages(folder, near) for near in (False, True)}
        table = {"prepare": runs[False]["prepare"], "prepare, near duplicates too": runs[True]["prepare"]}
        for stage, (seconds, peak) in (table | {name: runs[False][name] for name in ("tokenize", "sample")}).items():
            print(f"  {stage:<30}{seconds:8.1f} s {n_bytes / seconds / 1e6:8.1f} MB/s {peak:8,.0f} MB at most")
        more = (runs[True]["prepare"][1] - runs[False]["prepare"][1]) * 1e6 / n_documents
        print(f"near duplicates: {more:,.0f} bytes of memory a document")
        print(f"{arrived(folder) / n_bytes:.2%} of the bytes are in the tokens")


def write_documents(path: Path, n_bytes: int) -> tuple[int, int]:
    """How many documents were written, and their bytes of text."""
    path.parent.mkdir()
    units = list_units(PythonSource(name="python", kind="python", include=["*"]), path)
    texts = (found.text for unit in units for found in read_unit(unit, 10**9) if hasattr(found, "text"))
    found = {word for text in texts for word in re.findall(r"\w+[.,:;]?|[^\w\s]+", text)}
    words = np.array(sorted(found), dtype=object)
    rng = np.random.default_rng(1)
    rng.shuffle(words)
    often = np.cumsum(1 / np.arange(1, len(words) + 1))
    written = number = 0
    with path.open("w", encoding="utf-8") as file, tqdm(total=n_bytes, unit="B", unit_scale=True) as bar:
        while written < n_bytes:
            drawn = words[np.searchsorted(often, rng.random((N_DRAWN, WORDS_A_DOCUMENT)) * often[-1])]
            for row in drawn:
                text = f"Document {number}\n{' '.join(row)}\n"
                size = len(text.encode())
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                written, number = written + size, number + 1
                bar.update(size)
    return number, written


def run_stages(folder: Path, near: bool) -> dict[str, tuple[float, float]]:
    """Seconds and peak megabytes of each stage, each in a process of its own."""
    params = YAML(typ="safe").load(Path("params.yaml").read_text(encoding="utf-8"))
    params["prepare"]["sources"] = [
        {"name": "made", "kind": "files", "globs": [f"{folder.as_posix()}/raw/*.jsonl"]},
    ]
    if not near:
        params["prepare"]["clean"]["near_duplicates"] = None
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)
    shutil.copyfile("requirements.lock", folder / "requirements.lock")
    stages: dict[str, dict[str, str]] = {
        "prepare": {
            "raw": "raw",
            "lock": "requirements.lock",
            "corpus": "corpus",
            "metrics": "p.json",
            "report": "p.md",
        },
        "tokenize": {"corpus": "corpus", "given": "raw", "tokenizer": "tokenizer.json", "tokens": "tokens"}
        | {"metrics": "t.json", "report": "t.md", "picture": "t.svg"},
        "sample": {"tokens": "tokens", "tokenizer": "tokenizer.json", "windows": "windows"}
        | {"metrics": "s.json", "report": "s.md"},
    }
    figures = {}
    for stage, paths in stages.items():
        if near and stage != "prepare":
            continue
        words = [word for name, path in paths.items() for word in (f"--{name}", str(folder / path))]
        runtime = folder / f"{stage}.runtime.json"
        command = [sys.executable, "-m", f"stages.{stage}", "--params", str(folder / "params.yaml"), *words]
        subprocess.run([*command, "--runtime", str(runtime)], check=True, stderr=subprocess.DEVNULL)
        content: dict[str, Any] = json.loads(runtime.read_text(encoding="utf-8"))
        figures[stage] = (float(content["seconds"]), float(content["peak_memory_mb"]))
    return figures


def arrived(folder: Path) -> int:
    """The bytes of the documents whose ids were written."""
    n_bytes = json.loads((folder / "windows" / "windows.json").read_text(encoding="utf-8"))["n_bytes"]
    return sum(n_bytes.values())


if __name__ == "__main__":
    main()
