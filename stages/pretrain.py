"""Token windows → the weights of a language model, and its learning curve."""

import csv
from pathlib import Path
from typing import Annotated

import torch

from llm import stage
from llm.errors import UserError
from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT
from llm.plots import draw_curve
from llm.runtime import Machine
from llm.stage import Input, Output, Param, Scratch, Seed
from llm.text.windows import Windows, read_info, read_windows
from llm.train.batches import WindowBatches, take_windows
from llm.train.checkpoint import RunState, save_model
from llm.train.language import LanguageLoss, pays_to_compile
from llm.train.loop import Curve, Plan, train
from llm.train.params import PretrainParams


def main(
    model: Annotated[ModelParams, Param("model")],
    pretrain: Annotated[PretrainParams, Param("pretrain")],
    seed: Seed,
    windows: Input,
    weights: Output,
    metrics: Output,
    curve: Output,
    picture: Output,
    scratch: Scratch,
) -> None:
    """Train from fresh weights for `pretrain.max_steps` steps; write `weights` (a folder), curve and metrics."""
    machine = Machine.find()
    machine.keep_memory()
    info = read_info(windows)
    batch, length = pretrain.batch_size, info.context_length
    text = read_windows(windows, "train")
    if not len(text.starts):
        raise UserError(
            f"sample.context_length: wanted a training text of more than {length} tokens, given {len(text.stream)}"
        )
    if not text.weights.any():
        raise UserError("sample.weights: wanted a source to train on, given 0 for each one that train has")
    config = ModelConfig(**model.model_dump(), vocab_size=info.vocab_size, context_length=length)
    gpt = GPT(config, torch.Generator().manual_seed(seed)).to(machine.device)
    batches = WindowBatches([text], length, batch, info.pad, seed)
    dropped = [read_windows(windows, name) for name in info.segmentations]
    before = WindowBatches(dropped, length, batch, info.pad, seed) if dropped else batches
    clean_from = round(pretrain.max_steps * (1 - pretrain.clean_share)) if dropped else 0
    work = float(gpt.flops_per_token()) * batch * length * pretrain.max_steps

    def batch_at(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return before.at(step) if step < clean_from else batches.at(step - clean_from)

    loss = LanguageLoss(gpt, machine, pays_to_compile(pretrain.compile, work, machine))
    checks = _validation_batches(read_windows(windows, "val"), length, batch, info.pad, pretrain.eval_windows)

    def val_loss() -> float:
        # Gradients stay on, though nobody asks for them: without, the graph would be compiled once more.
        return sum(loss(*check).item() for check in checks) / len(checks)

    learned = train(
        gpt,
        step_loss=lambda step: loss(*batch_at(step)),
        val_loss=val_loss if checks else None,
        plan=Plan(
            n_steps=pretrain.max_steps,
            optimizer=pretrain.optimizer,
            schedule=pretrain.schedule,
            eval_every_steps=pretrain.eval_every_steps,
            checkpoint_every_steps=pretrain.checkpoint_every_steps,
            keep=pretrain.keep,
            tokens_per_step=batch * length,
            label="pretrain",
        ),
        machine=machine,
        state=RunState(scratch / machine.key()),
    )
    save_model(weights, gpt)
    _write_curve(curve, learned)
    draw_curve(learned.rows, "pretraining", picture)
    kept = learned.best() if pretrain.keep == "best" else learned.rows[-1]
    stage.write_json(
        metrics,
        {
            "parameters": gpt.n_parameters(),
            "flops_per_token": gpt.flops_per_token(),
            "tokens_seen": pretrain.max_steps * batch * length,
            "epochs": round(before.epochs(clean_from) + batches.epochs(pretrain.max_steps - clean_from), 3),
            "kept_step": kept["step"],
            "train_loss": kept["train_loss"],
            **({"val_loss": kept["val_loss"]} if "val_loss" in kept else {}),
            "machine": machine.describe(),
        },
    )


def _validation_batches(
    windows: Windows, length: int, batch: int, pad: int, most: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Up to `most` windows, evenly spread over val, in batches of the training's shape; none of an empty val.

    What fills no batch is left out, unless there is not even one: then the batch is a smaller one.
    """
    n_windows = len(windows.starts)
    size = min(batch, most, n_windows)
    if not size:
        return []
    count = min(most, n_windows) // size * size
    chosen = [(windows, place * n_windows // count) for place in range(count)]
    return [take_windows(chosen[at : at + size], length, pad) for at in range(0, count, size)]


def _write_curve(path: Path, curve: Curve) -> None:
    columns = ["step", "train_loss", "val_loss", "rate"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve.rows)


if __name__ == "__main__":
    stage.run(main)
