"""Measure a point: the ranks on this machine take steps, and tell compute, exchange and wait apart.

A barrier before each exchange ends the wait for the slowest rank; what follows is the exchange itself. So the steps that are
split take a little longer than others; whole steps are measured without the barriers, by turns.
"""

from __future__ import annotations

import pickle
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...cluster.planning.sizes import PartSizes
from ...cluster.planning.speed import COPY_BYTES
from ...distributed.backbones import BACKBONES
from ...distributed.comm import Comm
from ...distributed.graph.local_graph import LocalGraph
from ...distributed.processes import ONE_NODE, Nodes, run_processes
from ...distributed.training.batch import Batch, batches
from ...distributed.training.trainer import Trainer, TrainSettings
from ...partitioning.assignment import Assignment
from ...partitioning.shard import GraphShard, build_shards
from .points import Point, draw


@dataclass(frozen=True)
class Found:
    """What one rank found. Seconds are medians of rounds; `compute` is wall time, `compute_cpu` and `exchange_cpu` are CPU
    seconds of the process, which tell the work also where ranks share cores."""

    part: PartSizes
    step: float
    compute: float
    compute_cpu: float
    wait: float
    exchange: float
    exchange_cpu: float
    copy: float
    """Bytes a second that this rank reads and writes when all ranks copy at once, by CPU seconds."""
    rounds: int
    rows: dict[str, int]
    local_bytes: dict[str, int]
    """Bytes to other ranks of the machine in a step, by purpose; `remote_bytes` are those to other machines."""
    remote_bytes: dict[str, int]
    planned_rows: int
    """Rows that the plans of the exchange send in the layers of a step."""
    memory: int
    """Bytes by which the process grew at its peak."""


