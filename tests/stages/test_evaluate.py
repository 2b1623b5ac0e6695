import csv
import json

import pytest

from llm.core.errors import UserError
from llm.core.tables import TableWriter, tokens_schema
from llm.evaluate.breakdown import BETTER, LOSSY, SEES_THE_FUTURE
from llm.model.weights import save_model
from llm.tokens.tokenizer import Tokenizer
from stages import evaluate

VOCAB, CONTEXT, NGRAM = 320, 17, 4
BASELINES = {"val": {"xz": 0.5, "trigram": 9.5}, "test": {"xz": 1.5, "unigram": 8.5}}
BITS = {"val": {"xz": [12.0, 4.5]}, "test": {"xz": [49.5]}}  # by document, of VAL and TEST
TRAIN, VAL, TEST = [[6] * 30, [11, 12, 13] * 3], [[6, 7, 8, 9] * 7, [10] * 5], [[11, 12, 13] * 11]  # of a byte each
OTHER_KEYS = {"lossless_tokens", "non_causal", "matmul_dtype", "example_prompt"}
LIKELIHOOD = {"bits_per_byte", "nats_per_token", "perplexity", "tokens", "accuracy", "calibration_error"}
LIKELIHOOD |= {"best_baseline", "bits_per_byte_difference", "verdict"}
INTERVALS = {f"{of}_{end}" for of in ("bits_per_byte", "bits_per_byte_difference") for end in ("low", "high")}


@pytest.fixture
def run(
    tmp_path,
    draw_gpt,
    write_windows_folder,
    write_corpus,
    write_document_bits,
    small_tokenizer_file,
    evaluate_params,
    plain_cpu,
):
    """Runs the stage on held-out documents of the source `mine`; returns metrics, details and rows of the plots."""

    def run(name="run", baselines=BASELINES, bits=BITS, model=None, seed=1, lossless=True, **ids):
        boundary = ids.pop("boundary", "cross")
        params = evaluate_params(sample_tokens=5, prompts=ids.pop("prompts", ["def "]))
        folder = tmp_path / name
        windows = write_windows_folder(folder / "windows", {"train": TRAIN} | ids, VOCAB, CONTEXT, boundary=boundary)
        for split in ("val", "test"):
            with TableWriter(folder / "tokens" / f"{split}.parquet", tokens_schema(VOCAB)) as table:
                for number, own in enumerate(ids.get(split, [])):
                    row = {"doc_id": "any", "source": "mine", "path": f"{split}-{number}", "ids": own}
                    table.write(row | {"n_tokens": len(own), "n_bytes": len(own)})
        save_model(folder / "weights", model or draw_gpt(context_length=CONTEXT))
        systems = {
            split: {name: {"bits_per_byte": value} for name, value in of.items()} for split, of in baselines.items()
        }
        (folder / "baselines.json").write_text(json.dumps(systems), encoding="utf-8")
        write_document_bits(folder / "bits.parquet", {split: bits[split] for split in ids if split in bits})
        info = json.loads((windows / "windows.json").read_text(encoding="utf-8"))
        (windows / "windows.json").write_text(json.dumps(info | {"lossless": lossless}), encoding="utf-8")
        texts = {"a": "Any text."}
        inputs = {"weights": folder / "weights", "windows": windows, "tokens": folder / "tokens"}
        inputs |= {"tokenizer": small_tokenizer_file, "baselines": folder / "baselines.json"}
        inputs |= {"corpus": write_corpus(folder / "corpus", dict.fromkeys(("train", "val", "test"), texts))}
        outputs = {"metrics": folder / "metrics.json", "details": folder / "details.json", "plots": folder / "plots"}
        evaluate.main(params, NGRAM, seed, **inputs, document_bits=folder / "bits.parquet", **outputs)
        plots = {
            path.stem: list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))
            for path in outputs["plots"].iterdir()
        }
        return *(json.loads(outputs[key].read_text(encoding="utf-8")) for key in ("metrics", "details")), plots

    return run


def test_metrics_are_few_and_by_split_and_system(run):
    metrics, details, _ = run(val=VAL, test=TEST)
    assert metrics.keys() == {"val", "test"} | OTHER_KEYS
    assert metrics["val"].keys() == {"model"}
    assert metrics["val"]["model"].keys() == LIKELIHOOD | INTERVALS
    assert metrics["val"]["model"]["tokens"] == 28 + 5 + 2
    model, true = (metrics["test"][system] for system in ("model", "true_text"))
    assert model["tokens"] == 33 + 1
    assert not INTERVALS & model.keys()  # one document
    assert model.keys() >= LIKELIHOOD | {"texts", "words", "repetition_flagged"}
    assert true.items() <= details["quality"]["true_text"].items()


