"""One piece of work in several processes, of one machine or of more.

In: a function and its arguments, and from the environment how many processes there are. Out: the processes have run
the function as the members of one torch.distributed group, and none is left.

    NPROC                       processes of this node, one a GPU; without it there is one and no group, unless
                                GROUNDUP_SHARD=1 asks for one
    NNODES, NODE_RANK           how many nodes there are, and this one's number
    MASTER_ADDR, MASTER_PORT    where the others reach node 0

The last two are torchrun's own names, the first three those of its options. torchrun itself has no part in it: it
ends workers that take more than 30 s to keep their state, passes a Ctrl-C on to workers that the terminal has told
already, and shows a wrong value of the user's as a traceback.

Each node is started with the same command, params and inputs. Node 0 is DVC's and has the outputs; the others are
started by hand, `NODE_RANK=1 … python -m stages.pretrain …`, from a folder of their own.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its stub does not export it

from llm.core.device import Machine, sharding_requested
from llm.core.errors import UserError, one_line_errors
from llm.train.signals import defer_signals

MOST = 65_535  # ports, and more processes than anybody has
GRACE_SECONDS = 10.0  # for the others to end by themselves once one has failed
STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT}  # how a process ends that was asked to and kept its state


@dataclass(frozen=True)
class Layout:
    """How many processes there are on how many nodes, and which node this is."""

    n_local: int
    n_nodes: int
    node: int
    address: str
    port: int

    @classmethod
    def find(cls) -> "Layout":
        """Read the environment; UserError names the variable."""
        n_local, n_nodes, node = _number("NPROC", 1), _number("NNODES", 1), _number("NODE_RANK", 0)
        if node >= n_nodes:
            raise UserError(f"environment: wanted NODE_RANK below NNODES, {n_nodes}, given {node}")
        if n_nodes == 1:
            return cls(n_local, 1, 0, "127.0.0.1", 0)
        if not os.environ.get("MASTER_ADDR") or not os.environ.get("MASTER_PORT"):
            raise UserError(f"environment: wanted MASTER_ADDR and MASTER_PORT with NNODES {n_nodes}, one is missing")
        return cls(n_local, n_nodes, node, os.environ["MASTER_ADDR"], _number("MASTER_PORT", 1))

    @property
    def n_processes(self) -> int:
        """On all nodes."""
        return self.n_local * self.n_nodes


def _number(name: str, least: int) -> int:
    given = os.environ.get(name) or str(least)
    # By length first: Python reads no number of thousands of digits.
    if given.isdecimal() and (len(given) > len(str(MOST)) or int(given) > MOST):
        raise UserError(f"environment: expected {name} up to {MOST}, got {given[:40]}")
    if not given.isdecimal() or int(given) < least:
        raise UserError(f"environment: wanted {name} as a whole number from {least}, given {given}")
    return int(given)


def launch(work: Callable[..., None], *args: Any) -> bool:
    """Run `work(*args)` in each process; returns whether this node is the one that has the outputs.

    A single process is this one, unless its weights are to be sharded: that takes a group, even of one. Of several,
    each gets its own; `work` stands in a module and its arguments can be pickled. What is printed to stderr is the
    first one's alone. A UserError of any is raised here. SIGTERM and Ctrl-C are passed on, and after them this ends as
    `work` alone would; when this process is killed, so are the others.
    """
    layout = Layout.find()
    if layout.n_processes == 1 and not sharding_requested():
        work(*args)
        return True
    device = Machine.find().device
    if device == "cuda" and layout.n_local > torch.cuda.device_count():
        n_gpus = torch.cuda.device_count()
        raise UserError(f"environment: wanted NPROC up to the number of GPUs, {n_gpus}, given {layout.n_local}")
    store = _host(layout) if layout.node == 0 else None
    port = store.port if store is not None else layout.port
    context = multiprocessing.get_context("spawn")
    failures: SimpleQueue[tuple[bool, str]] = context.SimpleQueue()
    processes = [
        context.Process(target=_member, args=(number, layout, port, device, failures, work, args))
        for number in range(layout.n_local)
    ]
    with defer_signals() as came:
        try:
            for process in processes:
                process.start()
            _wait(processes, came)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()
        told = _read_failures(failures)
        if not came:
            _raise_failure([process.exitcode for process in processes], told)
        for _, text in told:
            print(f"one of the processes failed when it was asked to stop:\n{text}", file=sys.stderr)
    return layout.node == 0


def _host(layout: Layout) -> TCPStore:
    """Where the processes find each other; it lives in this process, which outlives them."""
    try:
        return TCPStore(layout.address, layout.port, is_master=True, wait_for_workers=False)
    except dist.DistError as error:
        told = str(error).partition("\n")[0]
        raise UserError(f"environment: wanted MASTER_PORT {layout.port} free on node 0, {told}") from None


def _wait(processes: list[SpawnProcess], came: list[int]) -> None:
    """Return when all have ended, or some time after one has failed; signals that come meanwhile are passed on."""
    passed_on = 0
    while running := [process for process in processes if process.exitcode is None]:
        connection.wait([process.sentinel for process in running], timeout=0.1)
        for number in came[passed_on:]:
            for process in running:
                assert process.pid is not None
                os.kill(process.pid, number)
            passed_on += 1
        if any(process.exitcode not in {None, 0, *STOPPED} for process in processes):
            # What the others wait for will not come. Those that notice end by themselves.
            for process in running:
                process.join(GRACE_SECONDS / len(running))
            return


def _read_failures(failures: "SimpleQueue[tuple[bool, str]]") -> list[tuple[bool, str]]:
    told = []
    while not failures.empty():
        told.append(failures.get())
    return told


def _raise_failure(codes: list[int | None], told: list[tuple[bool, str]]) -> None:
    for is_the_users, text in sorted(told, key=lambda failure: not failure[0]):
        raise UserError(text) if is_the_users else RuntimeError(f"one of the processes failed:\n{text}")
    if 128 + signal.SIGINT in codes:
        raise KeyboardInterrupt
    if 128 + signal.SIGTERM in codes:
        sys.exit(128 + signal.SIGTERM)
    if any(codes):
        raise RuntimeError(f"the processes ended with {codes}")


def _member(
    number: int,
    layout: Layout,
    port: int,
    device: str,
    failures: "SimpleQueue[tuple[bool, str]]",
    work: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    """The life of one process: join the group, work, leave it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.setpgrp()  # out of the terminal's reach: its Ctrl-C comes through the parent, once
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // layout.n_local))
    try:
        with one_line_errors():
            _join_group(number, layout, port, device)
            if dist.get_rank():
                with open(os.devnull, "w", encoding="utf-8") as sys.stderr:  # noqa: PTH123
                    work(*args)
            else:
                work(*args)
            dist.barrier()  # nobody leaves while another still needs the group
            dist.destroy_process_group()
    except UserError as error:
        failures.put((True, str(error)))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception:
        failures.put((False, traceback.format_exc()))
        sys.exit(1)


def _end_with_parent() -> None:
    """End at once when the parent is gone, however it went: nobody would take the outputs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _join_group(number: int, layout: Layout, port: int, device: str) -> None:
    try:
        store = TCPStore(layout.address, port, is_master=False)
    except dist.DistError as error:
        told = str(error).partition("\n")[0]
        raise UserError(f"environment: wanted node 0 at {layout.address}, port {port}, {told}") from None
    own = f"NPROC {layout.n_local} and NNODES {layout.n_nodes}"
    first = store.compare_set("layout", "", own).decode()
    if first != own:
        raise UserError(f"environment: wanted the same on every node, given {first} on one and {own} on another")
    if device == "cuda":
        torch.cuda.set_device(number)
    # Gradients go between the GPUs, the few numbers and the state of a run between the CPUs.
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    rank = layout.node * layout.n_local + number
    dist.init_process_group(backend, store=store, rank=rank, world_size=layout.n_processes)
