"""The ratios of `bench regression`. Both sides of each are measured in the same run, by turns, on generated data."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ...cluster import pipeline
from ...cluster.config.schema import parse_config
from ...cluster.output.session import Session
from ...cluster.planning.memory import base_bytes, train_bytes
from ...cluster.planning.sizes import Sizes
from ...cluster.planning.speed import step_sent
from ...cluster.serving.intake import Intake, NewRequest
from ...distributed.measures.quality import evaluate
from ...distributed.processes import run_processes
from ...partitioning.assignment import Assignment
from ...partitioning.halo import rows_per_layer
from ...partitioning.sample import make_sample
from ...partitioning.shard import build_shards
from ...partitioning.storage import Store
from .. import latency, requests, step, unlearning
from ..evaluate import products_in_tiles, ranking_case
from ..scale import points, ranks
from .compare import Measure

Ratios = dict[str, list[float]]
K = 20


@dataclass(frozen=True)
class Group:
    """Measures that are taken together. `take(scale)` returns the ratios of each; a scale below 1 makes sizes and numbers of
    pairs smaller, for tests."""

    name: str
    measures: tuple[Measure, ...]
    take: Callable[[float], Ratios]


def _pairs(count: int, scale: float) -> int:
    return max(1, round(count * min(1.0, scale)))


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def steps(scale: float) -> Ratios:
    """Training steps against the bare sums of their layers, in processes of their own as a training has them; and the rows
    that they exchange against the plan."""
    sizes = {"num_users": round(60_000 * scale), "num_items": round(18_000 * scale), "count": round(1_500_000 * scale)}
    users, items, of_user, of_item = step.generate(**sizes, seed=0)
    found: Ratios = {}
    for partitions, halo, loss in ((1, "pull", "bpr"), (2, "pull", "bpr"), (2, "cover", "bpr"), (1, "pull", "softmax")):
        owners = [(x * partitions // step.COMMUNITIES).astype(np.int16) for x in (of_user, of_item)]
        assignment = Assignment(owners[0], owners[1], partitions)
        with tempfile.TemporaryDirectory() as folder:
            shards = build_shards(users, items, np.ones(len(users), dtype=np.int32), assignment)
            for shard in shards:
                Path(folder, f"{shard.partition}").write_bytes(shard.to_bytes())
            np.savez(Path(folder, "owners.npz"), users=assignment.owner_of_user, items=assignment.owner_of_item)
            batch = round((30_000 if loss == "bpr" else 4_000) * scale)
            plan = step.Plan(folder, halo, batch, 64, 2, _pairs(25, scale), len(users), loss)
            ran = run_processes(partitions, step.measure_rank, plan, timeout_seconds=600.0)
        slowest = {name: [max(x) for x in zip(*(one[name] for one in ran), strict=True)] for name in ("step", "bare")}
        kind = f"{partitions} partition{'s' if partitions > 1 else ''}" + (f", {halo}" if partitions > 1 else "")
        ratios = [x / y for x, y in zip(slowest["step"], slowest["bare"], strict=True)]
        found[f"step / bare sums, {loss}, {kind}"] = ratios
        if partitions > 1:
            planned = 4 * rows_per_layer(shards, assignment, halo)
            found[f"rows exchanged / plan, {halo}"] = [sum(one["halo_rows"] for one in ran) / planned]
    return found


def memory(scale: float) -> Ratios:
    """What a worker's process grows by, and what it looks up, against the plan."""
    point = points.Point("", 60_000, 18_000, 1_500_000, 2, batch_size=30_000).times(scale)
    ran = ranks.measure(point, _pairs(3, scale))
    parts = [one.part for one in ran]
    sizes = Sizes(point.users, point.items, sum(part.pairs for part in parts), parts, exact=True)
    planned = max(train_bytes(point.config(), sizes, part) for part in parts) - base_bytes(sizes)
    looked_up = sum(one.local_bytes["lookup"] for one in ran)
    expected = sum(step_sent(point.config(), sizes, part)[1] for part in parts)
    return {
        "memory of a worker / plan": [max(one.memory for one in ran) / planned],
        "bytes looked up / plan": [looked_up / expected],
    }


def ranking(scale: float) -> Ratios:
    """A full ranking against its matrix products alone."""
    graph, z, test = ranking_case(round(4000 * scale), round(40_000 * scale), 64, 20)
    pairs = []
    for _ in range(_pairs(9, scale)):
        products = _seconds(lambda: products_in_tiles(graph, z))
        pairs.append(_seconds(lambda: evaluate(graph, z, *test, (K,), 1024)) / products)
    return {"ranking / its products": pairs}


