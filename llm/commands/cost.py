"""What the pipeline will cost on this machine: seconds by stage and memory, before it runs.

    params + sizes of text and rows + a measured training step ──estimate──► Cost

Pretraining is a measured step times the number of steps. Finetuning and evaluation are tokens times the same measured
passes, and a part that was measured once; other stages grow with the text by constants, measured once on two cores
(AMD EPYC) with documentation as text: they are rough.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llm.commands.check import Params, check_params
from llm.commands.outdated import outdated_stages
from llm.commands.sizes import Rows, Sizes, read_sizes
from llm.core.derived import derive
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.experiments.timing import StepCost, measure_step, state_bytes
from llm.finetune.params import ClassifyTask, TaskParams
from llm.model.config import ModelConfig
from llm.train.pretrain import micro_batch_size

PREDICTION = Path("metrics/runtime/predicted/cost.json")
# Seconds of a stage: of its start, and of a megabyte of text.
BY_TEXT = {
    "prepare": (1.0, 0.93),
    "label": (0.5, 0.1),
    "tokenize": (1.0, 0.21),
    "sample": (0.5, 0.09),
    "baselines": (0.3, 1.65),
}
SEGMENTATION_SECONDS = 1.3  # of a megabyte of train, for each segmentation with dropout
FIXED = {"export": 6.6, "page": 2.2, "cloze": 2.4, "card": 1.3, "report": 2.5}
MEASURED = {"pretrain", "evaluate", "memorise", "finetune"}  # stages whose time follows from a training step
START_SECONDS = 2.2  # of a stage, for DVC and imports; not in the time that a stage reports
PRETRAIN_SECONDS, EVALUATE_SECONDS, MEMORISE_SECONDS, FINETUNE_SECONDS = 2.0, 2.0, 2.5, 20.0
SKIPPED_SECONDS = 0.4  # of a task of docstrings, where the text has none
CONVERT_SECONDS = {"classify": 0.4, "instruct": 4.1, "dpo": 4.1}
GENERATED_TOKEN = 3.0  # forward passes of a token of text that are worth a generated one, in a batch
SAMPLE_SECONDS = 0.2  # of the text that pretraining writes beside an evaluation
COMPARED_TOKENS = 50  # after each prefix of memorise
FINETUNE_BYTES = 2_200_000_000  # on a processor, with the libraries that score and verify


@dataclass(frozen=True)
class Cost:
    """Seconds by stage as the stages report them, and the most bytes of the stages that train."""

    stages: dict[str, float]
    memory: dict[str, int]
    step: StepCost | None  # None where no stage trains

    @property
    def seconds(self) -> float:
        """All stages, with what DVC and imports add."""
        return sum(self.stages.values()) + START_SECONDS * len(self.stages)

    @property
    def peak_bytes(self) -> int:
        """The most memory of a stage."""
        return max(self.memory.values(), default=0)

    def of(self, names: Iterable[str]) -> "Cost":
        """Return the cost of some of the stages."""
        chosen = set(names)
        stages = {name: of for name, of in self.stages.items() if name in chosen}
        return Cost(stages, {name: of for name, of in self.memory.items() if name in chosen}, self.step)

    def describe(self) -> str:
        """Return one line with the time of all stages and of the longest ones."""
        longest = sorted(self.stages.items(), key=lambda of: -of[1])[:4]
        parts = ", ".join(f"{name} {minutes(seconds)}" for name, seconds in longest)
        memory = f", at most {self.peak_bytes / 1e9:.1f} GB of memory" if self.memory else ""
        return f"expected: about {minutes(self.seconds)} on this machine{memory} ({parts})"

    def write(self, path: Path) -> None:
        """Write the prediction, which nothing in the pipeline depends on, beside the measured times."""
        memory = {name: round(of / 1e6) for name, of in self.memory.items()}
        seconds = {name: round(of, 1) for name, of in self.stages.items()}
        write_json(path, {"seconds": seconds, "peak_memory_mb": memory, "start_seconds": START_SECONDS})


def minutes(seconds: float) -> str:
    """Return a duration in words.

    >>> minutes(42), minutes(150), minutes(2700), minutes(9000)
    ('42 s', '2.5 minutes', '45 minutes', '2.5 hours')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.2g} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.2g} hours"


def estimate(
    params: Params, sizes: Sizes, machine: Machine, seconds: float = 3.0, step: StepCost | None = None
) -> Cost:
    """Return the cost of all stages; UserError where it exceeds the memory.

    Without the cost of a step of this shape, steps are timed for about `seconds`.
    """
    config = ModelConfig(
        **params.model.model_dump(), vocab_size=sizes.vocab_size, context_length=params.sample.context_length
    )
    n_windows = micro_batch_size(params.pretrain)
    free = machine.available_memory()
    if (state := state_bytes(config, params.pretrain.optimizer)) > free:
        need = f"expected weights, gradients and the optimizer's state in {_gb(free)} of free memory, got {_gb(state)}"
        raise UserError(f"model.d_model {config.d_model}, n_layers {config.n_layers}: {need}; try a smaller model")
    step = step or measure_step(config, params.pretrain.optimizer, n_windows, machine, seconds)
    cost = Cost(_seconds(params, sizes, config, step), _memory(params, step, sizes, machine), step)
    _refuse_excess(cost, params, free)
    return cost


