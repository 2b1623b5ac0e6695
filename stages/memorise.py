"""Weights and the text they were trained on → what of it the model has by heart, beside text it never saw."""

import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llm.core import stage
from llm.core.device import Machine
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Seed
from llm.core.tables import read_table
from llm.evaluate.memorization import (
    LONG,
    SHORT,
    Continued,
    MemoriseParams,
    Run,
    copies,
    document_ends,
    draw_places,
    longest_runs,
    verbatim_lengths,
    verdict,
)
from llm.evaluate.params import EvaluateParams
from llm.evaluate.samples import Sample, continue_rows, draw_samples, with_prompts
from llm.model.gpt import GPT
from llm.model.weights import load_model
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import read_info, read_stream

N_SHOWN = 10  # of what was brought back word for word
WIDTH = 80  # characters of a text in a table


class Source(NamedTuple):
    """The training text, and how to name and to show a place in it."""

    stream: NDArray[np.integer]
    ends: NDArray[np.int64]
    paths: Any  # a column of the table, a path a document
    tokenizer: Tokenizer

    def path(self, place: int) -> str:
        """The document that a place lies in."""
        return _quote(self.paths[int(np.searchsorted(self.ends, place)) - 1].as_py())

    def text(self, place: int, n_tokens: int) -> str:
        """What stands there, cut to a table's width."""
        return _quote(self.tokenizer.decode(self.stream[place : place + n_tokens].tolist()))


