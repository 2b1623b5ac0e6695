"""Real processes run the members below; this file is also the script that starts them."""

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


@pytest.fixture
def find(monkeypatch):
    def find(**environment):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Layout.find()

    return find


def test_without_the_variables_there_is_one_process(find):
    assert find() == Layout(1, 1, 0, "127.0.0.1", 0)
    assert find(NPROC="", NNODES="1").n_processes == 1


def test_processes_are_counted_on_all_nodes(find):
    layout = find(NPROC="3", NNODES="2", NODE_RANK="1", MASTER_ADDR="first.example", MASTER_PORT="29500")
    assert layout == Layout(3, 2, 1, "first.example", 29500)
    assert layout.n_processes == 6


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"NPROC": "two"}, "wanted NPROC as a whole number from 1, given two"),
        ({"NPROC": "0"}, "wanted NPROC as a whole number from 1, given 0"),
        ({"NPROC": "9" * 5000}, "expected NPROC up to 65535, got " + "9" * 40),
        ({"NNODES": "2", "MASTER_ADDR": "here", "MASTER_PORT": "65536"}, "expected MASTER_PORT up to 65535, got 65536"),
        ({"NNODES": "-1"}, "wanted NNODES as a whole number from 1, given -1"),
        ({"NNODES": "2", "NODE_RANK": "2"}, "wanted NODE_RANK below NNODES, 2, given 2"),
        ({"NNODES": "2", "MASTER_ADDR": "here"}, "wanted MASTER_ADDR and MASTER_PORT with NNODES 2, one is missing"),
        (
            {"NNODES": "2", "MASTER_ADDR": "here", "MASTER_PORT": "0"},
            "wanted MASTER_PORT as a whole number from 1, given 0",
        ),
    ],
)
def test_a_wrong_variable_is_named(find, environment, told):
    with pytest.raises(UserError) as caught:
        find(**environment)
    assert str(caught.value) == f"environment: {told}"


def test_a_single_process_is_this_one(find):
    find()
    seen = []
    assert launch(lambda *args: seen.append((args, os.getpid())), 1, "two")
    assert seen == [((1, "two"), os.getpid())]


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"^environment: wanted MASTER_PORT {port} free on node 0, ") as caught:
            module._host(Layout(1, 2, 0, "127.0.0.1", port))
    assert "\n" not in str(caught.value)


def test_nodes_with_other_numbers_of_processes_are_refused():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.compare_set("layout", "", "NPROC 2 and NNODES 2")
    with pytest.raises(UserError) as caught:
        module._join_group(0, Layout(1, 2, 1, "127.0.0.1", store.port), store.port, "cpu")
    assert str(caught.value) == (
        "environment: wanted the same on every node, given NPROC 2 and NNODES 2 on one and NPROC 1 and NNODES 2 on "
        "another"
    )


def _told_what(folder):
    """The first has a mistake of ours, which may well come of the second one's, of the user's."""
    if module.dist.get_rank() == 0:
        raise ValueError("ours")
    time.sleep(0.2)
    raise UserError("theirs")


def _fails(folder):
    """The second fails, the first would wait for ever."""
    if module.dist.get_rank() == 1:
        raise ValueError("ours")
    time.sleep(1000)


def _has_no_space(folder):
    """A full disk is one line as well."""
    if module.dist.get_rank() == 1:
        raise OSError(28, "No space left on device")
    time.sleep(1000)


FULL = "the disk: no space left, No space left on device; free some and run it again\n"


@pytest.fixture
def start(tmp_path):
    """A starter of this file as a script, with what one member does; what is left of it is killed at the end."""
    environment = {"PYTHONPATH": str(ROOT), "NPROC": "2", "OMP_NUM_THREADS": "1", "GROUNDUP_DEVICE": "cpu"}
    started = []

    def start(member):
        command = [sys.executable, __file__, member.__name__, str(tmp_path)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, env=os.environ | environment, start_new_session=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        for left in [*_children(process.pid), process]:
            left.kill()
        process.communicate()


def _children(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize(
    ("member", "code", "told"),
    [(_told_what, 2, "theirs\n"), (_fails, 1, "ValueError: ours"), (_has_no_space, 2, FULL)],
)
def test_a_failure_of_one_ends_all_and_what_the_user_got_wrong_comes_first(start, member, code, told):
    process = start(member)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert output == told if code == 2 else told in output


if __name__ == "__main__":
    module.GRACE_SECONDS = 3.0
    try:
        launch(globals()[sys.argv[1]], Path(sys.argv[2]))
    except UserError as error:
        print(error)
        sys.exit(2)
