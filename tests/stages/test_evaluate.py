import csv
import json
import math

import pytest
import torch

from llm.core.errors import UserError
from llm.core.tables import TableWriter, tokens_schema
from llm.evaluate.difference import BETTER, LOSSY, SEES_THE_FUTURE, WORSE
from llm.evaluate.params import EvaluateParams, QualityParams
from llm.model.weights import save_model
from llm.tokens.tokenizer import Tokenizer
from stages import evaluate

VOCAB, CONTEXT, NGRAM = 320, 17, 4
QUALITY = QualityParams(texts=7, prompt_tokens=5, new_tokens=9, temperature=0.7)
PARAMS = EvaluateParams(
    stride=11, batch_size=3, prompts=["def "], sample_tokens=5, temperature=0.8, top_k=7, quality=QUALITY
)
RIVALS = {"val": {"xz": 0.5, "trigram": 9.5}, "test": {"xz": 1.5, "unigram": 8.5}}
BITS = {"val": {"xz": [12.0, 4.5]}, "test": {"xz": [49.5]}}  # by document, of VAL and TEST
TABLES, PICTURES = ("position", "context", "calibration"), ("context_picture", "calibration_picture")
OUTPUTS = {
    "metrics": "json",
    "figures": "json",
    "report": "md",
    "samples": "md",
    "texts": "json",
    "continuations": "md",
    "picture": "svg",
}
OUTPUTS |= dict.fromkeys(TABLES, "tsv") | dict.fromkeys(PICTURES, "svg")
TRAIN, VAL, TEST = [[6] * 30, [11, 12, 13] * 3], [[6, 7, 8, 9] * 7, [10] * 5], [[11, 12, 13] * 11]  # of a byte each
OTHER_KEYS = {"lossless_tokens", "sees_the_future", "matmul_dtype", "example_prompt", "quality"}


@pytest.fixture
def run(tmp_path, draw_gpt, write_windows_folder, write_corpus, write_document_bits, small_tokenizer_file, plain_cpu):
    """Runs the stage on held-out documents of the source `mine`; returns the texts of its outputs by name."""

    def run(
        name="run",
        rivals=RIVALS,
        bits=BITS,
        model=None,
        seed=1,
        boundary="cross",
        params=PARAMS,
        lossless=True,
        **documents,
    ):
        folder = tmp_path / name
        windows = write_windows_folder(
            folder / "windows", {"train": TRAIN} | documents, VOCAB, CONTEXT, boundary=boundary
        )
        for split in ("val", "test"):
            with TableWriter(folder / "tokens" / f"{split}.parquet", tokens_schema(VOCAB)) as table:
                for number, ids in enumerate(documents.get(split, [])):
                    row = {"doc_id": "any", "source": "mine", "path": f"{split}-{number}", "ids": ids}
                    table.write(row | {"n_tokens": len(ids), "n_bytes": len(ids)})
        save_model(folder / "weights", model or draw_gpt(context_length=CONTEXT))
        (folder / "baselines.json").write_text(json.dumps(rivals), encoding="utf-8")
        write_document_bits(folder / "bits.parquet", {split: bits[split] for split in documents if split in bits})
        info = json.loads((windows / "windows.json").read_text(encoding="utf-8"))
        (windows / "windows.json").write_text(json.dumps(info | {"lossless": lossless}), encoding="utf-8")
        inputs = {"weights": folder / "weights", "windows": windows, "tokens": folder / "tokens"}
        inputs |= {"tokenizer": small_tokenizer_file, "baselines": folder / "baselines.json"}
        inputs["corpus"] = write_corpus(folder / "corpus", {"train": {"a": "Any text."}})
        inputs |= {"document_bits": folder / "bits.parquet"}
        outputs = {output: folder / f"{output}.{suffix}" for output, suffix in OUTPUTS.items()}
        evaluate.main(params, NGRAM, seed, **inputs, **outputs)
        return {output: path.read_text(encoding="utf-8") for output, path in outputs.items()}

    return run


def _metrics(texts):
    return json.loads(texts["metrics"])


def _rows(texts, name):
    return list(csv.DictReader(texts[name].splitlines(), delimiter="\t"))


def test_both_splits_are_scored_each_token_but_the_first_once(run):
    texts = run(val=VAL, test=TEST)
    metrics = _metrics(texts)
    assert metrics.keys() == {"val", "test"} | OTHER_KEYS
    assert metrics["val"]["tokens"] == 28 + 5 + 2
    assert metrics["test"]["tokens"] == 33 + 1
    assert "def │" in texts["samples"]


