import json

import pytest
import torch

from llm.core.errors import UserError
from llm.core.tables import TableWriter, tokens_schema
from llm.evaluate.memorization import MemoriseParams
from llm.evaluate.params import EvaluateParams, QualityParams
from llm.model.weights import save_model
from stages import memorise

FIRST, VOCAB = 6, 320  # no special token is among those from FIRST
PARAMS = MemoriseParams(prefixes=20, prefix_tokens=5)
QUALITY = QualityParams(texts=7, prompt_tokens=5, new_tokens=9, temperature=0.7)
EVALUATE = EvaluateParams(
    stride=8, batch_size=2, prompts=["def "], sample_tokens=40, temperature=0.8, top_k=7, quality=QUALITY
)
FIGURES = {"prefixes", "verbatim_25", "verbatim_50", "mean_verbatim_tokens"}
# Train counts upwards, as the model below does; test counts in steps of three.
UPWARDS = {"first.py": range(FIRST, 180), "sec|ond.py": range(150, VOCAB)}
IN_THREES = {"other.py": range(FIRST, VOCAB, 3), "more.py": range(FIRST + 1, VOCAB, 3)}


@pytest.fixture
def counter(draw_gpt):
    """A model that knows one thing: after each token comes the next id."""
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
def run(tmp_path, write_windows_folder, small_tokenizer_file, plain_cpu):
    """Runs the stage on a model and on documents by path; returns its metrics and its report."""

    def run(model, train=UPWARDS, test=IN_THREES, name="run", params=PARAMS, evaluate=EVALUATE, seed=1):
        folder = tmp_path / name
        documents = {"train": train, "test": test}
        ids = {split: [list(text) for text in texts.values()] for split, texts in documents.items()}
        windows = write_windows_folder(folder / "windows", ids, VOCAB, 64)
        for split, texts in documents.items():
            with TableWriter(folder / "tokens" / f"{split}.parquet", tokens_schema(VOCAB)) as table:
                for path, text in texts.items():
                    row = {"doc_id": path, "source": "s", "path": path, "ids": list(text)}
                    table.write(row | {"n_tokens": len(text), "n_bytes": len(text)})
        save_model(folder / "weights", model)
        outputs = [folder / "memorise.json", folder / "memorisation.md"]
        inputs = [folder / "weights", windows, folder / "tokens", small_tokenizer_file]
        memorise.main(params, evaluate, seed, *inputs, *outputs)
        return json.loads(outputs[0].read_text(encoding="utf-8")), outputs[1].read_text(encoding="utf-8")

    return run


def test_a_model_that_copies_is_said_to_copy(run, counter):
    metrics, report = run(counter)
    assert metrics["train"] == {
        "prefixes": 20,
        "verbatim_25": 1.0,
        "verbatim_50": 1.0,
        "mean_verbatim_tokens": 50.0,
    }
    assert metrics["test"] == {"prefixes": 20, "verbatim_25": 0.0, "verbatim_50": 0.0, "mean_verbatim_tokens": 0.0}
    assert metrics["copies"] is True
    assert "**The model copies**: 20 of 20 prefixes of train" in report
    assert "| train | 20 | 100.0% | 100.0% | 50.0 |" in report
    assert report.count("| 50 or more | ` ") == 10


def test_its_samples_are_found_where_they_stand(run, counter):
    metrics, report = run(counter, train={"tiny.py": [7, 8], "long.py": range(FIRST, VOCAB)})
    assert metrics["samples"] == {"number": 2, "median_run": 40.0, "longest_run": 40, "copied": 2}
    assert metrics["test_stretches"] == {"number": 20, "median_run": 1.0, "longest_run": 1, "copied": 0}
    assert "**2 of 2 copy**" in report
    samples = report.partition("## The samples")[2]
    assert samples.count("| 40 | 40 | ` long.py ` | ` ") == 2


def test_a_path_does_not_break_the_table(run, counter):
    _, report = run(counter, train={"sec|ond``.py": UPWARDS["sec|ond.py"]})
    assert "| ``` sec\\|ond``.py ``` |" in report


def test_a_model_that_writes_something_else_does_not_copy(run, draw_gpt):
    metrics, report = run(draw_gpt(context_length=64))
    assert metrics["copies"] is False
    assert metrics["train"]["verbatim_25"] == metrics["samples"]["copied"] == 0
    assert "**No sign that the model copies**: 0 of 20 prefixes of train" in report
    assert "None of 2 copies" in report
    assert "Brought back" not in report


@pytest.mark.parametrize("shape", [{"family": "gru"}, {"attention": "trainable"}], ids=["gru", "future"])
def test_a_model_of_another_kind_is_asked_the_same(run, draw_gpt, shape):
    metrics, report = run(draw_gpt(context_length=64, **shape))
    assert metrics["train"].keys() == metrics["test"].keys() == FIGURES
    assert ("sees what it predicts" in report) is ("attention" in shape)


def test_two_runs_write_the_same_and_another_seed_draws_other_places(run, counter):
    with torch.no_grad():
        # From here on it counts wrong, so what comes back depends on the place.
        counter.head.weight[200:] = 0
    first, again, other = (run(counter, name=name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first == again
    assert first[0]["train"]["mean_verbatim_tokens"] != other[0]["train"]["mean_verbatim_tokens"]


def test_without_test_it_is_said_that_nothing_can_be_told(run, counter):
    metrics, report = run(counter, test={})
    assert metrics["test"] == {"prefixes": 0}
    assert metrics["test_stretches"] == {"number": 0}
    assert metrics["copies"] is None
    assert "No document of test has 55 tokens" in report
    assert "| test | 0 | – | – | – |" in report


def test_where_there_are_fewer_places_than_prefixes_all_are_taken(run, counter):
    # 57 tokens hold 55 in a row at three places.
    metrics, _ = run(counter, train={"short.py": range(FIRST, FIRST + 57), "tiny.py": [7, 8]})
    assert metrics["train"]["prefixes"] == 3


def test_documents_too_short_for_a_prefix_are_said_to_be(run, counter):
    metrics, report = run(counter, train={"tiny.py": range(FIRST, FIRST + 54)})
    assert metrics["train"] == {"prefixes": 0}
    assert "No document of train has 55 tokens; with a smaller memorise.prefix_tokens there may be some." in report


def test_a_prefix_is_no_longer_than_the_context(run, counter):
    _, report = run(counter, params=MemoriseParams(prefixes=3, prefix_tokens=100))
    assert "The model reads 64 and" in report


def test_without_prompts_there_are_no_samples(run, counter):
    metrics, report = run(counter, evaluate=EVALUATE.model_copy(update={"prompts": []}))
    assert metrics["samples"] == {"number": 0}
    assert "There are none." in report


def test_weights_that_are_not_there_are_refused(tmp_path, plain_cpu):
    with pytest.raises(UserError, match=r"config\.json"):
        memorise.main(PARAMS, EVALUATE, 1, *(tmp_path / name for name in ("weights", "x", "y", "z", "m", "r")))
