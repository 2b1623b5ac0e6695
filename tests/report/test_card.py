"""The model card says what was measured, and nothing else."""

import copy
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard, ModelCardData

from llm.__main__ import app
from llm.core.errors import UserError
from llm.export.gguf import write_gguf
from llm.report.card import NO_DOCSTRINGS, lineage_rows, read_metrics, write_card

METRICS = {
    "prepare": {
        "bytes": {"train": 7654321, "val": 98765, "test": 123457},
        "bytes_by_source": {"python": 8901234},
        "dropped": {
            "empty": {"documents": 31, "bytes": 0},
            "exact_duplicate": {"documents": 47, "bytes": 83},
            "near_duplicate": {"documents": 59, "bytes": 97},
        },
        "python": {"version": "3.13.7", "library_sha256": "ab" * 32},
    },
    "label": {"dropped": {"too_short_or_long": 67, "library_package_too_small": 71}},
    "tokenize": {
        "tokens": {"train": 2468013, "val": 35791, "test": 46802},
        "vocab_size": 1913,
        "bytes_per_token": {"train": 3.0203, "val": 3.0453, "test": 2.9086},
        "lossless": True,
    },
    "pretrain": {
        "parameters": 1357913,
        "epochs": 4.625,
        "flops_per_token": 10,
        "tokens_seen": 2340000,
        "selected_step": 1234,
        "train_loss": 2.3456,
        "val_loss": 2.7654,
        "machine": {"device": "cpu", "threads": 3, "sharded": False},
    },
    "baselines": {"val": {"xz": 2.346, "4_gram": 2.457}, "test": {"xz": 2.568, "4_gram": 2.679}},
    "evaluate": {
        "val": {"bits_per_byte": 1.234},
        "test": {"bits_per_byte": 1.345, "bits_per_byte_low": 1.301, "bits_per_byte_high": 1.399}
        | {"best_baseline": "4_gram", "bits_per_byte_difference": -0.223, "verdict": "better, outside of chance"}
        | {"bits_per_byte_difference_low": -0.317, "bits_per_byte_difference_high": -0.129},
        "lossless_tokens": True,
        "sees_the_future": False,
        "quality": {
            "split": "test",
            "texts": 197,
            "model": {"words": 4321, "real_words": 0.917, "real_words_low": 0.908, "real_words_high": 0.926},
            "true": {"real_words": 0.953, "sections_parsed": 0.944},
            "ratio": {"real_words": 0.962},
        },
        "example_prompt": 'It\'s "déjà vu"',
    },
    "cloze": {
        "last_word": {"items": 137, "acc": 0.571, "acc_low": 0.481, "acc_high": 0.677, "chance": 0.253},
        "left_out": {"closing_bracket": "3 items, wanted 50"},
    },
    "export": {"max_logit_difference": 8.58e-06, "gguf": {"gguf-f16": {"bytes": 1}}},
}
CONFIG = {"family": "qwen3", "attention": "grouped", "positions": None, "d_model": 192, "vocab_size": 1913}
PYTHON = {"name": "python", "kind": "python", "include": ["*"]}
PARAMS = {
    "sources": [PYTHON],
    "tokenize": {"kind": "bpe", "pattern": "qwen2", "from": None},
    "pretrain": {
        "max_steps": 1777,
        "batch_size": 7,
        "init_from": None,
        "optimizer": {"kind": "muon", "muon_lr": 0.0213, "adamw_lr": 0.0061},
        "schedule": {"kind": "wsd", "warmup_steps": 53},
    },
}
FINETUNED = {
    "topics": {
        "rows": {"train": 1601, "val": 223, "test": 227},
        "test": {
            "pretrained": {"accuracy": 0.8123, "macro_f1": 0.7234},
            "tfidf": {"accuracy": 0.6345, "macro_f1": 0.5456},
        },
        "settings": {"pretrained": {"rate": 0.017, "val_loss_by_rate": {"0.017": 0.5}}, "tfidf": {"C": 19.0}},
    },
    "answers": {
        "rows": {"train": 1733, "val": 233, "test": 239},
        "test": {"answer_bits_per_byte": {"before": 3.456, "after": 2.135}},
        "settings": {},
    },
}


def card(metrics: dict = METRICS, finetuned: dict = FINETUNED, lineage: tuple = (), **params: object) -> str:
    """The card of these metrics; sections of params and `config` may be other ones."""
    config = params.pop("config", CONFIG)
    weights = f"sha256 of `model.safetensors`: `{'0f' * 32}`"
    return write_card(METRICS | metrics, finetuned, list(lineage), config, PARAMS | params, weights)


