"""The report stage makes one page of all that a run left, and a browser shows it as it should."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from llm.report import page as library
from llm.report.plots import draw_curve
from stages.report import main

METRICS = {
    "prepare": {
        "documents": {"train": 687, "val": 0, "test": 1},
        "bytes": {"train": 9753, "val": 0, "test": 97},
        "bytes_by_source": {"mine": 9850},
        "dropped": {},
    },
    "tokenize": {
        "vocab_size": 320,
        "vocab_used": 111,
        "tokens": {"train": 3579, "val": 0, "test": 30},
        "bytes_per_token": {"train": 2.7, "test": 3.2},
    },
    "pretrain": {
        "parameters": 24680,
        "flops_per_token": 10,
        "tokens_seen": 5000,
        "epochs": 1.75,
        "selected_step": 9,
        "train_loss": 2.5,
        "machine": {"device": "cpu", "matmul_dtype": "float32", "threads": 1, "compiler": False}
        | {"torch_version": "2", "processes": 1, "sharded": False},
    },
    "baselines": {"test": {"xz": 2.375}},
    "evaluate": {"lossless_tokens": True, "sees_the_future": False},
    "cloze": {"left_out": {"last_word": "0 items, wanted 20"}},
    "memorise": {"train": {"prefixes": 0}, "test": {"prefixes": 0}, "copies": None, "samples": {"number": 0}},
    "export": {"max_logit_difference": 3e-06, "bytes": 1357, "gguf": {}},
}
SUMMARY = {"bits_per_byte": 2.125, "nats_per_token": 3.5, "perplexity": 33.1, "tokens": 31, "accuracy": 0.25}
FIGURES = {
    "documents": 1,
    "bytes": 97,
    "model": SUMMARY | {"calibration_error": 0.02},
    "baselines": [],
    "sources": [],
    "positions": [],
    "context": [],
    "calibration": [],
    "contamination": {"ngram": 13, "window_fraction": 0.0, "token_fraction": 0.0}
    | {"found": {"bits_per_byte": None}, "not_found": {"bits_per_byte": 2.125}},
    "hardest": [],
    "easiest": [],
}
TASKS = {"answers": {"skipped": "no function of the corpus is left in test"}}
TASKS |= {"topics": {"rows": {"test": 1201}, "test": {"answer_bits_per_byte": {"before": 5.5, "after": 2.25}}}}
SAMPLE = {"prompt": "def <walk>", "text": "(x)", "method": "greedy", "greedy": True, "ended": True}
DETAILS = {
    "splits": {"test": FIGURES},
    "quality": {"skipped": "no reason"},
    "continuations": [],
    "prompts_from": None,
    "sample_tokens": 9,
    "samples": [SAMPLE | {"prompt_tokens": 2, "tokens": ["def", " <walk>", "(x)"], "nats": [1.0, 2.0, 0.5]}],
    "passage": {"split": "test", "document": "long.py", "text": "# A", "tokens": ["#", " A"], "nats": [0.25, 9.0]},
}
NO_TEXTS = {system: {"texts": 0} for system in ("model", "true_text")}
MEMORISED = {split: {"model": {"prefixes": 0}} for split in ("train", "test")} | {"prefix_tokens": 64}
MEMORISED |= {"sees_the_future": False, "recalled": [], "samples": [], "generations": NO_TEXTS, "copies": None}
PARAMS = {
    "prepare_params": {"split": {"method": "document"}},
    "label_params": {"n_packages": 2},
    "tokenize_params": {"pattern": r"\S+|<x>"},
    "sample_params": {"context_length": 17},
    "model_params": {"family": "gru", "attention": "causal", "n_layers": 2, "d_model": 24, "n_heads": 2},
    "pretrain_params": {"max_steps": 9, "batch_size": 8},
    "evaluate_params": {"top_k": 7},
    "memorise_params": {"prefix_tokens": 64},
    "cloze_params": {"items": 200},
    "export_params": {"formats": []},
    "tasks": {name: {"kind": "instruct"} for name in TASKS},
    "seed": 5,
}
FILES = {
    "corpus": ["test.parquet"],
    "weights": ["config.json"],
    "exported": ["model.safetensors"],
    "raw": ["mine.txt", ".keep"],
    "given": [".gitkeep"],
    "labeled": ["builtin/topics.parquet"],
    "tokens": ["train.parquet"],
    "windows": ["train.npy"],
    "gguf": ["model-f16.gguf"],
    "finetuned": ["topics/model.safetensors", "answers/skipped.json"],
}


@pytest.fixture
def paths(tmp_path, small_tokenizer_file):
    """A path for each argument of the stage, with something behind each input."""
    given = {name: tmp_path / "metrics" / f"{name}.json" for name in METRICS}
    given |= {"finetune": tmp_path / "metrics" / "finetune"}
    given |= {name: tmp_path / f"{name}.json" for name in ("details", "memorise_details")}
    given["finetune"].mkdir(parents=True)
    contents = {given[name]: content for name, content in METRICS.items()} | {given["details"]: DETAILS}
    contents |= {given["memorise_details"]: MEMORISED}
    contents |= {given["finetune"] / f"{name}.json": content for name, content in TASKS.items()}
    for path, content in contents.items():
        path.write_text(json.dumps(content))
    for name in ("vocabulary", "curve"):
        given[name] = tmp_path / "plots" / f"{name}.svg"
        given[name].parent.mkdir(exist_ok=True)
        given[name].write_text(draw_curve([{"step": 1, "lr_factor": 1.0, "train_loss": 3.0}], name))
    given["finetune_plots"] = tmp_path / "plots" / "finetune"
    (given["finetune_plots"] / "topics").mkdir(parents=True)
    (given["finetune_plots"] / "topics" / "curve.svg").write_text(
        draw_curve([{"step": 1, "lr_factor": 1.0, "train_loss": 3.0}], "the task")
    )
    for name, files in FILES.items():
        given[name] = tmp_path / "data" / name
        for file in files:
            (given[name] / file).parent.mkdir(parents=True, exist_ok=True)
            (given[name] / file).write_text(f"all of {file}")
    given["card"] = tmp_path / "README.md"
    given["card"].write_text("the card")
    given["tokenizer"] = small_tokenizer_file
    given["template"] = Path(library.__file__).with_name("page.html.jinja")
    pages = {name: tmp_path / f"{name}.md" for name in ("evaluation", "samples", "continuations", "memorisation")}
    return given | pages | {"report": tmp_path / "report.html"}


def _run(paths, **changes):
    main(**(PARAMS | paths | changes))
    return paths["report"].read_text(encoding="utf-8")


def test_two_runs_write_the_same_bytes(paths):
    assert _run(paths) == _run(paths)


def test_every_file_that_was_read_stands_there_with_its_md5(paths):
    page = _run(paths)
    for name, files in FILES.items():
        for file in files:
            path = paths[name] / file
            row = f"<code>{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}</code>"
            assert (row in page) == (path.name not in (".gitkeep", ".keep"))
    for name in ("tokenizer", "card"):
        assert hashlib.md5(paths[name].read_bytes(), usedforsecurity=False).hexdigest() in page
    assert "raw/mine.txt" in page


def test_params_of_all_sections_stand_there(paths):
    page = _run(paths)
    for key in ("label.n_packages", "tokenize.pattern", "evaluate.top_k", "finetune.tasks.topics.kind", "seed"):
        assert f"<code>{key}</code>" in page
    assert r"<code>\S+|&lt;x&gt;</code>" in page


def test_samples_and_passage_stand_there_by_token(paths, monkeypatch):
    shown = {}
    monkeypatch.setattr("stages.report.write_report", lambda report, _: shown.update(vars(report)) or "")
    _run(paths)
    (sample,) = shown["samples"]
    assert [(token.text, token.is_given) for token in sample.tokens] == [
        ("def", True),
        (" <walk>", True),
        ("(x)", False),
    ]
    assert [token.nats for token in shown["passage"].tokens] == [0.25, 9.0]


def test_reports_in_markdown_are_written_too(paths):
    _run(paths)
    for name, words in (("evaluation", "## Likelihood"), ("samples", "<walk>│(x)"), ("memorisation", "No document")):
        assert words in paths[name].read_text(encoding="utf-8")
    assert "no reason" in paths["continuations"].read_text(encoding="utf-8")


def test_without_held_out_text_and_tasks_there_is_a_page(paths):
    paths["details"].write_text(json.dumps(DETAILS | {"splits": {}, "passage": None}))
    page = _run(paths, tasks={})
    assert "No text was held out" in page
    assert "Finetuned tasks" not in page


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window: the system's own, or the one that Playwright keeps."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (make extras)")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as running:
        executable = found or running.chromium.executable_path
        if not Path(executable).exists():
            pytest.skip("there is no Chromium (playwright install chromium, or the system's package)")
        # In a container the browser has no right to a sandbox of its own; the page is ours.
        opened = running.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


def _style(page, selector, name):
    return page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}")


def test_a_browser_shows_it_without_an_error_and_asks_for_nothing_else(paths, browser):
    _run(paths)
    asked, said, colors = [], [], []
    for width, scheme in ((1200, "light"), (360, "light"), (360, "dark")):
        page = browser.new_page(viewport={"width": width, "height": 740}, color_scheme=scheme)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(paths["report"].as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colors.append([_style(page, "body", name) for name in ("backgroundColor", "color")])
        # A picture keeps its white ground, so that its black words can be read.
        assert _style(page, ".picture", "backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator("svg").count() == 6
        assert all(box["height"] > 100 for box in (page.locator("svg").nth(at).bounding_box() for at in range(6)))
        page.close()
    assert asked == [paths["report"].as_uri()] * 3
    assert said == []
    assert colors[0] == colors[1]
    assert colors[0][0] != colors[2][0]
    assert colors[0][1] != colors[2][1]


def test_wide_tables_scroll_in_their_own_box_on_a_phone(paths, browser):
    _run(paths)
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(paths["report"].as_uri())
    boxes = page.evaluate("[...document.querySelectorAll('.scroll')].map(box => [box.clientWidth, box.scrollWidth])")
    page.close()
    assert all(own <= 360 for own, _ in boxes)
    assert any(inside > own for own, inside in boxes)
