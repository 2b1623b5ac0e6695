"""The report page: whole, escaped, without references to anything outside, and complete."""

import re
from functools import cache
from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError

from llm.report.metrics import Metrics
from llm.report.page import BOUNDS, describe_section, inline_svg, write_page
from llm.report.plots import draw_bars, draw_confusion, draw_curve
from llm.report.tables import Code, Table
from tests.report.samples import CONTENT, DETAILS, EVALUATE, MODEL, PARAMS, SPLIT, merged

LINEAGE = Table(["file", "md5"], [[Code("raw/<c>.txt"), Code("0123abc")]])
VOID = {"meta", "link", "br"}
NOTHING = {"model": {"prefixes": 0}}
EMPTY = {"splits": {}, "passage": None, "samples": [], "quality": {"skipped": "no text was held out"}}


class Page(HTMLParser):
    """The text of a page, its ids and its references; every element that opens is closed."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.references, self.texts, self.open, self.tags = [], [], [], [], set()
        self.feed(page)
        self.close()
        assert not self.open
        self.text = " ".join("".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            self.ids += [value] if name == "id" else []
            self.references += [value] if name in ("href", "src", "xlink:href") else []
            self.references += re.findall(r"url\((.*?)\)", value or "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.texts += [" "] if tag in ("td", "th") else []

    def handle_data(self, data):
        self.texts.append(data)


@cache
def pictures() -> dict[str, str]:
    """A picture of each name, of three kinds."""
    bars = draw_bars({"this": 1.0, "<that>": 2.0}, "bars", "unit", "this")
    curve = draw_curve([{"step": 1, "lr_factor": 1.0, "train_loss": 3.0}], "a curve")
    confusion = draw_confusion([[1, 2], [0, 3]], ["<a>", "b"], "labels")
    found = dict.fromkeys(("vocabulary", "bits_per_byte", "context", "calibration"), bars)
    curves = dict.fromkeys(("curve", "finetune/topics/curve", "finetune/answers/curve"), curve)
    return found | curves | {"finetune/topics/confusion": confusion}


def write(changes: dict | None = None, evaluate: dict | None = None, **params: object) -> str:
    """The page, with metrics, details of the evaluation or params changed."""
    details = DETAILS | {"evaluate": EVALUATE | (evaluate or {})}
    metrics = Metrics(merged(CONTENT, changes or {}), details)
    return write_page(metrics, merged(PARAMS, params), pictures(), LINEAGE)


@pytest.fixture(scope="module")
def page():
    return write()


def test_the_page_is_whole_and_refers_to_nothing_else(page):
    found = Page(page)
    assert len(found.ids) == len(set(found.ids))
    assert found.references
    for reference in found.references:
        assert reference.startswith("data:image/png") or reference.removeprefix("#") in found.ids
    assert not found.tags & {"script", "link", "img", "iframe", "i"}


def test_every_figure_is_on_the_page(page):
    text = Page(page).text
    shown = "1,357,913 2,468,013 7,654,321 687 1,913 1,907 1,234 2,340,000 2.34e+07 2.3456 2.7654 1.7500 2.5000 12.1825"
    shown += " 0.4375 4,321 1.4100 1.9000 -0.1600 4.5000 3.5000 0.1250 37.5% 25.0% 50.0% 0.7500 3.7500 0.5000 0.0150"
    shown += " 2.0550 45 10.5 0.8123 0.7234 0.6345 2.1350 12,134,070 8.58e-06 6,100,001 0.009 196 47 187 0.65 3.5%"
    assert [figure for figure in shown.split() if figure not in text] == []
    assert "0.9000[0.8750, 0.9375]" in text
    assert "it needs 1.375 bits per byte: fewer than 2 of the 2 baselines" in text


def test_text_from_files_is_escaped(page):
    text = Page(page).text
    names = ("<i>", "a/<b>.py", "raw/<c>.txt", "code & more", "<that>", "</pre>", "<x>")
    assert [name for name in names if name not in text] == []
    assert "<i>" not in page


def test_every_token_has_its_shade_and_a_prompt_is_marked(page):
    assert '<span class="s6 given" title="8.50 nats, probability 0.0203%">&lt;i&gt;</span>' in page
    assert '<span class="s0" title="0.25 nats, probability 77.9%">→\tx &amp; y↵\n</span>' in page
    assert '<span class="s2" title="2.50 nats, probability 8.21%">&lt;/pre&gt;</span>' in page
    assert "1.38 nats per generated token" in Page(page).text  # of 0.25 and 2.5
    legend = page[page.index('<ul class="legend"') : page.index("</ul>")]
    assert legend.count("<li>") == len(BOUNDS) + 1
    assert "8 or more" in legend


@pytest.mark.parametrize(
    ("changes", "evaluate", "sentence"),
    [
        ({"evaluate": {"val": ..., "test": ...}}, EMPTY, "No text was held out, so its predictions were not measured."),
        ({"evaluate": {"val": ..., "test": ...}}, EMPTY, "there is no passage to show"),
        ({"evaluate": {"test": ...}}, {"splits": {"val": SPLIT}}, "There is no test split: these are the scores"),
        ({}, {"splits": {"test": SPLIT | {"context": []}}}, "No held-out text was as long as the context"),
        ({}, {"samples": [EVALUATE["samples"][0] | {"prompt_tokens": 3}]}, "The model ended the text immediately."),
        ({}, {"quality": {"skipped": "no text was long enough"}}, "Not measured: no text was long enough."),
        ({}, {}, "On test, this model less xz -9e, given the training text: -0.1600 [-0.2000, -0.1200]"),
        ({}, {}, "Skipped: no function of the corpus is left in test."),
        ({}, {}, "unverified: no client"),
        ({}, {}, "Skipped: closing bracket, 3 items, expected at least 50."),
        ({"export": {"bytes": ..., "skipped": "it is a GRU"}}, {}, "Transformers – skipped: it is a GRU"),
        ({"export": {"onnx": {"bytes": 8, "max_logit_difference": 3e-6}}}, {}, "onnx 8 within 3e-06"),
        ({"export": {"bytes": ..., "gguf": {}}}, {}, "Nothing was exported."),
        ({"evaluate": {"non_causal": True}}, {}, "sees the token that it predicts"),
        ({"evaluate": {"lossless_tokens": False}}, {}, "do not contain all of the text"),
        ({"prepare": {"dropped": {}}, "label": {"dropped": {}}}, {}, "Nothing was dropped."),
        ({"prepare": {"split_method": "position"}}, {}, "within each document, by position"),
        ({"memorise": {"train": NOTHING}}, {}, "No document of train is long enough"),
        ({"memorise": {"copies": True}}, {}, "The model copies: more of train"),
        ({"memorise": {"copies": None}}, {}, "Test has no document that is long"),
    ],
)
def test_a_sentence_states_what_is_missing(changes, evaluate, sentence):
    assert sentence in Page(write(changes, evaluate)).text


@pytest.mark.parametrize(
    ("changes", "evaluate", "name"),
    [
        ({}, {"samples": []}, "samples"),
        ({"cloze": {"test": ..., "closing_bracket": ...}}, {}, "cloze"),
        ({f"finetune/{name}": ... for name in ("topics", "answers", "none")}, {}, "finetuned"),
    ],
)
def test_an_empty_section_is_left_out(page, changes, evaluate, name):
    assert f'href="#{name}"' in page and f'<h2 id="{name}">' in page
    assert f'"#{name}"' not in (other := write(changes, evaluate)) and f'id="{name}"' not in other


def test_details_without_a_figure_are_our_own_error():
    broken = {name: of for name, of in SPLIT.items() if name != "contamination"}
    with pytest.raises((UndefinedError, KeyError), match="contamination"):
        write(evaluate={"splits": {"test": broken | {"model": MODEL}}})


def test_pictures_keep_their_look_and_get_ids_of_their_own():
    svg = inline_svg(pictures()["finetune/topics/confusion"], "one-", 'a "label"')
    assert 'aria-label="a &quot;label&quot;"' in svg
    assert "&lt;a&gt;" in svg
    assert "viewBox=" in svg
    assert "<style" not in svg and "<metadata" not in svg
    assert Page(svg).ids
    assert all(name.startswith("one-") for name in Page(svg).ids)


@pytest.mark.parametrize("reference", ["https://example.org/a.svg", "other.svg#a"])
def test_a_picture_that_needs_something_else_is_refused(reference):
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><use href="{reference}"/></svg>'
    with pytest.raises(AssertionError, match="outside of it"):
        inline_svg(svg, "a-", "label")


def test_every_param_is_on_the_page_with_a_hash_of_its_section(page):
    text = Page(page).text.replace('"', "")
    rows = (
        "seed 7",
        "sample.context_length 256",
        "tokenize.pattern \\S+|<x>",
        "evaluate.nothing null",
        "evaluate.none {}",
    )
    assert [row for row in rows if row not in text] == []
    one, same, other = (describe_section("a", of)[1] for of in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3}))
    assert one == same != other
    assert describe_section("seed", 7)[1] in page