def test_every_figure_in_the_text_is_in_the_metrics():
    text = re.sub(r"^```.*?^```", "", card().split("# A language model")[1], flags=re.MULTILINE | re.DOTALL)
    figures = re.findall(r"(?<![\w.`-])\d(?:[\w,.-]*\w)?", text)
    given = set(_figures([METRICS, FINETUNED, CONFIG, PARAMS]))
    # The 4 of the baseline's name, the level of the intervals, the licence's number, and a product: 10 × 2,340,000.
    given |= {"4", "95", "3", "2.0", "2.34e", "07"}
    assert len(figures) > 30
    assert [figure for figure in figures if figure.replace(",", "") not in given] == []


@pytest.mark.parametrize(
    "figure",
    [
        *("1,357,913", "2,468,013", "7,654,321", "1,601", "4.625", "8.58e-06", "47", "71"),
        *("1.345 [1.301, 1.399]", "2.568", "0.8123", "0.5456", "3.456", "2.135", "3.13.7", "ab" * 32),
        *("0.571 [0.481, 0.677]", "1,913", "3.0453", "1,777 of 7 windows", "0.0213", "2.7654", "8,901,234"),
    ],
)
def test_the_figures_that_matter_are_in_the_text(figure):
    assert figure in card()


def test_what_the_model_writes_stands_beside_the_true_continuations():
    assert "| 197 continuations of test | model | true continuations |" in card()
    assert "| real words | 0.917 [0.908, 0.926] | 0.953 |" in card()
    assert "| sections parsed | – | 0.944 |" in card()
    assert "continuations" not in card({"evaluate": METRICS["evaluate"] | {"quality": {"skipped": "too short"}}})


def test_the_best_in_bits_per_byte_comes_first():
    held_out = card().split("## Evaluation")[1]
    assert held_out.index("this model") < held_out.index("xz") < held_out.index("4 gram")


def test_the_best_baseline_is_named_with_the_difference_and_the_verdict():
    words = "On test, the model less 4 gram, the best baseline: -0.223 [-0.317, -0.129] bits per byte, better, outside"
    assert words in card()
    assert "On val, the model less" not in card()  # where it was not measured


def test_a_skipped_task_is_said_to_be_skipped_and_why():
    text = card(finetuned={"topics": {"skipped": "no function of the corpus is left in test"}})
    assert "## Finetuned: topics\n\nSkipped: no function of the corpus is left in test." in text


def test_a_card_of_another_corpus_does_not_speak_of_python():
    prepare = {key: value for key, value in METRICS["prepare"].items() if key != "python"} | {"dropped": {}}
    own = {"name": "mine", "kind": "files", "globs": ["data/raw/**/*"]}
    text = card(
        {"prepare": prepare, "cloze": {"left_out": {}}, "label": {"dropped": {"too_short_or_long": 0}}},
        {name: {"skipped": NO_DOCSTRINGS} for name in ("library", "docstring")},
        sources=[own],
    )
    assert [line for line in text.splitlines() if re.search("inetuned|label|code may|dropped|import ['\"]", line)] == []
    assert [line for line in text.splitlines() if "Python" in line] == ["**llama.cpp**, as a program or from Python"]


def test_the_prompt_of_every_snippet_is_of_the_corpus():
    text = card()
    prompt = METRICS["evaluate"]["example_prompt"]
    in_shell = [
        line for line in text.splitlines() if "llm generate" in line or "llama-cli" in line or "ollama run" in line
    ]
    assert len(in_shell) == 3
    assert all(prompt in shlex.split(line) for line in in_shell)
    assert text.count(json.dumps(prompt, ensure_ascii=False)) >= 3


def test_a_prompt_of_several_lines_stays_on_one_line_of_every_snippet():
    prompt = "def f(x, y='a')\n\n"
    text = card({"evaluate": METRICS["evaluate"] | {"example_prompt": prompt}})
    assert text.count(r"$'def f(x, y=\'a\')\n\n'") == 3
    assert text.count(r'"def f(x, y=\'a\')\n\n"'.replace("\\'", "'")) >= 3


def test_without_held_out_text_it_says_that_nothing_was_measured():
    text = card({"evaluate": {"example_prompt": "x"}, "baselines": {}, "cloze": {"left_out": {}}}, {})
    assert "nothing was measured" in text
    assert "bits per byte" not in text
    assert "model-index" not in text


