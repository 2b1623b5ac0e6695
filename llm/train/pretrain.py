"""Pretrain a language model: token windows → weights and a learning curve."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from llm.core.device import Machine, matmul_peak, memory_advice
from llm.core.errors import UserError
from llm.core.outputs import file_hash, write_json
from llm.model import kernels
from llm.model.config import ModelConfig, ModelParams
from llm.model.generate import generate, greedy
from llm.model.gpt import GPT, uniform_loss
from llm.model.weights import save_model
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import read_info, read_windows
from llm.train import parallel
from llm.train.batches import SegmentedBatches, WindowBatches, validation_batches
from llm.train.checkpoint import Checkpoint
from llm.train.curve import Curve
from llm.train.language import LanguageLoss, ShardedLoss, should_compile, split_loss, unsharded
from llm.train.loop import TrainConfig, train
from llm.train.params import LoopParams, PretrainParams

SAMPLE_TOKENS = 60


@dataclass(frozen=True)
class Pretraining:
    """Params and inputs of a run; every process has them, pickled."""

    model: ModelParams
    params: PretrainParams
    seed: int
    windows: Path
    tokenizer: Path
    base: Path | None  # a folder with initial weights
    read_base: Callable[[Path, ModelConfig, Path], GPT]  # from such a folder, for ids of a tokenizer

    def run(self, weights: Path, metrics: Path, curve: Path, scratch: Path) -> None:
        """Train in this process, which may be one of several; rank 0 writes the outputs."""
        machine = Machine.find()
        machine.retain_freed_memory()
        batches = TrainingBatches(self)
        parallel.check_same_on_all_nodes(
            params=(self.model, self.params, self.seed),
            windows=(batches.info, batches.size),
            init_from=self.base and file_hash(self.base),
        )
        with memory_advice(_memory_hint(self.params, batches.info.context_length)):
            gpt = self._initial_model(batches)
            learning_curve = self._train(gpt, batches, machine, scratch)
        if machine.sharded:
            gpt = unsharded(gpt)
        if not parallel.rank():
            save_model(weights, gpt)
            learning_curve.write(curve)
            content = _metrics(gpt, self.params, learning_curve, batches)
            write_json(metrics, content | {"machine": machine.describe() | {"kernels": bool(kernels.key())}})

    def _initial_model(self, batches: "TrainingBatches") -> GPT:
        info = batches.info
        config = ModelConfig(**self.model.model_dump(), vocab_size=info.vocab_size, context_length=info.context_length)
        if self.base is not None:
            return self.read_base(self.base, config, self.tokenizer)
        if self.params.init == "previous_token_heads" and not config.supports_previous_token_heads:
            raise UserError(
                "pretrain.init: expected random or null for a model without causal attention and rotary positions, "
                "got previous_token_heads"
            )
        return GPT(config, Generator().manual_seed(self.seed), self.params.init)

    def _train(self, gpt: GPT, batches: "TrainingBatches", machine: Machine, scratch: Path) -> Curve:
        params = self.params
        losses = Losses(self, gpt, batches, machine)
        peak = parallel.sum_over_processes(matmul_peak(machine))
        print(f"pretrain: matrix products reach {peak / 1e9:,.0f} GFLOP/s; MFU is relative to it", file=sys.stderr)
        if reason := gpt.config.non_causal_reason:
            print(f"pretrain: {reason}, so its losses are meaningless", file=sys.stderr)
        config = TrainConfig(
            **{name: getattr(params, name) for name in LoopParams.model_fields},
            n_steps=params.max_steps,
            uniform_loss=uniform_loss(gpt.config.vocab_size),
            divergence_hint=_divergence_hint(params),
            tokens_per_step=batches.n_tokens,
            flops_per_step=float(gpt.flops_per_token()) * batches.n_tokens,
            peak_flops=peak,
            label="pretrain",
        )
        tokenizer = Tokenizer.load(self.tokenizer)
        writes = gpt.config.is_causal and not (machine.sharded or parallel.rank())
        sample = (lambda: _sample(gpt, tokenizer)) if writes else None
        checkpoint = None if parallel.rank() else Checkpoint(scratch / f"{machine.key()}{kernels.key()}")
        return train(gpt, losses.of_step, losses.of_val if losses.val else None, config, machine, checkpoint, sample)


class TrainingBatches(SegmentedBatches):
    """The batches of a pretraining."""

    def __init__(self, job: Pretraining):
        self.info, params = read_info(job.windows), job.params
        text, length = read_windows(job.windows, "train"), self.info.context_length
        if not len(text.starts):
            n_tokens = len(text.stream)
            raise UserError(f"sample.context_length: expected more than {length} tokens of train, got {n_tokens}")
        if not text.weights.any():
            raise UserError("sample.weights: expected a positive weight for a source in train, got 0 for each")
        options = length, params.batch_size, self.info.pad, job.seed
        self.size = len(text.stream), len(text.starts)
        self.n_tokens = params.batch_size * length  # in a batch
        segmentations = [read_windows(job.windows, name) for name in self.info.segmentations]
        dropout = WindowBatches(segmentations, *options) if segmentations else None
        super().__init__(WindowBatches([text], *options), dropout, params.max_steps, params.final_no_dropout_fraction)


class Losses:
    """The losses of training and validation, of this process' rows in micro-batches."""

    def __init__(self, job: Pretraining, gpt: GPT, batches: TrainingBatches, machine: Machine):
        params, info = job.params, batches.info
        self.gpt, self.batches, self.seed = gpt, batches, job.seed
        self.micro, self.n_micro = micro_batch_size(params), params.batch_size // micro_batch_size(params)
        windows = read_windows(job.windows, "val")
        self.val = validation_batches(windows, info.context_length, params.batch_size, info.pad, params.eval_windows)
        if params.early_stopping_patience and not self.val:
            raise UserError("pretrain.early_stopping_patience: expected held-out text (prepare.split.val), got none")
        work = float(gpt.flops_per_token()) * batches.n_tokens * params.max_steps / parallel.n_processes()
        compiled = not machine.sharded and should_compile(params.compile, work, machine)
        self.loss = (
            ShardedLoss(gpt, machine) if machine.sharded else LanguageLoss(gpt.to(machine.device), machine, compiled)
        )

    def of_step(self, step: int) -> Iterator[Tensor]:
        """Yield the losses of micro-batches, each with dropout keys of its own, whichever process computes it."""
        first = step * self.n_micro + parallel.rank() * self.n_micro // parallel.n_processes()
        ids, target, share = parallel.shard_rows(*self.batches.at(step))
        for part in split_loss(
            self.loss, ids, target, self.micro, lambda part: self.gpt.dropout_keys(self.seed, first + part)
        ):
            yield part * share

    def of_val(self) -> float:
        """Return the mean loss of the validation batches."""
        with torch.set_grad_enabled(self.loss.compiled):  # without gradients the graph would be compiled once more
            own = sum(
                part.item() * counts
                for batch, counts in parallel.round_robin_shard(self.val)
                for part in split_loss(self.loss, *batch, self.micro)
            )
        return parallel.sum_over_processes(own) / len(self.val)


