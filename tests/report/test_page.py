import copy
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from llm.report import page as report
from llm.report.page import BOUNDS, Report, Text, Token, describe_params, fold_many, inline_svg, write_report
from llm.report.plots import draw_bars, draw_confusion, draw_curve

TEMPLATE = Path(report.__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
VOID = {"meta", "link", "br"}
SPLIT = {
    "documents": 3,
    "bytes": 1234,
    "summary": {
        "bits_per_byte": 1.34567,
        "bits_per_byte_low": 1.25,
        "bits_per_byte_high": 1.5,
        "nats_per_token": 2.71,
        "perplexity": 15.03,
        "tokens": 4321,
        "accuracy": 0.4567,
        "calibration_error": 0.0123,
    },
    "sources": [{"source": "mine & yours", "documents": 3, "bytes": 1234, "tokens": 4321, "bits_per_byte": 1.34567}],
    "positions": [
        {"from": 1, "to": 1, "targets": 9, "nats_per_token": 5.125},
        {"from": 3, "to": 4, "targets": 9, "nats_per_token": 3.875},
    ],
    "context": [
        {"context": 4, "share": 0.5, "windows": 9, "nats_per_token": 3.5, "more": 0.625}
        | {"more_low": 0.25, "more_high": 0.875},
        {"context": 8, "share": 1.0, "windows": 9, "nats_per_token": 2.875, "more": 0.0},
    ],
    "calibration": [{"from": 0.2, "to": 0.3, "count": 8765, "confidence": 0.2525, "accuracy": 0.3535}],
    "contamination": {
        "ngram": 13,
        "window_share": 0.4321,
        "token_share": 0.1234,
        "found": {"tokens": 9, "bytes": 9, "nats_per_token": 1.0, "bits_per_byte": 0.6543},
        "not_found": {"tokens": 9, "bytes": 9, "nats_per_token": 3.0, "bits_per_byte": 1.4765},
    },
    "baselines": [],
    "hardest": [{"document": "<b>.py", "bytes": 3380, "bits_per_byte": 2.217}],
    "easiest": [{"document": "tables.py", "bytes": 3381, "bits_per_byte": 0.266}],
}
QUALITY = {"split": "test", "texts": 197, "prompt_tokens": 47, "mean_tokens": 187.25, "ended_sooner": 0.035}
QUALITY |= {"temperature": 0.65, "ratio": {"real_words": 0.9625}}
QUALITY |= {"model": {"real_words": 0.9012, "real_words_low": 0.8765, "real_words_high": 0.9234}}
QUALITY |= {"true": {"real_words": 0.9543, "sections_parsed": 0.8123}}
HEART = {"prefixes": 200, "verbatim_25": 0.015, "verbatim_50": 0.005, "mean_verbatim_tokens": 2.055}
RUNS = {"number": 10, "median_run": 10.5, "longest_run": 45, "copied": 2}
METRICS = {
    "prepare": {
        "documents": {"train": 687, "val": 3, "test": 68},
        "bytes": {"train": 9810201, "val": 1234, "test": 1283294},
        "bytes_by_source": {"mine & yours": 9811435},
        "dropped": {"exact_duplicate": {"documents": 1, "bytes": 735}},
        "python": {"version": "3.11.7", "library_sha256": "ab" * 32},
    },
    "tokenize": {
        "vocab_size": 2048,
        "vocab_used": 1947,
        "tokens": {"train": 3248111, "val": 130786, "test": 441210},
        "bytes_per_token": {"train": 3.0203, "val": 3.0453, "test": 2.9086},
    },
    "pretrain": {
        "parameters": 3001024,
        "flops_per_token": 18579456,
        "tokens_seen": 2457600,
        "epochs": 0.757,
        "selected_step": 1200,
        "train_loss": 2.60008,
        "val_loss": 3.21302,
        "machine": {"device": "cpu", "matmul_dtype": "bfloat16", "threads": 2, "compiler": True, "processes": 1}
        | {"torch_version": "2.13.0+cpu", "sharded": False},
    },
    "baselines": {split: {"xz": 1.5, "a_new_one": 1.25} for split in ("val", "test")},
    "evaluate": {"lossless_tokens": True, "sees_the_future": False},
    "cloze": {
        "closing_bracket": {
            "items": 200,
            "chance": 0.475,
            "acc": 0.96,
            "acc_low": 0.93,
            "acc_high": 0.985,
            "acc_norm": 0.95,
        },
        "left_out": {"last_word": "3 items, wanted 20"},
    },
    "memorise": {"train": HEART, "test": HEART, "copies": False, "samples": RUNS, "test_stretches": RUNS},
    "export": {
        "bytes": 12134070,
        "max_logit_difference": 2.38e-05,
        "gguf": {"gguf-f16": {"bytes": 6_100_001, "max_logprob_difference": 0.009}}
        | {"gguf-q8_0": {"skipped": "rows of 24 numbers"}},
    },
}
TASKS = {
    "library": {
        "rows": {"train": 2596, "val": 46, "test": 234},
        "skipped": {"empty_text": 3},
        "test": {
            "pretrained": {"accuracy": 0.6923, "macro_f1": 0.5254},
            "tfidf": {"accuracy": 0.7949, "macro_f1": 0.639},
        },
    },
    "docstring": {"rows": {"train": 3794}, "test": {"answer_bits_per_byte": {"before": 2.0821, "after": 1.79564}}},
    "none": {"skipped": "no function of the corpus is left in test"},
}
PARAMS = {
    "seed": 7,
    "prepare": {"split": {"method": "document"}},
    "sample": {"context_length": 256},
    "model": {"family": "qwen3", "attention": "grouped", "n_layers": 5, "d_model": 192, "n_heads": 3},
    "pretrain": {"max_steps": 1200, "batch_size": 8},
    "evaluate": {"prompts": ["<i>"]},
    "memorise": {"prefix_tokens": 64},
    "finetune": {"tasks": {}},
}
TOKENS = [Token("<i>", 8.5, True), Token("\tx & y\n", 0.25, False), Token("</pre>", 2.5, False)]


class Page(HTMLParser):
    """What a page holds: its text, its ids, what it refers to; and that every element that opens is closed."""

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


@pytest.fixture(scope="module")
def pictures():
    """A real picture of each kind, as the stages draw them."""
    return {
        "curve": draw_curve([{"step": 1, "lr_factor": 1.0, "train_loss": 3.0}], "a curve"),
        "bars": draw_bars({"this": 1.0, "<that>": 2.0}, "bars", "unit", "this"),
        "confusion": draw_confusion([[1, 2], [0, 3]], ["<a>", "b"], "labels"),
    }


@pytest.fixture
def write(pictures):
    """Writes the page, with parts of the report changed; `metrics` are put over those of their stages."""

    def write(metrics=None, params=None, **parts):
        merged = {stage: values | (metrics or {}).get(stage, {}) for stage, values in copy.deepcopy(METRICS).items()}
        given = {
            "figures": {"val": SPLIT, "test": SPLIT},
            "finetuned": TASKS,
            "pictures": {
                "vocabulary": pictures["bars"],
                "curve": pictures["curve"],
                "rivals": pictures["bars"],
                "context": pictures["bars"],
                "calibration": pictures["bars"],
            },
            "finetuned_pictures": {
                "library": {"curve": pictures["curve"], "confusion": pictures["confusion"]},
                "docstring": {"curve": pictures["curve"]},
                "none": {"curve": pictures["curve"]},
            },
            "samples": [Text("<i>", "greedy", TOKENS)],
            "passage": Text("a/<b>.py", "test", TOKENS),
            "lineage": [("you", "raw/<c>.txt", "0123abc")],
        }
        model_params = copy.deepcopy(PARAMS)
        for section, values in (params or {}).items():
            model_params[section] |= values
        return write_report(Report(metrics=merged, params=model_params, **(given | parts)), TEMPLATE)

    return write


@pytest.mark.parametrize(
    "shown", ["197", "47", "187", "0.65", "0.901", "0.876–0.923", "0.954", "0.963", "0.812", "3.5%"]
)
def test_text_quality_stands_beside_the_true_continuations(write, shown):
    page = Page(write(figures={"val": SPLIT, "test": SPLIT | {"quality": QUALITY}}))
    assert "quality" in page.ids
    assert "#quality" in page.references
    assert shown in page.text.partition("What it writes beside what people wrote")[2].partition("What the tokenizer")[0]


def test_text_quality_that_was_not_measured_says_why_and_none_says_nothing(write):
    page = Page(write(figures={"test": SPLIT | {"quality": {"skipped": "no text was long enough"}}}))
    assert "Not measured: no text was long enough." in page.text
    assert "quality" not in Page(write()).ids


def test_the_page_is_whole_and_refers_to_nothing_but_itself(write):
    page = Page(write())
    assert len(page.ids) == len(set(page.ids))
    assert page.references
    for reference in page.references:
        assert reference.startswith("data:image/png") or reference.removeprefix("#") in page.ids
    assert not page.tags & {"script", "link", "img", "iframe", "i"}


def test_every_figure_stands_on_the_page(write):
    text = Page(write()).text
    shown = "3,001,024 3,248,111 9,810,201 687 2,048 1,947 1,200 2,457,600 4.6e+13 2.600 3.213 1.3457 2.7100 15.03"
    shown += " 45.67% 4,321 1.5000 1.2500 5.125 3.875 0.625 25.2% 35.4% 1.23% 43.2% 12.3% 0.6543 1.4765 2.217 0.266"
    shown += " 200 1.5% 0.5% 2.06 45 10.5 69.2% 0.525 79.5% 2.0821 1.7956 12,134,070 2.38e-05 6,100,001 0.009"
    missing = [figure for figure in shown.split() if figure not in text]
    assert missing == []
    assert "1.250 to 1.500" in text
    assert "fewer than 1 of the 2 baselines" in text


@pytest.mark.parametrize(
    ("low_and_high", "words"),
    [
        ((-0.25, -0.125), "xz given train, the best baseline, are -0.1875 (95% interval -0.250 to -0.125, paired"),
        ((), "xz given train, the best baseline, are -0.1875: so they say."),
    ],
)
def test_the_best_baseline_is_named_with_the_difference_and_the_verdict(write, low_and_high, words):
    compared = {"best_baseline": "xz_given_train", "bits_per_byte_difference": -0.1875, "verdict": "so they say"}
    compared |= dict(zip(("bits_per_byte_difference_low", "bits_per_byte_difference_high"), low_and_high, strict=False))
    text = " ".join(Page(write(figures={"test": SPLIT | {"summary": SPLIT["summary"] | compared}})).text.split())
    assert f"On test the model's bits per byte less those of {words}" in text
    assert "so they say." in text


def test_rivals_stand_in_the_order_of_test_and_an_unknown_one_keeps_its_name(write):
    text = Page(write(metrics={"baselines": {"val": {"xz": 9.0, "odd_one": 9.0}, "test": {"xz": 1.5, "odd_one": 1.0}}}))
    table = text.text[text.text.index("Beside the baselines") :]
    assert table.index("odd one") < table.index("this model") < table.index("xz -9e")


def test_text_from_files_is_escaped(write):
    page = write()
    text = Page(page).text
    for name in ("<i>", "a/<b>.py", "raw/<c>.txt", "mine & yours", "<that>", "</pre>"):
        assert name in text
    assert "<i>" not in page


def test_every_token_has_the_shade_of_its_surprise_and_a_prompt_is_marked(write):
    page = write()
    assert '<span class="s6 given" title="8.50 nats, probability 0.0203%">&lt;i&gt;</span>' in page
    assert '<span class="s0" title="0.25 nats, probability 77.9%">→\tx &amp; y↵\n</span>' in page
    assert '<span class="s2" title="2.50 nats, probability 8.21%">&lt;/pre&gt;</span>' in page
    assert "1.38 nats a token that it wrote" in Page(page).text  # of 0.25 and 2.5
    legend = page[page.index('<ul class="legend"') : page.index("</ul>")]
    assert legend.count("<li>") == len(BOUNDS) + 1
    assert "8 or more" in legend


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"figures": {}, "passage": None}, "No text was held out, so nothing says how well it predicts."),
        ({"figures": {}, "passage": None}, "there is no passage to show"),
        ({"figures": {"val": SPLIT}}, "There is no test split, so val stands for it"),
        ({"figures": {"test": SPLIT | {"context": []}}}, "No held-out text was as long as the context"),
        ({"samples": [Text("x", "greedy", TOKENS[:1])]}, "The model ended the text at once."),
        ({}, "Skipped: no function of the corpus is left in test."),
        ({}, "skipped, rows of 24 numbers"),
        ({"metrics": {"export": {"gguf": {}}}}, "No file for llama.cpp was asked for."),
        (
            {"metrics": {"export": {"transformers": {"skipped": "it is a GRU"}}}},
            "only this project reads: it is a GRU.",
        ),
        (
            {"metrics": {"export": {"onnx": {"skipped": "it keeps no keys"}}}},
            "ONNX Runtime: skipped, it keeps no keys.",
        ),
        (
            {"metrics": {"export": {"onnx": {"bytes": 7_654_321, "max_logit_difference": 3e-6}}}},
            "7,654,321 bytes; its logits are within 3e-06 of ours.",
        ),
        (
            {"metrics": {"export": {"onnx": {"bytes": 8, "unverified": "no client"}}}},
            "8 bytes, not checked: no client.",
        ),
        ({"metrics": {"evaluate": {"sees_the_future": True}}}, "sees the very token that it predicts"),
        ({"metrics": {"evaluate": {"lossless_tokens": False}}}, "do not hold all of the text"),
        ({"metrics": {"prepare": {"dropped": {}}}}, "The preparation dropped nothing."),
        ({"metrics": {"memorise": {"train": {"prefixes": 0}}}}, "No document of train is long enough"),
        ({}, "Left out: last word, 3 items, wanted 20."),
        ({}, "96.0% 93.0%–98.5%"),
        ({"metrics": {"memorise": {"copies": True}}}, "The model copies: more of train"),
        ({"metrics": {"memorise": {"copies": None, "test": {"prefixes": 0}}}}, "Test has no document that is long"),
        ({"metrics": {"pretrain": {"selected_step": 700}}}, "The weights of an earlier step"),
        ({"params": {"model": {"family": "gru"}}}, "it has no attention"),
        ({"params": {"prepare": {"split": {"method": "position"}}}}, "within each document, by position"),
    ],
)
def test_what_is_missing_leaves_a_sentence(write, changes, sentence):
    assert sentence in Page(write(**changes)).text


