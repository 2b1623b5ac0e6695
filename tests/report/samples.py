"""What stages write, small: the details and metrics that reports are made of."""

import json
from pathlib import Path
from typing import Any

MODEL = {
    "bits_per_byte": 1.25,
    "bits_per_byte_low": 1.125,
    "bits_per_byte_high": 1.5,
    "nats_per_token": 2.5,
    "perplexity": 12.1825,
    "tokens": 4321,
    "accuracy": 0.4375,
    "calibration_error": 0.03125,
    "best_baseline": "xz_given_train",
    "bits_per_byte_difference": -0.16,
    "bits_per_byte_difference_low": -0.2,
    "bits_per_byte_difference_high": -0.12,
    "verdict": "better, outside of chance",
}
SPLIT = {
    "documents": 13,
    "bytes": 98765,
    "model": MODEL,
    "baselines": [
        {"baseline": "xz_given_train", "bits_per_byte": 1.41, "difference": -0.16}
        | {"difference_low": -0.2, "difference_high": -0.12},
        {"baseline": "bzip2", "bits_per_byte": 1.9, "difference": -0.65},
    ],
    "sources": [
        {"source": "code & more", "documents": 12, "bytes": 90000, "tokens": 4000, "bits_per_byte": 1.2}
        | {"bits_per_byte_low": 1.1, "bits_per_byte_high": 1.3},
        {"source": "prose", "documents": 1, "bytes": 8765, "tokens": 321, "bits_per_byte": 2.2},
    ],
    "positions": [
        {"from": 1, "to": 1, "targets": 3, "nats_per_token": 4.5},
        {"from": 3, "to": 4, "targets": 6, "nats_per_token": 3.5},
    ],
    "context": [
        {"context": 8, "fraction": 0.5, "windows": 7, "nats_per_token": 2.625, "more": 0.125}
        | {"more_low": 0.0625, "more_high": 0.25},
        {"context": 16, "fraction": 1.0, "windows": 7, "nats_per_token": 2.5, "more": 0.0},
    ],
    "calibration": [{"from": 0.3, "to": 0.4, "count": 55, "confidence": 0.375, "accuracy": 0.25}],
    "contamination": {
        "ngram": 13,
        "window_fraction": 0.5,
        "token_fraction": 0.25,
        "found": {"tokens": 9, "bytes": 30, "nats_per_token": 1.0, "bits_per_byte": 0.75},
        "not_found": {"tokens": 9, "bytes": 0, "nats_per_token": 1.0, "bits_per_byte": None},
    },
    "hardest": [{"document": "code/a|<b>.py", "bytes": 1234, "bits_per_byte": 3.75}],
    "easiest": [{"document": "code/c.py", "bytes": 4321, "bits_per_byte": 0.5}],
}
OTHER = SPLIT | {
    "model": MODEL | {"bits_per_byte": 1.75},
    "positions": [{"from": 1, "to": 1, "targets": 3, "nats_per_token": 4.25}],
}
QUALITY = {
    "split": "test",
    "prompt_tokens": 47,
    "new_tokens": 199,
    "mean_tokens": 187.25,
    "ended_sooner": 0.035,
    "temperature": 0.65,
    "model": {"texts": 196, "words": 12345, "sections": 5, "distinct_3grams": 0.5}
    | {"real_words": 0.9, "real_words_low": 0.875, "real_words_high": 0.9375},
    "true_text": {"texts": 196, "words": 12346, "sections": 25, "real_words": 0.96, "distinct_3grams": 0.625}
    | {"sections_parsed": 0.75},
    "ratio": {"real_words": 0.9375, "distinct_3grams": 0.8},
}
TOKENS = {"tokens": ["<i>", "\tx & y\n", "</pre>"], "nats": [8.5, 0.25, 2.5]}
EVALUATE: dict[str, Any] = {
    "splits": {"val": SPLIT, "test": OTHER},
    "quality": QUALITY,
    "prompts_from": "test",
    "sample_tokens": 30,
    "samples": [
        {"prompt": "<i>", "text": "\tx & y\n```</pre>", "method": method, "greedy": method == "greedy", "ended": True}
        | {"prompt_tokens": 1, **TOKENS}
        for method in ("greedy", "temperature 0.7, top 50")
    ],
    "passage": {"split": "test", "document": "a/<b>.py", "text": "<i>\tx & y\n</pre>", **TOKENS},
    "continuations": [{"document": "code/d.py", "token": 17, "prompt": "def ", "text": "f(): pass"}],
}
RECALL = {"prefixes": 200, "verbatim_25": 0.015, "verbatim_50": 0.005, "mean_verbatim_tokens": 2.055}
RUNS = {"texts": 10, "median_run": 10.5, "longest_run": 45, "copied": 2}
MEMORISE: dict[str, Any] = {
    "train": {"model": RECALL},
    "test": {"model": RECALL | {"verbatim_25": 0.0}},
    "generations": {"model": RUNS, "true_text": RUNS | {"texts": 13, "copied": 3}},
    "copies": False,
    "prefix_tokens": 64,
    "sample_tokens": 30,
    "sees_the_future": False,
    "recalled": [{"tokens": 50, "document": "a|b.py", "text": "import\tthis `x`\n" * 9}],
    "samples": [
        {"prompt": "def f", "method": "greedy", "tokens": 30}
        | {"run": {"tokens": 9, "document": "c.py", "text": "return"}},
        {"prompt": "def f", "method": "temperature 1", "tokens": 0, "run": None},
    ],
}


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of every table row of Markdown, by its first cell."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in rows}


