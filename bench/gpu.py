"""Check everything that needs a GPU, in one command of at most six minutes.

    python -m bench.gpu tinyshakespeare.txt --out FOLDER     all parts; each adds to FOLDER/gpu.md when it ends
    python -m bench.gpu tinyshakespeare.txt --only steps     one part; can be repeated
    python -m bench.gpu tinyshakespeare.txt --dry-run        the same with tiny shapes, on the processor, uncompiled

    device       the card, its matrix products and copies
    tests        tests/test_accelerator.py, on the GPU
    resume       pretraining killed and resumed, beside an uninterrupted run: are the weights the same bytes?
    shard        GROUNDUP_SHARD=1 with one process, beside a run without it
    steps        a training step of 124 million weights beside Transformers' of the same shape
    shakespeare  the stages of bench/shakespeare.yaml until the model has nanoGPT's validation loss; uncompiled,
                 compiled, and more steps

Each part is a process of its own with a time limit; rows that it has reported stay when it fails or is killed. `tests`,
`resume` and `shard` measure no time and run side by side, the others alone. Every part compiles from an empty cache.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from bench.shakespeare import LONG_STEPS, PARAMS, ROOT, command_of, regularize, run_stages, set_up, stage_environment

TARGET_NATS = 1.4697  # nanoGPT's README: its character-level model of 10.6 million weights on one A100
WARMUP_STEPS, N_STEPS = 3, 20
# nanoGPT's micro-batch and context for GPT-2.
WINDOWS, CONTEXT = 12, 1024
SMALL_MODEL = {"d_model": 128, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "d_ff": 256}


@dataclass(frozen=True)
class Part:
    """A part by name: its function, its time limit, and whether it runs beside its neighbors in the list."""

    name: str
    run: Callable[[Path, bool], None]
    seconds: float
    side_by_side: bool = False


MIN_SECONDS = 20  # left, for a part to be started
COMPILE_SECONDS, TIMING_SECONDS = 95, 15  # of the part `steps`: for all children together, and for each of them


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", allow_abbrev=False)
    parser.add_argument("text", type=Path, metavar="TEXT", help="tiny Shakespeare, or another text file")
    parser.add_argument("--out", type=Path, help="a folder for gpu.md, gpu.json and gpu.log; else they are not kept")
    parser.add_argument("--only", action="append", choices=[part.name for part in PARTS], help="can be repeated")
    parser.add_argument("--limit", type=float, default=350, help="seconds for all of it")
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny shapes on the processor, uncompiled, without limits"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.text.is_file():
        parser.error(f"TEXT: expected a text file, got {args.text}")
    if args.step:
        time_step(args.step, args.dry_run)
    elif args.part:
        next(part for part in PARTS if part.name == args.part).run(args.text.resolve(), args.dry_run)
    else:
        try:
            for stage in ("prepare", "tokenize", "sample", "pretrain", "baselines", "evaluate"):
                import_module(f"stages.{stage}")
        except ModuleNotFoundError as error:  # on a borrowed machine: better now than after minutes
            parser.error(f"the stages need {error.name}, which is not installed")
        run_parts(args)


def run_parts(args: argparse.Namespace) -> None:
    """Run every part, and write what each found as soon as it has ended."""
    began = time.monotonic()
    make_older_than_now()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = args.out or folder
        out.mkdir(parents=True, exist_ok=True)

        def run(part: Part) -> None:
            left = math.inf if args.dry_run else args.limit - (time.monotonic() - began)
            found[part.name] = run_part(part, left, args, folder)
            write_found(out, dict(found), folder)
            print(as_markdown(part.name, found[part.name]), flush=True)

        parts = [part for part in PARTS if not args.only or part.name in args.only]
        for side_by_side, group in groupby(parts, key=lambda part: part.side_by_side and not args.dry_run):
            members = list(group)
            with ThreadPoolExecutor(len(members) if side_by_side else 1) as pool:
                list(pool.map(run, members))
        print(f"all parts: {time.monotonic() - began:.0f} s", flush=True)


def run_part(part: Part, left: float, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one part in a process group of its own; return how it ended, its seconds and its rows."""
    if left < MIN_SECONDS:
        return {"ended": f"not started, {left:.0f} s were left", "seconds": 0.0, "rows": []}
    limit = None if args.dry_run else min(part.seconds, left)
    own = folder / part.name
    own.mkdir()
    command = [sys.executable, "-m", "bench.gpu", str(args.text.resolve()), "--part", part.name]
    command += ["--dry-run"] * args.dry_run
    environment = stage_environment() | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(own)}
    # Compilation from an empty cache is a part of what is measured.
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(own / "inductor"), "TRITON_CACHE_DIR": str(own / "triton")}
    if args.dry_run:
        environment |= {"GROUNDUP_DEVICE": "cpu", "TORCHDYNAMO_DISABLE": "1"}
    began = time.monotonic()
    with (own / "rows").open("w") as rows, (own / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=rows, stderr=log, start_new_session=True)
        try:
            code = process.wait(limit)
            ended = "ok" if code == 0 else f"failed with {code}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:.0f} s"
        finally:
            end_group(process)
    lines = (own / "rows").read_text(errors="replace").splitlines()
    result = {"ended": ended, "seconds": round(time.monotonic() - began, 1)}
    result["rows"] = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    if ended != "ok":
        result["log"] = (own / "log").read_text(errors="replace")[-1500:]
    return result


