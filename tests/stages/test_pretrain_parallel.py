"""The stage in several processes: on two nodes, killed, stopped and resumed, with sharded weights."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from llm.model.config import ModelParams
from llm.train import pretrain as library
from llm.train.params import OptimizerParams, PretrainParams, ScheduleParams
from stages import pretrain

ROOT = Path(__file__).resolve().parents[2]
VOCAB, CONTEXT, STEPS = 97, 17, 300
PARAMS = PretrainParams(
    max_steps=STEPS,
    batch_size=4,
    micro_batch_size=2,
    final_no_dropout_fraction=0.4,
    init=None,
    init_from=None,
    optimizer=OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.01, weight_decay=0.0, max_grad_norm=10.0),
    schedule=ScheduleParams(kind="wsd", warmup_steps=2, decay_fraction=0.5, final_lr_fraction=0.0),
    weight_averaging="ema",
    ema_half_life_fraction=0.05,
    tail_fraction=0.05,
    eval_every_steps=40,
    eval_windows=6,
    early_stopping_patience=None,
    checkpoint_every_steps=7,
    checkpoint_selection="best",
    compile="never",
)
OUTPUTS = {"weights": "weights", "metrics": "metrics.json", "curve": "curve.tsv"}


@pytest.fixture
def shape(config):
    small = {"d_model": 12, "n_heads": 1, "n_kv_heads": 1, "d_ff": 16, "n_layers": 1, "dropout": 0.1}
    return ModelParams(**(config.model_dump(exclude={"vocab_size", "context_length"}) | small))


@pytest.fixture
def inputs(tmp_path, write_windows_folder, small_tokenizer_file):
    """Windows of 17 targets and of fewer, so that the shares of a batch differ."""
    rng = np.random.default_rng(1)
    documents = [rng.integers(1, 9, size=size).tolist() for size in (30, 9, 20, 5, 40, 13, 25, 3, 18, 11)]
    splits = {"train": documents, "val": documents[::-1]}
    windows = write_windows_folder(tmp_path / "windows", splits, VOCAB, CONTEXT, boundary="document")
    (tmp_path / "given").mkdir()
    return {"windows": windows, "tokenizer": small_tokenizer_file, "given": tmp_path / "given"}


@pytest.fixture
def run_alone(tmp_path, shape, inputs, plain_cpu, monkeypatch):
    monkeypatch.setattr(library, "matmul_peak", lambda machine: 1e9)

    def run(params):
        folder = tmp_path / "alone"
        (folder / "scratch").mkdir(parents=True)
        outputs = [folder / name for name in OUTPUTS.values()]
        pretrain.main(shape.model_dump(), params, 1, folder / "scratch", *inputs.values(), *outputs)
        return folder

    return run


# Imports once; starts the stage as a line says, in a process of its own, and prints its id, or waits for one to end.
STARTER = """
import json, os, sys
import torch._dynamo
from llm.core import stage
from stages import pretrain
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        os.chdir(asked["folder"])
        os.environ.update(asked["environment"])
        output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        sys.exit(stage.run(pretrain.main))
"""


@pytest.fixture
def start(tmp_path, shape, inputs):
    """A starter of the stage in a folder of its own: its process, the folder, and a function for code and output."""
    options = inputs | {option: f"out/{name}" for option, name in OUTPUTS.items()}
    command = [sys.executable, "-c", STARTER, *(f"--{option}={path}" for option, path in options.items())]
    plain = {"GROUNDUP_DEVICE": "cpu", "GROUNDUP_DTYPE": "float32", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    starter = subprocess.Popen(command, env=os.environ | plain, **pipes)
    # A test that hangs ends here, and everything that it has started.
    guard = threading.Timer(300, _kill_all, [starter.pid])
    guard.start()

    def ask(**asked):
        starter.stdin.write(json.dumps(asked) + "\n")
        return int(starter.stdout.readline())

    def start(name, params=PARAMS, **environment):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        sections = {"seed": 1, "model": shape.model_dump(), "pretrain": params.model_dump()}
        (folder / "params.yaml").write_text(json.dumps(sections), encoding="utf-8")
        (folder / "output").write_bytes(b"")
        process = psutil.Process(ask(folder=str(folder), environment=environment))
        return process, folder, lambda: (ask(wait=process.pid), (folder / "output").read_text(encoding="utf-8"))

    yield start
    guard.cancel()
    _kill_all(starter.pid)
    starter.communicate()


def _kill_all(pid):
    for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        process.kill()


def _wait_for_a_text(folder):
    deadline = time.monotonic() + 60
    while " writes " not in (folder / "output").read_text(encoding="utf-8") and time.monotonic() < deadline:
        time.sleep(0.01)


def _bytes(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _assert_close(folder, expected):
    curves = []
    for each in (folder, expected):
        with (each / "curve.tsv").open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            curves.append([{name: float(value) for name, value in row.items()} for row in reader])
    for row, other in zip(*curves, strict=True):
        assert row == pytest.approx(other, abs=2e-3)


def _metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_nodes_killed_and_stopped_runs_end_in_the_same_bytes(start, run_alone):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    nodes = [start(f"node {node}", **address, NODE_RANK=str(node)) for node in range(2)]
    codes, outputs = zip(*(end() for _, _, end in nodes), strict=True)
    assert codes == (0, 0), outputs
    first, second = (folder for _, folder, _ in nodes)
    assert "pretrain: step 40 writes " in outputs[0]
    assert outputs[1] == "pretrain: this node is done; node 0 has the outputs\n"
    assert not (second / "out").exists()
    _assert_close(first / "out", run_alone(PARAMS))
    machine = _metrics(first / "out")["machine"]
    assert (machine["processes"], machine["sharded"]) == (2, False)

    process, folder, end = start("killed", NPROC="2")
    _wait_for_a_text(folder)
    members = [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(members) == 2
    process.send_signal(signal.SIGKILL)
    assert end()[0] == -signal.SIGKILL
    assert not psutil.wait_procs(members, timeout=20)[1]

    process, folder, end = start("killed", NPROC="2")
    _wait_for_a_text(folder)
    process.send_signal(signal.SIGTERM)
    code, output = end()
    assert code == 128 + signal.SIGTERM, output
    stops = re.findall(r"pretrain: stopped at step (\d+), checkpoint saved; run again to resume\n", output)
    assert len(stops) == 1, output
    assert int(stops[0]) < STEPS
    assert [path.name for path in (folder / "out").iterdir() if path.name != ".scratch"] == []

    _, folder, end = start("killed", NPROC="2")
    code, output = end()
    assert code == 0, output
    assert output.count(f"pretrain: resumed at step {stops[0]}\n") == 1
    assert _bytes(folder / "out") == _bytes(first / "out")
    assert len(_bytes(folder / "out")) == 4


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sharded_weights_learn_the_same(start, run_alone, processes):
    short = PARAMS.model_copy(update={"max_steps": 6, "eval_every_steps": 3, "weight_averaging": None})
    _, folder, end = start("sharded", short, NPROC=processes, GROUNDUP_SHARD="1")
    alone = run_alone(short)
    code, output = end()
    assert code == 0, output
    _assert_close(folder / "out", alone)
    machine = _metrics(folder / "out")["machine"]
    assert (machine["sharded"], machine["processes"]) == (True, int(processes))
    assert _metrics(folder / "out")["parameters"] == _metrics(alone)["parameters"]
    sizes = {(out / "weights/model.safetensors").stat().st_size for out in (folder / "out", alone)}
    assert len(sizes) == 1