def micro_batch_size(params: PretrainParams) -> int:
    """Return the rows that go through the model at once; each process has a multiple of them."""
    n_processes = parallel.n_processes()
    micro = params.micro_batch_size or max(1, params.batch_size // n_processes)
    if params.batch_size % (n_processes * micro):
        factor = f"micro_batch_size {micro} x {n_processes}" if params.micro_batch_size else n_processes
        raise UserError(f"pretrain.batch_size: expected a multiple of {factor} processes, got {params.batch_size}")
    return micro


def _memory_hint(params: PretrainParams, context_length: int) -> str:
    micro, rows = micro_batch_size(params), params.batch_size // parallel.n_processes()
    divisors = [size for size in range(1, micro // 2 + 1) if rows % size == 0]
    smaller = f"pretrain.micro_batch_size {divisors[-1]}, or " if divisors else ""
    return f"try {smaller}a shorter sample.context_length than {context_length}"


def _divergence_hint(params: PretrainParams) -> str:
    names = ["muon_lr", "adamw_lr"] if params.optimizer.kind == "muon" else ["adamw_lr"]
    values = " and ".join(f"pretrain.optimizer.{name} {getattr(params.optimizer, name)}" for name in names)
    warmup = params.schedule.warmup_of(params.max_steps)
    return f"half of {values}, or more than {warmup} pretrain.schedule.warmup_steps"


def _sample(gpt: GPT, tokenizer: Tokenizer) -> str:
    """Return a greedy continuation of <|endoftext|>."""
    end = tokenizer.end_of_text
    return tokenizer.decode(generate(gpt, [end], SAMPLE_TOKENS, greedy, stop=frozenset({end})))


def _metrics(gpt: GPT, params: PretrainParams, curve: Curve, batches: TrainingBatches) -> dict[str, Any]:
    n_steps = int(curve.rows[-1]["step"])
    selected = curve.best() if params.checkpoint_selection == "best" else curve.rows[-1]
    return {
        "parameters": gpt.n_parameters(),
        "flops_per_token": gpt.flops_per_token(),
        "tokens_seen": n_steps * batches.n_tokens,
        "epochs": round(batches.epochs(n_steps), 3),
        "selected_step": selected["step"],
        "train_loss": selected["train_loss"],
        **({"val_loss": selected["val_loss"]} if "val_loss" in selected else {}),
    }
