"""The reports of an evaluation: details in, Markdown, tables and pictures out.

`details` are those of metrics/details/evaluate.json: figures of each split, text quality, samples, continuations.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from llm.report.metrics import Score, fold_intervals
from llm.report.plots import draw_bars, draw_context, draw_reliability
from llm.report.tables import Code, Table, fence, render, title
from llm.report.views import QUALITY, by_metric

Details = Mapping[str, Any]
LIKELIHOOD = ("bits_per_byte", "nats_per_token", "perplexity", "accuracy", "calibration_error", "tokens")


def evaluation(details: Details) -> str:
    """Return the report of all figures."""
    splits, quality = details["splits"], details["quality"]
    return render("evaluation.md.jinja", splits=splits, quality=quality, tables=tables(details) if splits else {})


def samples(details: Details) -> str:
    """Return the continuations of the prompts."""
    opening = f"Up to {details['sample_tokens']} tokens after each prompt (marked by │)."
    return _texts("Samples", opening, [(f"{Code(of['prompt'])}, {of['method']}", of) for of in details["samples"]])


def continuations(details: Details) -> str:
    """Return the first continuations of held-out text."""
    quality, texts = details["quality"], details["continuations"]
    opening = f"There are none: {quality.get('skipped')}."
    if "skipped" not in quality:
        opening = (
            f"The first {len(texts)} of {quality['model']['texts']} continuations of {quality['split']}, in the order "
            f"drawn: {quality['prompt_tokens']} tokens of a document, and after │ up to {quality['new_tokens']} that "
            f"the model generated at temperature {quality['temperature']}."
        )
    places = [Code(f"{of['document']}, token {of['token']}") for of in texts]
    return _texts("Continuations", opening, [(f"{n}: {places[n - 1]}", of) for n, of in enumerate(texts, start=1)])


def _texts(heading: str, opening: str, texts: Iterable[tuple[str, Details]]) -> str:
    parts = [f"# {heading}", opening]
    for name, of in texts:
        parts += [f"## {name}", fence(f"{of['prompt']}│{of['text']}", "text")]
    return "\n\n".join(parts) + "\n"


def pictures(details: Details) -> dict[str, str]:
    """Return pictures of the last split: the model beside its baselines, context, calibration."""
    splits = details["splits"]
    shown = next(reversed(splits), None)
    figures = splits[shown] if shown else {}
    caption = f"held-out text ({shown})" if shown else "no text was held out"
    scores = {of["baseline"]: Score(of["bits_per_byte"]) for of in figures.get("baselines", [])}
    scores |= {"model": fold_intervals(figures["model"])["bits_per_byte"]} if shown else {}
    bars = {title(name).name: score for name, score in sorted(scores.items(), key=lambda item: item[1].value)}
    bins = {"this model": figures.get("calibration", [])}
    return {
        "bits_per_byte": draw_bars(bars, caption, "bits per byte, less is better", title("model").name),
        "context": draw_context(figures.get("positions", []), figures.get("context", []), caption),
        "calibration": draw_reliability(bins, "tokens", "probability of the most likely token", caption),
    }


def tables(details: Details) -> dict[str, Any]:
    """Return the tables of the splits by name; some have a table for each split."""
    splits = details["splits"]
    counts = ("documents", "bytes")
    scores = {split: fold_intervals(of["model"]) | {name: of[name] for name in counts} for split, of in splits.items()}
    found: dict[str, Any] = {
        "likelihood": by_metric(scores, (*LIKELIHOOD, *counts), "", own=title("bits_per_byte").name),
        "sources": _sources(splits),
        "baselines": {split: _baselines(split, of) for split, of in splits.items()},
        "positions": _positions(splits),
        "contexts": _contexts(splits),
        "calibration": {split: _calibration(split, of["calibration"]) for split, of in splits.items()},
        "contamination": _contamination(splits),
    }
    for part in ("hardest", "easiest"):
        found[part] = {split: _documents(of[part]) for split, of in splits.items()}
    return found | ({"quality": _quality(details["quality"])} if "model" in details["quality"] else {})


def _sources(splits: Details) -> Table:
    rows = [
        [
            Code(row["source"]),
            split,
            row["documents"],
            row["bytes"],
            row["tokens"],
            fold_intervals(row)["bits_per_byte"],
        ]
        for split, of in splits.items()
        for row in of["sources"]
    ]
    return Table(["source", "split", "documents", "bytes", "tokens", "bits per byte"], rows)


def _baselines(split: str, figures: Details) -> Table:
    """Compare the model with its baselines, the best first."""
    rows: list[list[Any]] = [["model", fold_intervals(figures["model"])["bits_per_byte"], None]]
    for of in map(fold_intervals, figures["baselines"]):
        rows.append([of["baseline"].value, of["bits_per_byte"], of["difference"]])
    rows.sort(key=lambda row: row[1].value)
    head = [f"bits per byte, {split}", "less is better", "model minus baseline"]
    return Table(head, [[title(name), *cells] for name, *cells in rows], own=title("model").name)


def _quality(quality: Details) -> Table:
    model, true = (fold_intervals(quality[side]) for side in ("model", "true_text"))
    shown = [name for name in QUALITY if name in true]
    rows = [[title(name), model.get(name), true[name], quality["ratio"].get(name)] for name in shown]
    return Table([f"continuations of {quality['split']}", "model", "true text", "model / true"], rows)


def _positions(splits: Details) -> Table:
    ends = {row["from"]: row["to"] for of in splits.values() for row in of["positions"]}
    losses = [{row["from"]: row["nats_per_token"] for row in of["positions"]} for of in splits.values()]
    rows = [
        [str(start) if start == end else f"{start}–{end}", *(of.get(start) for of in losses)]
        for start, end in sorted(ends.items())
    ]
    return Table(["tokens before", *splits], rows)


def _contexts(splits: Details) -> Table:
    fractions = {row["context"]: row["fraction"] for of in splits.values() for row in of["context"]}
    rows = []
    for length, fraction in sorted(fractions.items()):
        cells: list[Any] = []
        for of in splits.values():
            row: Details = next((row for row in of["context"] if row["context"] == length), {})
            cells += [row.get("nats_per_token"), fold_intervals(row).get("more") if fraction < 1 else None]
        rows.append([f"{length:,}", f"{fraction:.1%}", *cells])
    heads = [head for split in splits for head in (split, f"added, {split}")]
    return Table(["tokens of context", "of all", *heads], rows)


def _calibration(split: str, bins: list[Details]) -> Table:
    rows = [
        [f"{row['from']:.0%}–{row['to']:.0%}", row["count"], f"{row['confidence']:.1%}", f"{row['accuracy']:.1%}"]
        for row in bins
    ]
    return Table([f"probability of the top token, {split}", "tokens", "mean probability", "accuracy"], rows)


def _contamination(splits: Details) -> Table:
    found = {}
    for split, of in splits.items():
        own = of["contamination"]
        found[split] = {
            "contaminated_windows": f"{own['window_fraction']:.1%}",
            "contaminated_tokens": f"{own['token_fraction']:.1%}",
            "bits_per_byte_all": of["model"]["bits_per_byte"],
            "bits_per_byte_found": own["found"]["bits_per_byte"],
            "bits_per_byte_not_found": own["not_found"]["bits_per_byte"],
        }
    head = f"in an n-gram of {own['ngram']} tokens that train has"
    return by_metric(found, [*found[split]], head)


def _documents(rows: list[Details]) -> Table:
    cells = [[Code(row["document"]), row["bytes"], row["bits_per_byte"]] for row in rows]
    return Table(["document", "bytes", "bits per byte"], cells)
