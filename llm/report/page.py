"""The report page: everything that a run left, in one HTML file that loads nothing from anywhere.

    metrics, details, params, lineage ──tables──┐
    pictures (SVG) ──inline_svg─────────────────┼─ page.html.jinja ──► HTML
    samples, the nats of each of their tokens ──┘

The template has the words. Every number is read from a file, and the same files give the same bytes.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from markupsafe import Markup

from llm.report import evaluate, memorise, views
from llm.report.glossary import SHORT
from llm.report.metrics import Metrics, flatten
from llm.report.tables import Table, render

BOUNDS = (1, 2, 3, 4, 6, 8)  # nats; the shade of a token is the number of bounds that its nats reach
CAPTIONS = {
    "curve": "Loss over the steps of the finetuning.",
    "confusion": "How many rows of each label (down) were predicted as which one (across); the diagonal is right.",
    "reliability": "How often a probability is right: as trained, and at the temperature that was fitted on val.",
    "roc": "How much of the second label is found, and how much of what is found is right, at every threshold.",
    "labels": "F1 of each label.",
    "systems": "The accuracies above with their intervals.",
}


class Token(NamedTuple):
    """A token as it is shown, and its nats under the model."""

    text: str
    nats: float
    in_prompt: bool

    @property
    def level(self) -> int:
        """Return its shade, from 0 for the most probable.

        >>> Token("a", 0.5, False).level, Token("a", 1.0, False).level, Token("a", 50.0, False).level
        (0, 1, 6)
        """
        return sum(self.nats >= bound for bound in BOUNDS)

    @property
    def note(self) -> str:
        """Return its nats and its probability.

        >>> Token("a", math.log(4), False).note
        '1.39 nats, probability 25%'
        """
        return f"{self.nats:z.2f} nats, probability {100 * math.exp(-self.nats):.3g}%"


class Text(NamedTuple):
    """A text in tokens, and where it is from."""

    title: str
    method: str
    tokens: list[Token]

    @property
    def mean_nats(self) -> float | None:
        """Return the mean nats of the tokens after the prompt, None where there are none."""
        nats = [token.nats for token in self.tokens if not token.in_prompt]
        return sum(nats) / len(nats) if nats else None

    @classmethod
    def of(cls, title: str, method: str, scored: Mapping[str, Any]) -> "Text":
        """Make it of a text's `tokens`, their `nats` and, for a sample, its `prompt_tokens`."""
        n = scored.get("prompt_tokens", 0)
        pairs = zip(scored["tokens"], scored["nats"], strict=True)
        return cls(title, method, [Token(token, nats, at < n) for at, (token, nats) in enumerate(pairs)])


def write_page(metrics: Metrics, params: Mapping[str, Any], pictures: Mapping[str, str], lineage: Table) -> str:
    """Return the page; `pictures` are SVG by name, those of a task as finetune/TASK/NAME."""
    content, details = metrics.content, metrics.details["evaluate"]
    splits, tasks, passage = list(details["splits"]), metrics.tasks(), details["passage"]
    return render(
        "page.html.jinja",
        metrics=content,
        params=params,
        splits=splits,
        shown=splits[-1] if splits else None,
        n_worse=_n_worse(metrics),
        differences={split: views.difference(metrics, split) for split in splits},
        evaluation=evaluate.tables(details) if splits else None,
        quality=details["quality"],
        tables=views.tables(metrics, params, params["model"], lineage),
        sections_of_params=[describe_section(name, value) for name, value in params.items()],
        verdict=memorise.VERDICTS[content["memorise"]["copies"]],
        tasks=tasks,
        samples=[Text.of(of["prompt"], of["method"], of) for of in details["samples"]],
        passage=Text.of(passage["document"], passage["split"], passage) if passage else None,
        levels=[*(f"{low}–{high}" for low, high in pairwise([0, *BOUNDS])), f"{BOUNDS[-1]} or more"],
        pictures=pictures,
        task_pictures={name: _of_task(pictures, f"finetune/{name}/") for name in tasks},
        inline_svg=inline_svg,
        captions=CAPTIONS,
        short=SHORT,
    )


def _of_task(pictures: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): svg for name, svg in pictures.items() if name.startswith(prefix)}


def _n_worse(metrics: Metrics) -> tuple[int, int]:
    """Return how many baselines need more bits than the model on the last split, and how many there are."""
    if not metrics.splits():
        return 0, 0
    split = metrics.splits()[-1]
    own = metrics.content["evaluate"][split]["model"]["bits_per_byte"]
    others = [of["bits_per_byte"] for of in metrics.content["baselines"][split].values()]
    return sum(other > own for other in others), len(others)


def describe_section(name: str, value: Any) -> tuple[str, str, dict[str, str]]:
    """Return a section of params: its name, the sha256 of its JSON with sorted keys, its values by dotted key.

    >>> describe_section("sample", {"stride": 2, "weights": {"mine": 1.5}})[2]
    {'sample.stride': '2', 'sample.weights.mine': '1.5'}
    """
    content = json.dumps(value, sort_keys=True, ensure_ascii=False)
    values = {
        key: of if isinstance(of, str) else json.dumps(of, ensure_ascii=False)
        for key, of in flatten({name: value}).items()
    }
    return name, hashlib.sha256(content.encode()).hexdigest(), values


def inline_svg(svg: str, prefix: str, label: str) -> Markup:
    """Return an SVG file as an element of a page: its ids get a prefix, its style sheet and metadata are removed.

    Several of them can be in one page, each with ids and references of its own.

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


def _bare(tag: str) -> str:
    """Return a name without its namespace: in HTML an svg element needs none."""
    return tag.rpartition("}")[2]
