"""Weights and held-out text → bits per byte beside the baselines, their breakdown, text quality and samples."""

import sys
from pathlib import Path
from typing import Annotated, Any

from llm.core import stage
from llm.core.device import Machine
from llm.core.outputs import write_json
from llm.core.params import Count
from llm.core.stage import Input, Output, Param, Seed
from llm.core.tables import iterate_rows
from llm.evaluate.breakdown import read_baselines
from llm.evaluate.generations import choose_prompts, describe_samples, example_of, generate_samples, read_passage
from llm.evaluate.measure import measure, read_held_out, summarise_systems, write_plots
from llm.evaluate.params import EvaluateParams
from llm.evaluate.quality import measure_quality
from llm.model.weights import load_model
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import read_info


def main(
    evaluate: Annotated[EvaluateParams, Param("evaluate")],
    ngram: Annotated[Count, Param("sample.contamination_ngram")],
    seed: Seed,
    weights: Input = Path("models/pretrained"),
    windows: Input = Path("data/windows"),
    tokens: Input = Path("data/tokens"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    baselines: Input = Path("metrics/baselines.json"),
    document_bits: Input = Path("data/baselines.parquet"),
    corpus: Input = Path("data/corpus"),
    metrics: Output = Path("metrics/evaluate.json"),
    details: Output = Path("metrics/details/evaluate.json"),
    plots: Output = Path("plots/evaluate"),
) -> None:
    """Score all of val and test, each token once; a split without text is left out. Plots show test, else val."""
    machine = Machine.find()
    machine.retain_freed_memory()
    model = load_model(weights).to(machine.device)
    encoder, lossless = Tokenizer.load(tokenizer), read_info(windows).lossless
    if reason := model.config.non_causal_reason:
        print(f"evaluate: warning: {reason}", file=sys.stderr)
    if not lossless:
        print("evaluate: warning: the tokens do not hold all of the text, bits per byte are too low", file=sys.stderr)
    held_out, by_split = read_held_out(windows, tokens, encoder, ngram), read_baselines(baselines, document_bits)
    splits = {text.name: measure(model, text, evaluate, machine, by_split[text.name], seed) for text in held_out}
    train = (row["text"] for row in iterate_rows(corpus / "train.parquet", ["text"]))
    quality, continuations = measure_quality(model, encoder, held_out, evaluate.quality, train, seed)
    if "skipped" in quality:
        print(f"evaluate: text quality is not measured: {quality['skipped']}")
    prompts_from, prompts = choose_prompts(evaluate, windows, encoder, seed)
    generations = generate_samples(model, encoder, prompts, evaluate, seed)
    passage = read_passage(corpus, [*splits])
    samples, scored = describe_samples(model, encoder, generations, passage, evaluate, machine)
    limits = {"lossless_tokens": lossless, "non_causal": not model.config.is_causal}
    others = {"matmul_dtype": machine.matmul_dtype, "example_prompt": example_of(prompts)}
    write_json(metrics, summarise_systems(splits, quality) | limits | others)
    texts: dict[str, Any] = {"prompts_from": prompts_from, "sample_tokens": evaluate.sample_tokens, "samples": samples}
    texts |= {"passage": scored, "continuations": continuations}
    write_json(details, {"splits": splits, "quality": quality} | texts)
    write_plots(plots, next(reversed(splits.values()), {}))


if __name__ == "__main__":
    stage.run(main)
