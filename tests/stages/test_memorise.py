import json

import pytest
import torch

from llm.evaluate.params import MemoriseParams
from llm.model.weights import save_model
from stages import memorise

FIRST, VOCAB = 6, 320  # no special token is among those from FIRST
# Train counts upwards, as the model below does; test counts in steps of three.
UPWARDS = {"first.py": range(FIRST, 180), "sec|ond.py": range(150, VOCAB)}
IN_THREES = {"other.py": range(FIRST, VOCAB, 3), "more.py": range(FIRST + 1, VOCAB, 3)}


@pytest.fixture
def counter(draw_gpt):
    """A model that predicts the next id after each token."""
    model = draw_gpt(context_length=64, tie_embeddings=False)
    with torch.no_grad():
        for weight in model.blocks.parameters():
            weight.zero_()
        model.norm.weight.fill_(1)
        directions = torch.nn.functional.normalize(model.embedding.weight, dim=-1)
        model.embedding.weight.copy_(directions)
        model.head.weight[FIRST + 1 :] = 9 * directions[FIRST : VOCAB - 1]
        model.head.weight[: FIRST + 1] = 0
        model.head.weight[FIRST] = 9 * directions[VOCAB - 1]
    return model


@pytest.fixture
def run(tmp_path, write_splits, small_tokenizer_file, evaluate_params, plain_cpu):
    """Runs the stage on a model and on documents by path; returns its metrics and its details."""

    def run(model, train=UPWARDS, test=IN_THREES, name="run", prefixes=20, prefix_tokens=5, prompts=("def ",), seed=1):
        folder = tmp_path / name
        inputs = write_splits(folder, {"train": train, "test": test}, 64)
        save_model(folder / "weights", model)
        inputs |= {"weights": folder / "weights", "tokenizer": small_tokenizer_file}
        outputs = {"metrics": folder / "memorise.json", "details": folder / "details.json"}
        params = MemoriseParams(prefixes=prefixes, prefix_tokens=prefix_tokens)
        memorise.main(params, evaluate_params(sample_tokens=40, prompts=[*prompts]), seed, **inputs, **outputs)
        return [json.loads(path.read_text(encoding="utf-8")) for path in outputs.values()]

    return run


def test_a_model_that_copies(run, counter):
    metrics, details = run(counter)
    whole = {"prefixes": 20, "verbatim_25": 1.0, "verbatim_50": 1.0, "mean_verbatim_tokens": 50.0}
    assert metrics["train"] == {"model": whole}
    assert metrics["test"] == {"model": dict.fromkeys(whole, 0) | {"prefixes": 20}}
    assert metrics["copies"] is True
    assert details.items() >= metrics.items()
    assert [of["tokens"] for of in details["recalled"]] == [50] * 10
    assert {of["document"] for of in details["recalled"]} <= UPWARDS.keys()


def test_its_samples_are_found_in_the_training_text(run, counter):
    metrics, details = run(counter, train={"tiny.py": [7, 8], "long.py": range(FIRST, VOCAB)})
    assert metrics["generations"] == {
        "model": {"texts": 2, "median_run": 40.0, "longest_run": 40, "copied": 2},
        "true_text": {"texts": 20, "median_run": 1.0, "longest_run": 1, "copied": 0},
    }
    found = [(of["prompt"], of["tokens"], of["run"]["tokens"], of["run"]["document"]) for of in details["samples"]]
    assert found == [("def ", 40, 40, "long.py")] * 2


@pytest.mark.parametrize("shape", [{}, {"attention": "trainable"}], ids=["causal", "future"])
def test_a_model_that_does_not_copy(run, draw_gpt, shape):
    metrics, details = run(draw_gpt(context_length=64, **shape))
    assert metrics["copies"] is False
    assert metrics["train"]["model"]["verbatim_25"] == metrics["generations"]["model"]["copied"] == 0
    assert details["recalled"] == []
    assert details["non_causal"] == ("attention" in shape)


def test_the_seed_alone_decides_on_the_positions(run, counter):
    with torch.no_grad():
        # From here on it counts wrong, so what comes back depends on the position.
        counter.head.weight[200:] = 0
    first, again, other = (run(counter, name=name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first == again
    assert first[0]["train"] != other[0]["train"]


@pytest.mark.parametrize(
    ("changes", "train", "test"),
    [
        ({"test": {}}, 20, 0),
        ({"train": {"short.py": range(FIRST, FIRST + 57), "tiny.py": [7, 8]}}, 3, 20),  # 55 tokens at three positions
    ],
    ids=["no test", "few"],
)
def test_there_are_as_many_prefixes_as_the_text_has(run, counter, changes, train, test):
    metrics, _ = run(counter, **changes)
    assert [metrics[split]["model"]["prefixes"] for split in ("train", "test")] == [train, test]
    assert (metrics["copies"] is None) == (test == 0)
    assert metrics["generations"]["true_text"]["texts"] == test


def test_a_prefix_is_no_longer_than_the_context_and_prompts_may_be_none(run, counter):
    metrics, details = run(counter, prefixes=3, prefix_tokens=100, prompts=())
    assert details["prefix_tokens"] == 64
    assert metrics["generations"]["model"] == {"texts": 0}
