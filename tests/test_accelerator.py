"""A GPU gives the numbers of the CPU, compiles steps, and shares checkpoints with the CPU.

For CUDA and for Apple's GPUs (mps); skipped where there is none. `python -m bench.gpu` runs the tests of CUDA with its
other checks; on a Mac run `pytest -m mps`. Those of mps have not been run yet.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from llm.core.device import Machine, matmul_peak, memory_advice
from llm.core.errors import UserError
from llm.evaluate.likelihood import plan_spans, score_tokens
from llm.evaluate.measure import losses_by_context
from llm.experiments.pilot import Excerpt, PilotShape, run_pilots
from llm.experiments.timing import measure_step
from llm.finetune.shared.job import Job
from llm.model.config import ModelParams
from llm.model.generate import generate, generate_batch, greedy
from llm.model.gpt import GPT
from llm.model.weights import load_model, save_model
from llm.tokens.windows import Windows
from llm.train.batches import WindowBatches
from llm.train.checkpoint import Checkpoint
from llm.train.language import LanguageLoss
from llm.train.loop import TrainConfig, train
from llm.train.optimizers import Optimizer
from llm.train.params import OptimizerParams, ScheduleParams

PRESENT = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
DEVICES = [
    pytest.param(name, marks=[getattr(pytest.mark, name), pytest.mark.skipif(not found, reason=f"no {name} device")])
    for name, found in PRESENT.items()
]
# Drivers and compilers for GPUs have warnings of their own.
pytestmark = pytest.mark.filterwarnings("default")
MUON = OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.01, weight_decay=0.01, max_grad_norm=10.0)
SCHEDULE = ScheduleParams(kind="wsd", warmup_steps=3, decay_fraction=0.5, final_lr_fraction=0.0)
STEPS = {"n_steps": 12, "eval_every_steps": 4, "checkpoint_every_steps": 5, "checkpoint_selection": "best"}
AVERAGE = {"weight_averaging": "ema", "ema_half_life_fraction": 0.2, "tail_fraction": 1.0}
PLAN: TrainConfig = TrainConfig(
    **STEPS, **AVERAGE, optimizer=MUON, schedule=SCHEDULE, early_stopping_patience=None, label="test"
)
B, T = 3, 17


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn off TF32, the default in a GRU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(params=DEVICES)
def gpu(request, plain_cpu) -> Machine:
    """In float32, to be compared with the CPU."""
    return replace(plain_cpu, device=request.param)


@pytest.fixture
def batch(config):
    windows = torch.randint(config.vocab_size, (B, T + 1), generator=torch.Generator().manual_seed(1))
    return windows[:, :-1], windows[:, 1:].clone()


def _loss_and_gradients(model, machine, batch, dropout_keys=None):
    loss = LanguageLoss(model.to(machine.device), machine, compiled=False)(*batch, dropout_keys)
    loss.backward()
    return loss.detach().cpu(), {name: weight.grad.cpu() for name, weight in model.named_parameters()}


SHAPES = [{"family": family, "positions": None} for family in ("qwen3", "llama", "qwen2", "gpt2", "gru")]


@pytest.mark.parametrize("shape", [*SHAPES, {"dropout": 0.3}], ids=lambda shape: shape.get("family", "dropout"))
def test_logits_loss_and_gradients_are_those_of_the_cpu(draw_gpt, config, batch, plain_cpu, gpu, shape):
    on_cpu, on_gpu = (draw_gpt(**config.model_dump() | shape) for _ in range(2))
    with torch.no_grad():
        torch.testing.assert_close(
            on_gpu.to(gpu.device)(batch[0].to(gpu.device)).cpu(), on_cpu(batch[0]), rtol=1e-3, atol=1e-3
        )
    (loss, gradients), (gpu_loss, gpu_gradients) = (
        _loss_and_gradients(model, machine, batch, model.dropout_keys(1, 2) if "dropout" in shape else None)
        for model, machine in ((on_cpu, plain_cpu), (on_gpu, gpu))
    )
    torch.testing.assert_close(gpu_loss, loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gpu_gradients, gradients, rtol=1e-2, atol=1e-3)
    if "dropout" in shape:
        assert LanguageLoss(on_gpu, gpu, compiled=False)(*batch).item() != pytest.approx(loss.item(), abs=1e-3)


def test_bfloat16_gradients_point_where_float32_ones_do(draw_gpt, config, batch, plain_cpu, gpu):
    loss, gradients = _loss_and_gradients(draw_gpt(**config.model_dump()), plain_cpu, batch)
    low = replace(gpu, matmul_dtype="bfloat16")
    gpu_loss, gpu_gradients = _loss_and_gradients(draw_gpt(**config.model_dump()), low, batch)
    torch.testing.assert_close(gpu_loss, loss, rtol=0, atol=0.1)
    whole, gpu_whole = (torch.cat([of[name].flatten() for name in gradients]) for of in (gradients, gpu_gradients))
    assert torch.cosine_similarity(whole, gpu_whole, dim=0) > 0.99


def test_compiled_steps_have_the_uncompiled_loss_and_learn(draw_gpt, config, batch, gpu):
    if gpu.device != "cuda":
        pytest.skip("steps are compiled on CUDA only")
    machine = replace(gpu, matmul_dtype="bfloat16")
    model = draw_gpt(**config.model_dump() | {"dropout": 0.1}).to(gpu.device)
    optimizer = Optimizer(model, MUON, machine.dtype, gpu.device)
    compiled, plain = (LanguageLoss(model, machine, compiled=choice) for choice in (True, False))
    losses = []
    for step in range(12):
        keys = model.dropout_keys(1, step)
        with torch.no_grad():
            expected = plain(*batch, keys)
        loss = compiled(*batch, keys)
        torch.testing.assert_close(loss.detach(), expected, rtol=0, atol=0.1)
        loss.backward()
        optimizer.step(step, 1.0)
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.5


class _StoppedError(Exception):
    pass


@pytest.fixture
def learn(config, tmp_path) -> Callable[..., GPT]:
    """Trains a fresh model with dropout; a run with a name can be stopped and resumed."""

    def run(machine: Machine, name: str | None = None, stop_at: int | None = None, seed: int = 1) -> GPT:
        shape = config.model_copy(update={"dropout": 0.1})
        model = GPT(shape, torch.Generator().manual_seed(seed)).to(machine.device)
        loss = LanguageLoss(model, machine, compiled=False)
        stream = np.arange(200, dtype=np.uint16) ** 2 % config.vocab_size
        starts = np.arange(0, 180, 5, dtype=np.int64)
        lengths, weights = np.full(len(starts), T, dtype=np.int32), np.ones(len(starts), dtype=np.float32)
        batches = WindowBatches([Windows(stream, starts, lengths, weights)], T, B, pad=0, seed=1)

        def step_losses(step: int) -> list[torch.Tensor]:
            if step == stop_at:
                raise _StoppedError
            return [loss(*batches.at(step), model.dropout_keys(1, step))]

        def val_loss() -> float:
            return loss(*batches.at(999)).item()

        state = Checkpoint(tmp_path / name) if name else None
        try:
            train(model, step_losses, val_loss, PLAN, machine, state)
        except _StoppedError:
            assert name
        return model

    return run


def _weights(model: GPT) -> dict[str, torch.Tensor]:
    return {name: weight.detach().cpu() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_has_the_bytes_of_an_uninterrupted_one(learn, gpu, dtype):
    machine = replace(gpu, matmul_dtype=dtype)
    uninterrupted, again = _weights(learn(machine)), _weights(learn(machine))
    learn(machine, "killed", stop_at=8)
    resumed = _weights(learn(machine, "killed", seed=2))
    for weights in (again, resumed):
        assert all(torch.equal(weights[name], weight) for name, weight in uninterrupted.items())


@pytest.mark.parametrize("to_gpu", [True, False])
def test_a_run_is_resumed_on_the_other_device(learn, plain_cpu, gpu, to_gpu):
    first, second = (plain_cpu, gpu) if to_gpu else (gpu, plain_cpu)
    learn(first, "moved", stop_at=8)
    torch.testing.assert_close(
        _weights(learn(second, "moved", seed=2)), _weights(learn(plain_cpu)), rtol=0.05, atol=0.02
    )


def test_saved_weights_are_the_same_bytes_from_both_devices(draw_gpt, tmp_path, gpu):
    save_model(tmp_path / "cpu", draw_gpt())
    save_model(tmp_path / "gpu", draw_gpt().to(gpu.device))
    files = [tmp_path / name / "model.safetensors" for name in ("cpu", "gpu")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert load_model(tmp_path / "gpu").embedding.weight.device.type == "cpu"


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gru"])
def test_generation_with_a_kv_cache_is_that_of_full_passes(draw_gpt, gpu, family):
    model = draw_gpt(family=family, n_heads=1 if family == "gru" else 2).to(gpu.device).eval()
    prompt = [7, 301, 5, 42]
    written = list(generate(model, prompt, 30, greedy))
    ids = torch.tensor([prompt + written], device=gpu.device)
    with torch.no_grad():
        likeliest = model(ids)[0, len(prompt) - 1 : -1]
    best = likeliest.max(dim=-1).values
    chosen = likeliest[torch.arange(len(written)), written]
    torch.testing.assert_close(chosen, best, rtol=1e-4, atol=1e-4)  # two may differ in the last bits alone
    assert list(generate(model.cpu(), prompt, 5, greedy)) == written[:5]


def test_figures_of_held_out_text_are_those_of_the_cpu(draw_gpt, config, plain_cpu, gpu):
    model = draw_gpt(**config.model_dump())
    stream = np.random.default_rng(1).integers(config.vocab_size, size=99).astype(np.uint16)
    spans = plan_spans(len(stream), config.context_length, 5)
    windows = [span for span in spans if span.last == config.context_length]
    prefixes = torch.from_numpy(stream[:16].astype(np.int64)).view(2, 8)
    nats, contexts, texts = [], [], []
    for machine in (plain_cpu, gpu):
        model.to(machine.device)
        nats.append(score_tokens(model, stream, spans, 4, machine, "test").nats)
        contexts.append(losses_by_context(model, stream, nats[-1], windows, 4, machine))
        texts.append(generate_batch(model, prefixes.to(machine.device), 5).cpu())
    np.testing.assert_allclose(nats[1], nats[0], rtol=1e-3, atol=1e-3)
    assert contexts[0].keys() == contexts[1].keys()
    for length, losses in contexts[0].items():
        np.testing.assert_allclose(contexts[1][length], losses, rtol=1e-3, atol=1e-3)
    assert torch.equal(*texts)


COLUMNS = {"classify": ["text", "label"], "instruct": ["prompt", "completion"]} | {
    "dpo": ["prompt", "chosen", "rejected"]
}
ROWS = {
    "classify": [(f"of {'rain' if n % 2 else 'sun'} {n}", "wet" if n % 2 else "dry") for n in range(30)],
    "instruct": [(f"name {n}", "rain falls" if n % 2 else "the river") for n in range(30)],
    "dpo": [(f"name {n}", "the rain falls", "a river") for n in range(30)],
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("classify", {"zero_shot": "{text}: {label}"}),
        ("classify", {"method.kind": "lora", "class_weights": "balanced"}),
        ("instruct", {"packing": True}),
        ("dpo", {}),
    ],
    ids=["classify", "classify by lora", "instruct, packed", "dpo"],
)
def test_finetuning_runs_from_rows_to_figures(
    tmp_path: Path, exported_folder, gpu, make_task, write_corpus, kind, changes, dtype
):
    folders = {name: tmp_path / name for name in ("scratch", "model", "plots")}
    for folder in folders.values():
        folder.mkdir()
    write_corpus(tmp_path, {"test": {"a.txt": "The river runs, the rain falls."}})
    splits = ["train", "train", "train", "val", "test"]
    rows = [(*row, splits[number // 2 % 5]) for number, row in enumerate(ROWS[kind])]
    pd.DataFrame(rows, columns=[*COLUMNS[kind], "split"]).to_csv(tmp_path / "rows.csv", index=False)
    files = {"data": tmp_path / "rows.csv", "base": exported_folder, "held_out": tmp_path / "test.parquet"}
    job = Job(**files, **folders, seed=1, n_seeds=1, machine=replace(gpu, matmul_dtype=dtype))
    run = importlib.import_module(f"llm.finetune.{kind}.job").run
    metrics = run(job, make_task(kind, {"training.epochs": 4.0} | changes))[0]
    assert metrics["test"]
    assert "nan" not in str(metrics).lower()
    assert (tmp_path / "model" / "config.json").exists()


def test_the_machine_is_found_with_its_gpu(monkeypatch, gpu):
    for name in ("GROUNDUP_DEVICE", "GROUNDUP_DTYPE"):
        monkeypatch.delenv(name, raising=False)
    machine = Machine.find()
    dtype, least = {"cuda": ("bfloat16", 1e12), "mps": ("float32", 1e11)}[gpu.device]  # cuda: of Ampere and newer
    assert (machine.device, machine.matmul_dtype) == (gpu.device, dtype)
    assert matmul_peak(machine, 0.05) > least
    assert machine.key() != replace(machine, device="cpu").key()
    with pytest.raises(UserError, match="out of memory; less of it"), memory_advice("less of it"):
        torch.empty(1 << 50, dtype=torch.uint8, device=gpu.device)


def test_memory_and_steps_are_measured(config, gpu):
    free = gpu.available_memory()
    cost = measure_step(config, MUON, 4, gpu, seconds=0.2)
    assert 0 < cost.fixed_bytes < free
    assert 0 < cost.forward_seconds < 1 and 0 < cost.window_seconds < 1


def test_a_plan_is_made_of_measured_steps_and_a_pilot(gpu):
    """A pilot run learns on the GPU what it learns on a CPU: random words of four."""
    words, rng = ["alpha ", "beta ", "gamma ", "delta "], np.random.default_rng(0)
    train, val = ("".join(rng.choice(words, size=n)) for n in (4000, 400))
    excerpt = Excerpt([train], [val], {"train": len(train), "val": len(val), "test": 0})
    shape = ModelParams(
        family="qwen3", attention="grouped", positions=None, d_model=32, n_layers=1, n_heads=1, n_kv_heads=1, d_ff=64,
        dropout=0.0, rope_theta=1e4, norm_eps=1e-6, tie_embeddings=True,
    )  # fmt: skip
    pilots, _ = run_pilots(excerpt, PilotShape(shape, 300, "qwen2", 32, MUON, 1), gpu)
    assert 2 / 5.75 < pilots.long.bits_per_byte < 0.5