def test_metrics_are_few_and_one_document_has_no_interval(run):
    metrics = _metrics(run(val=VAL, test=TEST))
    scores = {"bits_per_byte", "nats_per_token", "perplexity", "tokens", "accuracy", "calibration_error"}
    scores |= {"best_baseline", "bits_per_byte_difference", "verdict"}
    intervals = {f"{of}_{end}" for of in ("bits_per_byte", "bits_per_byte_difference") for end in ("low", "high")}
    assert metrics["val"].keys() == scores | intervals
    assert metrics["test"].keys() == scores
    assert metrics["val"]["bits_per_byte_low"] < metrics["val"]["bits_per_byte"] < metrics["val"]["bits_per_byte_high"]


@pytest.mark.parametrize(
    ("bits", "options", "verdict"),
    [
        ([9000.0, 1000.0], {}, BETTER),
        ([12.0, 4.5], {}, WORSE),
        ([12.0, 4.5], {"lossless": False}, LOSSY),
        ([12.0, 4.5], {"lossless": False, "attention": "simplified"}, SEES_THE_FUTURE),
        ([9000.0, 1000.0], {"attention": "simplified"}, SEES_THE_FUTURE),
    ],
)
def test_metrics_and_page_say_whether_the_best_baseline_is_beaten(run, draw_gpt, bits, options, verdict):
    options = dict(options)
    shape = {"attention": options.pop("attention")} if "attention" in options else {}
    total = round(sum(bits) / 33, 5)
    rivals = {"val": {"bzip2": total + 1, "xz": total}}
    texts = run(
        rivals=rivals, bits={"val": {"xz": bits}}, model=draw_gpt(context_length=CONTEXT, **shape), val=VAL, **options
    )
    val, beside = _metrics(texts)["val"], json.loads(texts["figures"])["val"]["baselines"]
    assert (val["best_baseline"], val["verdict"]) == ("xz", verdict)
    assert val["bits_per_byte_difference"] == pytest.approx(val["bits_per_byte"] - total, abs=2e-5)
    assert [row["baseline"] for row in beside] == ["xz", "bzip2"]
    assert beside[0]["difference"] == val["bits_per_byte_difference"]
    assert "difference_low" not in beside[1]
    assert f"the best baseline: **{verdict}**." in texts["report"]


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary(run, draw_gpt):
    model = draw_gpt(context_length=CONTEXT, tie_embeddings=False)
    torch.nn.init.zeros_(model.head.weight)
    metrics = _metrics(run(model=model, test=TEST))
    assert metrics["test"]["bits_per_byte"] == pytest.approx(math.log2(VOCAB) * 34 / 33, abs=1e-4)
    assert metrics["test"]["perplexity"] == pytest.approx(VOCAB, rel=1e-4)


def test_figures_and_page_tell_what_the_metrics_are_made_of(run):
    texts = run(val=VAL, test=TEST)
    figures = json.loads(texts["figures"])
    assert list(figures) == ["val", "test"]
    for split, of in figures.items():
        assert of["summary"] == _metrics(texts)[split]
        assert f"**{of['summary']['bits_per_byte']:.4f}**" in texts["report"]
    assert [row["source"] for row in figures["val"]["sources"]] == ["mine"]
    assert {row["document"] for row in figures["val"]["hardest"]} == {"mine/val-0"}
    # 11 12 13 11 stands in train; in val nothing does, for its runs of 10 have no 6.
    assert figures["test"]["contamination"]["token_share"] == round(33 / 34, 5)
    assert figures["test"]["contamination"]["found"]["bytes"] == 33
    assert figures["val"]["contamination"]["token_share"] == 0


def test_where_the_model_learnt_single_documents_none_is_scored_after_another(run):
    documents, rivals = [[6, 7, 8, 9] * 3] * 3, {"test": {"unigram": 8.5}}
    crossing, alone = (
        json.loads(run(way, rivals, {}, boundary=way, test=documents)["figures"]) for way in ("cross", "document")
    )
    assert [of["test"]["summary"]["tokens"] for of in (crossing, alone)] == [39, 39]
    assert crossing["test"]["positions"][-1]["to"] == 17
    # A window ends with its document, so 13 targets are the most and none has the whole context before it.
    assert [row["targets"] for row in alone["test"]["positions"]] == [3, 3, 6, 12, 15]
    assert alone["test"]["context"] == []