def test_text_of_the_users_own_is_not_called_pythons():
    prepare = {key: value for key, value in METRICS["prepare"].items() if key != "python"}
    sources = [
        {"name": "mine", "kind": "files", "globs": ["data/raw/*.txt"]},
        {"name": "web", "kind": "url", "url": "https://example.org/a.txt", "sha256": "cd" * 32},
        {"name": "docs", "kind": "docstrings", "packages": ["numpy", "scipy"]},
        {"name": "hub", "kind": "huggingface", "dataset": "some/words", "revision": "ef" * 20},
    ]
    text = card({"prepare": prepare | {"bytes_by_source": {"mine": 4567, "web": 5678}}}, {}, sources=sources)
    assert "the user's own files" in text
    assert "standard library" not in text
    shown = ["data/raw/*.txt", "cd" * 32, "4,567", "dataset some/words", "ef" * 20, "numpy, scipy", "not known here"]
    assert [part for part in shown if part not in text] == []
    assert ModelCard(text).data.license == "unknown"


def test_what_it_has_by_heart_stands_beside_what_it_never_saw():
    prefixes = {"prefixes": 211, "verbatim_25": 0.0625, "mean_verbatim_tokens": 4.375}
    memorise = {"train": prefixes, "test": prefixes | {"verbatim_25": 0.0375}, "copies": False}
    memorise["samples"] = {"number": 13, "copied": 2}
    text = card({"memorise": memorise}).split("## Memorisation")[1].split("\n## ")[0]
    assert "| verbatim 25 | 0.0625 | 0.0375 |" in text
    assert "2 of 13 samples" in text
    assert "than chance may bring" in text
    assert "The model copies" in card({"memorise": memorise | {"copies": True}})
    alone = memorise | {"copies": None, "test": {"prefixes": 0}}
    assert "| continued greedily | train |" in card({"memorise": alone})
    assert "nothing was measured" in card({"memorise": memorise | {"train": {"prefixes": 0}}})
    assert "Memorisation" not in card()


# -- the front matter


def test_the_hub_reads_the_front_matter():
    data = ModelCard(card()).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "other")
    assert data.tags == ["groundup", "qwen3", "gguf"]
    assert data.metrics == ["accuracy", "bits_per_byte"]
    found = {(result.dataset_split, result.metric_type, result.metric_value) for result in data.eval_results}
    assert found == {("val", "bits_per_byte", 1.234), ("test", "bits_per_byte", 1.345), ("test", "accuracy", 0.571)}
    assert {result.task_type for result in data.eval_results} == {"text-generation", "multiple-choice"}
    # What the library writes of it is what stands there.
    assert ModelCardData(**data.__dict__).to_dict() == data.to_dict()


def test_a_model_in_our_own_words_is_said_to_be_one():
    reason = "wanted a model that Transformers knows: model.family qwen3, given gru"
    export = {"skipped": reason, "gguf": {"gguf-f16": {"skipped": "wanted a causal model"}}}
    text = card({"export": export}, config=CONFIG | {"family": "gru"})
    assert text.count(reason) == 2
    data = ModelCard(text).data
    assert (data.library_name, data.tags) == ("groundup", ["groundup", "gru"])
    assert "gguf-f16 is skipped: wanted a causal model." in text
    assert [word for word in ("from transformers", "xllamacpp", "ollama") if word in text] == []
    assert "python -m llm generate" in text


def test_a_model_that_sees_the_future_is_not_offered_for_writing():
    text = card({"evaluate": METRICS["evaluate"] | {"sees_the_future": True}})
    assert ModelCard(text).data.pipeline_tag is None
    assert "its bits per byte are no measure" in text
    assert "its bits per byte are no measure" not in card()


# -- how to load it


