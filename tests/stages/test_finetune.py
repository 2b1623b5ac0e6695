"""The finetune stage makes a model that others load, says what it scored, and says when there was nothing to do."""

import atexit
import csv
import json
import os
import shutil
import urllib.request
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from llm.core.errors import UserError
from llm.core.tables import with_reason
from llm.export.hf.folder import read_folder
from llm.finetune.shared.answers import answer
from llm.tokens.tokenizer import Tokenizer
from stages.finetune import main

SPLITS = ["train", "train", "train", "val", "test"]
ROWS = pd.DataFrame(
    [(f"{name} {number}", name, SPLITS[number % 5]) for name in ("rain", "river") for number in range(20)],
    columns=["text", "label", "split"],
)
SCHEMA = pa.schema([("text", pa.string()), ("label", pa.string()), ("split", pa.string())])


@pytest.fixture
def classify(make_task):
    return make_task("classify", {"training.learning_rates": [0.005, 0.02]})


@pytest.fixture
def instruct(make_task):
    rows = {"kind": "alpaca", "instruction": "text", "input": None, "output": "label"}
    return make_task("instruct", {"training.learning_rates": [0.005, 0.02], "rows": rows})


@pytest.fixture(params=["classify", "instruct"])
def task(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def run(tmp_path, exported_folder, plain_cpu, write_corpus):
    """Runs the stage on a file and gives the folder of what it wrote."""
    corpus = write_corpus(tmp_path / "corpus", {"test": {"rain.py": "The river runs, the rain falls."}})

    def run_stage(task, data: Path, name: str = "out", base: Path = exported_folder, **other: Path) -> Path:
        out = tmp_path / name
        (out / "scratch").mkdir(parents=True)
        files = {"config": "config.json", "weights": "model.safetensors", "tokenizer": "tokenizer.json"}
        inputs = {option: base / file for option, file in files.items()} | other
        outputs = {
            "model": "model",
            "metrics": "metrics.json",
            "plots": "plots",
            "report": "report.md",
            "answers": "answers.json",
        }
        outputs = {option: out / file for option, file in outputs.items()}
        given = {"task": task, "n_seeds": 1, "seed": 1, "name": "topics", "data": data}
        given["held_out"] = corpus / "test.parquet"
        main(**given, scratch=out / "scratch", **inputs, **outputs)
        return out

    return run_stage


@pytest.fixture
def rows_file(tmp_path) -> Path:
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


def _metrics(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def _files(out: Path) -> dict[str, bytes]:
    paths = [path for part in ("model", "plots") for path in (out / part).rglob("*") if path.is_file()]
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in [*paths, out / "metrics.json", out / "report.md"]
    }


def test_the_classifier_scores_in_transformers_what_its_metrics_say(run, rows_file, classify):
    out = run(classify, rows_file)
    metrics = _metrics(out)
    assert metrics["rows"] == {"train": 24, "val": 8, "test": 8}
    assert metrics["test"].keys() == {"pretrained", "random_weights", "majority", "tfidf"} == metrics["settings"].keys()
    model = AutoModelForSequenceClassification.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert json.loads((out / "answers.json").read_text()) == {"answers": []}
    test = ROWS[ROWS["split"] == "test"]
    with torch.no_grad():
        scores = model(**tokenizer(test["text"].tolist(), padding=True, truncation=True, return_tensors="pt")).logits
    predicted = [model.config.id2label[number] for number in scores.argmax(dim=-1).tolist()]
    assert (test["label"] == predicted).mean() == metrics["test"]["pretrained"]["accuracy"]
    assert metrics["export"].pop("mean_divergence") < 1e-9
    assert metrics["export"] == {"max_probability_difference": 0.0, "rows_with_other_ids": 0, "rows": 8}
    confusion = pd.read_csv(out / "plots/confusion.csv")
    assert confusion["actual"].tolist() == test["label"].tolist()
    assert confusion["predicted"].tolist() == predicted


@pytest.mark.parametrize(
    ("kind", "changes", "lines"),
    [
        (
            "classify",
            {"on_error": "skip"},
            ["left out: 1 with empty_text", "cut to max_tokens, 40: 1 of 39 rows (2.6%)"],
        ),
        (
            "instruct",
            {"on_error": "skip"},
            ["left out: 1 with empty_text", "dropped, longer than max_tokens, 40: 1 of 39 rows"],
        ),
    ],
)
def test_what_is_left_out_and_cut_is_in_the_output_the_report_and_the_card(
    run, make_task, tmp_path, capsys, kind, changes, lines
):
    rows = ROWS.assign(text=ROWS["text"].where(ROWS.index != 3, " ").where(ROWS.index != 4, 'rain "x" ' * 40))
    rows.to_csv(tmp_path / "rows.tsv", index=False, sep="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    columns = (
        {"rows": {"kind": "prompt_completion", "prompt": "text", "completion": "label"}} if kind == "instruct" else {}
    )
    out = run(make_task(kind, {"training.epochs": 1.0} | changes | columns), tmp_path / "rows.tsv")
    for told in (capsys.readouterr().out, (out / "report.md").read_text(), (out / "model/README.md").read_text()):
        for line in ["rows: ", "separated by tabs, quotes are text", *lines]:
            assert line in told


def test_the_instruction_model_answers_in_transformers_as_it_does_here(run, rows_file, instruct):
    out = run(instruct, rows_file)
    bits = _metrics(out)["test"]["answer_bits_per_byte"]
    assert bits["after"] < bits["before"]
    shown = (out / "report.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "rain 4"}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = model.generate(**asked, do_sample=False, max_new_tokens=12)[0, asked["input_ids"].shape[1] :]
    answer = tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert answer
    assert f"**after**\n\n````text\n{answer}" in shown.split("````text\nrain 4\n````")[1]


def chat(file: str, messages: list[str], n_tokens: int) -> list[dict]:
    """In a process of its own: what llama.cpp's server answers to each message, greedily."""
    import xllamacpp

    setting = xllamacpp.CommonParams()
    setting.model.path, setting.port, setting.verbosity, setting.n_parallel, setting.warmup = file, 0, -1, 1, False
    setting.use_jinja = True
    server = xllamacpp.Server(setting)
    KEPT.append(server)  # taking a server down may wait for ever, so it ends with its process
    atexit.register(os._exit, 0)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(message: str) -> dict:
        body = {"messages": [{"role": "user", "content": message}], "temperature": 0.0, "max_tokens": n_tokens}
        with direct.open(f"{server.listening_address}/v1/chat/completions", json.dumps(body).encode()) as answered:
            return json.load(answered)

    return [ask(message) for message in messages]


KEPT: list = []


def test_a_model_that_learned_preferences_is_one_that_answers(run, rows_file, instruct, make_task, tmp_path):
    """Its base is an instruction model's folder, as it is in practice."""
    base = run(instruct, rows_file, "base") / "model"
    data = tmp_path / "pairs.csv"
    pairs = ROWS.rename(columns={"text": "prompt", "label": "chosen"})
    pairs.assign(rejected=pairs["chosen"].map({"rain": "river", "river": "rain"})).to_csv(data, index=False)
    out = run(make_task("dpo", {"training.epochs": 4.0}), data, base=base)
    metrics = _metrics(out)
    assert metrics["rows"] == {"train": 24, "val": 8, "test": 8}
    assert metrics["val"]["loss"]["after"] < metrics["val"]["loss"]["before"]
    model, tokenizer = read_folder(out / "model"), Tokenizer.load(out / "model/tokenizer.json")
    said = answer(model, "rain 4", tokenizer, 64)
    assert f"**after**\n\n````text\n{said}\n" in (out / "report.md").read_text().split("````text\nrain 4\n````")[1]


def test_a_second_run_writes_the_same_bytes_and_no_path_of_the_machine(run, rows_file, tmp_path, task):
    first, second = _files(run(task, rows_file, "first")), _files(run(task, rows_file, "second"))
    assert first == second
    assert [name for name, content in first.items() if str(tmp_path).encode() in content] == []


def test_an_empty_table_that_says_why_is_skipped_for_that_reason(run, tmp_path, task):
    data = tmp_path / "rows.parquet"
    pq.write_table(with_reason(SCHEMA, "the corpus has no docstrings").empty_table(), data)
    out = run(task, data)
    assert _metrics(out) == {"skipped": "the corpus has no docstrings"}
    assert [path.name for path in (out / "model").iterdir()] == ["skipped.json"]
    assert "the corpus has no docstrings" in (out / "report.md").read_text()
    assert "the corpus has no docstrings" in (out / "plots/curve.svg").read_text()


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.jsonl"])
def test_an_empty_file_of_the_users_own_is_an_error(run, tmp_path, name, classify):
    data = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(SCHEMA.empty_table(), data)
    else:
        data.write_text("text,label,split\n" if name.endswith(".csv") else "")
    with pytest.raises(UserError, match=f"{name}: wanted labeled rows, given none"):
        run(classify, data)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.jsonl", "rows.txt"])
def test_a_broken_file_is_one_line_that_names_it(run, tmp_path, name, classify):
    data = tmp_path / name
    data.write_bytes(b"PAR1 \xff broken")
    with pytest.raises(UserError, match=name) as caught:
        run(classify, data)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/metrics.json").exists()


def test_a_base_that_is_not_one_folder_is_refused(run, rows_file, small_tokenizer_file, classify):
    with pytest.raises(UserError, match="in one folder"):
        run(classify, rows_file, tokenizer=small_tokenizer_file)


def test_a_base_of_others_gets_the_special_tokens_that_it_lacks(
    run, tmp_path, rows_file, exported_folder, capsys, task, classify
):
    base = shutil.copytree(exported_folder, tmp_path / "base")
    (base / "tokenizer.json").write_text((base / "tokenizer.json").read_text().replace("<|pad|>", "<|fill|>"))
    out = run(task, rows_file, base=base)
    assert "appended <|pad|> to its 320 tokens" in capsys.readouterr().err
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer.pad_token_id == 320
    assert tokenizer.convert_tokens_to_ids("<|fill|>") == 1
    kind = AutoModelForSequenceClassification if task is classify else AutoModelForCausalLM
    assert kind.from_pretrained(out / "model").get_input_embeddings().weight.shape == (321, 24)
    assert _files(out) == _files(run(task, rows_file, "again", base=base))


def test_a_skipped_export_skips_the_task(run, tmp_path, rows_file, exported_folder, task):
    base = shutil.copytree(exported_folder, tmp_path / "base")
    (base / "skipped.json").write_text('{"skipped": "model.attention simplified"}')
    out = run(task, rows_file, base=base)
    assert _metrics(out) == {"skipped": "model.attention simplified"}
    assert [path.name for path in (out / "model").iterdir()] == ["skipped.json"]
    assert "model.attention simplified" in (out / "report.md").read_text()


def test_a_base_in_shards_is_given_as_its_folder(run, tmp_path, rows_file, exported_folder, classify):
    base = shutil.copytree(exported_folder, tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(base, max_shard_size="9KB")
    (base / "model.safetensors").unlink()
    assert len(list(base.glob("model-*.safetensors"))) > 1
    sharded, whole = (
        _files(run(classify, rows_file, base=base, weights=base)),
        _files(run(classify, rows_file, "whole")),
    )
    assert sharded == whole


def test_labels_of_another_kind_of_text_stay_as_they_are(run, tmp_path, classify):
    names = {"rain": "001", "river": "$NA|"}
    rows = ROWS.assign(label=ROWS["label"].map(names))
    rows.to_csv(tmp_path / "rows.csv", index=False)
    out = run(classify, tmp_path / "rows.csv")
    config = json.loads((out / "model/config.json").read_text())
    assert config["id2label"] == {"0": "$NA|", "1": "001"}
