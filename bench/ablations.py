"""Train variants of params.yaml for the same time and score them on all of val: what each choice is worth.

    python -m bench.ablations --seconds 100              all of them, after `dvc repro`
    python -m bench.ablations --seconds 100 --only lr  variants with this in their name; can be repeated

Each variant runs on one thread, two at a time. It gets as many steps as its median step, in CPU time, fits into the
seconds: its cost counts, other processes do not. Compilation is excluded. One seed: differences smaller than those
between seeds mean nothing.
"""

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from tqdm import tqdm

from bench.shakespeare import run_stages
from bench.train import start_child

ROOT = Path(__file__).resolve().parents[1]
ADAMW = {"pretrain.optimizer.kind": "adamw"}
DROPOUT = {"model.dropout": 0.1}
# The dropout masks of a block that remain: on attention weights, on the attention output, on the feed-forward output.
SITES = {"weights": [0], "added": [1, 2]}
VARIANTS: dict[str, dict[str, Any]] = {
    "params.yaml": {},
    "another seed": {"seed": 2},
    "a third seed": {"seed": 3},
    "Muon, lr 0.01": {"pretrain.optimizer.muon_lr": 0.01},
    "Muon, AdamW's lr 0.003": {"pretrain.optimizer.adamw_lr": 0.003},
    "AdamW, lr 0.002": ADAMW | {"pretrain.optimizer.adamw_lr": 0.002},
    "AdamW, lr 0.004": ADAMW | {"pretrain.optimizer.adamw_lr": 0.004},
    "AdamW, lr 0.008": ADAMW | {"pretrain.optimizer.adamw_lr": 0.008},
    "random init": {"pretrain.init": "random"},
    "untied head": {"model.tie_embeddings": False},
    "no QK-norm (family llama)": {"model.family": "llama"},
    "one key/value head": {"model.n_kv_heads": 1},
    "one head (rung causal)": {"model.attention": "causal"},
    "rung trainable: sees the future": {"model.attention": "trainable"},
    "rung simplified: sees the future": {"model.attention": "simplified"},
    "positions: none": {"model.positions": "none"},
    "positions: sinusoidal": {"model.positions": "sinusoidal"},
    "positions: learned": {"model.positions": "learned"},
    "GRU of the same size": {"model.family": "gru"},
    "dropout 0.1": DROPOUT,
    "dropout 0.1 on attention weights only": DROPOUT | {"sites": "weights"},
    "dropout 0.1 on block outputs only": DROPOUT | {"sites": "added"},
    "vocabulary 1,024": {"tokenize.vocab_size": 1024},
    "vocabulary 4,096": {"tokenize.vocab_size": 4096},
    "context 128, 16 windows": {"sample.context_length": 128, "pretrain.batch_size": 16},
    "context 512, 4 windows": {"sample.context_length": 512, "pretrain.batch_size": 4},
    "batch of 4 windows": {"pretrain.batch_size": 4},
    "batch of 16 windows": {"pretrain.batch_size": 16},
    "schedule: decay over the last fifth": {"pretrain.schedule.decay_fraction": 0.2},
    "schedule: decay from the start": {"pretrain.schedule.decay_fraction": 1.0},
    "schedule: cosine": {"pretrain.schedule.kind": "cosine"},
    "schedule: constant": {"pretrain.schedule.kind": "constant"},
    "average: EMA": {"pretrain.weight_averaging": "ema", "pretrain.ema_half_life_fraction": 0.05},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ablations", allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=100.0, help="of training steps, on one thread")
    parser.add_argument("--only", action="append", default=[], help="variants with this in their name")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run(**json.loads(args.child))))
        return
    names = [name for name in VARIANTS if not args.only or any(part in name for part in args.only)]
    if not names:
        parser.error(f"--only: expected a part of a variant's name, got {', '.join(args.only)}")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        jobs = {name: job_of(VARIANTS[name], args.seconds, Path(folder)) for name in names}
        threads = {"OMP_NUM_THREADS": "1"}
        futures = {name: pool.submit(start_child, "bench.ablations", job, threads) for name, job in jobs.items()}
        print(f"{args.seconds:.0f} s of steps on one thread each, {args.jobs} at once\n")
        report(futures)


def report(futures: dict[str, Future[dict[str, Any]]]) -> None:
    print("| variant | ms a step | steps | val, bits per byte |\n| --- | --- | --- | --- |")
    for name, future in tqdm(futures.items(), unit=" runs"):
        found = future.result()
        cells = "failed: {failed} | |" if "failed" in found else "{ms:.0f} | {steps} | {bits:.3f}"
        print(f"| {name} | {cells.format(**found)} |", flush=True)


