"""Documents in, ids out: a tokenizer of the train split alone, and every text behind its ids."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from llm.core.tables import SPLITS, read_table
from llm.corpus.clean import document_id
from llm.tokens.tokenize import token_lengths
from llm.tokens.tokenizer import Tokenizer
from stages.tokenize import main

LETTERS = str.maketrans("0123456789", "qrstuvwxyz")  # a digit never merges
CORPUS = {
    "train": {"a": "the river runs and the rain runs\n" * 3, "b": "a house, déjà vu\n", "c": "<|endoftext|>"},
    "val": {"d": "the train runs\n"},
    "test": {"e": "zebras buzz 東京\n", "f": "the end"},
}
OUTPUTS = ("tokenizer.json", "tokens", "metrics.json", "details.json")


@pytest.fixture
def run(tmp_path, write_corpus, tokenize_params):
    """A runner of the stage that returns the folder of its outputs."""

    def run(documents, name="run", seed=1, **options):
        folder = tmp_path / name
        corpus = write_corpus(folder / "corpus", documents)
        (tmp_path / "given").mkdir(exist_ok=True)
        main(tokenize_params(**options), seed, corpus, tmp_path / "given", *(folder / output for output in OUTPUTS))
        return folder

    return run


def read(folder, name="metrics"):
    return json.loads((folder / f"{name}.json").read_text())


def ids_of(folder, name):
    return read_table(folder / "tokens" / f"{name}.parquet").column("ids").to_pylist()


def test_ids_decode_to_documents_and_metrics_count_them(run):
    folder = run(CORPUS)
    tokenizer, metrics, used = Tokenizer.load(folder / "tokenizer.json"), read(folder), set()
    for split in SPLITS:
        documents = read_table(folder / "corpus" / f"{split}.parquet").to_pylist()
        rows = read_table(folder / "tokens" / f"{split}.parquet").to_pylist()
        assert [tokenizer.decode(row["ids"]) for row in rows] == list(CORPUS[split].values())
        for column in ("doc_id", "source", "path", "n_bytes"):
            assert [row[column] for row in rows] == [document[column] for document in documents]
        assert [row["n_tokens"] for row in rows] == [len(row["ids"]) for row in rows]
        used.update(*(row["ids"] for row in rows))
        n_tokens, n_bytes = (sum(row[column] for row in rows) for column in ("n_tokens", "n_bytes"))
        assert metrics["tokens"][split] == n_tokens
        assert metrics["bytes_per_token"][split] == pytest.approx(n_bytes / n_tokens, abs=1e-4)
    n_bytes = sum(len(text.encode()) for split in CORPUS.values() for text in split.values())
    per_token = pytest.approx(n_bytes / sum(metrics["tokens"].values()), abs=1e-4)
    assert metrics["bytes_per_token_by_source"] == {"mine": per_token}
    assert (metrics["lossless"], metrics["unknown_fraction"]) == (True, 0.0)
    assert (metrics["vocab_size"], metrics["vocab_used"]) == (300, len(used))


def test_details_have_counts_lengths_and_the_top_of_both(run):
    folder = run({"train": {"a": "||| river" * 3}})
    details, tokenizer = read(folder, "details"), Tokenizer.load(folder / "tokenizer.json")
    lengths = token_lengths(tokenizer)
    assert details["lengths"] == lengths.tolist()
    assert {lengths[token] for token in tokenizer.special.values()} == {0}
    assert (lengths[6:] > 0).all()
    assert sum(details["counts"]) == sum(read(folder)["tokens"].values())
    assert details["longest"][0]["bytes"] == lengths.max()
    counts = [row["count"] for row in details["most_frequent"]]
    assert counts == sorted(details["counts"], reverse=True)[: len(counts)]
    assert set(read(folder)["tokens"]) == {"train"}  # splits without documents are left out


def test_held_out_text_does_not_change_the_tokenizer(run):
    first, same = run(CORPUS, "first"), run(CORPUS, "same")
    other = run({"train": CORPUS["train"], "test": {"g": "other held out text " * 50}}, "other")
    changed = run(CORPUS | {"train": {"g": "other text to train on " * 50}}, "changed")
    for name in ("tokenizer.json", "metrics.json", "details.json", *(f"tokens/{split}.parquet" for split in SPLITS)):
        assert (first / name).read_bytes() == (same / name).read_bytes()
    tokenizers = [(folder / "tokenizer.json").read_bytes() for folder in (first, other, changed)]
    assert tokenizers[0] == tokenizers[1] != tokenizers[2]


@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_one_large_document_is_sampled_as_many_small_ones(kind, run, capsys):
    lines = [f"{document_id(str(number % 60)).translate(LETTERS)} and\n" for number in range(3000)]
    options = {"kind": kind, "vocab_size": 1000, "train_bytes": 20_000}
    many = {f"{number}": line * 2 for number, line in enumerate(lines[::2])}
    for folder in (run({"train": {"a": "".join(lines)}}, "one", **options), run({"train": many}, "many", **options)):
        assert read(folder)["unknown_fraction"] < 0.1
        assert read(folder)["bytes_per_token"]["train"] > {"bpe": 3, "word": 5, "char": 0.9}[kind]
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tokenize: training")]
    n_bytes = sum(map(len, lines))
    assert printed == [f"tokenize: training on 20,000 of {n_bytes:,} bytes of train (tokenize.train_bytes)"] * 2


def test_a_vocabulary_that_is_small_or_hardly_used_is_reported(run, capsys):
    assert read(run({"train": {"a": "abab"}}, vocab_size=5000))["vocab_size"] == 264
    run({"train": {"a": "a b c d e f g g"}}, name="words", kind="word", vocab_size=5000, min_frequency=2)
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tokenize: ")]
    assert printed == [
        "tokenize: 264 tokens, vocab_size is 5000: the training text has no more pairs",
        "tokenize: 9 tokens, vocab_size is 5000: the training text has no more with a min_frequency of 2",
        "tokenize: 40% of the tokens are <|unk|>: raise vocab_size or train_bytes, lower min_frequency, "
        "or use kind: bpe",
    ]


def test_ctrl_c_ends_the_training_within_two_seconds(tmp_path, write_corpus):
    rng = random.Random(0)
    text = "".join(chr(0x4E00 + rng.randrange(20_000)) for _ in range(1_500_000))
    corpus = write_corpus(tmp_path / "corpus", {"train": {"a": text}})
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["tokenize"]["vocab_size"] = 60_000
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "given").mkdir()
    paths = {"corpus": corpus, "given": tmp_path / "given", "params": tmp_path / "params.yaml"}
    paths |= {name: tmp_path / "out" / name for name in ("tokenizer", "tokens", "metrics", "details")}
    options = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    command = [sys.executable, "-m", "stages.tokenize", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0) as process:
        output = b""
        while b"100%" not in output:  # the library has all of the text
            output += process.stderr.read(1)
            assert process.poll() is None, output.decode()
        time.sleep(1)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert time.monotonic() - began < 2
        assert process.stderr.read().endswith(b"tokenize: interrupted; its outputs were not written\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["word", "char"])
def test_words_and_characters_are_tokens_too(kind, run):
    folder = run(CORPUS, kind=kind)
    tokenizer, metrics = Tokenizer.load(folder / "tokenizer.json"), read(folder)
    assert [tokenizer.decode(ids) for ids in ids_of(folder, "train")] == list(CORPUS["train"].values())
    assert tokenizer.unk_id in ids_of(folder, "test")[0]  # train has no 東京
    n_unknown = sum(ids.count(tokenizer.unk_id) for split in SPLITS for ids in ids_of(folder, split))
    assert metrics["unknown_fraction"] == pytest.approx(n_unknown / sum(metrics["tokens"].values()), abs=1e-6)
    assert not metrics["lossless"]


def test_a_pretrained_tokenizer_gives_its_own_ids(run, tmp_path, small_tokenizer_file):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "tokenizer.json").write_bytes(small_tokenizer_file.read_bytes())
    folder = run(CORPUS, pretrained=f"{tmp_path}/given/tokenizer.json")
    theirs = Tokenizer.load(small_tokenizer_file)
    assert ids_of(folder, "train") == [theirs.encode(text) for text in CORPUS["train"].values()]


def test_dropout_segments_the_training_text_anew_each_time(run):
    folder = run(CORPUS, dropout=0.3, segmentations=2)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    plain, *dropout = (ids_of(folder, name) for name in ("train", "train-1", "train-2"))
    for segmentation in dropout:
        assert [tokenizer.decode(ids) for ids in segmentation] == list(CORPUS["train"].values())
        assert sum(map(len, segmentation)) > sum(map(len, plain))
    assert dropout[0] != dropout[1]
    assert sorted(path.stem for path in (folder / "tokens").iterdir()) == ["test", "train", "train-1", "train-2", "val"]
    again, other = (run(CORPUS, f"seed {seed}", seed, dropout=0.3, segmentations=2) for seed in (1, 2))
    assert ids_of(again, "train-1") == dropout[0] != ids_of(other, "train-1")


def test_a_document_has_the_same_segmentation_wherever_it_is(run):
    one, other = {"a": "the river runs and the rain runs\n" * 3}, {"x": "text of another kind\n"}
    last, first = (run({"train": texts}, name, dropout=0.5) for name, texts in (("a", other | one), ("b", one | other)))
    assert ids_of(last, "train-1")[1] == ids_of(first, "train-1")[0]
