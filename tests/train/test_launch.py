"""Processes that are launched, and their failures; this file is also the script that launches."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from torch.distributed import TCPStore

from llm.core.errors import UserError
from llm.train import launch as module
from llm.train.launch import Layout, launch

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("NPROC", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
NODES = {"NNODES": "2", "MASTER_ADDR": "first.example"}


@pytest.fixture
def layout(monkeypatch):
    def layout(environment):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Layout.from_environment()

    return layout


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Layout(1, 1, 0, "127.0.0.1", 0)),
        (NODES | {"NPROC": "3", "NODE_RANK": "1", "MASTER_PORT": "29500"}, Layout(3, 2, 1, "first.example", 29500)),
        ({"NPROC": "two"}, "expected NPROC as a number from 1 to 65535, got two"),
        ({"NPROC": "9" * 5000}, "expected NPROC as a number from 1 to 65535, got " + "9" * 40),
        ({"NNODES": "2", "NODE_RANK": "2"}, "expected NODE_RANK below NNODES 2, got 2"),
        (NODES, "expected MASTER_ADDR and MASTER_PORT with NNODES 2"),
        (NODES | {"MASTER_PORT": "0"}, "expected MASTER_PORT as a number from 1 to 65535, got 0"),
    ],
)
def test_the_environment_gives_the_layout_or_a_reason(layout, environment, expected):
    if isinstance(expected, Layout):
        assert layout(environment) == expected
    else:
        with pytest.raises(UserError) as caught:
            layout(environment)
        assert str(caught.value) == f"environment: {expected}"


def test_a_single_process_is_this_one(layout):
    layout({})
    calls = []
    assert launch(lambda *args: calls.append((args, os.getpid())), 1, "two")
    assert calls == [((1, "two"), os.getpid())]


def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"^environment: expected MASTER_PORT {port} free on node 0, ") as caught:
            module._host_store(Layout(1, 2, 0, "127.0.0.1", port))
    assert "\n" not in str(caught.value)


def test_nodes_with_other_numbers_of_processes_are_refused():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.compare_set("layout", "", "NPROC 2 and NNODES 2")
    problem = "got NPROC 2 and NNODES 2 on one and NPROC 1 and NNODES 2 on another$"
    with pytest.raises(UserError, match=f"^environment: expected the same on every node, {problem}"):
        module._join_group(0, Layout(1, 2, 1, "127.0.0.1", store.port), store.port, "cpu")


def _both_fail(folder):
    """Rank 0 may well fail because rank 1 has."""
    if module.dist.get_rank() == 0:
        raise ValueError("ours")
    time.sleep(0.2)
    raise UserError("theirs")


def _one_is_killed(folder):
    if module.dist.get_rank() == 1:
        os._exit(9)
    time.sleep(1000)


def _disk_full(folder):
    if module.dist.get_rank() == 1:
        raise OSError(28, "No space left on device")
    module.dist.barrier()


@pytest.mark.parametrize(
    ("member", "code", "message"),
    [
        (_both_fail, 2, "theirs\n"),
        (_one_is_killed, 1, "terminated abruptly"),
        (_disk_full, 2, "the disk: no space left, No space left on device; free some and run it again\n"),
    ],
)
def test_a_failure_ends_all_and_a_user_error_comes_first(tmp_path, member, code, message):
    environment = {"PYTHONPATH": str(ROOT), "NPROC": "2", "OMP_NUM_THREADS": "1", "GROUNDUP_DEVICE": "cpu"}
    command = [sys.executable, __file__, member.__name__, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=os.environ | environment, start_new_session=True, **pipes) as process:
        try:
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            for left in [*psutil.Process(process.pid).children(recursive=True), process]:
                left.kill()
            raise
    assert process.returncode == code, output
    assert output == message if code == 2 else message in output


@pytest.mark.parametrize(("name", "value"), [("NPROC", "2"), ("GROUNDUP_SHARD", "1")])
def test_a_gpu_of_apple_trains_in_one_process(monkeypatch, layout, name, value):
    layout({name: value})
    monkeypatch.setenv("GROUNDUP_DEVICE", "mps")
    with pytest.raises(UserError, match=r"^environment: expected one process without GROUNDUP_SHARD on mps; "):
        launch(print)


if __name__ == "__main__":
    module.GRACE_SECONDS = 3.0
    try:
        launch(globals()[sys.argv[1]], Path(sys.argv[2]))
    except UserError as error:
        print(error)
        sys.exit(2)