def end_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process with all that it started and that did not leave its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write_found(out: Path, found: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write all that was found so far, as JSON, as Markdown, and what was printed on the way."""
    (out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "gpu.md").write_text("\n".join(as_markdown(name, result) for name, result in found.items()))
    logs = [
        f"== {name}\n{(folder / name / 'log').read_text(errors='replace')[-60_000:]}"
        for name in found
        if (folder / name / "log").exists()
    ]
    (out / "gpu.log").write_text("\n".join(logs))


def as_markdown(name: str, result: dict[str, Any]) -> str:
    """Return a part's rows; neighbours with the same keys become one table."""
    lines = [f"## {name}: {result['ended']}, {result['seconds']:.0f} s", ""]
    for keys, group in groupby(result["rows"], key=list):
        rows = [[as_cell(value) for value in row.values()] for row in group]
        lines += [
            f"| {' | '.join(keys)} |",
            f"|{' --- |' * len(keys)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
        ]
    if "log" in result:
        lines += ["```", result["log"], "```", ""]
    return "\n".join(lines)


def as_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.5g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def make_older_than_now() -> None:
    """Set the times of files that are newer than this machine's clock: stages refuse code that was just edited."""
    now = time.time()
    for path in [*(ROOT / "llm").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        if path.stat().st_mtime > now - 1:
            os.utime(path, (now - 60, now - 60))


def note(**row: Any) -> None:
    """Report one row of a part."""
    print(json.dumps(row), flush=True)


def show_device(text: Path, dry: bool) -> None:
    """Report the card, the versions, and the ceilings: the best matrix product and the best copy."""
    import torch

    from bench.train import timed
    from llm.core.device import Machine, matmul_peak

    if not dry:
        query = "--query-gpu=name,memory.total,driver_version,clocks.sm,power.draw,temperature.gpu"
        shown = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
        note(card=shown.stdout.strip() or shown.stderr.strip())
    packages = ("torch", "triton", "transformers", "pydantic", "numpy", "pyarrow", "tokenizers")
    note(python=sys.version.split()[0], cores=os.cpu_count(), **{name: installed(name) for name in packages})
    machine = Machine.find()
    note(**machine.describe())
    note(matmul_tflops=round(matmul_peak(machine, 0.3 if dry else 1.0) / 1e12, 2), dtype=machine.matmul_dtype)
    source = torch.empty(1 << (20 if dry else 31), dtype=torch.uint8, device=machine.device).fill_(1)
    target = torch.empty_like(source)
    seconds = [timed(lambda: target.copy_(source), machine)[0] for _ in range(10)]
    note(copy_gb_per_second=round(2 * source.numel() / min(seconds) / 1e9))


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "–"


def run_tests(text: Path, dry: bool) -> None:
    """Run the tests that are marked for CUDA, and report failures and the summary."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", "-m", "cuda"]
    # Neither plugins nor warnings of packages that happen to be on the machine decide here.
    command += ["-W", "default", "tests/test_accelerator.py"]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    assert process.stdout
    summary = ""
    for line in process.stdout:
        print(line, end="", file=sys.stderr, flush=True)
        if line.startswith(("FAILED", "ERROR ")):
            note(test=line.strip())
        if any(word in line for word in (" passed", " failed", " skipped", " error")) and " in " in line:
            summary = line.strip("= \n")
            note(tests=summary)
    if process.wait():
        raise SystemExit("a test failed")
    if "passed" not in summary and not dry:
        raise SystemExit("no test ran: torch finds no GPU here")


def small_params(**pretrain: Any) -> dict[str, Any]:
    """Params of a run of seconds."""
    from ruamel.yaml import YAML

    params = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
    params["tokenize"] |= {"vocab_size": 512, "dropout": 0.0, "segmentations": 1}
    params["model"] |= SMALL_MODEL | {"dropout": 0.1}
    params["pretrain"] |= {"weight_averaging": "ema", "checkpoint_selection": "best"} | pretrain
    return params


def small_windows(folder: Path, text: Path, params: dict[str, Any]) -> None:
    """Run the stages before pretraining on the beginning of the text."""
    begin = folder / "begin.txt"
    begin.write_text(text.read_text(encoding="utf-8")[:200_000], encoding="utf-8")
    set_up(folder / "start", params, begin)
    run_stages(folder / "start", ("prepare", "tokenize", "sample"))


def check_resume(text: Path, dry: bool) -> None:
    """Compare an uninterrupted pretraining with one that was killed and went on, each from its own empty cache."""
    folder = Path(tempfile.mkdtemp())
    n_steps, every = (60, 10) if dry else (400, 20)
    steps = {"max_steps": n_steps, "eval_every_steps": n_steps // 4, "checkpoint_every_steps": every}
    small_windows(folder, text, small_params(**steps))

    def in_folder(name: str, choice: str) -> Path:
        own = folder / f"{choice}-{name}"
        shutil.copytree(folder / "start", own)
        set_up(own, small_params(**steps, compile=choice))
        return own

    def whole(choice: str) -> dict[str, str]:
        own = in_folder("whole", choice)
        pretrain_in(own)
        return hashes(own)

    def killed(choice: str) -> tuple[dict[str, str], str]:
        own = in_folder("killed", choice)
        with pretraining(own) as process:
            while process.poll() is None and not list(own.glob(".scratch/pretrain/*/scratch/*/state.pt")):
                time.sleep(0.005)
            was_running = process.poll() is None
            process.kill()
        resumed = [line for line in pretrain_in(own).splitlines() if "resumed at step" in line]
        return hashes(own), resumed[0].rpartition(" ")[2] if was_running and resumed else "not killed in time"

    def compare(choice: str) -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(1 if dry else 2) as pool:
            uninterrupted, resumed = pool.submit(whole, choice), pool.submit(killed, choice)
            expected, (got, step) = uninterrupted.result(), resumed.result()
        same = [name for name in expected if expected[name] == got[name]]
        seconds, weights = round(time.monotonic() - began, 1), expected["models/pretrained/model.safetensors"][:12]
        found = {"same_bytes": len(same) == len(expected), "same": ", ".join(same), "weights": weights}
        note(compile=choice, killed_at_step=step, **found, seconds=seconds)

    with ThreadPoolExecutor(1 if dry else 2) as pool:
        list(pool.map(compare, ("never",) if dry else ("never", "always")))


def pretrain_in(folder: Path, **environment: str) -> str:
    """Run the pretrain stage in a folder to its end; return what it printed."""
    with pretraining(folder, **environment) as process:
        code = process.wait()
    log = (folder / "log").read_text()
    if code:
        sys.exit(f"{folder.name}: ended with {code}\n{log[-3000:]}")
    return log


def pretraining(folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the pretrain stage in a folder, with caches of its own; what it prints goes into the file `log`."""
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "TRITON_CACHE_DIR": str(folder / "triton")}
    variables = stage_environment() | caches | environment
    with (folder / "log").open("a") as log:
        return subprocess.Popen(command_of("pretrain"), cwd=folder, env=variables, stdout=log, stderr=log, text=True)


def hashes(folder: Path) -> dict[str, str]:
    from llm.core.outputs import file_hash

    names = ("models/pretrained/model.safetensors", "metrics/pretrain.json", "plots/pretrain/curve.tsv")
    return {name: file_hash(folder / name) for name in names}


def check_shard(text: Path, dry: bool) -> None:
    """Train a few steps with sharded weights in a group of one process, beside the same steps without it."""
    from safetensors.torch import load_file

    folder = Path(tempfile.mkdtemp())
    params = small_params(max_steps=20, eval_every_steps=10, checkpoint_every_steps=10, compile="never")
    small_windows(folder, text, params)
    weights = []
    sharded = {"NPROC": "1", "GROUNDUP_SHARD": "1", "NCCL_DEBUG": "VERSION"}
    for name, environment in {"plain": {}, "sharded": sharded}.items():
        own = folder / name
        shutil.copytree(folder / "start", own)
        began = time.monotonic()
        log = pretrain_in(own, **environment)
        metrics = read_json(own / "metrics/pretrain.json")
        found = {key: metrics[key] for key in ("train_loss", "val_loss")} | {"sharded": metrics["machine"]["sharded"]}
        nccl = [line.partition("NCCL version")[2].strip() for line in log.splitlines() if "NCCL version" in line]
        note(run=name, **found, nccl=nccl[0] if nccl else "–", seconds=round(time.monotonic() - began, 1))
        weights.append(load_file(own / "models/pretrained/model.safetensors"))
    differ = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
    note(largest_difference_of_weights=differ)


# Steps of 124 million weights that are timed, and whether they are compiled first.
STEPS = {
    "Transformers Qwen3ForCausalLM, compiled": True,
    "ours, compiled": True,
    "ours, compiled, reductions tuned by timing": True,
    "ours, compiled, attention by torch's SDPA": True,
    "ours, uncompiled": False,
}


def time_steps(text: Path, dry: bool) -> None:
    """Let all children compile at once, then time them one by one, so that none disturbs another."""
    from llm.core.device import Machine, matmul_peak

    peak, shape = matmul_peak(Machine.find(), 0.3 if dry else 1.0), step_shape(dry)
    note(matmul_tflops=round(peak / 1e12, 2), tokens_per_step=shape.tokens_per_step, **shape.model)
    command = [sys.executable, "-m", "bench.gpu", str(text), *["--dry-run"] * dry, "--step"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    children = {name: subprocess.Popen([*command, name], **pipes) for name in STEPS}
    ready = first_lines(children, None if dry else COMPILE_SECONDS)
    for name, child in children.items():
        rows = time_child(child, bool(ready[name]), None if dry else TIMING_SECONDS)
        for row in rows:
            seconds, flops = row["ms"] / 1000, row.pop("flops")
            speed = {"tokens_per_second": round(shape.tokens_per_step / seconds)}
            speed |= {"mfu": round(flops / seconds / peak, 4), "first_step_seconds": float(ready[name])}
            note(row=f"{name}, {row.pop('optimizer')}", **row, **speed)
        if not rows:
            note(row=name, failed="see gpu.log")


def time_child(child: "subprocess.Popen[str]", is_ready: bool, limit: float | None) -> list[dict[str, Any]]:
    """Let a child that has compiled time its steps; return its rows, as many as it has printed within the limit."""
    try:
        printed, _ = child.communicate("go\n" if is_ready else None, timeout=limit)
    except subprocess.TimeoutExpired:
        child.kill()
        printed = child.communicate()[0]
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def first_lines(children: dict[str, subprocess.Popen[str]], limit: float | None) -> dict[str, str]:
    """Return the first line that each child prints; one that has printed none after `limit` seconds is killed."""
    with ThreadPoolExecutor(len(children)) as pool:
        lines = {name: pool.submit(child.stdout.readline) for name, child in children.items() if child.stdout}
        for name in {name for name, line in lines.items() if line in wait(lines.values(), limit).not_done}:
            children[name].kill()
    return {name: line.result() for name, line in lines.items()}


def step_shape(dry: bool) -> Any:
    from bench.train import GPU_124M, MODEL, Shape

    tiny = {"d_model": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "d_ff": 128, "vocab_size": 256}
    own = tiny | {"context_length": 64} if dry else GPU_124M | {"context_length": CONTEXT}
    return Shape(MODEL | own | {"tie_embeddings": True}, 2 if dry else WINDOWS)


def time_step(name: str, dry: bool) -> None:
    """Compile a step, print its seconds, wait for a line, then time the step with each of its optimizers."""
    import torch

    from bench.train import OURS, QWEN3, Setting, draw, their_step, timed
    from llm.core.device import Machine

    machine, shape = Machine.find(), step_shape(dry)
    machine.retain_freed_memory()
    gpt, batch = draw(shape, machine)
    setting = Setting(QWEN3, machine.matmul_dtype, compiled=True)
    theirs = not name.startswith(OURS)
    steps = iter([("adamw", their_step(gpt, setting, machine))]) if theirs else our_steps(gpt, machine, name)
    first = next(steps)
    began = time.perf_counter()
    first_step(partial(first[1], 0, *batch))
    seconds = time.perf_counter() - began
    if machine.device == "cuda":
        torch.cuda.empty_cache()  # other children compile in what is free
    print(round(seconds, 1), flush=True)
    sys.stdin.readline()
    for kind, step in chain([first], steps):  # the next optimizer is made when the one before is done
        if machine.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        took = [timed(partial(step, number, *batch), machine) for number in range(1, 1 + WARMUP_STEPS + N_STEPS)]
        ms = sorted(second for second, _ in took[WARMUP_STEPS:])[N_STEPS // 2] * 1000
        row = {
            "ms": round(ms, 3),
            "peak_gb": round(machine.peak_memory() / 1e9, 2),
            "loss": round(float(took[-1][1]), 4),
        }
        note(optimizer=kind, **row, flops=gpt.flops_per_token() * shape.tokens_per_step)


def first_step(step: Callable[[], Any], tries: int = 4) -> None:
    """Take the step that compiles; while other children fill the memory, wait and retry."""
    import torch

    for left in reversed(range(tries)):
        try:
            float(step())
            return
        except torch.OutOfMemoryError:
            if not left:
                raise
            torch.cuda.empty_cache()
            time.sleep(5)


def our_steps(gpt: Any, machine: Any, name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the step of `llm.train.loop` with each optimizer, from the same weights: one compilation for both."""
    import torch

    from bench.train import optimizer_step
    from llm.model import attention
    from llm.train import language

    if "SDPA" in name:
        sdpa = torch.nn.functional.scaled_dot_product_attention
        attention.CAUSAL["grouped"] = lambda q, k, v, *_: sdpa(q, k, v, is_causal=True)
    if "tuned" in name:
        language.compile_options = lambda machine: None
    gpt.to(machine.device)
    weights = {key: weight.detach().clone() for key, weight in gpt.named_parameters()}
    loss_of = language.LanguageLoss(gpt, machine, compiled=STEPS[name])
    for kind in ("adamw", "muon"):
        gpt.load_state_dict(weights, strict=False)
        yield kind, optimizer_step(gpt, loss_of, kind, machine)


def train_shakespeare(text: Path, dry: bool, choice: str = "never", is_long: bool = False) -> None:
    """Run the stages on the text: the last tenth is held out, scored once, every byte of it."""
    from ruamel.yaml import YAML

    params = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
    if is_long:
        params["pretrain"]["max_steps"] = LONG_STEPS
    regularize(params, text.stat().st_size)
    if dry:
        params["pretrain"] |= {"max_steps": 10}
        params["model"] |= SMALL_MODEL
        params["tokenize"]["segmentations"] = 1
    params["pretrain"]["compile"] = "never" if dry else choice
    folder, pretrain = Path(tempfile.mkdtemp()) / "run", params["pretrain"]
    set_up(folder, params, text)
    tokens = pretrain["batch_size"] * params["sample"]["context_length"]
    note(steps=pretrain["max_steps"], tokens_per_step=tokens, compile=pretrain["compile"])
    units = f"BPE of {params['tokenize']['vocab_size']}, nats per byte"
    note(units=units, characters_are_bytes=text.read_bytes().isascii(), split="first 90%, last 10%")
    seconds = run_stages(folder, ("prepare", "tokenize", "sample", "pretrain"))
    runtime = read_json(folder / "metrics/runtime/pretrain.json")
    note(peak_gpu_memory_mb=runtime.get("peak_gpu_memory_mb", "–"), peak_memory_mb=runtime["peak_memory_mb"])
    note(**{name: round(value, 1) for name, value in seconds.items()}, until_model=round(sum(seconds.values()), 1))
    scored = run_stages(folder, ("baselines", "evaluate"))
    bits = read_json(folder / "metrics/evaluate.json")["val"]["model"]["bits_per_byte"]
    trained, nats = read_json(folder / "metrics/pretrain.json"), bits * math.log(2)
    note(nats_per_byte=round(nats, 4), bits_per_byte=bits, target_nats=TARGET_NATS, reached=nats <= TARGET_NATS)
    shown = {name: trained[name] for name in ("parameters", "epochs")}
    note(**shown, **{f"{name}_seconds": round(value, 1) for name, value in scored.items()})


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


PARTS = [
    Part("device", show_device, 40),
    Part("tests", run_tests, 110, side_by_side=True),
    Part("resume", check_resume, 110, side_by_side=True),
    Part("shard", check_shard, 90, side_by_side=True),
    Part("steps", time_steps, 130),
    Part("shakespeare", train_shakespeare, 70),
    Part("shakespeare-compiled", partial(train_shakespeare, choice="always"), 90),
    Part("shakespeare-long", partial(train_shakespeare, choice="always", is_long=True), 100),
]

if __name__ == "__main__":
    main()
