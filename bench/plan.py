"""Hold plans against their outcome: make them for texts and minutes, run them, print time and bits per byte.

    python -m bench.plan --minutes 5 15 -- documentation notes.txt     plans of `dvc repro`
    python -m bench.plan --minutes 1 --until evaluate -- notes.txt     plans of `dvc repro evaluate`

Each run is a fresh clone with an empty DVC cache in a temporary folder, which `--keep` keeps. `documentation` is the
built-in text. Nothing else may run beside it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llm.report.tables import Table

ROOT = Path(__file__).resolve().parents[1]
PREDICTION = Path("metrics/runtime/predicted/plan.json")
COLUMNS = [
    "text",
    "asked, min",
    "plan, s",
    "model",
    "steps",
    "predicted, s",
    "measured, s",
    "predicted bits",
    "measured",
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plan", allow_abbrev=False)
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="a file, or documentation")
    parser.add_argument("--minutes", type=float, nargs="+", required=True)
    parser.add_argument("--until", help="a stage, at which the run ends")
    parser.add_argument("--keep", type=Path, help="a folder for the clones")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for text in args.texts:
            for minutes in args.minutes:
                folder = (args.keep or Path(name)) / f"{Path(text).stem}-{minutes:g}"
                rows.append([Path(text).stem, f"{minutes:g}", *run_plan(folder, text, minutes, args.until)])
                print(Table(COLUMNS, rows[-1:]), flush=True)
    print(Table(COLUMNS, rows))


def run_plan(folder: Path, text: str, minutes: float, until: str | None) -> list[Any]:
    """Plan and run in a fresh clone; return the cells after text and minutes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    run("git", "clone", "--quiet", str(ROOT), str(folder), cwd=ROOT)
    if text != "documentation":
        (folder / "data/raw").mkdir(exist_ok=True)
        shutil.copy(text, folder / "data/raw")
        run(sys.executable, "-m", "llm", "use-text", "data/raw", cwd=folder)
        run(sys.executable, "-m", "dvc", "add", "--quiet", "data/raw", cwd=folder)
    target = ["--until", until] if until else []
    plan_seconds = run(sys.executable, "-m", "llm", "plan", "--minutes", f"{minutes:g}", *target, cwd=folder)
    seconds = run(sys.executable, "-m", "dvc", "repro", *target[1:], cwd=folder)
    plan = json.loads((folder / PREDICTION).read_bytes())
    measured = json.loads((folder / "metrics/evaluate.json").read_bytes())["val"]["model"]["bits_per_byte"]
    changes = plan["changes"]
    model = f"{changes['model.n_layers']} layers of {changes['model.d_model']}"
    bits = f"{plan['bits_per_byte']:.3f} [{plan['low']:.3f}, {plan['high']:.3f}]"
    cells = [f"{plan_seconds:.0f}", model, changes["pretrain.max_steps"], plan["seconds"], f"{seconds:.0f}"]
    return [*cells, bits, f"{measured:.3f}"]


def run(*command: str, cwd: Path) -> float:
    """Run a command that prints to stderr, and return its seconds."""
    began = time.monotonic()
    subprocess.run(command, cwd=cwd, stdout=sys.stderr, check=True)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
