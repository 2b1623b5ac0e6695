"""The figures of an evaluation → reports/evaluation.md: what was measured, how it is defined, and what came out.

Every number is read from the figures that reports/evaluation.json holds: `Figures` for each split.
"""

from collections.abc import Iterable

from llm.evaluate.bootstrap import Row
from llm.evaluate.measure import Figures
from llm.evaluate.quality import MEASURES

OPENING = """\
# Evaluation

All of the held-out text, each token scored once after as much context as the model takes (`evaluate.stride`): the
tokens of every document and the end of text after it."""

LIKELIHOOD = """\
Bits per byte are the sum of -log2 p over all tokens, divided by the UTF-8 bytes of the prepared text; perplexity is
e to the nats a token; accuracy is the share of tokens that the model held the likeliest. The interval is a bootstrap
over documents: what other held-out documents of the same kind would have given this model."""

BASELINES = """\
The model's bits per byte less a baseline's, on the same documents. The interval is a paired bootstrap over documents:
where all of it is below 0, the model is better beyond what other held-out documents of the same kind would change.
The variance between training seeds is not included. For bzip2 only the total is measured, so it has no interval."""

POSITION = """\
Mean loss, in nats a token, by how many tokens stood in the window before the token that was predicted. All tokens of
all windows count here, those twice that lie in two windows."""

CONTEXT = """\
The same tokens, predicted after a part of their context and after all of it, in nats a token; in brackets how much
more that is, with its 95% interval over windows."""

CALIBRATION = """\
Tokens by the probability of the token that the model held the likeliest, and how often that one came. The calibration
error is the mean distance of the two."""

CONTAMINATION = """\
Tokens that lie in an n-gram which stands in the training text too. A token's bytes are its own; the ends of texts
have none, and count as not found. What is found cannot tell learning from copying: the rest is the harder test."""

QUALITY = """\
Places of held-out documents, at which the model reads the tokens before and writes on, beside the true continuations
of the same prompts cut to the same number of tokens. The true ones are the measure: they have new words and
repetitions of their own. `reports/continuations.md` has the first texts, not picked."""


def write_page(figures: dict[str, Figures]) -> str:
    """The page as Markdown; splits in the order given, none where no text was held out."""
    if not figures:
        return f"{OPENING}\n\nNo text was held out, so nothing was measured.\n"
    parts = [OPENING, "## Likelihood", LIKELIHOOD, _likelihood(figures)]
    parts += ["### By source", _sources(figures)]
    parts += ["## Beside the baselines", BASELINES]
    parts += [part for split, of in figures.items() if of["baselines"] for part in _baselines(split, of)]
    parts += [part for of in figures.values() if "quality" in of for part in _quality(of["quality"])]
    parts += ["## Position in the window", POSITION, _positions(figures)]
    parts += ["## What context is worth", CONTEXT, _contexts(figures)]
    parts += ["## Calibration", CALIBRATION]
    parts += [_calibration(split, of) for split, of in figures.items()]
    parts += ["## Held-out text that stands in train", CONTAMINATION, _contamination(figures)]
    for split, of in figures.items():
        for name in ("hardest", "easiest"):
            parts += [f"## The {name} documents of {split}", _documents(of[name])]
    return "\n\n".join(parts) + "\n"


def _likelihood(figures: dict[str, Figures]) -> str:
    summaries = [of["summary"] for of in figures.values()]
    rows = [
        ["documents", *(f"{of['documents']:,}" for of in figures.values())],
        ["bytes", *(f"{of['bytes']:,}" for of in figures.values())],
        ["tokens", *(f"{of['tokens']:,}" for of in summaries)],
        ["**bits per byte**", *(f"**{of['bits_per_byte']:.4f}**" for of in summaries)],
        ["its 95% interval", *(_interval(of, "bits_per_byte") for of in summaries)],
        ["nats a token", *(f"{of['nats_per_token']:.4f}" for of in summaries)],
        ["perplexity", *(f"{of['perplexity']:.2f}" for of in summaries)],
        ["next-token accuracy", *(f"{of['accuracy']:.2%}" for of in summaries)],
        ["calibration error", *(f"{of['calibration_error']:.4f}" for of in summaries)],
    ]
    return _table(["", *figures], rows)


def _sources(figures: dict[str, Figures]) -> str:
    rows = [
        [f"`{row['source']}`", split, *_counts(row), f"{row['bits_per_byte']:.4f}", _interval(row, "bits_per_byte")]
        for split, of in figures.items()
        for row in of["sources"]
    ]
    return _table(["source", "split", "documents", "bytes", "tokens", "bits per byte", "95% interval"], rows)


