import json
import math

import pytest
import torch

from llm.errors import UserError
from llm.evaluate.params import EvaluateParams
from llm.train.checkpoint import save_model
from stages import evaluate

VOCAB, CONTEXT = 320, 17
PARAMS = EvaluateParams(stride=11, batch_size=3, prompts=["def "], sample_tokens=5, temperature=0.8, top_k=7)
RIVALS = {"val": {"xz": 0.5, "trigram": 9.5}, "test": {"xz": 1.5, "unigram": 8.5}}
OUTPUTS = ("evaluate.json", "bars.svg", "samples.md")
VAL, TEST = [[5, 6, 7, 8] * 7, [9] * 5], [[11, 12, 13] * 11]


@pytest.fixture
def run(tmp_path, draw_gpt, write_windows_folder, small_tokenizer_file, plain_cpu):
    """Runs the stage on held-out documents; returns its metrics, its picture and its samples."""

    def run(name="run", rivals=RIVALS, model=None, **documents):
        folder = tmp_path / name
        windows = write_windows_folder(folder / "windows", {"train": [[5] * 30]} | documents, VOCAB, CONTEXT)
        save_model(folder / "weights", model or draw_gpt(context_length=CONTEXT))
        (folder / "baselines.json").write_text(json.dumps(rivals), encoding="utf-8")
        outputs = [folder / output for output in OUTPUTS]
        evaluate.main(PARAMS, 1, folder / "weights", windows, small_tokenizer_file, folder / "baselines.json", *outputs)
        metrics, picture, samples = (output.read_text(encoding="utf-8") for output in outputs)
        return json.loads(metrics), picture, samples

    return run


def test_both_splits_are_scored_each_token_but_the_first_once(run):
    metrics, _, samples = run(val=VAL, test=TEST)
    assert metrics.keys() == {"val", "test", "lossless_tokens", "sees_the_future", "matmul_dtype"}
    assert metrics["val"]["tokens"] == 28 + 5 + 2
    assert metrics["test"]["tokens"] == 33 + 1
    assert "def │" in samples


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary(run, draw_gpt):
    model = draw_gpt(context_length=CONTEXT, tie_embeddings=False)
    torch.nn.init.zeros_(model.head.weight)
    metrics, _, _ = run(model=model, test=TEST)
    assert metrics["test"]["bits_per_byte"] == pytest.approx(math.log2(VOCAB) * 34 / 33, abs=1e-4)
    assert metrics["test"]["perplexity"] == pytest.approx(VOCAB, rel=1e-4)


def test_two_runs_write_the_same_bytes(run):
    assert run("first", val=VAL, test=TEST) == run("second", val=VAL, test=TEST)


def test_the_picture_shows_the_model_among_its_rivals_on_test(run):
    metrics, picture, _ = run(val=VAL, test=TEST)
    assert "held-out text (test)" in picture
    for value in (metrics["test"]["bits_per_byte"], 1.5, 8.5):
        assert f">{value:.3f}<" in picture
    assert ">9.500<" not in picture


def test_without_a_test_split_it_is_left_out_and_val_is_shown(run):
    metrics, picture, _ = run(val=VAL, rivals={"val": RIVALS["val"]})
    assert metrics.keys() == {"val", "lossless_tokens", "sees_the_future", "matmul_dtype"}
    assert "held-out text (val)" in picture
    assert ">9.500<" in picture


def test_without_any_held_out_text_there_are_samples_alone(run):
    metrics, picture, samples = run(rivals={})
    assert metrics == {"lossless_tokens": True, "sees_the_future": False, "matmul_dtype": "float32"}
    assert "no text was held out" in picture
    assert "def │" in samples


def test_weights_that_are_not_there_are_refused(tmp_path, plain_cpu):
    with pytest.raises(UserError, match=r"config\.json"):
        evaluate.main(PARAMS, 1, *(tmp_path / name for name in ("weights", "windows", "tokenizer", "x", *OUTPUTS)))
