"""Weights and their training text → how much of it the model reproduces verbatim, with unseen text as the control."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from llm.core import stage
from llm.core.device import Machine
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Seed
from llm.core.tables import read_table
from llm.evaluate.generations import choose_prompts, generate_samples
from llm.evaluate.memorization import continue_prefixes, copies, sample_positions, search_generations
from llm.evaluate.params import EvaluateParams, MemoriseParams
from llm.model.weights import load_model
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import read_info, read_stream


def main(
    memorise: Annotated[MemoriseParams, Param("memorise")],
    evaluate: Annotated[EvaluateParams, Param("evaluate")],
    seed: Seed,
    weights: Input = Path("models/pretrained"),
    windows: Input = Path("data/windows"),
    tokens: Input = Path("data/tokens"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    metrics: Output = Path("metrics/memorise.json"),
    details: Output = Path("metrics/details/memorise.json"),
) -> None:
    """Continue prefixes of train and test greedily, and search train for the samples of the stage `evaluate`."""
    machine = Machine.find()
    machine.retain_freed_memory()
    model = load_model(weights).to(machine.device)
    encoder, end_of_text = Tokenizer.load(tokenizer), read_info(windows).end_of_text
    train, test = (read_stream(windows, split) for split in ("train", "test"))
    paths, ends = read_table(tokens / "train.parquet", ["path"])["path"], np.flatnonzero(train == end_of_text)

    def locate(position: int, length: int) -> dict[str, Any]:
        text = encoder.decode(train[position : position + length].tolist())
        return {"tokens": length, "document": paths[int(np.searchsorted(ends, position)) - 1].as_py(), "text": text}

    of_train, of_test = (
        continue_prefixes(model, stream, end_of_text, memorise, np.random.default_rng([seed, number]))
        for number, stream in enumerate((train, test))
    )
    n_tokens = evaluate.sample_tokens
    draws = sample_positions(test, end_of_text, n_tokens, memorise.prefixes, np.random.default_rng([seed, 2]))
    _, prompts = choose_prompts(evaluate, windows, encoder, seed)
    samples = generate_samples(model, encoder, prompts, evaluate, seed)
    figures, runs = search_generations(samples, train, [test[at : at + n_tokens] for at in draws], locate)
    few: dict[str, Any] = {split: {"model": of.metrics()} for split, of in (("train", of_train), ("test", of_test))}
    few |= {"generations": figures, "copies": copies(of_train, of_test)}
    write_json(metrics, few)
    settings = {"prefix_tokens": of_train.prefix_tokens, "sample_tokens": n_tokens}
    settings |= {"non_causal": not model.config.is_causal}
    write_json(details, few | settings | {"recalled": of_train.longest(locate), "samples": runs})


if __name__ == "__main__":
    stage.run(main)