@pytest.fixture
def exported(tmp_path, monkeypatch, exported_folder):
    """An export where the snippets look for it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported_folder, tmp_path / "models/export/hf")
    return tmp_path / "models/export"


def snippet(text: str, word: str) -> str:
    """The one piece of Python in a card that has a word in it."""
    (found,) = (code for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if word in code)
    return found


def test_the_snippets_write_the_same_text(exported, capsys, draw_gpt, small_tokenizer_file):
    pytest.importorskip("xllamacpp", reason="llama.cpp is the package xllamacpp (make extras)")
    written = []
    for word in ("from transformers", "llm.export.hf.base"):
        exec(snippet(card(), word), {})  # noqa: S102 (our own text)
        written.append(capsys.readouterr().out)
    write_gguf(exported / "gguf", draw_gpt(), small_tokenizer_file, "gguf-f16")
    # A server that is taken down now and then waits for ever; this one ends with its process.
    code = snippet(card(), "xllamacpp") + "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    prompt = METRICS["evaluate"]["example_prompt"]
    assert written[0].startswith(prompt) and len(written[0]) > len(prompt) + 20
    assert {*written, done.stdout} == {written[0]}


def test_the_snippet_of_onnx_runs(exported, capsys, draw_gpt):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is the package onnxruntime (the extra onnx)")
    from llm.export.onnx import write_onnx

    (exported / "onnx").mkdir()
    write_onnx(exported / "onnx", draw_gpt())
    text = card({"export": METRICS["export"] | {"onnx": {"bytes": 1}}})
    assert ModelCard(text).data.tags == ["groundup", "qwen3", "gguf", "onnx"]
    exec(snippet(text, "onnxruntime"), {})  # noqa: S102 (our own text)
    assert capsys.readouterr().out


def test_the_commands_are_those_of_this_project():
    text = card()
    commands = re.findall(r"^python -m llm (\w+) ", text, re.M)
    assert commands == ["generate", "serve", "chat"]
    assert "python -m llm chat models/finetuned/answers\n" in text
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set(commands) <= known


def test_what_was_not_written_is_not_offered():
    assert "ollama" in card()
    assert "onnxruntime" not in card()
    other = {"gguf-f16": {"bytes": 1}, "Modelfile": {"skipped": "wanted the split pattern qwen2"}}
    text = card({"export": METRICS["export"] | {"gguf": other}})
    assert "ollama" not in text
    assert "Modelfile is skipped: wanted the split pattern qwen2." in text
    answers = FINETUNED["answers"] | {"gguf": {"gguf-f16": {"bytes": 1}}}
    assert "`models/finetuned/answers/gguf`" in card(finetuned={"answers": answers})
    assert "finetuned/answers/gguf" not in card()
    answers |= {"onnx": {"bytes": 1}}
    assert "and in `models/finetuned/answers/onnx` for ONNX Runtime" in card(finetuned={"answers": answers})


def test_a_label_with_a_bar_in_it_keeps_the_table_whole():
    settings = {"pretrained": {"rate": 0.017}, "tfidf": {"label": "this | that"}}
    text = card(finetuned={"topics": FINETUNED["topics"] | {"settings": settings}})
    (line,) = (line for line in text.splitlines() if "this | that" in line.replace("\\|", "|"))
    assert len(re.findall(r"(?<!\\)\|", line)) == 5


def test_the_lineage_names_every_file_by_its_md5(tmp_path):
    corpus, weights = tmp_path / "corpus", tmp_path / "model.safetensors"
    corpus.mkdir()
    (corpus / "val.parquet").write_bytes(b"held out")
    (corpus / "train.parquet").write_bytes(b"to learn from")
    weights.write_bytes(bytes(range(256)))
    rows = lineage_rows({"prepare": corpus, "export": weights})
    assert rows == [
        ("prepare", "corpus/train.parquet", _md5(b"to learn from")),
        ("prepare", "corpus/val.parquet", _md5(b"held out")),
        ("export", "model.safetensors", _md5(bytes(range(256)))),
    ]
    text = card(lineage=rows)
    assert [row for row in rows if not all(part in text for part in row)] == []
    assert str(tmp_path) not in text


def test_a_classifiers_figures_stand_with_their_intervals_differences_and_seeds():
    topics = copy.deepcopy(FINETUNED["topics"])
    topics["test"]["pretrained"] |= {"accuracy_low": 0.7011, "accuracy_high": 0.9022}
    topics |= {"differences": {"tfidf": {"difference": -0.0155, "difference_low": -0.0311, "difference_high": 0.0066}}}
    topics |= {"seeds": {"random_weights": {"macro_f1": {"mean": 0.4133, "std": 0.0177}}}}
    text = card(finetuned={"topics": topics}).split("## Finetuned: topics")[1]
    assert "| pretrained | 0.8123 [0.7011, 0.9022] | 0.7234 |" in text
    assert "| tfidf | -0.0155 [-0.0311, 0.0066] |" in text
    assert "| random weights | macro f1 | 0.4133 ± 0.0177 |" in text
    assert "drawing rows of test anew" in text
    assert "drawing rows" not in card()


def test_every_figure_of_a_model_that_answers_is_in_the_card_before_and_after():
    test = {
        "chosen_is_likelier": {"before": 0.5123, "after": 0.7345},
        "chosen_is_likelier_low": {"before": 0.4321, "after": 0.6543},
        "chosen_is_likelier_high": {"before": 0.5987, "after": 0.8012},
        "answer_bits_per_byte": {"before": 3.456, "after": 2.135},
        "answers_scored": 100,
    }
    text = card(finetuned={"likes": FINETUNED["answers"] | {"test": test}})
    assert "| chosen is likelier | 0.5123 [0.4321, 0.5987] | 0.7345 [0.6543, 0.8012] |" in text
    assert "| answer bits per byte | 3.456 | 2.135 |" in text
    assert "| chosen is likelier low" not in text


@pytest.mark.parametrize("content", [None, "{", ""])
def test_a_metrics_file_that_is_none_is_one_line_with_its_name(tmp_path, content):
    path = tmp_path / "prepare.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_metrics(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _figures(value: object) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [figure for part in value for figure in _figures(part)]
    return [value if isinstance(value, str) else json.dumps(value)]
