import json
import random
import shutil

import pytest

from llm.evaluate.params import BaselinesParams
from llm.text.tables import CORPUS, TableWriter
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
        baselines.main(params, tmp_path / "corpus", windows, tmp_path / "metrics" / "baselines.json")
        return json.loads((tmp_path / "metrics" / "baselines.json").read_text(encoding="utf-8"))

    return report


def test_every_baseline_scores_val_and_test(report):
    scores = report(train=[_sentences(1), _sentences(2)], val=[_sentences(3)], test=[_sentences(4), _sentences(5)])
    assert scores.keys() == {"val", "test"}
    for split in scores.values():
        assert split.keys() == NAMES
        assert all(0 < bits < 9 for bits in split.values())
        assert split["kneser_ney_5gram"] < split["unigram"] < split["uniform"]


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
    assert report(**texts) == first


def test_a_part_of_the_training_text_is_as_good_as_that_part_alone(report):
    train, val = _sentences(1, 400), _sentences(2)
    of_part = report(train=[train], val=[val], train_bytes=600)["val"]
    assert of_part["xz_given_train"] == report(train=[train[:600]], val=[val])["val"]["xz_given_train"]
    assert of_part["xz_given_train"] > report(train=[train], val=[val])["val"]["xz_given_train"]
    assert of_part["kneser_ney_5gram"] > report(train=[train], val=[val])["val"]["kneser_ney_5gram"]