def test_details_are_all_that_the_metrics_are_made_of(run):
    metrics, details, plots = run(val=VAL, test=TEST)
    splits = details["splits"]
    assert {split: of["model"] for split, of in splits.items()} == {
        split: {key: value for key, value in metrics[split]["model"].items() if key in LIKELIHOOD | INTERVALS}
        for split in ("val", "test")
    }
    assert [row["source"] for row in splits["val"]["sources"]] == ["mine"]
    assert {row["document"] for row in splits["val"]["hardest"]} == {"mine/val-0"}
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
    ("bits", "shape", "lossless", "verdict"),
    [
        ([9000.0, 1000.0], {}, True, BETTER),
        ([12.0, 4.5], {}, False, LOSSY),
        ([9000.0, 1000.0], {"attention": "simplified"}, True, SEES_THE_FUTURE),
    ],
)
def test_metrics_say_whether_the_best_baseline_is_beaten(run, draw_gpt, bits, shape, lossless, verdict):
    model, total = draw_gpt(context_length=CONTEXT, **shape), round(sum(bits) / 33, 5)
    baselines = {"val": {"bzip2": total + 1, "xz": total}}
    metrics, details, _ = run(baselines=baselines, bits={"val": {"xz": bits}}, model=model, lossless=lossless, val=VAL)
    val = metrics["val"]["model"]
    assert (val["best_baseline"], val["verdict"]) == ("xz", verdict)
    assert val["bits_per_byte_difference"] == pytest.approx(val["bits_per_byte"] - total, abs=2e-5)
    assert [row["baseline"] for row in details["splits"]["val"]["baselines"]] == ["xz", "bzip2"]


def test_windows_of_single_documents_score_none_after_another(run):
    documents, baselines = [[6, 7, 8, 9] * 3] * 3, {"test": {"unigram": 8.5}}
    crossing, alone = (
        run(way, baselines, {}, boundary=way, test=documents)[1]["splits"]["test"] for way in ("cross", "document")
    )
    assert [of["model"]["tokens"] for of in (crossing, alone)] == [39, 39]
    assert crossing["positions"][-1]["to"] == 17
    # A window ends with its document, so 13 targets are the most and none has the whole context before it.
    assert [row["targets"] for row in alone["positions"]] == [3, 3, 6, 12, 15]
    assert alone["context"] == []


def test_the_seed_changes_intervals_alone(run):
    first, again, other = run("first", val=VAL), run("second", val=VAL), run("third", val=VAL, seed=2)
    assert first == again
    val, otherwise = (found[1]["splits"]["val"]["model"] for found in (first, other))
    assert all(key.endswith(("_low", "_high")) for key in val if val[key] != otherwise[key])


def test_without_a_test_split_val_is_shown(run):
    metrics, details, plots = run(val=VAL, baselines={"val": BASELINES["val"]})
    assert metrics.keys() == {"val"} | OTHER_KEYS
    assert metrics["val"].keys() == {"model", "true_text"}
    assert details["quality"]["split"] == "val"
    assert plots["position"]


@pytest.mark.parametrize(
    ("documents", "reason"),
    [({"test": [[10] * 5]}, "no document of test has 14 tokens"), ({}, "no text was held out")],
)
def test_a_skipped_quality_has_a_reason(run, capsys, documents, reason):
    metrics, details, plots = run(baselines={"test": BASELINES["test"]} if documents else {}, **documents)
    assert metrics.keys() == {*documents, "quality"} | OTHER_KEYS
    assert metrics["quality"] == details["quality"]
    assert reason in metrics["quality"]["skipped"]
    assert reason in capsys.readouterr().out
    assert len(details["samples"]) == 2
    assert (details["passage"] is None) == (plots["position"] == []) == (not documents)


def test_default_prompts_are_of_test(run, small_tokenizer_file):
    ids = Tokenizer.load(small_tokenizer_file).encode("The river runs\nThe rain falls; it falls")
    metrics, details, _ = run(prompts=None, test=[ids])
    assert details["prompts_from"] == "test"
    assert {of["prompt"] for of in details["samples"]} == {"The river runs\n"} == {metrics["example_prompt"]}


def test_missing_weights_are_refused(tmp_path, evaluate_params, plain_cpu):
    with pytest.raises(UserError, match=r"config\.json"):
        evaluate.main(evaluate_params(), NGRAM, 1, *(tmp_path / str(number) for number in range(10)))
