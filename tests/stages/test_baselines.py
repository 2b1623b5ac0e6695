import json
import random
import shutil

import pyarrow.parquet as pq
import pytest

from llm.core.tables import CORPUS, TableWriter
from llm.evaluate.baselines import BY_DOCUMENT, DOCUMENT_BITS
from llm.evaluate.params import BaselinesParams
from stages import baselines

NAMES = {"xz", "xz_given_train", "zstd", "zstd_given_train", "bzip2", "kneser_ney_5gram", "unigram", "uniform"}


def _sentences(seed, n=120):
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs", "there"]
    return " ".join(random.Random(seed).choices(words, k=n))


@pytest.fixture
def report(tmp_path, write_windows_folder):
    """Runs the stage on texts by split; the tokens are their bytes."""

    def report(train_bytes=None, **texts):
        for split in ("train", "val", "test"):
            with TableWriter(tmp_path / "corpus" / f"{split}.parquet", CORPUS) as table:
                for number, text in enumerate(texts.get(split, [])):
                    name = f"{split}{number}"
                    table.write({"doc_id": name, "source": "s", "path": name, "text": text, "n_bytes": len(text)})
        documents = {split: [list(text.encode()) for text in given] for split, given in texts.items()}
        shutil.rmtree(tmp_path / "windows", ignore_errors=True)
        windows = write_windows_folder(tmp_path / "windows", documents, 256, 17)
        params = BaselinesParams(train_bytes=train_bytes)
        outputs = tmp_path / "metrics" / "baselines.json", tmp_path / "bits.parquet"
        baselines.main(params, tmp_path / "corpus", windows, *outputs)
        return json.loads((tmp_path / "metrics" / "baselines.json").read_text(encoding="utf-8"))

    return report


def test_every_baseline_scores_val_and_test(report):
    scores = report(train=[_sentences(1), _sentences(2)], val=[_sentences(3)], test=[_sentences(4), _sentences(5)])
    assert scores.keys() == {"val", "test"}
    for split in scores.values():
        assert split.keys() == NAMES
        assert all(0 < bits < 9 for bits in split.values())
        assert split["kneser_ney_5gram"] < split["unigram"] < split["uniform"]


@pytest.mark.parametrize(
    ("val", "test"),
    [
        ([_sentences(3)], [_sentences(4), _sentences(5, 7), "a", _sentences(6)]),
        ([], ["one document"]),
        (["a"], ["two", "two"]),
        ([], []),
    ],
    ids=["several", "one", "equal ones", "none"],
)
def test_documents_add_up_to_their_split_in_order(report, tmp_path, val, test):
    scores = report(train=[_sentences(1), _sentences(2)], val=val, test=test)
    table = pq.read_table(tmp_path / "bits.parquet")
    assert table.schema.equals(DOCUMENT_BITS)
    assert set(BY_DOCUMENT) == NAMES - {"bzip2"}
    rows = table.to_pylist()
    assert [row["doc_id"] for row in rows] == [f"val{n}" for n in range(len(val))] + [
        f"test{n}" for n in range(len(test))
    ]
    for split, texts in (("val", val), ("test", test)):
        own = [row for row in rows if row["split"] == split]
        assert len(own) == len(texts)
        for name in BY_DOCUMENT if own else ():
            total = sum(row[name] for row in own)
            assert total / len("".join(texts)) == pytest.approx(scores[split][name], abs=1e-5)
            assert all(row[name] >= 0 for row in own)
        # A token a byte, and the end of text: 8 bits each.
        assert [row["uniform"] for row in own] == [8 * (len(text) + 1) for text in texts]


def test_a_document_of_the_training_text_costs_little_beside_a_new_one(report, tmp_path):
    known = _sentences(1)
    noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=len(known)))
    report(train=[known, _sentences(2)], test=[noise, known, noise[::-1]])
    rows = pq.read_table(tmp_path / "bits.parquet").to_pylist()
    for name in ("xz_given_train", "zstd_given_train", "kneser_ney_5gram"):
        costs = [row[name] / len(known) for row in rows]
        assert costs[1] < 0.2 * min(costs[0], costs[2])
        assert min(costs[0], costs[2]) > 5  # log2(36) is 5.2


def test_the_training_text_helps_with_what_stands_in_it(report):
    scores = report(train=[_sentences(1)], val=[_sentences(1)], test=[_sentences(2)])
    for name in ("xz", "zstd"):
        assert scores["val"][f"{name}_given_train"] < 0.3 * scores["val"][name]
        assert scores["val"][f"{name}_given_train"] < scores["test"][f"{name}_given_train"] < scores["test"][name]


def test_what_knows_nothing_pays_the_logarithm_of_the_vocabulary_for_each_token(report):
    # A token a byte, and one for the end: 8 bits each, of a vocabulary of 256.
    assert report(train=["a"], val=["abcd"])["val"]["uniform"] == pytest.approx(8 * 5 / 4)


def test_bits_are_of_the_texts_utf8_bytes(report):
    # A character of 1,887 drawn alike is 11 bits, and two bytes.
    text = "".join(map(chr, random.Random(1).choices(range(0xA0, 0x7FF), k=400)))
    scores = report(train=["a"], val=[text])["val"]
    assert 5 < scores["xz"] < 8


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_text_is_left_out(report, split):
    assert report(train=[_sentences(1)], **{split: [_sentences(2)]}).keys() == {split}


def test_where_nothing_is_held_out_there_is_nothing_to_report(report):
    assert report(train=[_sentences(1)]) == {}


def test_two_runs_report_the_same(report, tmp_path):
    texts = {"train": [_sentences(1)], "val": [_sentences(2)], "test": [_sentences(3)]}
    first = report(**texts)
    shutil.rmtree(tmp_path / "windows")
    bits = (tmp_path / "bits.parquet").read_bytes()
    assert report(**texts) == first
    assert (tmp_path / "bits.parquet").read_bytes() == bits


def test_a_part_of_the_training_text_is_as_good_as_that_part_alone(report):
    train, val = _sentences(1, 400), _sentences(2)
    of_part = report(train=[train], val=[val], train_bytes=600)["val"]
    assert of_part["xz_given_train"] == report(train=[train[:600]], val=[val])["val"]["xz_given_train"]
    assert of_part["xz_given_train"] > report(train=[train], val=[val])["val"]["xz_given_train"]
    assert of_part["kneser_ney_5gram"] > report(train=[train], val=[val])["val"]["kneser_ney_5gram"]
