"""All that the pipeline measured → reports/report.html: one page that loads nothing from anywhere.

    metrics, figures, params, lineage        ─┐
    pictures (SVG) ──inline_svg───────────────┼─ page.html.jinja ──► HTML
    texts, what each of their tokens costs   ─┘

The template holds the words. Every number is read from a file, and the same files give the same bytes.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from llm.report.evaluate import QUALITY
from llm.report.glossary import LONG, SHORT, title

Row = dict[str, Any]
# A token's colour is the number of these that its nats reach.
BOUNDS = (1, 2, 3, 4, 6, 8)
MOST_FILES = 100  # of an artifact that are listed one by one
RIVALS = {
    "xz_given_train": (
        "xz -9e, given the training text",
        "A compressor that may point back into all of the training text.",
    ),
    "zstd_given_train": (
        "zstd --ultra -22 --long, given the training text",
        "Another compressor with the training text at hand.",
    ),
    "xz": ("xz -9e", "A compressor that sees the held-out text alone."),
    "zstd": ("zstd --ultra -22 --long", "Another one that sees the held-out text alone."),
    "bzip2": ("bzip2 -9", "An older compressor that sees the held-out text alone."),
    "kneser_ney_5gram": (
        "5-grams (Kneser-Ney)",
        "Counts of what followed the last four tokens in train: the best kind of model before neural ones.",
    ),
    "unigram": ("unigrams", "How often each token stood in train, whatever came before it."),
    "uniform": ("chance", "Every token of the vocabulary is as likely as any other."),
}
FINETUNED = {
    "pretrained": ("this model, finetuned", "It starts from the pretrained weights."),
    "random_weights": ("the same network, not pretrained", "It starts from random weights and is trained alike."),
    "tfidf": ("TF-IDF", "Weighted counts of words and a logistic regression."),
    "majority": ("majority", "Always the label that is the most frequent in train."),
    "zero_shot": ("this model, not finetuned", "The label that it finds the likeliest words after the text."),
}
ANSWERS = {
    "chosen_is_likelier": (
        "pairs with the better answer likelier",
        "The share of pairs of answers of which the model holds the better one the likelier.",
    ),
    "reward_margin": (
        "reward margin",
        "How much further than the base it tells the two answers apart, in nats × beta.",
    ),
    "chosen_log_ratio": ("log-ratio on better answers", "How far it went from its base: 0 is not at all."),
    "answer_bits_per_byte": (
        "bits per byte of the right answers",
        "The fewer, the likelier the model holds them. Before: the base as it was, which finetuning has to beat.",
    ),
    "answer_nats_per_token": ("nats a token of them", "The same by token: the loss that training lowers."),
    "base_bits_per_byte": (
        "bits per byte of the pretraining's test text",
        "What was forgotten: the more it rises, the more of what the base could do is gone.",
    ),
    "token_f1": ("token F1", "How much of the words of its answer and of the right one is in both, from 0 to 1."),
    "chrf": ("chrF", "The same by runs of characters, from 0 to 100."),
    "exact_match": ("exact match", "The share of its answers that are the right ones to the letter."),
}
CAPTIONS = {
    "curve": "Loss over the steps of the finetuning.",
    "confusion": "How many rows of each label (down) were taken for which one (across): right ones stand on the "
    "diagonal.",
    "reliability": "Whether a probability comes true as often as it says: as trained, and at the temperature that was "
    "fitted on val.",
    "roc": "What is found of the second label, and how much of what is found is right, at every threshold.",
    "labels": "F1 of each label: high where much of it is found and much of what is found is right.",
    "rows": "The accuracies above with their intervals.",
}


class Token(NamedTuple):
    """A piece of a text as it is shown, and what it cost the model; `is_given` where it stood in a prompt."""

    text: str
    nats: float
    is_given: bool

    @property
    def level(self) -> int:
        """Which shade it has, from 0 for the least surprising.

        >>> Token("a", 0.5, False).level, Token("a", 1.0, False).level, Token("a", 50.0, False).level
        (0, 1, 6)
        """
        return sum(self.nats >= bound for bound in BOUNDS)

    @property
    def note(self) -> str:
        """What it cost, in nats and as a probability.

        >>> Token("a", math.log(4), False).note
        '1.39 nats, probability 25%'
        """
        return f"{self.nats:z.2f} nats, probability {100 * math.exp(-self.nats):.3g}%"


class Text(NamedTuple):
    """A text in tokens: after which prompt and how it was written, or where it stands."""

    title: str
    way: str
    tokens: list[Token]

    @property
    def written_nats(self) -> float | None:
        """Mean nats of the tokens that were not given, None where there are none."""
        nats = [token.nats for token in self.tokens if not token.is_given]
        return sum(nats) / len(nats) if nats else None


class Params(NamedTuple):
    """A section of params.yaml: its values by dotted key, and the sha256 of all of them."""

    name: str
    values: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class Report:
    """What the page shows. Metrics and params are as the stages wrote and read them."""

    metrics: Mapping[str, dict[str, Any]]  # by stage
    figures: Mapping[str, dict[str, Any]]  # details of the stage evaluate, of each split that has text, val first
    finetuned: Mapping[str, dict[str, Any]]  # metrics by task
    params: Mapping[str, Any]  # by section
    pictures: Mapping[str, str]  # SVG by name: vocabulary, curve, rivals, context, calibration
    finetuned_pictures: Mapping[str, Mapping[str, str]]  # SVG by task and name, as in CAPTIONS
    samples: Sequence[Text]
    passage: Text | None  # held-out text, None where there is none
    lineage: Sequence[tuple[str, str, str]]  # made by, file, md5


def write_report(report: Report, template: str) -> str:
    """The page, by a Jinja template. Text from files is escaped; a name that the template lacks is an error."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"count": _count, "fixed": _fixed, "percent": _percent, "plain": _plain, "svg": inline_svg}
    shown = next(reversed([*report.figures]), None)  # test, if there is one
    return environment.from_string(template).render(
        vars(report)
        | {
            "splits": list(report.figures),
            "shown": shown,
            "rivals": _rivals(report, shown),
            "positions": side_by_side(report.figures, "positions", "from"),
            "contexts": side_by_side(report.figures, "context", "context"),
            "sections": [describe_params(name, value) for name, value in report.params.items()],
            "lineage": fold_many(report.lineage),
            "levels": _levels(),
            "finetuned_names": FINETUNED,
            "finetuned_captions": CAPTIONS,
            "answer_names": ANSWERS,
            "quality": report.figures[shown].get("quality") if shown else None,
            "quality_names": {name: title(name) for name in QUALITY[2:]},
            "interval": _interval,
            "short": SHORT,
            "long": LONG,
        }
    )