def _baselines(split: str, figures: Figures) -> list[str]:
    """A sentence on the best baseline, and the table of all of them."""
    summary = figures["summary"]
    difference, best = summary["bits_per_byte_difference"], summary["best_baseline"].replace("_", " ")
    sentence = (
        f"On {split} the model needs {abs(difference):.3f} bits per byte {'less' if difference < 0 else 'more'} than "
        f"{best}, the best baseline: **{summary['verdict']}**."
    )
    rows = [
        [
            row["baseline"].replace("_", " "),
            f"{row['bits_per_byte']:.4f}",
            f"{row['difference']:z.4f}",
            _interval(row, "difference") if "difference_low" in row else "–",
        ]
        for row in figures["baselines"]
    ]
    return [sentence, _table([f"baseline, {split}", "bits per byte", "model less baseline", "95% interval"], rows)]


def _quality(quality: Row) -> list[str]:
    parts = ["## What it writes beside what people wrote", QUALITY]
    if "skipped" in quality:
        return [*parts, f"Not measured: {quality['skipped']}."]
    model, true, ratio = (quality[key] for key in ("model", "true", "ratio"))
    rows = [
        ["texts", f"{quality['texts']}", f"{quality['texts']}", "–"],
        ["words", f"{model['words']:,}", f"{true['words']:,}", "–"],
        *(
            [title, *(_with_interval(of, name) for of in (model, true)), f"{ratio[name]:.3f}" if name in ratio else "–"]
            for name, (title, _) in MEASURES.items()
            if name in true
        ),
    ]
    settings = (
        f"{quality['split']}: {quality['prompt_tokens']} tokens are read, {quality['mean_tokens']:g} on the average "
        f"compared, drawn at temperature {quality['temperature']}. The model ended {quality['ended_sooner']:.1%} of "
        "its texts sooner than the true ones end or were cut. In brackets: 95% intervals over documents."
    )
    words = "\n".join(f"- **{title}**: {about}" for name, (title, about) in MEASURES.items() if name in true)
    return [*parts, words, _table(["", "model", "true continuations", "model / true"], rows), settings]


def _with_interval(row: Row, name: str) -> str:
    if name not in row:
        return "–"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{row[name]:.3f}" if low is None else f"{row[name]:.3f} [{low:.3f}, {high:.3f}]"


def _positions(figures: dict[str, Figures]) -> str:
    buckets = {(row["from"], row["to"]) for of in figures.values() for row in of["positions"]}
    rows = []
    for first, last in sorted(buckets):
        of_split = [_find(of["positions"], "from", first) for of in figures.values()]
        rows.append([str(first) if first == last else f"{first}–{last}", *(_nats(row) for row in of_split)])
    return _table(["tokens before", *figures], rows)


def _contexts(figures: dict[str, Figures]) -> str:
    lengths = {(row["context"], row["share"]) for of in figures.values() for row in of["context"]}
    if not lengths:
        return "No text was as long as the context."
    rows = []
    for length, share in sorted(lengths):
        of_split = [_find(of["context"], "context", length) for of in figures.values()]
        more = [f" (+{row['more']:.3f}: {_interval(row, 'more')})" if row and share < 1 else "" for row in of_split]
        cells = [_nats(row) + end for row, end in zip(of_split, more, strict=True)]
        rows.append([f"{length:,}", f"{share:.1%}", *cells])
    return _table(["tokens of context", "of all", *figures], rows)


def _calibration(split: str, figures: Figures) -> str:
    rows = [
        [
            f"{row['from']:.1f}–{row['to']:.1f}",
            f"{row['count']:,}",
            f"{row['confidence']:.3f}",
            f"{row['accuracy']:.3f}",
        ]
        for row in figures["calibration"]
    ]
    return _table([f"top probability, {split}", "tokens", "on the average", "came true"], rows)


def _contamination(figures: dict[str, Figures]) -> str:
    found = {split: of["contamination"] for split, of in figures.items()}
    rows = [
        ["n-grams of so many tokens", *(f"{of['ngram']}" for of in found.values())],
        ["windows with a token of one", *(f"{of['window_share']:.1%}" for of in found.values())],
        ["tokens in one", *(f"{of['token_share']:.1%}" for of in found.values())],
        ["bits per byte of all", *(f"{of['summary']['bits_per_byte']:.4f}" for of in figures.values())],
        ["of the tokens found in train", *(_bits(of["found"]) for of in found.values())],
        ["of all other ones", *(_bits(of["not_found"]) for of in found.values())],
    ]
    return _table(["", *figures], rows)


def _documents(rows: list[Row]) -> str:
    cells = [[f"`{row['document']}`", f"{row['bytes']:,}", f"{row['bits_per_byte']:.4f}"] for row in rows]
    return _table(["document", "bytes", "bits per byte"], cells)


def _counts(row: Row) -> list[str]:
    return [f"{row[key]:,}" for key in ("documents", "bytes", "tokens")]


def _find(rows: list[Row], key: str, value: int) -> Row | None:
    return next((row for row in rows if row[key] == value), None)


def _nats(row: Row | None) -> str:
    return f"{row['nats_per_token']:.3f}" if row else "–"


def _bits(row: Row) -> str:
    return "–" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}"


def _interval(row: Row, key: str) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return "– (one document)" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table, numbers to the right; a bar in a cell is no part of the table."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (lines[0], rule, *lines[1:]))
