"""Measure how the time of a request depends on the number of partitions that it affects, for requests of the same size.

The graph is made so that partition k owns the users and items of community k, and only a few interactions are between two
communities. Each request removes the same number of interactions; request p removes those of p partitions. The gate and
fine-tuning are off, because they are the work of all partitions. The calls to the workers are recorded: which workers are
called, and how long each is busy.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from ..cluster import pipeline
from ..cluster.config.schema import Config, parse_config
from ..cluster.models.comparison import copy_output
from ..cluster.output.session import Session
from ..workers import Call, WorkerGroup
from . import results_file

R = TypeVar("R")

PARTITIONS = 4
ITEM_SHARE = 0.2
"""The number of items of a community, as a share of the number of its users."""
CROSSING = 0.02
"""The share of interactions whose item is drawn from any community."""
OFFSET = 10**9
"""The smallest id of an item. Ids of users are smaller."""

NOTES = """Unlearn: what step 6 of docs/forgetting.md takes, from the driver's side. Busy: in the workers, each
affected partition's own time, in order of partition. Refresh is the work of all partitions, whatever is affected.
Calls to others: calls of `find` and `forget` to partitions that are not affected. Numbers are medians of the
repetitions, each of which starts from the same version; busy times are those of the repetition with the median
of Unlearn."""


class Recorder:
    """Records the calls of a worker group from now on, as (method, partitions, results)."""

    def __init__(self, group: WorkerGroup) -> None:
        self.calls: list[tuple[str, list[int], list[Any]]] = []
        unrecorded = group.call

        def record(call: Call[R], *, partitions: Sequence[int] | None = None, **keywords: Any) -> list[R]:
            results = unrecorded(call, partitions=partitions, **keywords)
            called = list(range(PARTITIONS) if partitions is None else partitions)
            self.calls.append((call.method, called, results))
            return results

        group.call = record  # type: ignore[method-assign]


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench affected", description=__doc__)
    parser.add_argument("--users", type=int, default=5000, help="of each partition")
    parser.add_argument("--degree", type=int, default=25, help="interactions of a user")
    parser.add_argument("--removed", type=int, default=2400, help="interactions of a request, a multiple of 12")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", type=Path, default=results_file.FOLDER / "affected.md")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if not ray.is_initialized():
        # There is one worker for each partition even if there are fewer cores. The results file says how many there are.
        ray.init(address="local", num_cpus=PARTITIONS, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        rows, interactions = measure(Path(folder), arguments)
    parts = [
        f"{PARTITIONS * arguments.users:,} users, {interactions:,} interactions, {PARTITIONS} partitions, a worker each.",
        results_file.table(rows),
        NOTES,
    ]
    words = [f"--{name} {getattr(arguments, name)}" for name in ("users", "degree", "removed", "repeat", "seed")]
    shown = " ".join(["unlearnrec bench affected", *words])
    results_file.write(arguments.output, "Time against the number of affected partitions", parts, shown=shown)
    print(arguments.output.read_text(encoding="utf-8"))


def measure(folder: Path, arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    """Train a model and carry out all requests; returns (a row for each number of affected partitions, the number of
    interactions)."""
    users, items = make_graph(folder, arguments.users, arguments.degree, arguments.seed)
    config = _config(folder, "run", arguments.seed)
    pipeline.ingest(config)
    rows = []
    with Session(config).workers() as group:
        pipeline.train(config, group=group)
        pipeline.pretrain(config, group=group)
        recorder = Recorder(group)
        for affected in range(1, PARTITIONS + 1):
            request = folder / f"request-{affected}.parquet"
            _choose(users, items, arguments, affected, request)
            runs = []
            for number in range(arguments.repeat):
                own = _config(folder, f"run-{affected}-{number}", arguments.seed)
                copy_output(config.output, own.output)
                recorder.calls.clear()
                runs.append((pipeline.forget(own, interactions=str(request), group=group), recorder.calls[:]))
            rows.append(_row(affected, runs))
    return rows, len(users)


def _row(affected: int, runs: list[tuple[dict[str, Any], list[tuple[str, list[int], list[Any]]]]]) -> dict[str, Any]:
    """A row of the table. runs: (the answer, the recorded calls) of each repetition."""
    runs = sorted(runs, key=lambda run: float(run[0]["phases"]["unlearn"]))
    answer, calls = runs[len(runs) // 2]
    asked = [(method, k) for method, partitions, _ in calls if method in ("find", "forget") for k in partitions]
    busy = next(results for method, _, results in calls if method == "forget")
    if answer["affected_partitions"] != list(range(affected)):
        raise RuntimeError(f"the request affects {answer['affected_partitions']}, not the first {affected}")
    return {
        "affected partitions": affected,
        "interactions": answer["removed_interactions"],
        "unlearn, s": float(answer["phases"]["unlearn"]),
        "busy, s": ", ".join(f"{result['seconds']:.3f}" for result in busy),
        "busy in all, s": float(sum(result["seconds"] for result in busy)),
        "refresh, s": statistics.median(float(run["phases"]["refresh"]) for run, _ in runs),
        "in all, s": statistics.median(float(run["seconds"]) for run, _ in runs),
        "calls to others": sum(k >= affected for _, k in asked),
    }


def make_graph(folder: Path, users: int, degree: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Write `events.parquet` and `owners.parquet`; returns (users, items) of the interactions.

    User u belongs to partition u // users, item i to partition i // (ITEM_SHARE * users).
    """
    draw = np.random.default_rng(seed)
    per_community = int(ITEM_SHARE * users)
    user = np.repeat(np.arange(PARTITIONS * users), degree)
    community = np.where(draw.random(len(user)) < CROSSING, draw.integers(PARTITIONS, size=len(user)), user // users)
    item = community * per_community + (per_community * draw.random(len(user)) ** 2).astype(np.int64)
    codes = np.unique(user * PARTITIONS * per_community + item)
    user, item = codes // (PARTITIONS * per_community), codes % (PARTITIONS * per_community)
    pq.write_table(pa.table({"user_id": user, "item_id": item + OFFSET}), folder / "events.parquet")
    sides = [(side, np.unique(ids), size) for side, ids, size in (("user", user, users), ("item", item, per_community))]
    ids = np.concatenate([found + OFFSET * (side == "item") for side, found, _ in sides])
    owners = {
        "side": [side for side, found, _ in sides for _ in found],
        "id": ids,
        "partition": np.concatenate([found // size for _, found, size in sides]),
    }
    pq.write_table(pa.table(owners), folder / "owners.parquet")
    return user, item


def _choose(
    users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], arguments: argparse.Namespace, affected: int, file: Path
) -> None:
    """Write a request for interactions inside the first `affected` communities, the same number of each."""
    draw = np.random.default_rng(arguments.seed + 1)
    own, other = users // arguments.users, items // int(ITEM_SHARE * arguments.users)
    chosen = [
        draw.choice(np.flatnonzero((own == k) & (other == k)), arguments.removed // affected, replace=False)
        for k in range(affected)
    ]
    places = np.sort(np.concatenate(chosen))
    pq.write_table(pa.table({"user_id": users[places], "item_id": items[places] + OFFSET}), file)


def _config(folder: Path, name: str, seed: int) -> Config:
    return parse_config(
        {
            "interactions": str(folder / "events.parquet"),
            "output": str(folder / name),
            "seed": seed,
            "cluster": {"partitions": PARTITIONS},
            "partitioning": {"strategy": "file", "assignment": str(folder / "owners.parquet")},
            "train": {"epochs": 1},
            "pretrain": {"epochs": 1, "counterfactuals": 1},
            "forget": {"gate_gap_closed": None, "gate_recall_loss": None, "gate_change": None},
        }
    )


if __name__ == "__main__":
    main()
