"""Ranks as plain processes, without Ray: for tests, for `doctor`, and for machines that have torch only."""

import multiprocessing
import os
import pickle
import queue
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .comm import Comm, open_store, reach_store
from .environment import HUGE_PAGES


@dataclass(frozen=True)
class Nodes:
    """The machines of a world: this one is number `node` of `count`. Each has as many ranks, the first ones are on machine
    0, which opens the store at host:port. The ranks of this machine listen at `address`."""

    count: int = 1
    node: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    """0, on one machine only: a free one."""
    address: str = "127.0.0.1"


ONE_NODE = Nodes()


def run_processes(
    size: int,
    function: Callable[..., Any],
    *args: Any,
    timeout_seconds: float = 60.0,
    threads: int = 1,
    nodes: Nodes = ONE_NODE,
) -> list[Any]:
    """Run function(comm, *args) on new processes that form one world of `size` ranks. Returns the results of the ranks on
    this machine in order of rank. With several machines each of them calls this, with the same arguments but `nodes`.

    Function, arguments and results must pickle. If a machine has as many CUDA devices as ranks, its k-th rank uses device k;
    otherwise all use the CPU.

    Raises:
        RuntimeError: a rank raised or died. The message holds its traceback.
    """
    # Forks of a process that has imported torch and started no thread: an import in each rank takes seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    results: Any = context.Queue()
    ports: Any = context.Queue()
    world = _World(size, function, args, timeout_seconds, threads, nodes, dict(os.environ))
    here = size // nodes.count
    ranks = range(here * nodes.node, here * (nodes.node + 1))
    processes = {k: context.Process(target=_rank_main, args=(k, world, ports, results), daemon=True) for k in ranks}
    for process in processes.values():
        process.start()
    done: dict[int, tuple[bool, Any]] = {}
    try:
        while len(done) < here:
            try:
                rank, ok, value = results.get(timeout=0.2)
                done[rank] = (ok, value)
            except queue.Empty:
                dead = [k for k, p in processes.items() if k not in done and p.exitcode not in (None, 0)]
                if dead:
                    done.update({k: (False, f"ended with exit code {processes[k].exitcode}") for k in dead})
    finally:
        for process in processes.values():
            process.join(5)
            if process.is_alive():
                process.kill()
    failures = [f"rank {k}: {value}" for k, (ok, value) in sorted(done.items()) if not ok]
    if failures:
        raise RuntimeError("\n".join(failures))
    return [pickle.loads(done[k][1]) for k in ranks]


@dataclass(frozen=True)
class _World:
    """What all ranks of a world run: function(comm, *args), each with so many threads."""

    size: int
    function: Callable[..., Any]
    args: tuple[Any, ...]
    timeout_seconds: float
    threads: int
    nodes: Nodes
    environment: dict[str, str]
    """Variables; the process that forks the ranks has those of the first world."""


def _rank_main(rank: int, world: _World, ports: Any, results: Any) -> None:
    """Run rank `rank` of the world in this process. On one machine the port of the store goes from rank 0 to the others
    through `ports`; (rank, whether it ended well, the pickled result or the traceback) comes back through `results`."""
    size, timeout_seconds = world.size, world.timeout_seconds
    torch.set_num_threads(world.threads)
    os.environ.update(world.environment)
    os.environ.setdefault("OMP_NUM_THREADS", str(world.threads))
    os.environ.update(HUGE_PAGES)
    nodes, here = world.nodes, size // world.nodes.count
    device = f"cuda:{rank % here}" if torch.cuda.is_available() and torch.cuda.device_count() >= here else "cpu"
    try:
        store = None
        if size > 1:
            if rank == 0:
                store = open_store(nodes.host, size, timeout_seconds, nodes.port)
                for _ in range(here - 1):
                    ports.put(store.port)
            else:
                port = nodes.port or ports.get(timeout=timeout_seconds)
                store = reach_store(nodes.host, port, size, timeout_seconds)
        comm = Comm(rank, size, store, timeout_seconds, device, nodes.address)
        value = world.function(comm, *world.args)
        if not comm.ended:
            comm.all_reduce(torch.zeros(1, device=device))  # nobody leaves while another still works
        comm.close()
        # As bytes: torch would share a tensor's memory, which ends with this process.
        results.put((rank, True, pickle.dumps(value)))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))
