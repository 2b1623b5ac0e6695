"""The stage writes a model that others load and its figures, or the reason why there are none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from llm.core import params
from llm.core.errors import UserError
from llm.core.tables import with_reason
from llm.finetune.params import StatedTask
from stages.finetune import main

SPLITS = ["train", "train", "train", "val", "test"]
ROWS = pd.DataFrame(
    [(f"{name} {number}", name, SPLITS[number % 5]) for name in ("rain", "river") for number in range(20)],
    columns=["text", "label", "split"],
)
SCHEMA = pa.schema([("text", pa.string()), ("label", pa.string()), ("split", pa.string())])
PROMPTS = {"rows": {"kind": "prompt_completion", "prompt": "text", "completion": "label"}}
PAIRS = {"prompt_column": "text", "chosen_column": "label", "rejected_column": "worse"}
CHANGES: dict[str, dict[str, Any]] = {"classify": {}, "instruct": PROMPTS, "dpo": PAIRS}


@pytest.fixture
def run(tmp_path, exported_folder, plain_cpu, write_corpus, make_task):
    """Run the stage on a file; the folder of its outputs."""
    corpus = write_corpus(tmp_path / "corpus", {"test": {"rain.py": "The river runs, the rain falls."}})

    def run_stage(kind: str, data: Path, name: str = "out", base: Path = exported_folder, **changes: object) -> Path:
        out = tmp_path / name
        (out / "scratch").mkdir(parents=True)
        task = make_task(kind, CHANGES[kind] | changes).model_dump()
        stated = params.check(
            StatedTask, {key: task.pop(key) for key in ("kind", "base", "data")}, "task", "params.yaml"
        )
        given = {"n_seeds": 1, "seed": 1, "name": "topics", "scratch": out / "scratch", "data": data, "base": base}
        outputs = {"metrics": "metrics.json", "details": "details.json", "model": "model", "plots": "plots"}
        given |= {"held_out": corpus / "test.parquet"} | {key: out / file for key, file in outputs.items()}
        main(stated, task, **given)
        return out

    return run_stage


@pytest.fixture
def rows_file(tmp_path) -> Path:
    ROWS.assign(worse=ROWS["text"]).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


def read(out: Path, name: str = "metrics") -> dict:
    return json.loads((out / f"{name}.json").read_text())


def files_of(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*.*") if "scratch" not in path.parts}


def test_the_answers_in_transformers_are_those_that_were_scored(run, rows_file):
    out = run("instruct", rows_file)
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    for example in read(out, "details")["answers"]:
        asked = tokenizer.apply_chat_template(example["messages"], add_generation_prompt=True, return_tensors="pt")
        ids = model.generate(**asked, do_sample=False, max_new_tokens=12)[0, asked["input_ids"].shape[1] :]
        said = tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert said
        assert example["after"].startswith(said)


def test_a_model_that_answers_is_a_base_of_preferences(run, rows_file):
    base = run("instruct", rows_file, "base") / "model"
    metrics = read(run("dpo", rows_file, base=base, **{"training.epochs": 4.0}))
    assert metrics["val"]["after"]["loss"] < metrics["val"]["before"]["loss"]


def test_a_table_without_rows_may_have_a_reason(run, tmp_path):
    data = tmp_path / "rows.parquet"
    pq.write_table(with_reason(SCHEMA, "the corpus has no docstrings").empty_table(), data)
    out = run("classify", data)
    assert read(out) == read(out, "details") == {"skipped": "the corpus has no docstrings"}
    assert files_of(out) == {"metrics.json", "details.json", "model/skipped.json", "plots/skipped.json"}
    pq.write_table(SCHEMA.empty_table(), data)  # without a reason
    with pytest.raises(UserError, match=r"rows\.parquet: expected labeled rows, got none"):
        run("classify", data, "empty")
    assert not (tmp_path / "empty/metrics.json").exists()


def test_a_base_of_others_gets_the_special_tokens_that_it_lacks(run, tmp_path, rows_file, exported_folder, capsys):
    base = shutil.copytree(exported_folder, tmp_path / "base")
    (base / "tokenizer.json").write_text((base / "tokenizer.json").read_text().replace("<|pad|>", "<|fill|>"))
    for kind, architecture in (("classify", AutoModelForSequenceClassification), ("instruct", AutoModelForCausalLM)):
        out = run(kind, rows_file, kind, base)
        assert "<|pad|> " in capsys.readouterr().err
        tokenizer = AutoTokenizer.from_pretrained(out / "model")
        assert (tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<|fill|>")) == (320, 1)
        assert architecture.from_pretrained(out / "model").get_input_embeddings().weight.shape == (321, 24)