class Stopwatch:
    """Splits the seconds of a rank. It takes the place of the collectives of a `Comm`."""

    def __init__(self, comm: Comm, ranks_a_node: int) -> None:
        self._comm, self._all_to_all, self._all_reduce = comm, comm.all_to_all, comm.all_reduce
        self._node = [k // ranks_a_node for k in range(comm.size)]
        self._on = False
        comm.all_to_all = self._watched_all_to_all  # type: ignore[method-assign]
        comm.all_reduce = lambda x: self._watched(lambda: self._all_reduce(x))  # type: ignore[method-assign]

    def split(self, work: Callable[[], Any]) -> dict[str, Any]:
        """Do the work; returns its seconds by kind, its rounds, and its bytes by purpose."""
        self.found: dict[str, Any] = dict.fromkeys(("compute", "compute_cpu", "wait", "exchange", "exchange_cpu"), 0.0)
        self.found |= {"rounds": 0, "local_bytes": {}, "remote_bytes": {}}
        self._barrier()
        self._on, self._since = True, _now()
        try:
            work()
        finally:
            self._on = False
        self._add("compute", "compute_cpu", self._since, _now())
        return self.found

    def _watched_all_to_all(
        self,
        rows: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        purpose: str,
        into: Tensor | None = None,
        both_ways: bool = False,
    ) -> Tensor:
        if self._on:
            size = rows.element_size() * (rows[0].numel() if len(rows) else 0)
            here = self._node[self._comm.rank]
            for k, count in enumerate(send_counts):
                if k != self._comm.rank:
                    kind = self.found["local_bytes" if self._node[k] == here else "remote_bytes"]
                    kind[purpose] = kind.get(purpose, 0) + size * count
        return self._watched(lambda: self._all_to_all(rows, send_counts, recv_counts, purpose, into, both_ways))

    def _watched(self, exchange: Callable[[], Tensor]) -> Tensor:
        if not self._on or self._comm.size == 1:
            return exchange()
        came = _now()
        self._add("compute", "compute_cpu", self._since, came)
        self._barrier()
        begun = _now()
        self.found["wait"] += begun[0] - came[0]
        result = exchange()
        self._since = _now()
        self._add("exchange", "exchange_cpu", begun, self._since)
        self.found["rounds"] += 1
        return result

    def _barrier(self) -> None:
        self._all_reduce(torch.zeros(1, device=self._comm.device))

    def _add(self, wall: str, cpu: str, begin: tuple[float, float], end: tuple[float, float]) -> None:
        self.found[wall] += end[0] - begin[0]
        self.found[cpu] += end[1] - begin[1]


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def measure(point: Point, rounds: int, nodes: Nodes = ONE_NODE, timeout_seconds: float = 600.0) -> list[Found]:
    """What all ranks of a point found, in order. Each of its machines calls this with its own `nodes`."""
    drawn = draw(point)
    here = point.partitions // nodes.count
    with tempfile.TemporaryDirectory() as folder:
        counts = np.ones(len(drawn.users), dtype=np.int32)
        for shard in build_shards(drawn.users, drawn.items, counts, drawn.owners):
            if shard.partition // here == nodes.node:
                Path(folder, f"{shard.partition}").write_bytes(shard.to_bytes())
        np.savez(Path(folder, "owners.npz"), users=drawn.owners.owner_of_user, items=drawn.owners.owner_of_item)
        task = (point, folder, rounds, here, len(drawn.users))
        found = run_processes(
            point.partitions, _rank, *task, timeout_seconds=timeout_seconds, threads=point.threads, nodes=nodes
        )
    return [Found(**{**one, "part": PartSizes(**one["part"])}) for one in found[0]]


def _rank(comm: Comm, point: Point, folder: str, rounds: int, ranks_a_node: int, pairs: int) -> list[dict[str, Any]]:
    before = _peak()
    with np.load(Path(folder, "owners.npz")) as owners:
        assignment = Assignment(owners["users"], owners["items"], comm.size)
    shard = GraphShard.from_bytes(Path(folder, f"{comm.rank}").read_bytes())
    entries = int(shard.degrees().sum())
    graph = LocalGraph(shard, assignment, comm, point.halo)
    train = point.config().train
    settings = TrainSettings(
        seed=0,
        batch_size=point.batch_size,
        learning_rate=train.learning_rate,
        loss=train.loss,
        initial_deviation=train.initial_deviation,
        l2=train.l2,
        softmax_temperature=train.softmax_temperature,
        softmax_negatives=train.softmax_negatives,
        total_pairs=pairs,
    )
    backbone = BACKBONES["lightgcn"](embedding_size=point.embedding_size, num_layers=point.num_layers).to(comm.device)
    trainer = Trainer(graph, backbone, settings)
    watch = Stopwatch(comm, ranks_a_node)
    todo: Iterator[Batch] = iter(())

    def batch() -> Batch:
        # To deal batches out is work of an epoch, so it is done outside of the steps that are measured.
        nonlocal todo
        found = next(todo, None)
        if found is None:
            todo = batches(graph, settings.seed, 0, settings.num_batches)
            found = next(todo)
        return found

    trainer.step(batch(), 0)
    memory = _peak() - before  # from here on a step needs no more
    whole, copies, splits = [], [], []
    rows = dict(comm.rows_sent)
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    for number in range(rounds):
        given = batch()
        comm.all_reduce(torch.zeros(1, device=comm.device))
        begin = time.perf_counter()
        trainer.step(given, 0)
        whole.append(time.perf_counter() - begin)
        if not number:
            rows = {purpose: count - rows.get(purpose, 0) for purpose, count in comm.rows_sent.items()}
        given = batch()
        splits.append(watch.split(partial(trainer.step, given, 0)))
        comm.all_reduce(torch.zeros(1, device=comm.device))
        cpu = time.process_time()
        target.copy_(source)
        copies.append(time.process_time() - cpu)
    seconds = ("compute", "compute_cpu", "wait", "exchange", "exchange_cpu")
    part = PartSizes(graph.num_rows, len(graph.item_ids), entries, len(graph.pair_users), graph.halo.num_received)
    mine = Found(
        part=part,
        step=float(np.median(whole)),
        copy=2 * COPY_BYTES / float(np.median(copies)),
        rounds=splits[0]["rounds"],
        rows=rows,
        local_bytes=splits[0]["local_bytes"],
        remote_bytes=splits[0]["remote_bytes"],
        planned_rows=2 * point.num_layers * int(graph.halo.send_counts.sum()),
        memory=memory,
        **{name: float(np.median([one[name] for one in splits])) for name in seconds},
    )
    message = torch.frombuffer(bytearray(pickle.dumps(asdict(mine))), dtype=torch.uint8).to(comm.device)
    return [pickle.loads(x.cpu().numpy().tobytes()) for x in comm.all_gather(message)]


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