def main(
    memorise: Annotated[MemoriseParams, Param("memorise")],
    evaluate: Annotated[EvaluateParams, Param("evaluate")],
    seed: Seed,
    weights: Input = Path("models/pretrained"),
    windows: Input = Path("data/windows"),
    tokens: Input = Path("data/tokens"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    metrics: Output = Path("metrics/memorise.json"),
    report: Output = Path("reports/memorisation.md"),
) -> None:
    """Continue prefixes of train and test greedily, and look for the samples in train; metrics and a report."""
    machine = Machine.find()
    machine.retain_freed_memory()
    model = load_model(weights).to(machine.device)
    encoder = Tokenizer.load(tokenizer)
    train, test = (read_stream(windows, split) for split in ("train", "test"))
    end_of_text = read_info(windows).end_of_text
    by_split = {
        split: _continue(model, stream, end_of_text, memorise, np.random.default_rng([seed, number]))
        for number, (split, stream) in enumerate((("train", train), ("test", test)))
    }
    samples = draw_samples(model, encoder, with_prompts(evaluate, windows, encoder, seed), seed)
    # How long a run is by chance: what people wrote, of the same length.
    n_tokens = evaluate.sample_tokens
    rng = np.random.default_rng([seed, len(by_split)])
    stretches = [
        test[place : place + n_tokens] for place in draw_places(test, end_of_text, n_tokens, memorise.prefixes, rng)
    ]
    runs = longest_runs([*(np.array(sample.ids, dtype=np.int64) for sample in samples), *stretches], train)
    of_samples, of_test = runs[: len(samples)], runs[len(samples) :]
    write_json(
        metrics,
        {
            **{split: continued.figures() for split, continued in by_split.items()},
            "copies": copies(by_split["train"], by_split["test"]),
            "samples": _run_figures(of_samples),
            "test_stretches": _run_figures(of_test),
        },
    )
    source = Source(
        train, document_ends(train, end_of_text), read_table(tokens / "train.parquet", ["path"]).column("path"), encoder
    )
    lines = ["# What the model has by heart", ""]
    if model.sees_the_future:
        lines += ["This model's attention sees what it predicts: it has learnt to look, and writes badly.", ""]
    lines += _describe_prefixes(by_split, source)
    lines += _describe_samples(samples, of_samples, of_test, n_tokens, source)
    report.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _continue(
    model: GPT, stream: NDArray[np.integer], end_of_text: int, memorise: MemoriseParams, rng: np.random.Generator
) -> Continued:
    prefix_tokens = min(memorise.prefix_tokens, model.config.context_length)
    places = draw_places(stream, end_of_text, prefix_tokens + LONG, memorise.prefixes, rng)
    if not len(places):
        return Continued(places, prefix_tokens, np.zeros(0, dtype=np.int64))
    rows = stream[places[:, None] + np.arange(prefix_tokens + LONG)].astype(np.int64)
    prefixes = torch.from_numpy(rows[:, :prefix_tokens]).to(model.embedding.weight.device)
    written = continue_rows(model, prefixes, LONG).cpu().numpy()
    return Continued(places, prefix_tokens, verbatim_lengths(written, rows[:, prefix_tokens:]))


def _run_figures(runs: list[Run | None]) -> dict[str, float]:
    lengths = [run.length if run else 0 for run in runs]
    if not lengths:
        return {"number": 0}
    return {
        "number": len(lengths),
        "median_run": float(np.median(lengths)),
        "longest_run": max(lengths),
        "copied": sum(length >= SHORT for length in lengths),
    }


def _describe_prefixes(by_split: dict[str, Continued], source: Source) -> list[str]:
    train = by_split["train"]
    needed = train.prefix_tokens + LONG
    lines = [
        verdict(train, by_split["test"]),
        "",
        f"Places drawn at random, with {needed} tokens in one document. The model reads {train.prefix_tokens} and then "
        f"takes the likeliest token {LONG} times. Verbatim: the first {SHORT} or all {LONG} are those of the text.",
        "",
        f"| split | prefixes | {SHORT} tokens verbatim | {LONG} tokens verbatim | mean tokens verbatim |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for split, of in by_split.items():
        n = len(of.lengths)
        shares = [f"{of.hits(tokens) / n:.1%}" if n else "–" for tokens in (SHORT, LONG)]
        lines.append(f"| {split} | {n} | {shares[0]} | {shares[1]} | {f'{of.lengths.mean():.1f}' if n else '–'} |")
    best = [at for at in np.argsort(-train.lengths, kind="stable")[:N_SHOWN] if train.lengths[at] >= SHORT]
    if best:
        lines += ["", "## Brought back from train", "", "| tokens | document | text |", "| ---: | --- | --- |"]
    for at in best:
        place, length = int(train.places[at]) + train.prefix_tokens, int(train.lengths[at])
        more = " or more" if length == LONG else ""
        lines.append(f"| {length}{more} | {source.path(place)} | {source.text(place, length)} |")
    return lines


def _describe_samples(
    samples: list[Sample], of_samples: list[Run | None], of_test: list[Run | None], n_tokens: int, source: Source
) -> list[str]:
    lines = ["", "## The samples", ""]
    if not samples:
        return [*lines, "There are none."]
    copied = sum(run is not None and run.length >= SHORT for run in of_samples)
    lines += [
        f"{f'**{copied} of {len(samples)} copy**' if copied else f'None of {len(samples)} copies'}: a sample copies if "
        f"{SHORT} tokens in a row stand in the training text."
    ]
    if of_test:
        figures = _run_figures(of_test)
        lines += [
            f"Of {len(of_test)} stretches of test of {n_tokens} tokens, which people wrote, {figures['copied']} do; "
            f"the longest run is {figures['median_run']:g} tokens in the median, {figures['longest_run']} at most."
        ]
    lines += ["", "| sample | tokens | longest run in train | document | text |", "| --- | ---: | ---: | --- | --- |"]
    for sample, run in zip(samples, of_samples, strict=True):
        where = f"{source.path(run.place)} | {source.text(run.place, run.length)}" if run else "– | –"
        name = f"{_quote(sample.prompt)}, {sample.way}"
        lines.append(f"| {name} | {len(sample.ids)} | {run.length if run else 0} | {where} |")
    return lines


def _quote(text: str) -> str:
    """Code in a Markdown table, on one line and not too long, in more backticks than it has itself."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    shown = shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 1]}…"
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    in_table = shown.replace("|", "\\|")
    return f"{fence} {in_table} {fence}"


if __name__ == "__main__":
    stage.run(main)
