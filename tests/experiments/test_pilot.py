"""A pilot run: what it reads of a corpus, and what it returns."""

import numpy as np
import pandas as pd
import pytest

from llm.core.errors import UserError
from llm.experiments import pilot as library
from llm.experiments.pilot import Excerpt, PilotShape, read_excerpt, run_pilots
from llm.model.config import ModelParams
from llm.train.params import OptimizerParams

MODEL = ModelParams(
    family="qwen3", attention="grouped", positions=None, d_model=32, n_layers=1, n_heads=1, n_kv_heads=1, d_ff=64,
    dropout=0.0, rope_theta=1e4, norm_eps=1e-6, tie_embeddings=True,
)  # fmt: skip
OPTIMIZER = OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.006, weight_decay=0.1, max_grad_norm=10.0)
SHAPE = PilotShape(MODEL, 300, "qwen2", 32, OPTIMIZER, seed=1)


def write_corpus(folder, **texts):
    for split in ("train", "val", "test"):
        own = texts.get(split, [])
        table = pd.DataFrame({"doc_id": own, "source": "s", "path": "p", "text": own})
        table["n_bytes"] = [len(text.encode()) for text in own]
        table.astype({"n_bytes": "int64"}).to_parquet(folder / f"{split}.parquet", index=False)


def test_an_excerpt_is_bounded_and_counts_all_of_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "TRAIN_BYTES", 20)
    write_corpus(tmp_path, train=[f"document {number}" for number in range(9)], val=["abc"])
    found = read_excerpt(tmp_path)
    assert (found.train, found.val) == (["document 0", "document 5"], ["abc"])
    assert found.n_bytes == {"train": 90, "val": 3, "test": 0}


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_corpus_without_a_split_is_refused(tmp_path, split):
    write_corpus(tmp_path, **{"train": ["some text"], "val": ["more"]} | {split: []})
    with pytest.raises(UserError, match=rf"^prepare\.split: expected text in {split}, .* got none$"):
        read_excerpt(tmp_path)


@pytest.mark.parametrize("n_words", [4000, 400], ids=["once", "in segmentations, many times"])
def test_pilots_learn_the_text_and_are_repeatable(monkeypatch, plain_cpu, n_words):
    monkeypatch.setattr(library, "N_STEPS", (10, 40))
    words = ["alpha ", "beta ", "gamma ", "delta "]
    rng = np.random.default_rng(0)
    train, val = ("".join(rng.choice(words, size=n)) for n in (n_words, 200))
    excerpt = Excerpt([train], [val], {"train": len(train), "val": len(val), "test": 0})
    (found, bytes_per_token), again = (run_pilots(excerpt, SHAPE, plain_cpu) for _ in range(2))
    assert (found, bytes_per_token) == again
    assert [of.tokens for of in found] == [steps * library.BATCH_SIZE * 32 for steps in (10, 40)]
    # Two bits choose one of four words of 5.75 bytes on average.
    assert 2 / 5.75 < found.long.bits_per_byte < found.short.bits_per_byte
    assert found.long.bits_per_byte < 1.5
    assert 1 < bytes_per_token < 7
