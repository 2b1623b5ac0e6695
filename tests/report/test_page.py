"""The report page: valid, escaped, without references to anything outside, and complete."""

import re
from html.parser import HTMLParser

import pytest

from llm.report.metrics import Metrics, Score
from llm.report.plots import draw_bars
from llm.report.reports import BOUNDS, params_table, write_page
from llm.report.tables import Code, Table
from tests.report.samples import CONTENT, DETAILS, EVALUATE, PARAMS, SPLIT, merged

LINEAGE = Table(["file", "md5"], [[Code("raw/<c>.txt"), Code("0123abc")]])
PICTURES = ("vocabulary", "bits_per_byte", "context", "calibration", "curve", "finetune/topics/confusion")
VOID = {"meta", "link", "br", "img"}
NOTHING = {"model": {"prefixes": 0}}
EMPTY = {"splits": {}, "passage": None, "samples": [], "quality": {"skipped": "no text was held out"}}
NO_SPLIT = {"evaluate": {"val": ..., "test": ...}}


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
        self.tags.add(tag)
        for name, value in attributes:
            self.ids += [value] if name == "id" else []
            self.references += [value] if name in ("href", "src") else []
            self.references += re.findall(r"url\((.*?)\)", value or "")
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.texts += [" "] if tag in ("td", "th") else []

    def handle_data(self, data):
        self.texts.append(data)


PICTURE = draw_bars({"this": Score(1.0)}, "bars", "unit", "this")


def write(changes: dict | None = None, evaluate: dict | None = None) -> str:
    """The page, with metrics or details of the evaluation changed."""
    details = DETAILS | {"evaluate": EVALUATE | (evaluate or {})}
    metrics = Metrics(merged(CONTENT, changes or {}), details)
    return write_page(metrics, PARAMS, PARAMS["model"], dict.fromkeys(PICTURES, PICTURE), LINEAGE)


@pytest.fixture(scope="module")
def page():
    return write()


def test_the_page_is_whole_and_refers_to_nothing_else(page):
    found = Page(page)
    assert len(found.ids) == len(set(found.ids))
    images = [of for of in found.references if of.startswith("data:image/svg+xml;base64,")]
    assert len(images) == len(PICTURES)
    beside = {"model.html"}  # a file of the same folder
    assert {of.removeprefix("#") for of in found.references if of not in images} == set(found.ids) | beside
    assert not found.tags & {"script", "link", "iframe", "i"}


def test_every_figure_is_on_the_page(page):
    text = Page(page).text
    shown = "1,357,913 2,468,013 7,654,321 687 1,913 1,907 1,234 2,340,000 2.34e+07 2.3456 2.7654 1.7500 2.5000 12.1825"
    shown += " 0.4375 4,321 1.4100 1.9000 -0.1600 4.5000 3.5000 0.1250 37.5% 25.0% 50.0% 0.7500 3.7500 0.5000 0.0150"
    shown += " 2.0550 45 10.5 0.8123 0.7234 0.6345 2.1350 12,134,070 8.58e-06 6,100,001 0.009 196 47 187 0.65 3.5%"
    assert [figure for figure in shown.split() if figure not in text] == []
    assert "0.9000[0.8750, 0.9375]" in text
    for sentence in (
        "it needs 1.375 bits per byte; 2 of 2 baselines need more.",
        "On test, this model minus xz -9e, given the training text: -0.1600 [-0.2000, -0.1200]",
        "Skipped: no function of the corpus is left in test.",
        "Skipped: closing bracket, 3 items, expected at least 50.",
        "unverified: no client",
        "Open the model: all 1,672,384 weights in one file of 4.7 MB",
    ):
        assert sentence in text
    names = ("<i>", "a/<b>.py", "raw/<c>.txt", "code & more", "</pre>", "<x>")
    assert [name for name in names if name not in text] == []
    assert "<i>" not in page  # text from files is escaped


def test_every_token_has_its_shade_and_a_prompt_is_marked(page):
    assert '<span class="s6 given" title="8.50 nats, probability 0.0203%">&lt;i&gt;</span>' in page
    assert '<span class="s0" title="0.25 nats, probability 77.9%">→\tx &amp; y↵\n</span>' in page
    assert '<span class="s2" title="2.50 nats, probability 8.21%">&lt;/pre&gt;</span>' in page
    assert "1.38 nats per token after the prompt." in Page(page).text  # of 0.25 and 2.5
    legend = page[page.index('<ul class="legend"') : page.index("</ul>")]
    assert legend.count("<li>") == len(BOUNDS) + 1


@pytest.mark.parametrize(
    ("changes", "evaluate", "sentence"),
    [
        (NO_SPLIT, EMPTY, "No text was held out, so its predictions were not measured."),
        ({"evaluate": {"test": ...}}, {"splits": {"val": SPLIT}}, "There is no test split: these scores are on val"),
        ({}, {"splits": {"test": SPLIT | {"context": []}}}, "No held-out text was as long as the context"),
        ({}, {"samples": [EVALUATE["samples"][0] | {"prompt_tokens": 3}]}, "The model generated no token."),
        ({}, {"quality": {"skipped": "no text was long enough"}}, "Not measured: no text was long enough."),
        ({"export": {"bytes": ..., "skipped": "it is a GRU"}}, {}, "Transformers – skipped: it is a GRU"),
        ({"export": {"onnx": {"bytes": 8, "max_logit_difference": 3e-6}}}, {}, "onnx 8 within 3e-06"),
        ({"export": {"bytes": ..., "gguf": {}}}, {}, "Nothing was exported."),
        ({"evaluate": {"non_causal": True}}, {}, "Attention is not causal"),
        ({"evaluate": {"lossless_tokens": False}}, {}, "do not contain all of the text"),
        (
            {"page": {"bytes": ..., "skipped": "it is too large"}},
            {},
            "The model has no page of its own: it is too large.",
        ),
        ({"prepare": {"dropped": {}}, "label": {"dropped": {}}}, {}, "Nothing was dropped."),
        ({"prepare": {"split_method": "position"}}, {}, "within each document, by position"),
        ({"memorise": {"train": NOTHING}}, {}, "No document of train is long enough"),
        ({"memorise": {"copies": True}}, {}, "The model copies: more of train"),
    ],
)
def test_a_sentence_states_what_is_missing(changes, evaluate, sentence):
    assert sentence in Page(write(changes, evaluate)).text


@pytest.mark.parametrize(
    ("changes", "evaluate", "name"),
    [
        (NO_SPLIT, EMPTY, "calibration"),
        ({}, {"samples": []}, "samples"),
        ({"cloze": {"test": ..., "closing_bracket": ...}}, {}, "cloze"),
        ({f"finetune/{name}": ... for name in ("topics", "answers", "none")}, {}, "finetuned"),
    ],
)
def test_an_empty_section_is_left_out(page, changes, evaluate, name):
    assert f'href="#{name}"' in page and f'<h2 id="{name}">' in page
    assert f'"#{name}"' not in (other := write(changes, evaluate)) and f'id="{name}"' not in other


def test_every_param_is_on_the_page_with_a_hash_of_its_section(page):
    text = Page(page).text
    rows = "seed 7", "sample.context_length 256", "tokenize.pattern \\S+|<x>", "evaluate.none {}"
    assert [row for row in rows if row not in text] == []
    one, same, other = (params_table({"a": of}).rows[0] for of in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}))
    assert one == same != other