@pytest.mark.parametrize(
    ("changes", "name", "title"),
    [
        ({"samples": []}, "samples", "What it writes"),
        ({"finetuned": {}}, "finetuned", "Finetuned tasks"),
        ({}, "cloze", "What was left out"),
    ],
)
def test_what_has_nothing_to_say_is_left_out(write, changes, name, title, monkeypatch):
    assert f'href="#{name}"' in write()
    assert f">{title}</h2>" in write()
    if name == "cloze":
        monkeypatch.setitem(METRICS, "cloze", {"left_out": {}})
    page = write(**changes)
    assert f"#{name}" not in page
    assert title not in page


def test_a_folder_that_only_this_project_reads_has_no_figure_of_transformers(write):
    assert "folder for Transformers" in Page(write()).text
    reason = {"transformers": {"skipped": "it is a GRU"}}
    assert "folder for Transformers" not in Page(write(metrics={"export": reason})).text


def test_finetuned_models_stand_with_intervals_differences_and_seeds(write):
    library = copy.deepcopy(TASKS["library"])
    library["test"]["pretrained"] |= {"accuracy_low": 0.6123, "accuracy_high": 0.7456}
    library["test"]["zero_shot"] = {"accuracy": 0.1234, "macro_f1": 0.0432}
    library["seeds"] = {"pretrained": {"accuracy": {"mean": 0.6812, "std": 0.0145}}}
    library["differences"] = {
        "tfidf": {"difference": -0.1026, "difference_low": -0.1538, "difference_high": -0.0513},
        "zero_shot": {"difference": 0.5, "difference_low": 0.4, "difference_high": 0.6},
        "random_weights": {"difference": 0.01, "difference_low": -0.04, "difference_high": 0.06},
        "majority": {"difference": 0.25},
    }
    likes = {
        "rows": {"train": 3},
        "test": {
            "chosen_is_likelier": {"before": 0.5123, "after": 0.7345},
            "chosen_is_likelier_low": {"before": 0.4321, "after": 0.6543},
            "chosen_is_likelier_high": {"before": 0.5987, "after": 0.8012},
            "answers_scored": 100,
        },
    }
    finetuned = {"library": library, "likes": likes}
    text = Page(write(finetuned=finetuned, finetuned_pictures={name: {} for name in finetuned})).text
    sentences = [
        "this model, finetunedIt starts from the pretrained weights. 69.2%61.2%–74.6%",
        "10.3 fewer right than TF-IDF (95% interval of the difference: -15.4 to -5.1): it is worse.",
        "50.0 more right than this model, not finetuned (95% interval",
        "+40.0 to +60.0): it is better.",
        "(95% interval of the difference: -4.0 to +6.0): these rows cannot tell which is better.",
        "25.0 more right than majority.",
        "several seeds, mean ± standard deviation: accuracy 0.6812 ± 0.0145.",
        "0.51230.4321–0.5987",
        "0.73450.6543–0.8012",
    ]
    assert [sentence for sentence in sentences if sentence not in text] == []