def job_of(changes: dict[str, Any], seconds: float, folder: Path) -> dict[str, Any]:
    """Return the arguments of `run`; a variant of tokens or windows gets windows of its own."""
    params = varied({key: value for key, value in changes.items() if key != "sites"})
    has_own = any(key.startswith(("sample", "tokenize")) for key in changes)
    windows = windows_of(params, folder) if has_own else ""
    return {"params": params, "windows": windows, "sites": changes.get("sites"), "seconds": seconds}


def varied(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the content of params.yaml with other values at dotted keys."""
    params: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        *path, last = key.split(".")
        section = params
        for part in path:
            section = section[part]
        section[last] = value
    return params


def windows_of(params: dict[str, Any], folder: Path) -> str:
    """Make tokens and windows of the corpus in data/ with these params; return the folder of windows."""
    place = Path(tempfile.mkdtemp(dir=folder))
    with (place / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)
    (place / "data").mkdir()
    for made in ("corpus", "given"):
        (place / "data" / made).symlink_to(ROOT / "data" / made)
    run_stages(place, ("tokenize", "sample"))
    return str(place / "data" / "windows")


def run(params: dict[str, Any], windows: str, sites: str | None, seconds: float) -> dict[str, float]:
    """Train one variant; return its step in ms, its number of steps, and bits per byte of val."""
    from llm.core.device import Machine
    from llm.evaluate.likelihood import plan_spans, score_tokens, summarise
    from llm.model import gpt as gpt_module
    from llm.model.config import ModelConfig
    from llm.model.dropout import block_masks
    from llm.model.gpt import GPT
    from llm.tokens.windows import read_info, read_stream, read_windows
    from llm.train.batches import WindowBatches
    from llm.train.language import LanguageLoss
    from llm.train.loop import TrainConfig, train
    from llm.train.params import PretrainParams

    if sites:
        kept = SITES[sites]

        def masks(noise: torch.Tensor | None, layer: int, n_sequences: int) -> list[torch.Tensor | None]:
            drawn = block_masks(noise, layer, n_sequences)
            return [mask if place in kept else None for place, mask in enumerate(drawn)]

        vars(gpt_module)["block_masks"] = masks
    folder = Path(windows) if windows else ROOT / "data" / "windows"
    machine, pretrain, seed = Machine.find(), PretrainParams.model_validate(params["pretrain"]), params["seed"]
    machine.retain_freed_memory()
    info = read_info(folder)
    length = info.context_length
    config = ModelConfig(**params["model"], vocab_size=info.vocab_size, context_length=length)

    def fresh() -> GPT:
        return GPT(config, torch.Generator().manual_seed(seed), pretrain.init)

    model = fresh()
    loss = LanguageLoss(model, machine, compiled=machine.device == "cuda" and machine.compiler)
    batches = WindowBatches([read_windows(folder, "train")], length, pretrain.batch_size, info.pad, seed)

    def learn(n_steps: int) -> list[float]:
        ends = [time.process_time()]

        def parts(step: int) -> list[torch.Tensor]:
            ends.append(time.process_time())
            return [loss(*batches.at(step), model.dropout_keys(seed, step))]

        plan = TrainConfig(
            n_steps=n_steps,
            optimizer=pretrain.optimizer,
            schedule=pretrain.schedule,
            eval_every_steps=n_steps,
            checkpoint_every_steps=n_steps,
            checkpoint_selection="last",
            weight_averaging=pretrain.weight_averaging,
            ema_half_life_fraction=pretrain.ema_half_life_fraction,
            tail_fraction=pretrain.tail_fraction,
            early_stopping_patience=None,
        )
        train(model, parts, None, plan, machine, None)
        return [after - before for before, after in pairwise(ends)]

    step_seconds = statistics.median(learn(25)[5:])
    with torch.no_grad():
        for weight, drawn in zip(model.parameters(), fresh().parameters(), strict=True):
            weight.copy_(drawn)
    n_steps = round(seconds / step_seconds)
    learn(n_steps)
    model.eval()
    stream = read_stream(folder, "val")
    spans = plan_spans(len(stream), length, length // 2)
    losses = score_tokens(model, stream, spans, 8192 // length, machine, "val").nats
    bits = summarise(losses, info.n_bytes["val"])["bits_per_byte"]
    return {"ms": 1000 * step_seconds, "steps": n_steps, "bits": bits}


if __name__ == "__main__":
    main()
