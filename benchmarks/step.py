"""Measure a training step against the bare sums over neighbours of its layers, in the same run and by turns.

LightGCN with BPR. The bare sums are those that the layers of a step need, forward and backward, without scaling,
exchange, loss or update. The graph is generated in memory with `--users`, `--items` and `--interactions`, or read from a
table (`--train`). Each number of partitions is measured with processes of its own, which share `--threads`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..distributed.backbones import BACKBONES
from ..distributed.comm import Comm
from ..distributed.graph.local_graph import LocalGraph
from ..distributed.processes import run_processes
from ..distributed.training.batch import batches
from ..distributed.training.trainer import Trainer, TrainSettings
from ..partitioning.assignment import Assignment, assign
from ..partitioning.graph import read_interactions
from ..partitioning.lake import Columns
from ..partitioning.shard import GraphShard, build_shards
from ..partitioning.storage import AWS
from . import results_file

Ids = npt.NDArray[np.int32]
COMMUNITIES = 64
INSIDE = 0.9
"""The share of a generated user's interactions that are with items of the user's community."""

NOTES = """Seconds: the fastest round, of the slowest rank in it; other work on the machine only adds to them. `bare
sums`: the sums over neighbours of a step's layers, forward and backward, by the kernel of the training. `one call a
side`: the same sums with one `embedding_bag` for the users and one for the items, as a plain program would do them.
`step`: what `train` does for a step, with the drawing of its batch. `ratio`: step / bare sums. `deal`: at the beginning
of an epoch, the interactions are dealt to its steps. `gathered`: bytes of the rows that the bare sums read, over their
seconds. `copy`: bytes read and written, of all ranks at once, when a tensor of the size of the embeddings is copied.
`halo`: rows and bytes that leave all ranks in the layers of a step. `lookup`: bytes for the readouts of its pairs and
their gradients. `peak`: the largest resident memory of a worker."""


@dataclass(frozen=True)
class Plan:
    """What a process measures. It pickles."""

    folder: str
    halo: str
    batch_size: int
    embedding_size: int
    num_layers: int
    rounds: int
    total_pairs: int
    loss: str = "bpr"


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench step", description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--interactions", type=int, default=2_000_000)
    parser.add_argument("--train", help="Parquet with user_id and item_id, in place of a generated graph")
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--halo", nargs="+", default=["pull", "cover"], help="plans where there are several partitions")
    parser.add_argument("--threads", type=int, default=2, help="of all partitions together")
    parser.add_argument("--batch", type=int, default=50_000)
    parser.add_argument("--embedding-size", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the generated graph and of METIS")
    parser.add_argument("--name", default="generated", help="of the data set, for the results file")
    parser.add_argument("--output", type=Path, help="benchmarks/results/step-NAME.md by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args(argv)
    rows = measure(arguments)
    path = arguments.output or results_file.FOLDER / f"step-{arguments.name}.md"
    described = (
        f"{rows[0]['interactions']:,} interactions of {rows[0]['users']:,} users and {rows[0]['items']:,} items, "
        f"{arguments.embedding_size} columns, {arguments.layers} layers, batches of {arguments.batch:,}, "
        f"{arguments.threads} threads in all, {arguments.rounds} rounds. {_origin(arguments)}"
    )
    shown = [{key: x for key, x in row.items() if key not in ("users", "items", "interactions")} for row in rows]
    results_file.write(
        path, f"A step and its bare sums: {arguments.name}", [described, results_file.table(shown), NOTES]
    )
    print(path.read_text(encoding="utf-8"))
    if arguments.json:
        print(json.dumps({"ratio": max(row["ratio"] for row in rows), "runs": rows}))


def _origin(arguments: argparse.Namespace) -> str:
    if arguments.train is not None:
        return "Partitions are METIS's."
    return (
        f"The graph is generated: {COMMUNITIES} communities of users and items, {INSIDE:.0%} of a user's interactions "
        "inside, activity lognormal, popularity of items by a power law. A partition holds whole communities."
    )


def _owners(communities: npt.NDArray[np.int64], partitions: int) -> npt.NDArray[np.int16]:
    return (communities * partitions // COMMUNITIES).astype(np.int16)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row of the table for each number of partitions and each plan."""
    if arguments.train is not None:
        graph = read_interactions(arguments.train, Columns(), AWS)
        users, items = graph.users, graph.items
        owners = {n: assign(graph, "metis", n, arguments.seed) for n in arguments.partitions}
    else:
        users, items, of_user, of_item = generate(
            arguments.users, arguments.items, arguments.interactions, arguments.seed
        )
        owners = {n: Assignment(_owners(of_user, n), _owners(of_item, n), n) for n in arguments.partitions}
    rows = []
    for count, assignment in owners.items():
        with tempfile.TemporaryDirectory() as folder:
            for shard in build_shards(users, items, np.ones(len(users), dtype=np.int32), assignment):
                Path(folder, f"{shard.partition}").write_bytes(shard.to_bytes())
            np.savez(Path(folder, "owners.npz"), users=assignment.owner_of_user, items=assignment.owner_of_item)
            for halo in arguments.halo if count > 1 else arguments.halo[:1]:
                plan = Plan(
                    folder,
                    halo,
                    arguments.batch,
                    arguments.embedding_size,
                    arguments.layers,
                    arguments.rounds,
                    len(users),
                )
                threads = max(1, arguments.threads // count)
                found = run_processes(count, measure_rank, plan, timeout_seconds=600.0, threads=threads)
                sizes = {"users": len(assignment.owner_of_user), "items": len(assignment.owner_of_item)}
                rows.append(sizes | {"interactions": len(users)} | _row(count, halo, plan, found))
                print(", ".join(f"{key}: {x}" for key, x in rows[-1].items()), file=sys.stderr)
    return rows


def generate(
    num_users: int, num_items: int, count: int, seed: int
) -> tuple[Ids, Ids, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(users, items) of about `count` distinct interactions, sorted, and the communities of users and of items."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(size=num_users)
    users = np.repeat(np.arange(num_users), np.maximum(1, activity * (count / activity.sum())).astype(np.int64))
    of_user = rng.integers(0, COMMUNITIES, num_users)
    size = -(-num_items // COMMUNITIES)
    popularity = np.cumsum((np.arange(size) + 10.0) ** -0.9)
    ranks = np.searchsorted(popularity / popularity[-1], rng.random(len(users)))
    community = np.where(rng.random(len(users)) < INSIDE, of_user[users], rng.integers(0, COMMUNITIES, len(users)))
    place = rng.permutation(
        num_items
    )  # place[k] is the item that is number k // COMMUNITIES of community k % COMMUNITIES
    items = place[np.minimum(ranks * COMMUNITIES + community, num_items - 1)]
    codes = np.unique(users * num_items + items)
    of_item = np.empty(num_items, dtype=np.int64)
    of_item[place] = np.arange(num_items) % COMMUNITIES
    return (codes // num_items).astype(np.int32), (codes % num_items).astype(np.int32), of_user, of_item


def measure_rank(comm: Comm, plan: Plan) -> dict[str, Any]:
    """What one rank measures: lists of seconds, one for each round, and counts."""
    with np.load(Path(plan.folder, "owners.npz")) as owners:
        assignment = Assignment(owners["users"], owners["items"], comm.size)
    shard = GraphShard.from_bytes(Path(plan.folder, f"{comm.rank}").read_bytes())
    graph = LocalGraph(shard, assignment, comm, plan.halo)
    settings = TrainSettings(
        seed=0,
        batch_size=plan.batch_size,
        learning_rate=0.01,
        loss=plan.loss,
        initial_deviation=0.1,
        l2=1e-4,
        softmax_temperature=0.2,
        softmax_negatives=2048,
        total_pairs=plan.total_pairs,
    )
    backbone = BACKBONES["lightgcn"](embedding_size=plan.embedding_size, num_layers=plan.num_layers).to(comm.device)
    trainer = Trainer(graph, backbone, settings)
    rows = torch.zeros(graph.halo.num_own + graph.halo.num_received, plan.embedding_size, device=comm.device)
    sums, copied = (torch.zeros(graph.num_rows, plan.embedding_size, device=comm.device) for _ in range(2))
    sides = _sides(graph)

    def bare() -> None:
        for _ in range(2 * plan.num_layers):
            for place, tile in graph.propagation.local_sums(rows):
                sums[place] = tile

    def plain() -> None:
        for _ in range(2 * plan.num_layers):
            for columns, indptr in sides:
                torch.nn.functional.embedding_bag(columns, rows, indptr, mode="sum", include_last_offset=True)

    todo = batches(graph, settings.seed, 0, settings.num_batches)

    def step() -> None:
        nonlocal todo
        batch = next(todo, None)
        if batch is None:
            todo = batches(graph, settings.seed, 0, settings.num_batches)
            batch = next(todo)
        trainer.step(batch, 0)

    dealt = [_seconds(comm, lambda: next(todo))]
    step()
    before = dict(comm.rows_sent), dict(comm.bytes_sent)
    step()
    rows_sent, bytes_sent = (
        {purpose: after[purpose] - earlier[purpose] for purpose in ("halo", "lookup")}
        for after, earlier in zip((comm.rows_sent, comm.bytes_sent), before, strict=True)
    )
    seconds: dict[str, list[float]] = {"bare": [], "plain": [], "step": [], "copy": []}
    for _ in range(plan.rounds):
        seconds["bare"].append(_seconds(comm, bare))
        seconds["step"].append(_seconds(comm, step))
        seconds["plain"].append(_seconds(comm, plain))
        seconds["copy"].append(_seconds(comm, lambda: copied.copy_(sums)))
    return seconds | {
        "deal": dealt,
        "halo_rows": rows_sent["halo"],
        "halo_bytes": bytes_sent["halo"],
        "lookup_bytes": bytes_sent["lookup"],
        "entries": int(graph.halo.indptr[-1]),
        "rows": graph.num_rows,
        "steps": settings.num_batches,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _sides(graph: LocalGraph) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(columns, indptr) of the rows of users and of the rows of items."""
    indptr, columns, users = graph.halo.indptr, graph.halo.columns, graph.num_local_users
    first = indptr[users]
    parts = [(columns[:first], indptr[: users + 1]), (columns[first:], indptr[users:] - first)]
    device = graph.comm.device
    return [(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)) for x, y in parts]


def _seconds(comm: Comm, work: Callable[[], Any]) -> float:
    """Seconds that this rank works. All begin together."""
    comm.all_reduce(torch.zeros(1, device=comm.device))
    start = time.perf_counter()
    work()
    if comm.device.type == "cuda":
        torch.cuda.synchronize(comm.device)
    return time.perf_counter() - start


def _row(count: int, halo: str, plan: Plan, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the table from what the ranks found."""
    width = 4 * plan.embedding_size
    seconds = {
        name: min(max(rank[name][k] for rank in found) for k in range(len(found[0][name])))
        for name in ("bare", "plain", "step", "copy", "deal")
    }
    entries, rows = (sum(rank[name] for rank in found) for name in ("entries", "rows"))
    sent = {name: sum(rank[name] for rank in found) for name in ("halo_rows", "halo_bytes", "lookup_bytes")}
    return {
        "partitions": count,
        "halo": halo if count > 1 else "none",
        "bare sums, s": seconds["bare"],
        "one call a side, s": seconds["plain"],
        "step, s": seconds["step"],
        "ratio": seconds["step"] / seconds["bare"],
        "deal, s an epoch": seconds["deal"],
        "steps an epoch": found[0]["steps"],
        "gathered, GB/s": 2 * plan.num_layers * entries * width / seconds["bare"] / 1e9,
        "copy, GB/s": 2 * rows * width / seconds["copy"] / 1e9,
        "halo rows": sent["halo_rows"],
        "halo, MB": sent["halo_bytes"] / 1e6,
        "lookup, MB": sent["lookup_bytes"] / 1e6,
        "peak, GB": max(rank["peak"] for rank in found) / 1e9,
    }


if __name__ == "__main__":
    main()
