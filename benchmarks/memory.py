"""Measure the peak memory of the commands, and compare it with what `unlearnrec plan` says before.

A table is made and ingested. Then each case runs in a process of its own, with new workers: it tells the peaks that the
kernel counted (VmHWM) in the largest worker and in its own process, and what Ray's processes hold. Training has two epochs
with a checkpoint after the first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..cluster import pipeline
from ..cluster.config.schema import Config, parse_config
from ..cluster.output.ingests import lake_graph
from ..cluster.output.session import Session
from ..cluster.planning.plan import machine_speed, make_plan
from ..cluster.planning.sizes import estimated_sizes, sizes_of_graph
from ..partitioning.manifest import MANIFEST
from ..workers import WorkerGroup
from ..workers.memory import own_bytes, own_peak_bytes
from . import results_file
from .latency import make_version

BACKBONES = ("lightgcn", "sgl", "simgcl", "ngcf")
LOSSES = ("bpr", "softmax")
ALLOWED = 0.25
"""The difference of plan and measurement that is aimed at, as a share of the measurement."""
TEST_USERS = 2000

NOTES = """Measured: the most memory that the largest worker held (VmHWM; it is counted anew at each call); for `ingest`
that of the process with its METIS. Planned: the line of `unlearnrec plan` for it. In all: all workers at their peaks, the
command and Ray's processes. Seconds of a step depend on what else the machine does."""


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench memory", description=__doc__)
    parser.add_argument("--users", type=int, default=400_000)
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--interactions", type=int, default=1_200_000)
    parser.add_argument("--batch", type=int, default=200_000, help="interactions in a step")
    parser.add_argument("--size", type=int, default=64, help="columns of an embedding")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--folder", type=Path, help="where to work; kept, so that the next run finds what is ingested")
    parser.add_argument("--output", type=Path, default=results_file.FOLDER / "memory.md")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.case:
        print(json.dumps(CASES[arguments.case].measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = measure(folder, arguments)
    off = [abs(row["planned, MB"] / row["measured, MB"] - 1) for row in rows]
    sizes = f"{arguments.users:,} users, {arguments.items:,} items, {arguments.interactions:,} events"
    parts = [
        f"{sizes}; {arguments.size} columns, {arguments.layers} layers, batches of {arguments.batch:,}.",
        results_file.table(rows),
        f"Largest difference: {max(off):.0%}; {sum(x <= ALLOWED for x in off)} of {len(off)} are within {ALLOWED:.0%}.",
        NOTES,
    ]
    results_file.write(arguments.output, "Memory: planned and measured", parts, shown="unlearnrec bench memory")
    print(arguments.output.read_text(encoding="utf-8"))


def measure(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each case. What is measured stays in the folder, so a run that was interrupted goes on."""
    arguments.folder = folder
    make_table(folder, arguments)
    rows = []
    for name, case in CASES.items():
        if arguments.only not in name:
            continue
        if case.work == "forget":
            make_model(case.config(arguments))
        kept = folder / f"{name.replace(' ', '-').replace(',', '')}.json"
        if not kept.exists():
            started = time.perf_counter()
            own = ("users", "items", "interactions", "batch", "size", "layers")
            options = [f"--{x}={getattr(arguments, x)}" for x in own]
            command = [
                sys.executable,
                "-m",
                "unlearnrec.benchmarks.memory",
                *options,
                f"--folder={folder}",
                f"--case={name}",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{name}: exit code {done.returncode}: {done.stderr[-3000:]}")
            kept.write_text(done.stdout.splitlines()[-1])
            print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        rows.append({"case": name} | case.row(arguments, json.loads(kept.read_text())))
    return rows


def make_model(config: Config) -> None:
    """Make a version that can forget, unless there is one: its rows are drawn, and its encoder has its first weights."""
    session = Session(config)
    if not session.store.exists(MANIFEST):
        pipeline.ingest(config)
    current = session.versions.current()
    if current is None or current.model.encoder is None:
        make_version(session)


def make_table(folder: Path, arguments: argparse.Namespace) -> None:
    """Write `events.parquet` with popular items, and `test.parquet` with one item for some of the users."""
    if (folder / "test.parquet").exists():
        return
    draw = np.random.default_rng(0)
    user = draw.integers(arguments.users, size=arguments.interactions)
    item = (arguments.items * draw.random(arguments.interactions) ** 2).astype(np.int64)
    pq.write_table(pa.table({"user_id": user, "item_id": item}), folder / "events.parquet")
    tested = draw.choice(np.unique(user), TEST_USERS, replace=False)
    others = draw.integers(arguments.items, size=TEST_USERS)
    pq.write_table(pa.table({"user_id": tested, "item_id": others}), folder / "test.parquet")


def configuration(arguments: argparse.Namespace, partitions: int, **sections: Any) -> Config:
    """The configuration of a case. sections: what differs from the rest."""
    folder = arguments.folder
    batch, size = arguments.batch, arguments.size
    strategy = {"strategy": "hash"} | sections.get("partitioning", {})
    return parse_config(
        {
            "interactions": str(folder / "events.parquet"),
            "test_interactions": str(folder / "test.parquet"),
            "output": str(folder / f"output-{partitions}"),
            "cluster": {"partitions": partitions, "check_memory": False, "threads_per_worker": 1},
            "partitioning": strategy,
            "train": {"epochs": 2, "checkpoint_every": 1, "batch_size": batch} | sections.get("train", {}),
            "backbone": {"embedding_size": size, "num_layers": arguments.layers} | sections.get("backbone", {}),
            "pretrain": {"counterfactuals": 1, "epochs": 1},
            "forget": {"gate_gap_closed": None, "gate_recall_loss": None, "gate_change": None},
        }
    )


def measured_with_workers(config: Config, run: Callable[[WorkerGroup], dict[str, Any]]) -> dict[str, Any]:
    """Run a command with its own workers: bytes of the largest worker, of this process, of Ray's and of all of them, and the
    seconds of a training step."""
    import psutil

    with Session(config).workers() as group:
        result = run(group)
        peaks = dict(group.peak_bytes)
        workers = {worker.pid for worker in group.identities()}
        # Ray starts its processes from this one; an idle worker that Ray holds ready is one of them.
        ray = 0
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                ray += 0 if process.pid in workers else process.memory_full_info().pss
    own = own_peak_bytes()
    found = {"worker": max(peaks.values()), "all": sum(peaks.values()) + own + ray, "command": own, "ray": ray}
    return found | {"step_seconds": result.get("step_seconds")}


def measured_ingest(config: Config) -> dict[str, Any]:
    """Ingest the table in this process; METIS has one of its own."""
    pipeline.ingest(config)
    held, child = own_peak_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    # METIS runs while this process holds about what it holds at the end.
    several = config.partitioning.strategy == "metis" and config.cluster.partitions > 1
    most = max(held, child + own_bytes()) if several else held
    return {"worker": most, "all": most, "command": held, "ray": 0, "step_seconds": None}


@dataclass(frozen=True)
class Case:
    """What is measured: a command, one of the works of a plan, and the sections of its configuration."""

    work: str
    partitions: int
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: int = 3
    """Of a request."""

    def config(self, arguments: argparse.Namespace) -> Config:
        """Its configuration. A batch of 0 interactions is one of all."""
        train = self.sections.get("train", {})
        whole = {"train": train | {"batch_size": arguments.interactions}} if train.get("batch_size") == 0 else {}
        return configuration(arguments, self.partitions, **(self.sections | whole))

    def measure(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Run it in this process."""
        config = self.config(arguments)
        if self.work == "ingest":
            return measured_ingest(config)
        if self.work == "forget":
            events = pq.read_table(arguments.folder / "events.parquet", columns=["user_id"])
            users = np.unique(events["user_id"].to_numpy())[:: arguments.users // (2 * self.users)][: self.users]
            named = ",".join(str(user) for user in users)
            return measured_with_workers(config, lambda group: pipeline.forget(config, users=named, group=group))
        command = {"train": pipeline.train, "pretrain": pipeline.pretrain, "evaluate": pipeline.evaluate}[self.work]
        return measured_with_workers(config, lambda group: command(config, group=group))

    def row(self, arguments: argparse.Namespace, measured: dict[str, Any]) -> dict[str, Any]:
        """The plan beside what was measured."""
        config = self.config(arguments)
        graph = (arguments.users, arguments.items, arguments.interactions, self.partitions, "hash")
        if self.work == "ingest":
            plan = make_plan(config, estimated_sizes(*graph), self.work)
        else:
            session = Session(config)
            sizes = sizes_of_graph(session.store, lake_graph(session), config.partitioning.halo)
            plan = make_plan(config, sizes, self.work, TEST_USERS, machine_speed(config))
        seconds = measured["step_seconds"]
        return {
            "planned, MB": round(plan.peak / 1e6),
            "measured, MB": round(measured["worker"] / 1e6),
            "planned / measured": f"{plan.peak / measured['worker']:.2f}",
            "in all planned, MB": round(plan.total / 1e6),
            "in all measured, MB": round(measured["all"] / 1e6),
            "command, MB": round(measured["command"] / 1e6),
            "Ray, MB": round(measured["ray"] / 1e6),
            "step planned, s": round(plan.step_seconds, 2) if seconds and plan.step_seconds else "",
            "step measured, s": round(seconds, 2) if seconds else "",
        }


def _training(backbone: str, loss: str, partitions: int, **train: Any) -> Case:
    return Case("train", partitions, {"backbone": {"name": backbone}, "train": {"loss": loss} | train})


CASES = {
    "ingest, metis, 2 partitions": Case("ingest", 2, {"partitioning": {"strategy": "metis"}}),
    "ingest, hash, 2 partitions": Case("ingest", 2),
    "ingest, 1 partition": Case("ingest", 1),
    # The cases after the first training use its model; requests make one where there is none that can forget.
    "train lightgcn bpr, 2 workers": _training("lightgcn", "bpr", 2),
    "pretrain lightgcn, 2 workers": Case("pretrain", 2),
    "forget 3 users, 2 workers": Case("forget", 2),
    "forget 3 users, 1 worker": Case("forget", 1),
    "forget 1,000 users, 1 worker": Case("forget", 1, users=1000),
    "evaluate, 2 workers": Case("evaluate", 2),
    "train lightgcn softmax, 2 workers": _training("lightgcn", "softmax", 2),
    "train sgl bpr, 2 workers": _training("sgl", "bpr", 2),
    "train sgl softmax, 2 workers": _training("sgl", "softmax", 2),
    "train simgcl bpr, 2 workers": _training("simgcl", "bpr", 2),
    "train simgcl softmax, 2 workers": _training("simgcl", "softmax", 2),
    "train ngcf bpr, 2 workers": _training("ngcf", "bpr", 2),
    "train ngcf softmax, 2 workers": _training("ngcf", "softmax", 2),
    "train lightgcn bpr, 1 worker": _training("lightgcn", "bpr", 1),
    "train lightgcn softmax, 1 worker": _training("lightgcn", "softmax", 1),
    "train lightgcn bpr, 1 worker, all in one batch": _training("lightgcn", "bpr", 1, batch_size=0),
    "train lightgcn softmax, 1 worker, all in one batch": _training("lightgcn", "softmax", 1, batch_size=0),
}

if __name__ == "__main__":
    main()