def test_tables_are_those_of_the_figures_of_test(run):
    texts = run(val=VAL, test=TEST)
    figures = json.loads(texts["figures"])["test"]
    for table, part in zip(TABLES, ("positions", "context", "calibration"), strict=True):
        rows = _rows(texts, table)
        assert [{key: float(value) for key, value in row.items() if value} for row in rows] == figures[part]
    assert all("held-out text (test)" in texts[picture] for picture in PICTURES)


def test_two_runs_write_the_same_bytes_and_another_seed_other_intervals_alone(run):
    first, again, other = run("first", val=VAL), run("second", val=VAL), run("third", val=VAL, seed=2)
    assert first == again
    val, otherwise = _metrics(first)["val"], _metrics(other)["val"]
    assert all(key.endswith(("_low", "_high")) for key in val if val[key] != otherwise[key])


def test_the_picture_shows_the_model_among_its_rivals_on_test(run):
    texts = run(val=VAL, test=TEST)
    assert "held-out text (test)" in texts["picture"]
    for value in (_metrics(texts)["test"]["bits_per_byte"], 1.5, 8.5):
        assert f">{value:.3f}<" in texts["picture"]
    assert ">9.500<" not in texts["picture"]


@pytest.mark.parametrize(("split", "documents"), [("test", {"val": VAL, "test": TEST}), ("val", {"val": VAL})])
def test_what_the_model_writes_is_measured_on_the_last_split(run, split, documents):
    texts = run(**documents, rivals={name: RIVALS[name] for name in documents})
    figures, metrics = json.loads(texts["figures"]), _metrics(texts)["quality"]
    assert [name for name, of in figures.items() if "quality" in of] == [split]
    quality = figures[split]["quality"]
    assert metrics["split"] == quality["split"] == split
    assert metrics["model"] == quality["model"]
    assert metrics["true"].items() <= quality["true"].items()
    assert f"The first {metrics['texts']} of {metrics['texts']} places of {split}" in texts["continuations"]
    assert "| repetition flagged |" in texts["report"]


def test_text_too_short_to_be_continued_is_said_to_be(run, capsys):
    texts = run(test=[[10] * 5])
    assert "no document of test has 14 tokens" in capsys.readouterr().out
    assert "no document of test has 14 tokens" in _metrics(texts)["quality"]["skipped"]
    assert all("no document of test has 14 tokens" in texts[page] for page in ("report", "continuations"))


def test_without_a_test_split_it_is_left_out_and_val_is_shown(run):
    texts = run(val=VAL, rivals={"val": RIVALS["val"]})
    assert _metrics(texts).keys() == {"val"} | OTHER_KEYS
    assert all("held-out text (val)" in texts[picture] for picture in ("picture", *PICTURES))
    assert ">9.500<" in texts["picture"]
    assert _rows(texts, "position")


def test_without_any_held_out_text_there_are_samples_alone(run):
    texts = run(rivals={})
    others = {"lossless_tokens": True, "sees_the_future": False, "matmul_dtype": "float32", "example_prompt": "def"}
    others["quality"] = {"skipped": "no text was held out"}
    assert _metrics(texts) == others
    assert json.loads(texts["figures"]) == {}
    assert all("no text was held out" in texts[picture] for picture in ("picture", *PICTURES))
    assert all(_rows(texts, table) == [] for table in TABLES)
    assert "def │" in texts["samples"]


def test_texts_are_the_samples_and_the_split_of_their_prompts(run, small_tokenizer_file):
    given = json.loads(run(test=TEST)["texts"])
    assert given["prompts_of"] is None
    assert [(of["prompt"], of["greedy"], of["ended"]) for of in given["samples"]] == [
        ("def ", True, False),
        ("def ", False, False),
    ]
    ids = Tokenizer.load(small_tokenizer_file).encode("The river runs\nThe rain falls; it falls")
    texts = run("drawn", params=PARAMS.model_copy(update={"prompts": None}), test=[ids])
    drawn = json.loads(texts["texts"])
    assert drawn["prompts_of"] == "test"
    assert {of["prompt"] for of in drawn["samples"]} == {"The river runs\n"} == {_metrics(texts)["example_prompt"]}


def test_weights_that_are_not_there_are_refused(tmp_path, plain_cpu):
    names = ("weights", "windows", "tokens", "tokenizer", "baselines", "document_bits", "corpus", *OUTPUTS)
    with pytest.raises(UserError, match=r"config\.json"):
        evaluate.main(PARAMS, NGRAM, 1, **{name: tmp_path / name for name in names})
