"""Documents in, ids out: a tokenizer that saw the train split alone, and every text behind its ids."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llm.core.errors import UserError
from llm.core.tables import SPLITS, read_table
from llm.corpus.clean import document_id
from llm.tokens.tokenizer import Tokenizer
from stages.tokenize import main

LETTERS = str.maketrans("0123456789", "qrstuvwxyz")  # a digit never merges
CORPUS = {
    "train": {"a": "the river runs and the rain runs\n" * 3, "b": "a house, déjà vu\n", "c": "<|endoftext|>"},
    "val": {"d": "the train runs\n"},
    "test": {"e": "zebras buzz 東京\n", "f": "the end"},
}


@pytest.fixture
def run(tmp_path: Path, write_corpus: Callable[..., Path], tokenize_params: Callable) -> Callable[..., Path]:
    """A runner of the stage; gives back the folder with tokenizer.json, tokens, metrics.json and the rest."""

    def run(documents: dict[str, dict[str, str]], name: str = "run", seed: int = 1, **options: object) -> Path:
        folder = tmp_path / name
        corpus = write_corpus(folder / "corpus", documents)
        (tmp_path / "given").mkdir(exist_ok=True)
        outputs = [folder / part for part in ("tokenizer.json", "tokens", "metrics.json", "report.md", "picture.svg")]
        main(tokenize_params(**options), seed, corpus, tmp_path / "given", *outputs)
        return folder

    return run


def ids_of(folder: Path, name: str) -> list[list[int]]:
    return read_table(folder / "tokens" / f"{name}.parquet").column("ids").to_pylist()


def test_decoding_the_ids_of_a_row_gives_its_document_back(run: Callable[..., Path]) -> None:
    folder = run(CORPUS)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    for split in SPLITS:
        documents = read_table(folder / "corpus" / f"{split}.parquet").to_pylist()
        rows = read_table(folder / "tokens" / f"{split}.parquet").to_pylist()
        assert [tokenizer.decode(row["ids"]) for row in rows] == list(CORPUS[split].values())
        for column in ("doc_id", "source", "path", "n_bytes"):
            assert [row[column] for row in rows] == [document[column] for document in documents]
        assert [row["n_tokens"] for row in rows] == [len(row["ids"]) for row in rows]


def test_the_tokenizer_has_seen_nothing_that_is_held_out(run: Callable[..., Path]) -> None:
    folder = run(CORPUS)
    other = run({"train": CORPUS["train"], "test": {"g": "other held out text " * 50}}, name="other")
    assert (folder / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()
    changed = run(CORPUS | {"train": {"g": "other text to train on " * 50}}, name="changed")
    assert (folder / "tokenizer.json").read_bytes() != (changed / "tokenizer.json").read_bytes()


def test_the_same_corpus_gives_the_same_bytes(run: Callable[..., Path]) -> None:
    first, second = run(CORPUS, "first"), run(CORPUS, "second")
    for name in [
        "tokenizer.json",
        "metrics.json",
        "report.md",
        "picture.svg",
        *(f"tokens/{split}.parquet" for split in SPLITS),
    ]:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_metrics_count_the_tokens_and_what_each_is_worth(run: Callable[..., Path]) -> None:
    folder = run(CORPUS)
    metrics = json.loads((folder / "metrics.json").read_text())
    used = set()
    for split in SPLITS:
        rows = read_table(folder / "tokens" / f"{split}.parquet").to_pylist()
        used.update(*(row["ids"] for row in rows))
        n_tokens = sum(len(row["ids"]) for row in rows)
        n_bytes = sum(len(text.encode()) for text in CORPUS[split].values())
        assert metrics["tokens"][split] == n_tokens
        assert metrics["bytes_per_token"][split] == pytest.approx(n_bytes / n_tokens, abs=1e-4)
    n_bytes, n_tokens = (sum(len(text.encode()) for of in CORPUS.values() for text in of.values()), metrics["tokens"])
    assert metrics["bytes_per_token_by_source"] == {"mine": pytest.approx(n_bytes / sum(n_tokens.values()), abs=1e-4)}
    assert (metrics["lossless"], metrics["unknown_share"]) == (True, 0.0)
    assert metrics["vocab_size"] == 300
    assert metrics["vocab_used"] == len(used)


def test_a_corpus_too_small_for_the_vocabulary_has_the_size_that_it_reached(run: Callable[..., Path]) -> None:
    folder = run({"train": {"a": "abab"}}, vocab_size=5000)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    assert json.loads((folder / "metrics.json").read_text())["vocab_size"] == tokenizer.vocab_size == 264


def test_a_small_share_of_a_large_corpus_is_enough_to_learn_from(run: Callable[..., Path]) -> None:
    documents = {f"d{number}": document_id(str(number)).translate(LETTERS) + " and\n" * 9 for number in range(200)}
    few = run({"train": documents}, train_bytes=2000, vocab_size=2000)
    every = run({"train": documents}, name="every", vocab_size=2000)
    sizes = [json.loads((folder / "metrics.json").read_text())["vocab_size"] for folder in (few, every)]
    assert 264 < sizes[0] < sizes[1] <= 2000


@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_one_large_document_is_sampled_as_many_small_ones_are(
    kind: str, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{document_id(str(number % 60)).translate(LETTERS)} and\n" for number in range(3000)]
    once = {"kind": kind, "vocab_size": 1000, "train_bytes": 20_000}
    folders = [
        run({"train": {"a": "".join(lines)}}, name="one", **once),
        run({"train": {f"{number}": line * 2 for number, line in enumerate(lines[::2])}}, name="many", **once),
    ]
    for folder in folders:
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["unknown_share"] < 0.1
        assert metrics["bytes_per_token"]["train"] > {"bpe": 3, "word": 5, "char": 0.9}[kind]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tokenize: learning")]
    n_bytes = sum(map(len, lines))
    assert told == [f"tokenize: learning from 20,000 of {n_bytes:,} bytes of train (tokenize.train_bytes)"] * 2


def test_a_vocabulary_that_is_small_or_hardly_used_is_reported(
    run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run({"train": {"a": "abab"}}, vocab_size=5000)
    run({"train": {"a": "a b c d e f g g"}}, name="words", kind="word", vocab_size=5000, min_frequency=2)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tokenize: ")]
    assert told == [
        "tokenize: 264 tokens of a vocab_size of 5000: the training text has no more pairs",
        "tokenize: 9 tokens of a vocab_size of 5000: the training text has no more of a min_frequency of 2",
        "tokenize: 40% of the tokens are <|unk|>: raise vocab_size or train_bytes, lower min_frequency, "
        "or use kind: bpe",
    ]


def test_ctrl_c_ends_the_training_of_a_tokenizer_within_two_seconds(
    tmp_path: Path, write_corpus: Callable[..., Path]
) -> None:
    rng = random.Random(0)
    text = "".join(chr(0x4E00 + rng.randrange(20_000)) for _ in range(1_500_000))
    corpus = write_corpus(tmp_path / "corpus", {"train": {"a": text}})
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["tokenize"]["vocab_size"] = 60_000
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "given").mkdir()
    paths = {"corpus": corpus, "given": tmp_path / "given", "params": tmp_path / "params.yaml"}
    paths |= {name: tmp_path / "out" / name for name in ("tokenizer", "tokens", "metrics", "report", "picture")}
    options = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    command = [sys.executable, "-m", "stages.tokenize", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stderr
        seen = b""
        while b"100%" not in seen:  # all of the text is with the library
            seen += process.stderr.read(1)
            assert process.poll() is None, seen.decode()
        time.sleep(1)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert time.monotonic() - began < 2
        assert process.stderr.read().endswith(b"tokenize: interrupted; nothing was written to its outputs\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["word", "char"])
def test_words_and_characters_are_tokens_too(kind: str, run: Callable[..., Path]) -> None:
    folder = run(CORPUS, kind=kind)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    assert [tokenizer.decode(ids) for ids in ids_of(folder, "train")] == list(CORPUS["train"].values())
    # Nothing of the training text has 東京.
    assert tokenizer.unk_id in ids_of(folder, "test")[0]
    metrics = json.loads((folder / "metrics.json").read_text())
    n_unknown = sum(ids.count(tokenizer.unk_id) for split in SPLITS for ids in ids_of(folder, split))
    assert metrics["unknown_share"] == pytest.approx(n_unknown / sum(metrics["tokens"].values()), abs=1e-6)
    assert not metrics["lossless"]


def test_a_tokenizer_that_was_brought_along_gives_its_own_ids(
    run: Callable[..., Path], tmp_path: Path, small_tokenizer_file: Path
) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "tokenizer.json").write_bytes(small_tokenizer_file.read_bytes())
    folder = run(CORPUS, **{"from": f"{tmp_path}/given/tokenizer.json"})
    theirs = Tokenizer.load(small_tokenizer_file)
    assert ids_of(folder, "train") == [theirs.encode(text) for text in CORPUS["train"].values()]


@pytest.mark.parametrize("path", ["/etc/passwd", "given/tokenizer.json", "{given}/../tokenizer.json"])
def test_a_tokenizer_from_elsewhere_is_refused(path: str, run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^tokenize\.from: wanted a path under .*given, given "):
        run(CORPUS, **{"from": path.format(given=tmp_path / "given")})


def test_dropped_merges_cut_the_training_text_anew_each_time(run: Callable[..., Path]) -> None:
    folder = run(CORPUS, dropout=0.3, segmentations=2)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    clean, *dropped = (ids_of(folder, name) for name in ("train", "train-1", "train-2"))
    for segmentation in dropped:
        assert [tokenizer.decode(ids) for ids in segmentation] == list(CORPUS["train"].values())
        assert sum(map(len, segmentation)) > sum(map(len, clean))
    assert dropped[0] != dropped[1]
    assert sorted(path.stem for path in (folder / "tokens").iterdir()) == ["test", "train", "train-1", "train-2", "val"]
    again = run(CORPUS, name="again", dropout=0.3, segmentations=2)
    other = run(CORPUS, name="other", dropout=0.3, segmentations=2, seed=2)
    assert ids_of(again, "train-1") == dropped[0] != ids_of(other, "train-1")


def test_a_document_is_cut_the_same_way_wherever_it_stands(run: Callable[..., Path]) -> None:
    one = {"a": "the river runs and the rain runs\n" * 3}
    alone = run({"train": {"x": "text of another kind\n", **one}}, name="one", dropout=0.5)
    behind = run({"train": {**one, "x": "text of another kind\n"}}, name="two", dropout=0.5)
    assert ids_of(alone, "train-1")[1] == ids_of(behind, "train-1")[0]
