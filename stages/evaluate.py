"""Weights and held-out text → bits per byte, beside the baselines; samples."""

import json
import sys
from typing import Annotated

from llm import stage
from llm.evaluate.likelihood import plan_document_spans, plan_spans, summarise, token_losses
from llm.evaluate.params import EvaluateParams
from llm.evaluate.samples import write_samples
from llm.plots import draw_bars
from llm.runtime import Machine
from llm.stage import Input, Output, Param, Seed
from llm.text.tokenizer import Tokenizer
from llm.text.windows import read_info, read_stream
from llm.train.checkpoint import load_model

NAMES = {
    "model": "this model",
    "xz_given_train": "xz -9e, given the training text",
    "zstd_given_train": "zstd -19 --long, given the training text",
    "xz": "xz -9e",
    "zstd": "zstd -19 --long",
    "trigram": "trigrams of the same tokens",
    "unigram": "unigrams of the same tokens",
}


def main(
    evaluate: Annotated[EvaluateParams, Param("evaluate")],
    seed: Seed,
    weights: Input,
    windows: Input,
    tokenizer: Input,
    baselines: Input,
    metrics: Output,
    picture: Output,
    samples: Output,
) -> None:
    """Score all of val and test, each token once; an empty split is left out."""
    machine = Machine.find()
    machine.keep_memory()
    model = load_model(weights).to(machine.device)
    if model.sees_the_future:
        print(f"evaluate: warning: {model.config.attention} attention sees what it predicts", file=sys.stderr)
    info = read_info(windows)
    report = {}
    for split in ("val", "test"):
        stream = read_stream(windows, split)
        if len(stream):
            context = model.config.context_length
            stride = min(evaluate.stride, context)
            if info.boundary == "document":
                spans = plan_document_spans(stream, info.end_of_text, context, stride)
            else:
                spans = plan_spans(len(stream), context, stride)
            losses = token_losses(model, stream, spans, evaluate.batch_size, machine, f"evaluate {split}")
            report[split] = summarise(losses, info.n_bytes[split])
    if not info.lossless:
        print("evaluate: warning: the tokens do not hold all of the text, bits per byte flatter", file=sys.stderr)
    limits = {"lossless_tokens": info.lossless, "sees_the_future": model.sees_the_future}
    stage.write_json(metrics, {**report, **limits, "matmul_dtype": machine.matmul_dtype})
    rivals = json.loads(baselines.read_text(encoding="utf-8"))
    shown = "test" if "test" in report else "val"
    values = {"model": report[shown]["bits_per_byte"], **rivals[shown]} if report else {}
    draw_bars(
        {NAMES[name]: value for name, value in sorted(values.items(), key=lambda pair: pair[1])},
        f"held-out text ({shown})" if report else "no text was held out",
        "bits per byte, less is better",
        picture,
        highlight=NAMES["model"],
    )
    samples.write_text(write_samples(model, Tokenizer.load(tokenizer), evaluate, seed), encoding="utf-8")


if __name__ == "__main__":
    stage.run(main)
