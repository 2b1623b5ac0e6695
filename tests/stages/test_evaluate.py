import csv
import json
from dataclasses import replace

import pytest

from llm.evaluate.breakdown import BETTER, LOSSY, SEES_THE_FUTURE
from llm.model.weights import save_model
from stages import evaluate

CONTEXT, NGRAM, WAYS = 17, 4, ("cross", "document")
TRAIN = {"a": [6] * 30, "b": [11, 12, 13] * 3}
VAL, TEST = {"a": [6, 7, 8, 9] * 7, "b": [10] * 5}, {"c": [11, 12, 13] * 11}  # a byte each
BASELINES = {"val": {"xz": 0.5, "trigram": 9.5}, "test": {"xz": 1.5, "unigram": 8.5}}
BITS = {"val": {"xz": [12.0, 4.5]}, "test": {"xz": [49.5]}}  # by document
OTHER_KEYS = {"lossless_tokens", "non_causal", "matmul_dtype", "example_prompt"}
LIKELIHOOD = {"bits_per_byte", "nats_per_token", "perplexity", "tokens", "accuracy", "calibration_error"}
LIKELIHOOD |= {"best_baseline", "bits_per_byte_difference", "verdict"}
INTERVALS = {f"{of}_{end}" for of in ("bits_per_byte", "bits_per_byte_difference") for end in ("low", "high")}


@pytest.fixture
def run(
    tmp_path,
    draw_gpt,
    write_splits,
    write_corpus,
    write_document_bits,
    small_tokenizer_file,
    evaluate_params,
    plain_cpu,
):
    """Runs the stage on held-out documents; returns metrics, details and rows of the plots."""

    def run(name="run", baselines=BASELINES, bits=BITS, shape=(), seed=1, boundary="cross", prompts=("def ",), **ids):
        folder = tmp_path / name
        inputs = write_splits(folder, {"train": TRAIN} | ids, CONTEXT, boundary=boundary)
        save_model(folder / "weights", draw_gpt(context_length=CONTEXT, **dict(shape)))
        systems = {split: {name: {"bits_per_byte": value} for name, value in baselines[split].items()} for split in ids}
        (folder / "baselines.json").write_text(json.dumps(systems), encoding="utf-8")
        write_document_bits(folder / "bits.parquet", {split: bits[split] for split in ids if split in bits})
        inputs |= {"weights": folder / "weights", "tokenizer": small_tokenizer_file}
        inputs |= {"baselines": folder / "baselines.json", "document_bits": folder / "bits.parquet"}
        texts = {"a": "Any text."}
        inputs |= {"corpus": write_corpus(folder / "corpus", dict.fromkeys(("train", "val", "test"), texts))}
        outputs = {"metrics": folder / "metrics.json", "details": folder / "details.json", "plots": folder / "plots"}
        params = evaluate_params(sample_tokens=5, prompts=prompts and [*prompts])
        evaluate.main(params, NGRAM, seed, **inputs, **outputs)
        plots = {
            path.stem: list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))
            for path in outputs["plots"].iterdir()
        }
        return *(json.loads(outputs[key].read_text(encoding="utf-8")) for key in ("metrics", "details")), plots

    return run


