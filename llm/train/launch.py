"""Run a function in several processes, on one machine or more.

    NPROC                       processes of this node, one per GPU (1: no group, unless GROUNDUP_SHARD=1)
    NNODES, NODE_RANK           number of nodes, and the number of this one
    MASTER_ADDR, MASTER_PORT    address of node 0

Each node is started with the same command, params and inputs. Node 0 belongs to DVC and has the outputs; the others
are started by hand, `NODE_RANK=1 … python -m stages.pretrain …`, from a folder of their own.

The variables are torchrun's. torchrun itself kills workers that save for more than 30 s, and shows a user error as a
traceback.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its stub does not export it

from llm.core.device import Machine, sharding_requested
from llm.core.errors import UserError, one_line_errors
from llm.train.parallel import defer_signals

MAX_NUMBER = 65_535  # of ports and processes
GRACE_SECONDS = 10.0  # for the other processes to end by themselves once one has failed


@dataclass(frozen=True)
class Layout:
    """How many processes run on how many nodes, and which node this is."""

    n_local: int
    n_nodes: int
    node: int
    address: str
    port: int

    @classmethod
    def from_environment(cls) -> "Layout":
        """Read the environment; UserError names the variable."""
        n_local, n_nodes, node = _number("NPROC", 1), _number("NNODES", 1), _number("NODE_RANK", 0)
        if node >= n_nodes:
            raise UserError(f"environment: expected NODE_RANK below NNODES {n_nodes}, got {node}")
        if n_nodes == 1:
            return cls(n_local, 1, 0, "127.0.0.1", 0)
        if not os.environ.get("MASTER_ADDR") or not os.environ.get("MASTER_PORT"):
            raise UserError(f"environment: expected MASTER_ADDR and MASTER_PORT with NNODES {n_nodes}")
        return cls(n_local, n_nodes, node, os.environ["MASTER_ADDR"], _number("MASTER_PORT", 1))


def _number(name: str, least: int) -> int:
    given = os.environ.get(name) or str(least)
    # By length first: int() refuses thousands of digits.
    if not given.isdecimal() or len(given) > len(str(MAX_NUMBER)) or not least <= int(given) <= MAX_NUMBER:
        raise UserError(f"environment: expected {name} as a number from {least} to {MAX_NUMBER}, got {given[:40]}")
    return int(given)


def launch(work: Callable[..., None], *args: Any) -> bool:
    """Run `work(*args)` in each process; return whether this node has the outputs.

    A single process is this one, unless its weights are to be sharded, which takes a group. Others are spawned: `work`
    and its arguments are pickled. An exception of any is raised here, a UserError first. SIGTERM and Ctrl-C are passed
    on, and then this ends as `work` alone would; when this process is killed, the others end too.
    """
    layout = Layout.from_environment()
    if layout.n_local == layout.n_nodes == 1 and not sharding_requested():
        work(*args)
        return True
    device = Machine.find().device
    _check_device(device, layout)
    store = _host_store(layout) if layout.node == 0 else None
    common = layout, store.port if store is not None else layout.port, device, work, args
    with defer_signals() as received:
        for error in sorted(_run_processes(common, received), key=_priority):
            if not received:
                raise error
            if isinstance(error, Exception):
                print(f"a process failed while it was stopping: {error}", file=sys.stderr)
    return layout.node == 0


def _check_device(device: str, layout: Layout) -> None:
    if device == "mps":
        expected = "one process without GROUNDUP_SHARD on mps; GROUNDUP_DEVICE=cpu runs several"
        raise UserError(f"environment: expected {expected}")
    if device == "cuda" and layout.n_local > (n_gpus := torch.cuda.device_count()):
        raise UserError(f"environment: expected NPROC up to the number of GPUs, {n_gpus}, got {layout.n_local}")


def _run_processes(common: tuple[Any, ...], received: list[int]) -> list[BaseException]:
    """Run `_run_process` in each process of this node; return the errors."""
    n_local = common[0].n_local
    pool = ProcessPoolExecutor(n_local, multiprocessing.get_context("spawn"))
    futures: list[Future[None]] = []
    try:
        for member in range(n_local):
            futures.append(pool.submit(_run_process, member, *common))
        _wait(futures, received)
        killed = BrokenExecutor("a process was terminated abruptly, or did not end when another one had failed")
        outcomes = [future.exception() if future.done() else killed for future in futures]
    finally:
        if not all(future.done() for future in futures):
            for process in multiprocessing.active_children():
                process.kill()
        pool.shutdown(cancel_futures=True)
    return [error for error in outcomes if error is not None]


def _priority(error: BaseException) -> tuple[bool, bool, bool]:
    """Order errors: the user's first, then causes, processes that others ended, requested stops."""
    return not isinstance(error, UserError), not isinstance(error, Exception), isinstance(error, BrokenExecutor)


def _host_store(layout: Layout) -> TCPStore:
    """Open the rendezvous of the processes, in this process, which outlives them."""
    try:
        return TCPStore(layout.address, layout.port, is_master=True, wait_for_workers=False)
    except dist.DistError as error:
        problem = str(error).partition("\n")[0]
        raise UserError(f"environment: expected MASTER_PORT {layout.port} free on node 0, got: {problem}") from None


def _wait(futures: list[Future[None]], received: list[int]) -> None:
    """Return when all have ended, or some time after one has failed; pass signals on meanwhile."""
    n_passed = 0
    while (done_or_not := wait(futures, timeout=0.1)).not_done:
        for number in received[n_passed:]:
            for process in multiprocessing.active_children():
                assert process.pid is not None
                os.kill(process.pid, number)
            n_passed += 1
        # The others wait for one that has failed in vain. Not so for one that was stopped: rank 0 may still save.
        # The pool itself does not see the death of a process that it has started last.
        has_failed = any(isinstance(future.exception(), Exception) for future in done_or_not.done)
        if has_failed or len(multiprocessing.active_children()) < len(futures):
            wait(futures, timeout=GRACE_SECONDS)
            return


def _run_process(
    member: int, layout: Layout, port: int, device: str, work: Callable[..., None], args: tuple[Any, ...]
) -> None:
    """Work as a member of the group; stderr is that of rank 0."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.setpgrp()  # the terminal sends Ctrl-C to a process group: it comes through the parent, once
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // layout.n_local))
    try:
        with one_line_errors():
            _join_group(member, layout, port, device)
            if dist.get_rank():
                sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  # to the end of the process
            work(*args)
            dist.barrier()  # nobody leaves while another still needs the group
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()  # the others notice, and end


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _join_group(member: int, layout: Layout, port: int, device: str) -> None:
    try:
        store = TCPStore(layout.address, port, is_master=False)
    except dist.DistError as error:
        problem = str(error).partition("\n")[0]
        raise UserError(f"environment: expected node 0 at {layout.address}, port {port}, got: {problem}") from None
    own = f"NPROC {layout.n_local} and NNODES {layout.n_nodes}"
    first = store.compare_set("layout", "", own).decode()
    if first != own:
        raise UserError(f"environment: expected the same on every node, got {first} on one and {own} on another")
    if device == "cuda":
        torch.cuda.set_device(member)
    # GPUs exchange gradients; CPUs exchange single numbers and checkpoints.
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    rank = layout.node * layout.n_local + member
    dist.init_process_group(backend, store=store, rank=rank, world_size=layout.n_local * layout.n_nodes)
