"""Weights and held-out text → bits per byte beside the baselines, what they are made of, and samples."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from llm.core import stage
from llm.core.device import Machine
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Seed
from llm.core.tables import iterate_rows, read_table
from llm.evaluate.bootstrap import Row
from llm.evaluate.continuations import continue_held_out
from llm.evaluate.difference import Baselines, read_baselines, reason_not_valid
from llm.evaluate.likelihood import plan_document_spans, plan_spans
from llm.evaluate.measure import Figures, HeldOut, measure
from llm.evaluate.overlap import mark_found
from llm.evaluate.params import EvaluateParams
from llm.evaluate.quality import few
from llm.evaluate.samples import default_prompts, draw_samples, example_of, samples_table, write_samples
from llm.model.weights import load_model
from llm.report.evaluation import write_page
from llm.report.plots import draw_bars, draw_context, draw_reliability
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.usage import Usage
from llm.tokens.windows import StreamFile, read_info, read_stream

NAMES = {
    "model": "this model",
    "xz_given_train": "xz -9e, given the training text",
    "zstd_given_train": "zstd --ultra -22 --long, given the training text",
    "xz": "xz -9e",
    "zstd": "zstd --ultra -22 --long",
    "bzip2": "bzip2 -9",
    "kneser_ney_5gram": "5-grams of the same tokens (Kneser-Ney)",
    "unigram": "unigrams of the same tokens",
    "uniform": "every token equally likely",
}
POSITION = ("from", "to", "targets", "nats_per_token")
CONTEXT = ("context", "share", "windows", "nats_per_token", "more", "more_low", "more_high")
CALIBRATION = ("from", "to", "count", "confidence", "accuracy")


def main(
    evaluate: Annotated[EvaluateParams, Param("evaluate")],
    ngram: Annotated[int, Field(ge=1), Param("sample.contamination_ngram")],
    seed: Seed,
    weights: Input = Path("models/pretrained"),
    windows: Input = Path("data/windows"),
    tokens: Input = Path("data/tokens"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    baselines: Input = Path("metrics/baselines.json"),
    document_bits: Input = Path("data/baselines.parquet"),
    corpus: Input = Path("data/corpus"),
    metrics: Output = Path("metrics/evaluate.json"),
    figures: Output = Path("reports/evaluation.json"),
    report: Output = Path("reports/evaluation.md"),
    samples: Output = Path("reports/samples.md"),
    texts: Output = Path("reports/samples.json"),
    continuations: Output = Path("reports/continuations.md"),
    picture: Output = Path("plots/evaluate/bits_per_byte.svg"),
    position: Output = Path("plots/evaluate/position.tsv"),
    context: Output = Path("plots/evaluate/context.tsv"),
    context_picture: Output = Path("plots/evaluate/context.svg"),
    calibration: Output = Path("plots/evaluate/calibration.tsv"),
    calibration_picture: Output = Path("plots/evaluate/calibration.svg"),
) -> None:
    """Score all of val and test, each token once; an empty split is left out.

    `metrics` has the few figures that decide, `figures` (JSON) and `report` (Markdown) have all of them. `samples`
    (Markdown) and `texts` (JSON) are what the model writes after prompts, and which split those are from. Tables and
    pictures show test, or val where there is no test.
    """
    machine = Machine.find()
    machine.retain_freed_memory()
    model = load_model(weights).to(machine.device)
    if model.sees_the_future:
        print(f"evaluate: warning: {model.config.attention} attention sees what it predicts", file=sys.stderr)
    info, encoder = read_info(windows), Tokenizer.load(tokenizer)
    rivals = read_baselines(baselines, document_bits, reason_not_valid(model.sees_the_future, info.lossless))
    measured: dict[str, Figures] = {}
    held_out = _read_held_out(windows, tokens, info.end_of_text, encoder, ngram)
    for text in held_out:
        length = model.config.context_length
        stride = min(evaluate.stride, length)
        if info.boundary == "document":
            spans = plan_document_spans(text.stream, info.end_of_text, length, stride)
        else:
            spans = plan_spans(len(text.stream), length, stride)
        rng = np.random.default_rng(seed)
        measured[text.name] = measure(model, text, spans, evaluate.batch_size, machine, rng, rivals[text.name])
    if not info.lossless:
        print("evaluate: warning: the tokens do not hold all of the text, bits per byte flatter", file=sys.stderr)
    train = (row["text"] for row in iterate_rows(corpus / "train.parquet", ["text"]))
    quality, page_of_texts = continue_held_out(model, encoder, held_out, evaluate.quality, train, seed)
    if "skipped" in quality:
        print(f"evaluate: text quality is not measured: {quality['skipped']}")
    if held_out:
        measured[held_out[-1].name]["quality"] = quality
    prompts_of = None
    if evaluate.prompts is None:
        prompts_of, prompts = default_prompts(windows, encoder, seed)
        evaluate = evaluate.model_copy(update={"prompts": prompts})
    limits = {"lossless_tokens": info.lossless, "sees_the_future": model.sees_the_future}
    summaries = {split: of["summary"] for split, of in measured.items()}
    others = {"matmul_dtype": machine.matmul_dtype, "example_prompt": example_of(evaluate)}
    write_json(metrics, {**summaries, **limits, **others, "quality": few(quality)})
    write_json(figures, dict(measured))
    report.write_text(write_page(measured), encoding="utf-8")
    drawn = draw_samples(model, encoder, evaluate, seed)
    samples.write_text(write_samples(drawn, encoder, evaluate.sample_tokens), encoding="utf-8")
    table = samples_table(drawn, encoder, evaluate.sample_tokens)
    write_json(texts, {"prompts_of": prompts_of, "samples": table})
    continuations.write_text(page_of_texts, encoding="utf-8")
    _draw_rivals(summaries, rivals, picture)
    shown = next(reversed(measured), None)  # test, if there is one
    title = f"held-out text ({shown})" if shown else "no text was held out"
    places, contexts, bins = (
        measured[shown][part] if shown else [] for part in ("positions", "context", "calibration")
    )
    _write_rows(position, POSITION, places)
    _write_rows(context, CONTEXT, contexts)
    _write_rows(calibration, CALIBRATION, bins)
    context_picture.write_text(draw_context(places, contexts, title), encoding="utf-8")
    calibration_picture.write_text(
        draw_reliability({"this model": bins}, "tokens", "probability of the likeliest token", title), "utf-8"
    )


def _read_held_out(windows: Path, tokens: Path, end_of_text: int, encoder: Tokenizer, ngram: int) -> list[HeldOut]:
    """The splits that have text, val first."""
    streams = {split: stream for split in ("val", "test") if len(stream := read_stream(windows, split))}
    found = mark_found(StreamFile(windows, "train"), list(streams.values()), end_of_text, ngram)
    token_bytes = Usage(encoder).lengths()
    held_out = []
    for (split, stream), is_found in zip(streams.items(), found, strict=True):
        table = read_table(tokens / f"{split}.parquet", ["source", "path", "n_bytes"])
        sources, paths = (table.column(name).to_pylist() for name in ("source", "path"))
        n_bytes = table.column("n_bytes").to_numpy()
        held_out.append(HeldOut(split, stream, end_of_text, sources, paths, n_bytes, token_bytes, ngram, is_found))
    return held_out


def _draw_rivals(summaries: dict[str, dict[str, float]], rivals: dict[str, Baselines], picture: Path) -> None:
    """The model among its baselines, the fewest bits per byte first."""
    shown = next(reversed(summaries), None)
    values = {"model": summaries[shown]["bits_per_byte"], **rivals[shown].bits_per_byte} if shown else {}
    bars = draw_bars(
        {NAMES.get(name, name): value for name, value in sorted(values.items(), key=lambda pair: pair[1])},
        f"held-out text ({shown})" if shown else "no text was held out",
        "bits per byte, less is better",
        highlight=NAMES["model"],
    )
    picture.write_text(bars, encoding="utf-8")


def _write_rows(path: Path, columns: Sequence[str], rows: list[Row]) -> None:
    """Tab-separated values under a line of names; what a row lacks stays empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    stage.run(main)