PYTHON = {"version": "3.13.7", "library_sha256": "ab" * 32}
CONTENT: dict[str, Any] = {
    "prepare": {
        "documents": {"train": 687, "val": 3, "test": 68},
        "bytes": {"train": 7654321, "val": 98765, "test": 123457},
        "split_method": "document",
        "bytes_by_source": {"python": 8901234},
        "dropped": {"empty": {"documents": 31, "bytes": 0}, "exact_duplicate": {"documents": 47, "bytes": 83}},
        "python": PYTHON,
    },
    "label": {"dropped": {"too_short": 67, "library_package_too_small": 0}},
    "tokenize": {
        "tokens": {"train": 2468013, "val": 35791, "test": 46802},
        "vocab_size": 1913,
        "vocab_used": 1907,
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
    "baselines": {
        split: {"xz_given_train": {"bits_per_byte": 1.41}, "bzip2": {"bits_per_byte": 1.9}} for split in ("val", "test")
    },
    "evaluate": {
        "val": {"model": MODEL},
        "test": {
            "model": MODEL
            | {"bits_per_byte": 1.375, "real_words": 0.917, "real_words_low": 0.9, "real_words_high": 0.93},
            "true_text": {"real_words": 0.953, "sections_parsed": 0.944},
        },
        "lossless_tokens": True,
        "sees_the_future": False,
        "example_prompt": 'It\'s "déjà vu"',
    },
    "memorise": {key: MEMORISE[key] for key in ("train", "test", "generations", "copies")},
    "cloze": {
        "test": {
            "model": {"last_word_items": 137, "last_word_documents": 61}
            | {"last_word_accuracy": 0.571, "last_word_accuracy_low": 0.481, "last_word_accuracy_high": 0.677}
            | {"last_word_accuracy_norm": 0.533},
            "chance": {"last_word_accuracy": 0.253},
        },
        "closing_bracket": {"skipped": "3 items, expected at least 50"},
    },
    "export": {
        "bytes": 12134070,
        "max_logit_difference": 8.58e-06,
        "gguf": {
            "gguf-f16": {"bytes": 6100001, "max_logprob_difference": 0.009},
            "gguf-q8_0": {"bytes": 3, "unverified": "no client"},
        },
        "onnx": {},
    },
    "finetune/topics": {
        "rows": {"train": 1601, "val": 223, "test": 227},
        "test": {
            "tfidf": {"accuracy": 0.6345, "macro_f1": 0.5456, "accuracy_difference": 0.1778}
            | {"accuracy_difference_low": 0.1234, "accuracy_difference_high": 0.2345},
            "pretrained": {"accuracy": 0.8123, "accuracy_low": 0.7011, "accuracy_high": 0.9022, "macro_f1": 0.7234}
            | {"accuracy_mean": 0.8011, "accuracy_std": 0.0123},
        },
    },
    "finetune/answers": {
        "rows": {"train": 1733, "val": 233, "test": 239},
        "test": {
            "before": {"answer_bits_per_byte": 3.456, "chosen_is_likelier": 0.5123},
            "after": {"answer_bits_per_byte": 2.135, "chosen_is_likelier": 0.7345}
            | {"chosen_is_likelier_low": 0.6543, "chosen_is_likelier_high": 0.8012},
        },
    },
    "finetune/none": {"skipped": "no function of the corpus is left in test"},
    "convert/answers": {"gguf": {"gguf-f16": {"bytes": 1}}, "onnx": {"bytes": 1}},
}
EXAMPLE = {
    "messages": [{"role": "user", "content": "Describe it.\n\ndef g()"}],
    "before": "x",
    "after": "It runs.",
    "reference": "Run.\n\nFast.",
}
DETAILS: dict[str, Any] = {
    "evaluate": EVALUATE,
    "memorise": MEMORISE,
    "prepare": {
        "sources": {"python": {"found": 9, "documents": 7, "bytes": 8901234}},
        "splits": {"train": {"documents": 7, "bytes": 8901234}},
        "dropped": {"empty": {"documents": 31, "bytes": 0, "examples": [["a`b.py", "why"]]}},
        "notes": ["Split by document."],
        "rules_off": ["max_chars"],
        "encodings": {},
        "dialects": {},
    },
    "tokenize": {"counts": [9, 3, 0], "lengths": [1, 2, 0]}
    | {name: [{"id": 1, "token": "a|b", "bytes": 3, "count": 1234}] for name in ("longest", "most_frequent")},
    "sample": {
        "ngram": 13,
        "splits": {"val": {"ngrams": 9, "fraction": 0.1, "documents": []}}
        | {"test": {"ngrams": 7, "fraction": 0.2, "documents": [{"document": "a", "ngrams": 7, "fraction": 0.25}]}},
    },
    "finetune/topics": {
        **CONTENT["finetune/topics"],
        "kind": "classify",
        "settings": {"tfidf": {"C": 19.0}, "pretrained": {"learning_rate": 0.017, "val_loss_by_lr": {"0.017": 0.5}}},
        "row_notes": ["rows: 1,601 train", "dropped: 3 without a text"],
        "by_label": [{"label": "a|b", "precision": 0.5, "recall": 0.25, "f1": 0.3333, "rows": 7}],
        "labels": ["a|b", "c"],
        "confusion": [[3, 1], [0, 2]],
        "calibration": {"as trained": [{"from": 0.3, "to": 0.4, "count": 3, "confidence": 0.35, "accuracy": 0.25}]},
        "curve": [{"step": 1, "lr_factor": 1.0, "train_loss": 3.0}],
    },
    "finetune/answers": {
        **CONTENT["finetune/answers"],
        "kind": "dpo",
        "settings": {"after": {"beta": 0.1}},
        "row_notes": ["rows: 1,733 train"],
        "answers": [EXAMPLE, EXAMPLE | {"after": "Another"}],
        "curve": [{"step": 1, "lr_factor": 1.0, "train_loss": 3.0}],
    },
    "finetune/none": CONTENT["finetune/none"],
}
DETAILS["finetune/topics"]["test"]["pretrained"] |= {"temperature": 1.25}
CONFIG = {"family": "qwen3", "attention": "grouped", "positions": None, "n_layers": 5, "d_model": 192}
PARAMS: dict[str, Any] = {
    "seed": 7,
    "prepare": {"sources": [{"name": "python", "kind": "python", "include": ["*"]}], "split": {"method": "auto"}},
    "tokenize": {"kind": "bpe", "pattern": r"\S+|<x>", "pretrained": None},
    "sample": {"context_length": 256},
    "model": CONFIG,
    "pretrain": {
        "max_steps": 1777,
        "batch_size": 7,
        "init_from": None,
        "optimizer": {"kind": "muon", "muon_lr": 0.0213, "adamw_lr": 0.0061},
        "schedule": {"kind": "wsd", "warmup_steps": 53},
    },
    "evaluate": {"prompts": ["<i>"], "nothing": None, "none": {}},
    "memorise": {"prefix_tokens": 64},
    "finetune": {"tasks": {name: {"base": "models/export/hf"} for name in ("topics", "answers", "none")}},
}


def merged(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings with some values replaced, and without those that are `...`."""
    inner = {
        key: merged(content[key], of)
        for key, of in changes.items()
        if isinstance(of, dict) and of and isinstance(content.get(key), dict)
    }
    return {key: of for key, of in (content | changes | inner).items() if of is not ...}


FILES = {
    "data/raw/mine.txt": "mine",
    "data/raw/.keep": "",
    "data/corpus/train.parquet": "train",
    "data/labeled/mine/topics.csv": "topics",
    "data/tokenizer/tokenizer.json": "tokenizer",
    "models/pretrained/config.json": json.dumps(CONFIG),
    "models/export/hf/model.safetensors": "exported",
    "models/finetuned/topics/config.json": '{"model_type": "qwen3", "id2label": {"0": "rain"}}',
    "models/finetuned/topics/model.safetensors": "topics",
    "models/finetuned/answers/config.json": '{"model_type": "qwen3"}',
    "models/finetuned/answers/model.safetensors": "answers",
    "models/finetuned/none/skipped.json": "{}",
    "plots/pretrain/curve.tsv": "step\ttrain_loss\tval_loss\tlr_factor\n1\t3.0\t\t1.0\n",
}


def write_run(folder: Path) -> None:
    """Write everything that a run leaves for its reports under a folder."""
    found = FILES | {"params.yaml": json.dumps(PARAMS)}
    found |= {f"metrics/{name}.json": json.dumps(of) for name, of in CONTENT.items()}
    found |= {f"metrics/details/{name}.json": json.dumps(of) for name, of in DETAILS.items()}
    for name, text in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