def test_metrics_are_few_and_details_are_all_that_they_are_made_of(run):
    metrics, details, plots = run(val=VAL, test=TEST)
    assert metrics.keys() == {"val", "test"} | OTHER_KEYS
    assert metrics["val"].keys() == {"model"}
    assert metrics["val"]["model"].keys() == LIKELIHOOD | INTERVALS
    assert metrics["val"]["model"]["tokens"] == 28 + 5 + 2
    model, true = (metrics["test"][system] for system in ("model", "true_text"))
    assert model["tokens"] == 33 + 1
    assert not INTERVALS & model.keys()  # one document
    assert model.keys() >= LIKELIHOOD | {"texts", "words", "repetition_flagged"}
    assert true.items() <= details["quality"]["true_text"].items()
    splits = details["splits"]
    assert all(of["model"].items() <= metrics[split]["model"].items() for split, of in splits.items())
    assert [row["source"] for row in splits["val"]["sources"]] == ["mine"]
    assert {row["document"] for row in splits["val"]["hardest"]} == {"mine/a"}
    # 11 12 13 11 is in train; of val nothing is, for its runs of 10 have no 6.
    assert splits["test"]["contamination"]["token_fraction"] == round(33 / 34, 5)
    assert splits["test"]["contamination"]["found"]["bytes"] == 33
    assert splits["val"]["contamination"]["token_fraction"] == 0
    assert [(of["prompt"], of["greedy"]) for of in details["samples"]] == [("def ", True), ("def ", False)]
    assert (details["passage"]["split"], details["passage"]["document"]) == ("test", "a")
    for name, part in (("position", "positions"), ("context", "context"), ("calibration", "calibration")):
        rows = [{key: float(value) for key, value in row.items() if value} for row in plots[name]]
        assert rows == splits["test"][part]


@pytest.mark.parametrize(
    ("shape", "lossless", "verdict", "warning"),
    [
        ({}, True, BETTER, ""),
        ({}, False, LOSSY, "evaluate: warning: the tokens do not hold all of the text"),
        ({"attention": "simplified"}, True, SEES_THE_FUTURE, "evaluate: warning: model.attention simplified"),
    ],
)
def test_metrics_say_whether_the_best_baseline_is_beaten(run, monkeypatch, capsys, shape, lossless, verdict, warning):
    read_info = evaluate.read_info
    monkeypatch.setattr("llm.evaluate.measure.read_info", lambda path: replace(read_info(path), lossless=lossless))
    monkeypatch.setattr(evaluate, "read_info", lambda path: replace(read_info(path), lossless=lossless))
    total = round(10_000 / 33, 5)
    baselines, bits = {"val": {"bzip2": total + 1, "xz": total}}, {"val": {"xz": [9000.0, 1000.0]}}
    metrics, details, _ = run(baselines=baselines, bits=bits, shape=shape, val=VAL)
    val = metrics["val"]["model"]
    assert (val["best_baseline"], val["verdict"]) == ("xz", verdict)
    assert val["bits_per_byte_difference"] == pytest.approx(val["bits_per_byte"] - total, abs=2e-5)
    assert [row["baseline"] for row in details["splits"]["val"]["baselines"]] == ["xz", "bzip2"]
    assert warning in capsys.readouterr().err


def test_windows_of_single_documents_score_none_after_another(run):
    documents = {name: [6, 7, 8, 9] * 3 for name in "abc"}
    crossing, alone = (run(way, boundary=way, bits={}, test=documents)[1]["splits"]["test"] for way in WAYS)
    assert [of["model"]["tokens"] for of in (crossing, alone)] == [39, 39]
    assert crossing["positions"][-1]["to"] == 17
    # A window ends with its document, so 13 targets are the most and none has the whole context before it.
    assert [row["targets"] for row in alone["positions"]] == [3, 3, 6, 12, 15]
    assert alone["context"] == []


def test_the_seed_changes_intervals_alone_and_val_is_shown(run):
    first, again, other = run("first", val=VAL), run("second", val=VAL), run("third", val=VAL, seed=2)
    assert first == again
    val, otherwise = (found[1]["splits"]["val"]["model"] for found in (first, other))
    assert all(key.endswith(("_low", "_high")) for key in val if val[key] != otherwise[key])
    metrics, details, plots = first
    assert metrics.keys() == {"val"} | OTHER_KEYS
    assert metrics["val"].keys() == {"model", "true_text"}
    assert details["quality"]["split"] == "val"
    assert plots["position"]


def test_without_held_out_text_only_samples_are_made(run, capsys):
    metrics, details, plots = run()
    assert metrics.keys() == {"quality"} | OTHER_KEYS
    assert metrics["quality"] == details["quality"] == {"skipped": "no text was held out"}
    assert "no text was held out" in capsys.readouterr().out
    assert (len(details["samples"]), details["passage"], plots["position"]) == (2, None, [])