def ingest(scale: float) -> Ratios:
    """An ingest in two partitions by hash against bare reads of the table, one for each tenth of a second that they take."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "events.parquet"
        latency.draw_table(table, round(60_000 * scale), round(18_000 * scale), round(2_000_000 * scale), 0)

        def read() -> None:
            for _ in range(10):
                pq.read_table(table, use_threads=False)

        def run(number: int) -> None:
            values: dict[str, Any] = {"interactions": str(table), "output": str(folder / f"run-{number}")}
            pipeline.ingest(parse_config(values | {"partitioning": {"strategy": "hash"}}))

        run(-1)
        ratios = [_seconds(partial(run, k)) / _seconds(read) for k in range(_pairs(7, scale))]
    return {"ingest / ten bare reads": ratios}


def forgetting(scale: float) -> Ratios:
    """A request for ten users, from acknowledged to committed with workers warm, against a step of a training with the same
    workers: a retrain is as many steps as it has."""
    import ray

    with tempfile.TemporaryDirectory() as name:
        arguments = argparse.Namespace(
            work=Path(name),
            table=None,
            users=round(40_000 * scale),
            items=round(12_000 * scale),
            interactions=round(1_000_000 * scale),
            partitions=2,
            threads=None,
            layers=2,
            seed=0,
            evidence=0,
        )
        owns = not ray.is_initialized()
        if owns:
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            session = Session(latency.prepared(arguments))
            with session.workers() as group:
                group.form()
                session.ensure_loaded(group, session.version())
                recorder = latency.Recorder(group)
                ratios = []
                latency.measured(session, group, recorder, 10, -1 % 2**31, arguments)
                for number in range(_pairs(9, scale)):
                    trained, _ = latency.step_seconds(session, group, 2)
                    session.ensure_loaded(group, session.version())  # a service has its version loaded
                    phases = latency.measured(session, group, recorder, 10, number, arguments)
                    ratios.append(phases["committed"] / trained)
        finally:
            if owns:
                ray.shutdown()
    return {"request of 10 users / training step": ratios}


def acknowledgement(scale: float) -> Ratios:
    """A request written to the log before it is acknowledged, against bare writes of 4 KiB that are made durable."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        intake = Intake(Session(requests.prepared(str(folder / "output"), 0)))
        file = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

        def bare() -> None:
            os.write(file, bytes(4096))
            os.fsync(file)

        ratios = []
        for number in range(_pairs(15, scale)):
            new = [NewRequest([f"user-{number}-{k}"]) for k in range(40)]
            accepted = [_seconds(partial(intake.accept, one)) for one in new]
            ratios.append(float(np.median(accepted) / np.median([_seconds(bare) for _ in range(40)])))
        os.close(file)
    return {"acknowledged request / durable write": ratios}


def quality(scale: float) -> Ratios:
    """What a small model is worth, and how well a request is forgotten, against its retrain. These are the same in every run
    of the same code on the same kind of processor."""
    with tempfile.TemporaryDirectory() as name:
        made = make_sample(f"{name}/data", users=round(2000 * scale), items=round(1000 * scale))
        data = unlearning.read_data(made["train"], made["test"])
        keys = {"train.batch_size": 2048, "train.learning_rate": 0.01}
        matrix = unlearning.Matrix(
            name="small",
            backbones={"LightGCN": keys},
            epochs=10,
            scenarios=("interactions 5%",),
            methods=("counterfactual encoder",),
        )
        [cell] = unlearning.run(matrix, data, Store(f"{name}/store"))
    named = {
        "Recall@20, retrained": "recall retrained",
        "Recall@20 / retrained": "recall, share of retrained",
        "attack gap closed": "gap closed",
    }
    return {measure: [float(cell[key])] for measure, key in named.items()}


GROUPS = (
    Group(
        "steps",
        (
            Measure("step / bare sums, bpr, 1 partition", 0.15),
            Measure("step / bare sums, bpr, 2 partitions, pull", 0.15),
            Measure("step / bare sums, bpr, 2 partitions, cover", 0.15),
            Measure("step / bare sums, softmax, 1 partition", 0.15),
            Measure("rows exchanged / plan, pull", 0.001),
            Measure("rows exchanged / plan, cover", 0.001),
        ),
        steps,
    ),
    Group("memory", (Measure("memory of a worker / plan", 0.1), Measure("bytes looked up / plan", 0.01)), memory),
    Group("ranking", (Measure("ranking / its products", 0.15),), ranking),
    Group("ingest", (Measure("ingest / ten bare reads", 0.15),), ingest),
    Group("acknowledgement", (Measure("acknowledged request / durable write", 0.15),), acknowledgement),
    Group("forgetting", (Measure("request of 10 users / training step", 0.15),), forgetting),
    Group(
        "quality",
        (
            Measure("Recall@20, retrained", 0.01, higher_is_better=True),
            Measure("attack gap closed", 0.03, higher_is_better=True),
            Measure("Recall@20 / retrained", 0.01, higher_is_better=True),
        ),
        quality,
    ),
)
