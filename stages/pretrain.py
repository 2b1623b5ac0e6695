"""Pretrain a language model on token windows, in one process or several."""

import sys
from pathlib import Path
from typing import Annotated, Any

from llm.core import stage
from llm.core.stage import Input, Output, Param, Scratch, Seed
from llm.export.hf.base import read_first_weights, resolve_shape
from llm.tokens.pretrained import path_under
from llm.train.launch import launch
from llm.train.params import PretrainParams
from llm.train.pretrain import Pretraining


def main(
    model: Annotated[dict[str, Any], Param("model")],
    pretrain: Annotated[PretrainParams, Param("pretrain")],
    seed: Seed,
    scratch: Scratch,
    windows: Input = Path("data/windows"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    given: Input = Path("data/given"),
    weights: Output = Path("models/pretrained"),
    metrics: Output = Path("metrics/pretrain.json"),
    curve: Output = Path("plots/pretrain/curve.tsv"),
) -> None:
    """Write the weights after `pretrain.max_steps` steps from random or given ones, and the learning curve."""
    base = path_under(given, pretrain.init_from, "pretrain.init_from")
    shape = resolve_shape(model, base)
    run = Pretraining(shape, pretrain, seed, windows, tokenizer, base, read_first_weights).run
    if not launch(run, weights, metrics, curve, scratch):
        print("pretrain: this node is done; node 0 has the outputs", file=sys.stderr)
        sys.exit(0)


if __name__ == "__main__":
    stage.run(main)