def test_a_model_without_any_of_it_still_has_a_whole_page(write):
    gone = {"train": {"prefixes": 0}, "test": {"prefixes": 0}, "copies": None, "samples": {"number": 0}}
    lean = {"memorise": gone, "baselines": {}, "evaluate": {"sees_the_future": True, "lossless_tokens": False}}
    empty = {"figures": {}, "passage": None, "samples": [], "finetuned": {}, "lineage": []}
    page = Page(write(metrics=lean, **empty))
    assert "3,001,024" in page.text


def test_a_file_without_a_figure_that_the_page_shows_is_our_own_mistake(write):
    broken = {part: of for part, of in SPLIT.items() if part != "contamination"}
    with pytest.raises(UndefinedError, match="contamination"):
        write(figures={"test": broken})


def test_pictures_keep_their_look_and_get_ids_of_their_own(pictures):
    svg = inline_svg(pictures["confusion"], "one-", 'a "label"')
    assert 'aria-label="a &quot;label&quot;"' in svg
    assert "&lt;a&gt;" in svg
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert "viewBox=" in svg
    ids = Page(svg).ids
    assert ids
    assert all(name.startswith("one-") for name in ids)
    assert len(Page(svg).tags) == len(Page(pictures["confusion"]).tags - {"metadata", "style"}) - sum(
        ":" in tag for tag in Page(pictures["confusion"]).tags
    )


