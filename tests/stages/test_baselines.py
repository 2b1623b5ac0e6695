import json
import random

import pyarrow.parquet as pq
import pytest

from llm.evaluate.baselines import BY_DOCUMENT, DOCUMENT_BITS
from llm.evaluate.params import BaselinesParams
from stages import baselines

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs", "there"]


def _sentences(seed, n=120):
    return " ".join(random.Random(seed).choices(WORDS, k=n))


@pytest.fixture
def run(tmp_path, write_splits, write_corpus):
    """Runs the stage on texts by split, with their bytes as tokens; returns bits per byte and rows of documents."""

    def run(train_bytes=None, **texts):
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        documents = {split: {f"{n}": text for n, text in enumerate(own)} for split, own in texts.items()}
        ids = {split: {path: text.encode() for path, text in own.items()} for split, own in documents.items()}
        windows = write_splits(folder, ids, 17, vocab_size=256)["windows"]
        corpus, outputs = write_corpus(folder / "corpus", documents), (folder / "metrics.json", folder / "bits.parquet")
        baselines.main(BaselinesParams(train_bytes=train_bytes), corpus, windows, *outputs)
        metrics, table = json.loads(outputs[0].read_text(encoding="utf-8")), pq.read_table(outputs[1])
        assert table.schema.equals(DOCUMENT_BITS)
        assert all(of.keys() == {"bits_per_byte"} for systems in metrics.values() for of in systems.values())
        scores = {split: {name: of["bits_per_byte"] for name, of in own.items()} for split, own in metrics.items()}
        return scores, table.to_pylist()

    return run


@pytest.mark.parametrize(
    ("val", "test"),
    [
        ([_sentences(3)], [_sentences(4), _sentences(5, 7), "a", _sentences(6)]),
        (["a"], ["two", "two"]),
        ([], []),
    ],
    ids=["several", "equal ones", "none"],
)
def test_documents_add_up_to_their_split_in_order(run, val, test):
    texts = {split: own for split, own in (("val", val), ("test", test)) if own}
    scores, table = run(train=[_sentences(1), _sentences(2)], **texts)
    assert scores.keys() == texts.keys()
    assert [row["split"] for row in table] == [split for split, own in texts.items() for _ in own]
    for split, own in texts.items():
        rows = [row for row in table if row["split"] == split]
        assert scores[split].keys() == {*BY_DOCUMENT, "bzip2"}
        assert all(bits > 0 for bits in scores[split].values())
        for name in BY_DOCUMENT:
            total = sum(row[name] for row in rows)
            assert total / len("".join(own)) == pytest.approx(scores[split][name], abs=1e-5)
        # A token per byte, and the end of text: 8 bits each.
        assert [row["uniform"] for row in rows] == [8 * (len(text) + 1) for text in own]


def test_a_document_of_the_training_text_costs_little(run):
    known = _sentences(1)
    noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=len(known)))
    texts = {"train": [known, _sentences(2)], "val": [_sentences(3)], "test": [noise, known, noise[::-1]]}
    scores, table = run(**texts)
    for name in ("xz_given_train", "zstd_given_train", "kneser_ney_5gram"):
        costs = [row[name] / len(known) for row in table[1:]]
        assert costs[1] < 0.2 * min(costs[0], costs[2])
        assert min(costs[0], costs[2]) > 5  # log2(36) is 5.2
    val = scores["val"]
    assert val["kneser_ney_5gram"] < val["unigram"] < val["uniform"]
    assert val["xz_given_train"] < val["xz"]
    assert run(**texts) == (scores, table)


def test_a_part_of_the_training_text_is_as_good_as_that_part_alone(run):
    train, val = _sentences(1, 400), _sentences(2)
    part = run(train=[train], val=[val], train_bytes=600)[0]["val"]
    alone, whole = (run(train=[text], val=[val])[0]["val"] for text in (train[:600], train))
    assert part["xz_given_train"] == alone["xz_given_train"] > whole["xz_given_train"]
    assert part["kneser_ney_5gram"] > whole["kneser_ney_5gram"]
