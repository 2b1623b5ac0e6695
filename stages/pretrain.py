"""Token windows → the weights of a language model, and its learning curve."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from llm.core import stage
from llm.core.device import Machine, matmul_peak, memory_advice
from llm.core.errors import UserError
from llm.core.outputs import file_hash, write_json
from llm.core.stage import Input, Output, Param, Scratch, Seed
from llm.export.hf.base import read_first_weights
from llm.model.config import ModelConfig, ModelParams
from llm.model.generate import generate, greedy
from llm.model.gpt import GPT, uniform_loss
from llm.model.weights import save_model
from llm.report.plots import draw_curve
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import Windows, read_info, read_windows
from llm.train.batches import WindowBatches, take_windows
from llm.train.checkpoint import RunState
from llm.train.curve import write_curve
from llm.train.language import LanguageLoss, pays_to_compile, split_loss
from llm.train.launch import launch
from llm.train.loop import TrainConfig, train
from llm.train.parallel import (
    is_main,
    n_processes,
    own_rows,
    rank,
    refuse_if_nodes_differ,
    round_robin_shard,
    sum_over_processes,
)
from llm.train.params import PretrainParams
from llm.train.sharded import ShardedLoss, unsharded

SAMPLE_TOKENS = 60


def main(
    model: Annotated[ModelParams, Param("model")],
    pretrain: Annotated[PretrainParams, Param("pretrain")],
    seed: Seed,
    scratch: Scratch,
    windows: Input = Path("data/windows"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    given: Input = Path("data/given"),
    weights: Output = Path("models/pretrained"),
    metrics: Output = Path("metrics/pretrain.json"),
    curve: Output = Path("plots/pretrain/curve.tsv"),
    picture: Output = Path("plots/pretrain/curve.svg"),
) -> None:
    """Train for `pretrain.max_steps` steps; write `weights` (a folder), curve and metrics.

    It begins with fresh weights, or with those of a folder under `given`, where DVC notices a change. With NPROC
    processes, or on more nodes, as `llm.train.launch` reads it from the environment.
    """
    base = _base(pretrain, given)
    if not launch(_train, model, pretrain, base, seed, windows, tokenizer, weights, metrics, curve, picture, scratch):
        print("pretrain: this node is done; node 0 has the outputs", file=sys.stderr)
        sys.exit(0)


def _train(
    model: ModelParams,
    pretrain: PretrainParams,
    base: Path | None,
    seed: int,
    windows: Path,
    tokenizer: Path,
    weights: Path,
    metrics: Path,
    curve: Path,
    picture: Path,
    scratch: Path,
) -> None:
    """What one process does; the first one writes."""
    machine = Machine.find()
    machine.retain_freed_memory()
    info = read_info(windows)
    batch, length = pretrain.batch_size, info.context_length
    text = _training_text(windows, length)
    refuse_if_nodes_differ(
        model=model,
        pretrain=pretrain,
        seed=seed,
        windows=(info, len(text.stream), len(text.starts)),
        init_from=base and file_hash(base),
    )
    config = ModelConfig(**model.model_dump(), vocab_size=info.vocab_size, context_length=length)
    batches = WindowBatches([text], length, batch, info.pad, seed)
    dropped = [read_windows(windows, name) for name in info.segmentations]
    before = WindowBatches(dropped, length, batch, info.pad, seed) if dropped else batches
    clean_from = round(pretrain.max_steps * (1 - pretrain.final_no_dropout_fraction)) if dropped else 0
    micro = _micro_batch_size(pretrain)
    n_parts = batch // micro
    checks = _validation_batches(read_windows(windows, "val"), length, batch, info.pad, pretrain.eval_windows)
    if pretrain.early_stopping_patience and not checks:
        raise UserError(
            "pretrain.early_stopping_patience: wanted held-out text (prepare.split.val) to stop by, given none"
        )
    reader = Tokenizer.load(tokenizer)

    def batch_at(step: int) -> tuple[Tensor, Tensor]:
        return before.at(step) if step < clean_from else batches.at(step - clean_from)

    with memory_advice(_less_memory(micro, batch // n_processes(), length)):
        gpt = _first_weights(config, pretrain, base, tokenizer, seed)
        flops = float(gpt.flops_per_token()) * batch * length
        if machine.sharded:
            loss: LanguageLoss = ShardedLoss(gpt, machine)
        else:
            compiled = pays_to_compile(pretrain.compile, flops * pretrain.max_steps / n_processes(), machine)
            loss = LanguageLoss(gpt.to(machine.device), machine, compiled)
        if not gpt.config.is_causal:
            print("pretrain: this model sees the tokens that it is to tell: its losses mean nothing", file=sys.stderr)
        peak = sum_over_processes(matmul_peak(machine))
        print(f"pretrain: matrix products reach {peak / 1e9:,.0f} GFLOP/s here, MFU is of that", file=sys.stderr)

        can_write = gpt.config.is_causal and not machine.sharded

        def step_losses(step: int) -> Iterator[Tensor]:
            # Each part of a batch drops other elements, whichever process has it.
            first = step * n_parts + rank() * n_parts // n_processes()
            ids, target, share = own_rows(*batch_at(step))
            for part in split_loss(loss, ids, target, micro, lambda part: gpt.dropout_keys(seed, first + part)):
                yield part * share

        def val_loss() -> float:
            # Gradients stay on, though nobody asks for them: without, the graph would be compiled once more.
            own = sum(
                part.item() * counts
                for check, counts in round_robin_shard(checks)
                for part in split_loss(loss, *check, micro)
            )
            return sum_over_processes(own) / len(checks)

        learned = train(
            gpt,
            step_losses=step_losses,
            val_loss=val_loss if checks else None,
            plan=TrainConfig(
                n_steps=pretrain.max_steps,
                optimizer=pretrain.optimizer,
                schedule=pretrain.schedule,
                eval_every_steps=pretrain.eval_every_steps,
                checkpoint_every_steps=pretrain.checkpoint_every_steps,
                checkpoint_selection=pretrain.checkpoint_selection,
                weight_averaging=pretrain.weight_averaging,
                ema_half_life_fraction=pretrain.ema_half_life_fraction,
                tail_fraction=pretrain.tail_fraction,
                early_stopping_patience=pretrain.early_stopping_patience,
                uniform_loss=uniform_loss(info.vocab_size),
                divergence_hint=_calmer(pretrain),
                tokens_per_step=batch * length,
                flops_per_step=flops,
                peak_flops=peak,
                label="pretrain",
            ),
            machine=machine,
            state=RunState(scratch / machine.key()) if is_main() else None,
            sample=(lambda: _sample(gpt, reader)) if can_write and is_main() else None,
        )
    if machine.sharded:
        gpt = unsharded(gpt)
    if not is_main():
        return
    save_model(weights, gpt)
    write_curve(curve, learned.rows)
    picture.write_text(draw_curve(learned.rows, "pretraining"), encoding="utf-8")
    kept = learned.best() if pretrain.checkpoint_selection == "best" else learned.rows[-1]
    n_steps = int(learned.rows[-1]["step"])
    write_json(
        metrics,
        {
            "parameters": gpt.n_parameters(),
            "flops_per_token": gpt.flops_per_token(),
            "tokens_seen": n_steps * batch * length,
            "epochs": round(before.epochs(min(n_steps, clean_from)) + batches.epochs(max(n_steps - clean_from, 0)), 3),
            "selected_step": kept["step"],
            "train_loss": kept["train_loss"],
            **({"val_loss": kept["val_loss"]} if "val_loss" in kept else {}),
            "machine": machine.describe(),
        },
    )


def _base(pretrain: PretrainParams, given: Path) -> Path | None:
    """The folder that `pretrain.init_from` names, if it names one."""
    if pretrain.init_from is None:
        return None
    base = Path(pretrain.init_from)
    if ".." in base.parts or not base.is_relative_to(given):
        raise UserError(f"pretrain.init_from: wanted a folder under {given}, given {pretrain.init_from}")
    return base


def _first_weights(config: ModelConfig, pretrain: PretrainParams, base: Path | None, tokenizer: Path, seed: int) -> GPT:
    if base is not None:
        return read_first_weights(base, config, tokenizer)
    if pretrain.init == "previous_token_heads" and not config.supports_previous_token_heads:
        raise UserError(
            "pretrain.init: wanted random or null for a model without causal attention and rotary positions, "
            "given previous_token_heads"
        )
    return GPT(config, torch.Generator().manual_seed(seed), pretrain.init)


def _training_text(windows: Path, length: int) -> Windows:
    text = read_windows(windows, "train")
    if not len(text.starts):
        raise UserError(
            f"sample.context_length: wanted a training text of more than {length} tokens, given {len(text.stream)}"
        )
    if not text.weights.any():
        raise UserError("sample.weights: wanted a source to train on, given 0 for each one that train has")
    return text


def _micro_batch_size(pretrain: PretrainParams) -> int:
    """How many rows go through the model at once; a batch is so many of them in each process."""
    micro = pretrain.micro_batch_size or max(1, pretrain.batch_size // n_processes())
    if pretrain.batch_size % (n_processes() * micro):
        rows = f"micro_batch_size {micro} x " if pretrain.micro_batch_size else ""
        raise UserError(
            f"pretrain.batch_size: wanted a multiple of {rows}{n_processes()} processes, given {pretrain.batch_size}"
        )
    return micro


def _sample(gpt: GPT, tokenizer: Tokenizer) -> str:
    """What the model writes after <|endoftext|>, the likeliest token each time: nothing is drawn."""
    end = tokenizer.end_of_text
    return tokenizer.decode(generate(gpt, [end], SAMPLE_TOKENS, greedy, stop=frozenset({end})))


def _calmer(pretrain: PretrainParams) -> str:
    rates = {"muon": ["muon_lr", "adamw_lr"], "adamw": ["adamw_lr"]}[pretrain.optimizer.kind]
    given = " and ".join(f"pretrain.optimizer.{name} {getattr(pretrain.optimizer, name)}" for name in rates)
    return f"half of {given}, or more than {pretrain.schedule.warmup_steps} pretrain.schedule.warmup_steps"


def _less_memory(micro: int, batch: int, length: int) -> str:
    divisors = [size for size in range(1, micro // 2 + 1) if batch % size == 0]
    shorter = f"a shorter sample.context_length than {length}"
    return f"try pretrain.micro_batch_size {divisors[-1]}, or {shorter}" if divisors else f"try {shorter}"


def _validation_batches(windows: Windows, length: int, batch: int, pad: int, most: int) -> list[tuple[Tensor, Tensor]]:
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


if __name__ == "__main__":
    stage.run(main)