@pytest.mark.parametrize("reference", ["https://example.org/a.svg", "other.svg#a"])
def test_a_picture_that_needs_something_else_is_refused(reference):
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><use href="{reference}"/></svg>'
    with pytest.raises(AssertionError, match="outside of it"):
        inline_svg(svg, "a-", "label")


def test_a_section_has_the_same_hash_whatever_the_order_of_its_keys_and_another_for_another_value():
    one, same, other = (
        describe_params("model", value).sha256 for value in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3})
    )
    assert one == same != other


def test_every_param_stands_on_the_page_also_one_that_is_no_section(write):
    page = write(params={"evaluate": {"pattern": "<\\s", "nothing": None, "none": {}}})
    text = Page(page).text
    for row in ("seed 7", "sample.context_length 256", "evaluate.pattern <\\s", "evaluate.nothing null"):
        assert row in text.replace('"', "")
    assert "evaluate.none {}" in text
    assert describe_params("seed", 7).sha256 in text


def test_many_files_are_one_row_whose_hash_knows_each_of_them():
    rows = [("raw", f"raw/{number}", str(number)) for number in range(5)]
    assert fold_many(rows, most=5) == rows
    (folded,) = fold_many(rows, most=4)
    assert folded[1].startswith("5 files")
    assert fold_many([*rows[:4], ("raw", "raw/4", "5")], most=4)[0][2] != folded[2]
