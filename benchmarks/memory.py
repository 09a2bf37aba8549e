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
from functools import partial
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
from ..workers.memory import own_bytes, own_peak_bytes
from . import results_file

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
        print(json.dumps(CASES[arguments.case](arguments)))
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
    make_table(folder, arguments)
    rows = []
    for name in CASES:
        if arguments.only not in name:
            continue
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
        rows.append({"case": name} | json.loads(kept.read_text()))
    return rows


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
    return parse_config(
        {
            "interactions": str(folder / "events.parquet"),
            "test_interactions": str(folder / "test.parquet"),
            "output": str(folder / f"output-{partitions}"),
            "cluster": {"partitions": partitions, "check_memory": False, "threads_per_worker": 1},
            "partitioning": {"strategy": "hash"},
            "train": {"epochs": 2, "checkpoint_every": 1, "batch_size": batch} | sections.get("train", {}),
            "backbone": {"embedding_size": size, "num_layers": arguments.layers} | sections.get("backbone", {}),
            "pretrain": {"counterfactuals": 1, "epochs": 1},
            "forget": {"gate_gap_closed": None, "gate_recall_loss": None, "gate_change": None},
        }
        | {name: keys for name, keys in sections.items() if name in ("partitioning", "evaluate")}
    )


def with_workers(config: Config, work: str, run: Callable[[Any], dict[str, Any]], test_rows: int = 0) -> dict[str, Any]:
    """Run a command with its own workers and return the row of its case."""
    import psutil

    session = Session(config)
    sizes = sizes_of_graph(session.store, lake_graph(session), config.partitioning.halo)
    plan = make_plan(config, sizes, work, test_rows, machine_speed(config))
    with session.workers() as group:
        result = run(group)
        peaks = dict(group.peak_bytes)
        workers = {worker.pid for worker in group.identities()}
        # Ray starts its processes from this one; an idle worker that Ray holds ready is one of them.
        ray = 0
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                ray += 0 if process.pid in workers else process.memory_full_info().pss
    measured, total = max(peaks.values()), sum(peaks.values()) + own_peak_bytes() + ray
    step = plan.step_seconds if "step_seconds" in result else None
    return _row(plan.peak, measured, plan.total, total) | {
        "command, MB": round(own_peak_bytes() / 1e6),
        "Ray, MB": round(ray / 1e6),
        "planned step, s": "" if step is None else round(step, 3),
        "measured step, s": round(result["step_seconds"], 3) if result.get("step_seconds") else "",
    }


def _row(planned: float, measured: float, planned_total: float, total: float) -> dict[str, Any]:
    return {
        "planned, MB": round(planned / 1e6),
        "measured, MB": round(measured / 1e6),
        "planned / measured": f"{planned / measured:.2f}",
        "in all planned, MB": round(planned_total / 1e6),
        "in all measured, MB": round(total / 1e6),
    }


def ingest_case(arguments: argparse.Namespace, partitions: int, strategy: str) -> dict[str, Any]:
    """Ingest the table in this process; METIS has one of its own."""
    config = configuration(arguments, partitions, partitioning={"strategy": strategy})
    sizes = estimated_sizes(arguments.users, arguments.items, arguments.interactions, partitions, strategy)
    plan = make_plan(config, sizes, "ingest")
    pipeline.ingest(config)
    held, child = own_peak_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    # METIS runs while the process holds about what it holds at the end.
    measured = max(held, child + own_bytes()) if strategy == "metis" and partitions > 1 else held
    row = _row(plan.total, measured, plan.total, measured)
    return row | {"command, MB": round(held / 1e6), "Ray, MB": 0, "planned step, s": "", "measured step, s": ""}


def train_case(
    arguments: argparse.Namespace, partitions: int, backbone: str, loss: str, batch: int = 0
) -> dict[str, Any]:
    """Train a model, which the cases after it may use."""
    train = {"loss": loss} | ({"batch_size": batch} if batch else {})
    config = configuration(arguments, partitions, train=train, backbone={"name": backbone})
    return with_workers(config, "train", lambda group: pipeline.train(config, group=group))


def evaluate_case(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the trained model."""
    config = configuration(arguments, 2)
    return with_workers(config, "evaluate", lambda group: pipeline.evaluate(config, group=group), TEST_USERS)


def one_step_case(arguments: argparse.Namespace, loss: str) -> dict[str, Any]:
    """Train with batches of all interactions."""
    return train_case(arguments, 1, "lightgcn", loss, arguments.interactions)


def pretrain_case(arguments: argparse.Namespace) -> dict[str, Any]:
    """Pre-train the encoder of the trained model."""
    config = configuration(arguments, 2)
    return with_workers(config, "pretrain", lambda group: pipeline.pretrain(config, group=group))


def forget_case(arguments: argparse.Namespace) -> dict[str, Any]:
    """Forget three users, with the encoder of the case before."""
    config = configuration(arguments, 2)
    users = pq.read_table(arguments.folder / "events.parquet")["user_id"][:3].to_pylist()
    named = ",".join(str(user) for user in users)
    return with_workers(config, "forget", lambda group: pipeline.forget(config, users=named, group=group))


CASES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ingest, metis 2": lambda a: ingest_case(a, 2, "metis"),
    "ingest, hash 2": lambda a: ingest_case(a, 2, "hash"),
    "ingest, 1 partition": lambda a: ingest_case(a, 1, "hash"),
    "train lightgcn bpr, 2 workers": lambda a: train_case(a, 2, "lightgcn", "bpr"),
    "pretrain lightgcn, 2 workers": pretrain_case,
    "forget 3 users, 2 workers": forget_case,
    "evaluate, 2 workers": evaluate_case,
} | {
    f"train {backbone} {loss}, 2 workers": partial(train_case, partitions=2, backbone=backbone, loss=loss)
    for backbone in BACKBONES
    for loss in LOSSES
    if (backbone, loss) != ("lightgcn", "bpr")
}
CASES |= {
    f"train lightgcn {loss}, 1 worker": partial(train_case, partitions=1, backbone="lightgcn", loss=loss)
    for loss in LOSSES
}
CASES |= {f"train lightgcn {loss}, 1 worker, one step": partial(one_step_case, loss=loss) for loss in LOSSES}

if __name__ == "__main__":
    main()
