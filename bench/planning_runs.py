"""Make runs for the law of plans: rows of llm/experiments/planning_runs.tsv, for a text or many.

    python -m bench.planning_runs letters.txt notes.txt --bytes 170000 950000 --runs 192x2:1000 256x4:1000

For each text, and for excerpts of its first bytes, the two pilot runs and the others, as a plan would train them, with
the last twentieth held out (at most 250,000 bytes). Rows are printed as they are found.
"""

import argparse
from pathlib import Path

from llm.commands.check import check_params
from llm.commands.plan import CONTEXT, PILOT_SHAPE, shaped, vocab_size_of
from llm.core.device import Machine
from llm.experiments.pilot import N_STEPS, Excerpt, PilotShape, train_runs
from llm.experiments.planning_law import Pilots

ROOT = Path(__file__).resolve().parents[1]
MAX_VAL_BYTES = 250_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.planning_runs", allow_abbrev=False)
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT")
    parser.add_argument("--bytes", nargs="+", type=int, default=[14_000_000], help="of train")
    parser.add_argument("--runs", nargs="+", default=["192x2:1000", "256x4:1000"], metavar="WIDTHxLAYERS:STEPS")
    args = parser.parse_args()
    print("text\tunique_tokens\tkind\tparameters\ttokens\tbits_per_byte")
    for text in args.texts:
        for n_bytes in args.bytes:
            excerpt = read_text(text, n_bytes)
            pilots = [(kind, PILOT_SHAPE, steps) for kind, steps in zip(Pilots._fields, N_STEPS, strict=True)]
            for kind, shape, steps in [*pilots, *(("run", *parse(run)) for run in args.runs)]:
                print_run(text.stem, excerpt, kind, shape, steps)


def read_text(path: Path, n_bytes: int) -> Excerpt:
    """Return the first bytes of a text as train, and its end as val."""
    content = path.read_bytes()
    size = min(len(content) // 20, MAX_VAL_BYTES)
    train, val = content[: min(n_bytes, len(content) - size)], content[-size:]
    texts = [of.decode("utf-8", errors="ignore") for of in (train, val)]
    return Excerpt(texts[:1], texts[1:], {"train": len(train), "val": len(val), "test": 0})


def parse(run: str) -> tuple[tuple[int, int], int]:
    """Read a shape and its steps.

    >>> parse("192x2:1000")
    ((192, 2), 1000)
    """
    shape, _, steps = run.partition(":")
    d_model, _, n_layers = shape.partition("x")
    return (int(d_model), int(n_layers)), int(steps)


def print_run(name: str, excerpt: Excerpt, kind: str, shape: tuple[int, int], steps: int) -> None:
    checked = check_params(ROOT / "params.yaml")
    model, vocab_size = shaped(*shape, checked.model), vocab_size_of(excerpt.n_bytes["train"])
    trained = PilotShape(model, vocab_size, checked.tokenize.pattern, CONTEXT, checked.pretrain.optimizer, checked.seed)
    (run,), _ = train_runs(excerpt, trained, [steps], Machine.find())
    print(
        f"{name}\t{run.unique_tokens:.0f}\t{kind}\t{run.parameters}\t{run.tokens}\t{run.bits_per_byte:.4f}", flush=True
    )


if __name__ == "__main__":
    main()
