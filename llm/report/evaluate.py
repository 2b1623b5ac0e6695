"""The reports of an evaluation: details in, Markdown, tables and pictures out.

`details` are those of metrics/details/evaluate.json: figures of each split, text quality, samples, continuations.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from llm.report.glossary import QUALITY, title
from llm.report.metrics import Score, fold_intervals
from llm.report.plots import draw_bars, draw_context, draw_reliability
from llm.report.tables import Code, Table, fence, render

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
    places = (Code(f"{of['document']}, token {of['token']}") for of in texts)
    headings = (f"{number}: {place}" for number, place in enumerate(places, start=1))
    return _texts("Continuations", opening, zip(headings, texts, strict=True))


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
    found: dict[str, Any] = {
        "likelihood": _likelihood(splits),
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


def _likelihood(splits: Details) -> Table:
    scores = [fold_intervals(of["model"]) for of in splits.values()]
    counts = [[name, *(of[name] for of in splits.values())] for name in ("documents", "bytes")]
    rows = [[title(name), *(of.get(name) for of in scores)] for name in LIKELIHOOD]
    return Table(["", *splits], [*rows, *counts], own=title("bits_per_byte").name)


def _sources(splits: Details) -> Table:
    counts = ("documents", "bytes", "tokens")
    rows = [
        [Code(row["source"]), split, *(row[key] for key in counts), fold_intervals(row)["bits_per_byte"]]
        for split, of in splits.items()
        for row in of["sources"]
    ]
    return Table(["source", "split", "documents", "bytes", "tokens", "bits per byte"], rows)


def _baselines(split: str, figures: Details) -> Table:
    """Compare the model with its baselines, the best first."""
    model = ["model", fold_intervals(figures["model"])["bits_per_byte"], None]
    others = [[of["baseline"], of["bits_per_byte"], fold_intervals(of)["difference"]] for of in figures["baselines"]]
    rows = sorted([model, *others], key=lambda row: row[1] if isinstance(row[1], float) else row[1].value)
    head = [f"bits per byte, {split}", "less is better", "model minus baseline"]
    return Table(head, [[title(name), *cells] for name, *cells in rows], own=title("model").name)


def _quality(quality: Details) -> Table:
    model, true = (fold_intervals(quality[side]) for side in ("model", "true_text"))
    shown = [name for name in QUALITY if name in true]
    rows = [[title(name), model.get(name), true[name], quality["ratio"].get(name)] for name in shown]
    return Table([f"continuations of {quality['split']}", "model", "true text", "model / true"], rows)


def _positions(splits: Details) -> Table:
    found = {row["from"]: row for of in splits.values() for row in of["positions"]}
    losses = [{row["from"]: row["nats_per_token"] for row in of["positions"]} for of in splits.values()]
    rows = [
        [str(at) if at == found[at]["to"] else f"{at}–{found[at]['to']}", *(of.get(at) for of in losses)]
        for at in sorted(found)
    ]
    return Table(["tokens before", *splits], rows)


def _contexts(splits: Details) -> Table:
    fractions = {row["context"]: row["fraction"] for of in splits.values() for row in of["context"]}
    found = [{row["context"]: row for row in of["context"]} for of in splits.values()]
    rows = []
    for length, fraction in sorted(fractions.items()):
        cells = [cell for of in found for cell in _with_context(of.get(length))]
        rows.append([f"{length:,}", f"{fraction:.1%}", *cells])
    heads = [head for split in splits for head in (split, f"added, {split}")]
    return Table(["tokens of context", "of all", *heads], rows)


def _with_context(row: Details | None) -> tuple[Any, Any]:
    if row is None:
        return None, None
    return row["nats_per_token"], fold_intervals(row)["more"] if row["fraction"] < 1 else None


def _calibration(split: str, bins: list[Details]) -> Table:
    rows = [
        [f"{row['from']:.0%}–{row['to']:.0%}", row["count"], f"{row['confidence']:.1%}", f"{row['accuracy']:.1%}"]
        for row in bins
    ]
    return Table([f"probability of the top token, {split}", "tokens", "mean probability", "accuracy"], rows)


def _contamination(splits: Details) -> Table:
    found = [of["contamination"] for of in splits.values()]
    cells = {
        "contaminated_windows": [f"{of['window_fraction']:.1%}" for of in found],
        "contaminated_tokens": [f"{of['token_fraction']:.1%}" for of in found],
        "bits_per_byte_all": [of["model"]["bits_per_byte"] for of in splits.values()],
        "bits_per_byte_found": [of["found"]["bits_per_byte"] for of in found],
        "bits_per_byte_not_found": [of["not_found"]["bits_per_byte"] for of in found],
    }
    head = f"in an n-gram of {found[0]['ngram']} tokens that train has"
    return Table([head, *splits], [[title(name), *row] for name, row in cells.items()])


def _documents(rows: list[Details]) -> Table:
    cells = [[Code(row["document"]), row["bytes"], row["bits_per_byte"]] for row in rows]
    return Table(["document", "bytes", "bits per byte"], cells)
