"""The card stage puts every metric and every artifact's hash into one text."""

import hashlib
import json
from pathlib import Path

import pytest

from llm.core.errors import UserError
from stages.card import main

METRICS = {
    "prepare": {"bytes": {"train": 9753, "val": 86, "test": 97}, "dropped": {"empty": {"documents": 3, "bytes": 5}}}
    | {"bytes_by_source": {"mine": 9936}},
    "label": {"dropped": {"too_short_or_long": 43}},
    "tokenize": {"tokens": {"train": 3579}, "vocab_size": 301, "bytes_per_token": {"train": 2.5}, "lossless": True},
    "pretrain": {"parameters": 24680, "epochs": 1.75, "flops_per_token": 7, "tokens_seen": 640, "selected_step": 11}
    | {"train_loss": 3.25, "machine": {"device": "cpu"}},
    "baselines": {"test": {"xz": 2.375}},
    "evaluate": {"test": {"bits_per_byte": 1.125}, "example_prompt": "import "},
    "memorise": {"train": {"prefixes": 17}, "test": {"prefixes": 13}, "copies": False}
    | {"samples": {"number": 10, "copied": 0}},
    "cloze": {"last_word": {"items": 61, "acc": 0.375, "chance": 0.25}, "left_out": {}},
    "export": {"max_logit_difference": 3e-06, "gguf": {}},
}
PARAMS = {
    "sources": [{"name": "mine", "kind": "files", "globs": ["data/raw/*.txt"]}],
    "tokenizing": {"kind": "char", "from": None},
    "training": {"max_steps": 12, "batch_size": 2, "init_from": None}
    | {"optimizer": {"kind": "adamw", "adamw_lr": 0.0375}, "schedule": {"kind": "wsd", "warmup_steps": 1}},
}
TASKS = {
    "topics": {
        "rows": {"train": 1201},
        "test": {"answer_bits_per_byte": {"before": 5.5, "after": 2.25}},
        "skipped": {},
    },
    "answers": {"skipped": "no function of the corpus is left in test"},
}
ARTIFACTS = {
    "corpus": "corpus/train.parquet",
    "tokenizer": "tokenizer.json",
    "tokens": "tokens/train.parquet",
    "windows": "windows/train.bin",
    "pretrained": "pretrained/model.safetensors",
    "exported": "model.safetensors",
    "finetuned": "finetuned/topics/model.safetensors",
}


@pytest.fixture
def paths(tmp_path) -> dict[str, Path]:
    """A path for each argument of the stage, with something behind each input."""
    given = {name: tmp_path / f"{name}.json" for name in METRICS}
    for name, path in given.items():
        path.write_text(json.dumps(METRICS[name]))
    given["finetune"] = tmp_path / "finetune"
    given["finetune"].mkdir()
    for name, report in TASKS.items():
        (given["finetune"] / f"{name}.json").write_text(json.dumps(report))
    for name, file in ARTIFACTS.items():
        path = tmp_path / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"all of {name}")
        given[name] = tmp_path / "data" / Path(file).parts[0]
    (given["pretrained"] / "config.json").write_text('{"family": "qwen2", "d_model": 60}')
    skipped = tmp_path / "data/finetuned/answers/skipped.json"
    skipped.parent.mkdir()
    skipped.write_text("all of answers")
    return given | {"card": tmp_path / "README.md"}


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def test_the_card_holds_every_task_and_the_md5_of_every_file(paths, tmp_path):
    main(tasks=dict.fromkeys(TASKS), **PARAMS, **paths)
    text = paths["card"].read_text()
    assert "## Finetuned: topics" in text
    assert "2.25" in text
    assert "Skipped: no function of the corpus is left in test." in text
    hashes = [_md5(f"all of {name}") for name in [*ARTIFACTS, "answers"]]
    assert [md5 for md5 in hashes if text.count(md5) != 1] == []
    assert f"sha256 of `model.safetensors`: `{hashlib.sha256(b'all of exported').hexdigest()}`" in text.splitlines()
    assert str(tmp_path) not in text
    figures = ["0.375", "0.0375", "9,936", "| `d_model` | 60 |", "12 of 2 windows", "characters"]
    assert [figure for figure in figures if figure not in text] == []


def test_only_the_tasks_of_the_params_are_told_of(paths):
    main(tasks={"topics": None}, **PARAMS, **paths)
    text = paths["card"].read_text()
    assert "topics" in text
    assert "answers\n" not in text
    assert _md5("all of answers") not in text


def test_the_same_inputs_make_the_same_card(paths, tmp_path):
    main(tasks=TASKS, **PARAMS, **paths)
    main(tasks=TASKS, **PARAMS, **(paths | {"card": tmp_path / "second.md"}))
    assert (tmp_path / "second.md").read_bytes() == paths["card"].read_bytes()


def test_a_task_without_metrics_is_one_line_that_names_the_file(paths):
    with pytest.raises(UserError, match=r"finetune/other\.json: wanted a metrics file") as caught:
        main(tasks={"other": None}, **PARAMS, **paths)
    assert "\n" not in str(caught.value)
    assert not paths["card"].exists()