def inline_svg(svg: str, prefix: str, label: str) -> Markup:
    """An SVG file as an element of a page: its ids begin with `prefix`, its style sheet and its metadata are gone.

    Several of them can stand in one page, each with ids and references of its own.

    >>> file = '<svg xmlns="http://www.w3.org/2000/svg"><path id="a"/><g clip-path="url(#a)"/></svg>'
    >>> inline_svg(file, "one-", "a curve")
    Markup('<svg role="img" aria-label="a curve"><path id="one-a" /><g clip-path="url(#one-a)" /></svg>')
    """
    root = ET.fromstring(svg)  # noqa: S314 (our own pictures)
    for element in root.iter():
        for child in [child for child in element if _bare(child.tag) in ("metadata", "style")]:
            element.remove(child)
    for element in root.iter():
        element.tag = _bare(element.tag)
        attributes = {_bare(name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        for name, value in attributes.items():
            if name == "id":
                element.set(name, prefix + value)
            elif name == "href" and value.startswith("#"):
                element.set(name, f"#{prefix}{value[1:]}")
            else:
                assert name != "href" or value.startswith("data:"), f"a picture refers to {value}, outside of it"
                element.set(name, re.sub(r"url\(#", f"url(#{prefix}", value))
    root.attrib = {"role": "img", "aria-label": label, **root.attrib}
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 (serialized from a tree, so it is escaped)


def side_by_side(
    figures: Mapping[str, Mapping[str, Any]], part: str, key: str
) -> list[tuple[Row, dict[str, Row | None]]]:
    """A part's rows of all splits by one of their keys, in its order: any of them, and each split's own or None.

    >>> side_by_side({"val": {"context": [{"n": 2}]}, "test": {"context": []}}, "context", "n")
    [({'n': 2}, {'val': {'n': 2}, 'test': None})]
    """
    by_split = {split: {row[key]: row for row in of[part]} for split, of in figures.items()}
    rows: dict[Any, Row] = {value: row for of in by_split.values() for value, row in of.items()}
    return [(rows[value], {split: of.get(value) for split, of in by_split.items()}) for value in sorted(rows)]


def describe_params(name: str, value: Any) -> Params:
    """A section's values by their whole keys, and the sha256 of the section as JSON with sorted keys.

    >>> describe_params("sample", {"stride": 2, "weights": {"mine": 1.5}}).values
    {'sample.stride': 2, 'sample.weights.mine': 1.5}
    """
    content = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return Params(name, _flatten(value, name), hashlib.sha256(content.encode()).hexdigest())


def _flatten(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {name: leaf for inner, of in value.items() for name, leaf in _flatten(of, f"{key}.{inner}").items()}


def fold_many(lineage: Sequence[tuple[str, str, str]], most: int = MOST_FILES) -> list[tuple[str, str, str]]:
    """Rows of (made by, file, md5), with a single row where a stage has more than `most`: the md5 of their lines.

    >>> fold_many([("raw", "a", "0"), ("raw", "b", "1"), ("cut", "c", "2")], most=1)
    [('raw', '2 files, the md5 of their list', '6cced5bce152092d3ea63557b23df3f7'), ('cut', 'c', '2')]
    """
    by_stage: dict[str, list[tuple[str, str, str]]] = {}
    for row in lineage:
        by_stage.setdefault(row[0], []).append(row)
    folded = []
    for stage, rows in by_stage.items():
        if len(rows) > most:
            listing = "".join(f"{md5}  {file}\n" for _, file, md5 in rows).encode()
            digest = hashlib.md5(listing, usedforsecurity=False).hexdigest()
            folded.append((stage, f"{len(rows):,} files, the md5 of their list", digest))
        else:
            folded += rows
    return folded


def _rivals(report: Report, shown: str | None) -> list[tuple[str, str, dict[str, float]]]:
    """Name, words and bits per byte by split of the model and its baselines, the best on the shown split first."""
    if shown is None:
        return []
    own = {split: of["summary"]["bits_per_byte"] for split, of in report.figures.items()}
    rows = [("this model", "What the pipeline trained.", own)]
    for name in report.metrics["baselines"][shown]:
        title, words = RIVALS.get(name, (name.replace("_", " "), ""))
        rows.append((title, words, {split: report.metrics["baselines"][split][name] for split in own}))
    return sorted(rows, key=lambda row: row[2][shown])


def _levels() -> list[str]:
    """What the shades stand for, by level."""
    return [*(f"{low}–{high}" for low, high in pairwise([0, *BOUNDS])), f"{BOUNDS[-1]} or more"]


def _bare(tag: str) -> str:
    """A name without its namespace: in HTML an svg element needs none."""
    return tag.rpartition("}")[2]


def _count(value: float) -> str:
    return f"{value:,}"


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}%}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _interval(row: Mapping[str, Any], key: str) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return "– (one alone has none)" if low is None or high is None else f"{low:.3f} to {high:.3f}"
