"""The report stage makes one page of all that a run left, and a browser shows it as it should."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from llm.evaluate.params import EvaluateParams, QualityParams
from llm.evaluate.samples import draw_samples
from llm.model.weights import load_model, save_model
from llm.report import page as library
from llm.report.plots import draw_curve
from llm.tokens.tokenizer import Tokenizer
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
    "summary": SUMMARY | {"calibration_error": 0.02},
    "sources": [],
    "positions": [],
    "context": [],
    "calibration": [],
    "contamination": {"ngram": 13, "window_share": 0.0, "token_share": 0.0}
    | {"found": {"bits_per_byte": None}, "not_found": {"bits_per_byte": 2.125}},
    "hardest": [],
    "easiest": [],
}
TASKS = {"answers": {"skipped": "no function of the corpus is left in test"}}
TASKS |= {"topics": {"rows": {"test": 1201}, "test": {"answer_bits_per_byte": {"before": 5.5, "after": 2.25}}}}
QUALITY = QualityParams(texts=7, prompt_tokens=5, new_tokens=9, temperature=0.7)
EVALUATE = EvaluateParams(
    stride=11, batch_size=3, prompts=["def <walk>", "The "], sample_tokens=30, temperature=0.8, top_k=7, quality=QUALITY
)
PARAMS = {
    "prepare_params": {"split": {"method": "document"}},
    "label_params": {"n_packages": 2},
    "tokenize_params": {"pattern": r"\S+|<x>"},
    "sample_params": {"context_length": 17},
    "model_params": {"family": "gru", "attention": "causal", "n_layers": 2, "d_model": 24, "n_heads": 2},
    "pretrain_params": {"max_steps": 9, "batch_size": 8},
    "evaluate_params": EVALUATE,
    "memorise_params": {"prefix_tokens": 64},
    "cloze_params": {"items": 200},
    "export_params": {"formats": []},
    "tasks": {name: {"kind": "instruct"} for name in TASKS},
    "seed": 5,
}
FILES = {
    "raw": ["mine.txt", ".keep"],
    "given": [".gitkeep"],
    "labeled": ["builtin/topics.parquet"],
    "tokens": ["train.parquet"],
    "windows": ["train.npy"],
    "gguf": ["model-f16.gguf"],
    "finetuned": ["topics/model.safetensors", "answers/skipped.json"],
}
LONG = "# A long line of the held-out text, déjà vu & <b>more</b> of it, as wide as a screen is, and wider still\n" * 30


@pytest.fixture
def paths(tmp_path, draw_gpt, small_tokenizer_file, write_corpus, plain_cpu):
    """A path for each argument of the stage, with something behind each input."""
    given = {name: tmp_path / "metrics" / f"{name}.json" for name in METRICS}
    given |= {"finetune": tmp_path / "metrics" / "finetune", "figures": tmp_path / "evaluation.json"}
    given["finetune"].mkdir(parents=True)
    contents = {given[name]: content for name, content in METRICS.items()} | {given["figures"]: {"test": FIGURES}}
    contents |= {given["finetune"] / f"{name}.json": content for name, content in TASKS.items()}
    for path, content in contents.items():
        path.write_text(json.dumps(content))
    for name in ("vocabulary", "curve", "rivals", "context", "calibration"):
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
    given["corpus"] = write_corpus(tmp_path / "corpus", {"test": {"short.py": "import this\n", "long.py": LONG}})
    given["weights"] = tmp_path / "weights"
    save_model(given["weights"], draw_gpt(context_length=17))
    given["exported"] = given["weights"] / "model.safetensors"
    given["card"] = tmp_path / "README.md"
    given["card"].write_text("the card")
    given["tokenizer"] = small_tokenizer_file
    given["template"] = Path(library.__file__).with_name("page.html.jinja")
    return given | {"report": tmp_path / "report.html"}


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
    for name in ("tokenizer", "exported", "card"):
        assert hashlib.md5(paths[name].read_bytes(), usedforsecurity=False).hexdigest() in page
    assert "raw/mine.txt" in page


def test_params_of_all_sections_stand_there(paths):
    page = _run(paths)
    for key in ("label.n_packages", "tokenize.pattern", "evaluate.top_k", "finetune.tasks.topics.kind", "seed"):
        assert f"<code>{key}</code>" in page
    assert r"<code>\S+|&lt;x&gt;</code>" in page


def test_samples_are_those_of_the_evaluation(paths, monkeypatch):
    shown = {}
    monkeypatch.setattr("stages.report.write_report", lambda report, _: shown.update(vars(report)) or "")
    _run(paths)
    drawn = draw_samples(load_model(paths["weights"]), Tokenizer.load(paths["tokenizer"]), EVALUATE, 5)
    assert [(text.title, text.way) for text in shown["samples"]] == [(text.prompt, text.way) for text in drawn]
    for text, sample in zip(shown["samples"], drawn, strict=True):
        assert sum(not token.is_given for token in text.tokens) == len(sample.ids)
        assert "".join(token.text for token in text.tokens if token.is_given) == sample.prompt
    passage = shown["passage"]
    assert (passage.title, passage.way) == ("long.py", "test")
    assert passage.tokens[0].text[0] == "#"
    assert passage.tokens[-1].text.endswith("\n")
    assert not any(token.is_given for token in passage.tokens)


def test_where_no_document_fills_a_passage_the_longest_one_is_shown(paths, write_corpus):
    shutil.rmtree(paths["corpus"])
    write_corpus(paths["corpus"], {"test": {"a.py": "a", "b.py": "import this, or that", "c.py": "b\n"}})
    page = _run(paths)
    assert "The beginning of <code>b.py</code>" in page


def test_without_held_out_text_and_tasks_there_is_a_page(paths):
    paths["figures"].write_text("{}")
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