def predict(path: Path) -> str:
    """Return a line on what `dvc repro` costs, and write it to `PREDICTION`; UserError as `estimate`."""
    params, outdated = check_params(path), outdated_stages()
    if outdated is not None and not outdated:
        return "expected: nothing runs, all stages are up to date"
    sizes = read_sizes(params, Path(), outdated or ())
    trains = outdated is None or any(name.partition("@")[0] in MEASURED for name in outdated)
    cost = estimate(params, sizes, Machine.find()) if trains else Cost(text_seconds(params, sizes), {}, None)
    cost = cost if outdated is None else cost.of(outdated)
    cost.write(PREDICTION)
    return cost.describe()


def text_seconds(params: Params, sizes: Sizes) -> dict[str, float]:
    """Return the seconds of stages that use no model, or a fixed time."""
    train, total = (of / 1e6 for of in (sizes.text_bytes["train"], sum(sizes.text_bytes.values())))
    read = dict.fromkeys(BY_TEXT, total)  # megabytes, by stage
    if params.baselines.train_bytes is not None:
        read["baselines"] -= max(0.0, train - params.baselines.train_bytes / 1e6)
    found = {name: start + each * read[name] for name, (start, each) in BY_TEXT.items()} | FIXED
    if params.tokenize.dropout:
        found["tokenize"] += SEGMENTATION_SECONDS * params.tokenize.segmentations * train
    return found


def pretrain_seconds(params: Params, sizes: Sizes, step: StepCost) -> float:
    """Return the seconds of the stage pretrain."""
    own, held_out = params.pretrain, sizes.text_bytes["val"] + sizes.text_bytes["test"]
    n_val = sizes.text_bytes["val"] / max(held_out, 1) * sizes.held_out_tokens / params.sample.context_length
    n_evals = math.ceil(own.max_steps / derive("pretrain.eval_every_steps", own.max_steps, own.eval_every_steps))
    evaluation = min(own.eval_windows, n_val) * step.forward_seconds + SAMPLE_SECONDS
    n_parts = own.batch_size // micro_batch_size(own)
    return PRETRAIN_SECONDS + own.max_steps * step.seconds(n_parts * micro_batch_size(own)) + n_evals * evaluation


def _seconds(params: Params, sizes: Sizes, config: ModelConfig, step: StepCost) -> dict[str, float]:
    found, forward = text_seconds(params, sizes), step.forward_seconds / config.context_length
    found["pretrain"] = pretrain_seconds(params, sizes, step)
    evaluate, quality, memorise = params.evaluate, params.evaluate.quality, params.memorise
    scored = sizes.held_out_tokens * config.context_length / evaluate.stride_of(config.context_length)
    generated = quality.texts * quality.new_tokens + 10 * evaluate.sample_tokens
    found["evaluate"] = EVALUATE_SECONDS + forward * (scored + GENERATED_TOKEN * generated)
    found["memorise"] = MEMORISE_SECONDS + forward * GENERATED_TOKEN * 2 * memorise.prefixes * COMPARED_TOKENS
    for name, task in params.finetune.tasks.items():
        found[f"finetune@{name}"] = _finetune_seconds(task, sizes.rows[name], params.finetune.n_seeds, config, step)
        found[f"convert@{name}"] = CONVERT_SECONDS[task.kind] if sizes.rows[name].train else SKIPPED_SECONDS
    return found


def _finetune_seconds(task: TaskParams, rows: Rows, n_seeds: int, config: ModelConfig, step: StepCost) -> float:
    if not rows.train:
        return SKIPPED_SECONDS
    training, rates = task.training, task.training.learning_rates
    n_steps = training.epochs * rows.train / training.batch_size
    fit = n_steps * step.update_seconds
    fit += training.epochs * rows.train * rows.mean_tokens * step.window_seconds / config.context_length
    fit += training.n_evals * rows.val * rows.mean_tokens * step.forward_seconds / config.context_length
    searches = len(rates) * training.lr_search_fraction if len(rates) > 1 else 0.0
    n_systems = 2 if isinstance(task, ClassifyTask) else 1  # the same network from random weights
    return FINETUNE_SECONDS + n_systems * (n_seeds + searches) * fit


def _memory(params: Params, step: StepCost, sizes: Sizes, machine: Machine) -> dict[str, int]:
    context, found = params.sample.context_length, {"pretrain": step.peak_bytes(micro_batch_size(params.pretrain))}
    for name, task in params.finetune.tasks.items():
        rows = sizes.rows[name]
        if not rows.train:  # the stage is skipped
            continue
        windows = min(task.training.batch_size, rows.train) * rows.max_tokens / context
        fixed = FINETUNE_BYTES if machine.device == "cpu" else step.fixed_bytes
        found[f"finetune@{name}"] = fixed + round(windows * step.window_bytes)
    return found


def _refuse_excess(cost: Cost, params: Params, free: int) -> None:
    for name, needed in cost.memory.items():
        if needed > free:
            key, size, hint = "pretrain.batch_size", params.pretrain.batch_size, _micro_batch_hint(cost, params, free)
            if name != "pretrain":
                key = f"finetune.tasks.{name.partition('@')[2]}.training.batch_size"
                size, hint = params.finetune.tasks[name.partition("@")[2]].training.batch_size, "try fewer rows"
            got = f"expected {name} in {_gb(free)} of free memory, got {_gb(needed)}"
            raise UserError(f"{key} {size}: {got}; {hint}, or a shorter sample.context_length")


def _micro_batch_hint(cost: Cost, params: Params, free: int) -> str:
    """Return the largest micro-batch that fits."""
    size, step = params.pretrain.batch_size, cost.step
    fitting = [n for n in range(1, size) if size % n == 0 and step is not None and step.peak_bytes(n) <= free]
    return f"try pretrain.micro_batch_size {fitting[-1]}" if fitting else "try a smaller model"


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
