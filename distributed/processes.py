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


def run_processes(
    size: int, function: Callable[..., Any], *args: Any, timeout_seconds: float = 60.0, threads: int = 1
) -> list[Any]:
    """Run function(comm, *args) on `size` new processes that form one world. Returns the results in order of rank.

    Function, arguments and results must pickle. If there are as many CUDA devices as ranks, rank k uses device k;
    otherwise all use the CPU.

    Raises:
        RuntimeError: a rank raised or died. The message holds its traceback.
    """
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    ports: Any = context.Queue()
    world = _World(size, function, args, timeout_seconds, threads)
    processes = [context.Process(target=_rank_main, args=(k, world, ports, results), daemon=True) for k in range(size)]
    for process in processes:
        process.start()
    done: dict[int, tuple[bool, Any]] = {}
    try:
        while len(done) < size:
            try:
                rank, ok, value = results.get(timeout=0.2)
                done[rank] = (ok, value)
            except queue.Empty:
                dead = [k for k, p in enumerate(processes) if k not in done and p.exitcode not in (None, 0)]
                if dead:
                    done.update({k: (False, f"ended with exit code {processes[k].exitcode}") for k in dead})
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
    failures = [f"rank {k}: {value}" for k, (ok, value) in sorted(done.items()) if not ok]
    if failures:
        raise RuntimeError("\n".join(failures))
    return [pickle.loads(done[k][1]) for k in range(size)]


@dataclass(frozen=True)
class _World:
    """What all ranks of a world run: function(comm, *args), each with so many threads."""

    size: int
    function: Callable[..., Any]
    args: tuple[Any, ...]
    timeout_seconds: float
    threads: int


def _rank_main(rank: int, world: _World, ports: Any, results: Any) -> None:
    """Run rank `rank` of the world in this process. The port of the store goes from rank 0 to the others through
    `ports`; (rank, whether it ended well, the pickled result or the traceback) comes back through `results`."""
    size, timeout_seconds = world.size, world.timeout_seconds
    torch.set_num_threads(world.threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(world.threads))
    os.environ.update(HUGE_PAGES)
    device = f"cuda:{rank}" if torch.cuda.is_available() and torch.cuda.device_count() >= size else "cpu"
    try:
        store = None
        if size > 1:
            if rank == 0:
                store = open_store("127.0.0.1", size, timeout_seconds)
                for _ in range(size - 1):
                    ports.put(store.port)
            else:
                store = reach_store("127.0.0.1", ports.get(timeout=timeout_seconds), size, timeout_seconds)
        comm = Comm(rank, size, store, timeout_seconds, device)
        value = world.function(comm, *world.args)
        if not comm.ended:
            comm.all_reduce(torch.zeros(1, device=device))  # nobody leaves while another still works
        comm.close()
        # As bytes: torch would share a tensor's memory, which ends with this process.
        results.put((rank, True, pickle.dumps(value)))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))
