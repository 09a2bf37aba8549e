"""Compare the strategies of partitioning: edge cut, balance, the rows that a layer sends with both halo plans, and seconds.

The data are a table of interactions (Parquet with the columns user_id and item_id). Without `--interactions` they are the
generated sample of 3,000 users and 1,500 items.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..partitioning.assignment import STRATEGIES, assign, balance, edge_cut
from ..partitioning.graph import InteractionGraph, read_interactions
from ..partitioning.halo import HALOS, check_plans, plan
from ..partitioning.lake import Columns
from ..partitioning.sample import make_sample
from ..partitioning.shard import build_shards
from ..partitioning.storage import AWS
from . import results_file


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench partitioning", description=__doc__)
    parser.add_argument("--interactions", help="Parquet with user_id and item_id; the generated sample by default")
    parser.add_argument("--partitions", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--name", default="sample", help="of the data set, for the title and the results file")
    parser.add_argument("--output", type=Path, help="benchmarks/results/partitioning-NAME.md by default")
    parser.add_argument("--seed", type=int, default=0, help="of METIS, the hash and the generated sample")
    arguments = parser.parse_args(argv)
    graph = _read(arguments.interactions, arguments.seed)
    rows = measure(graph, arguments.partitions, arguments.seed)
    path = arguments.output or results_file.FOLDER / f"partitioning-{arguments.name}.md"
    parts = [
        f"{len(graph.users):,} interactions of {len(graph.user_ids):,} users and {len(graph.item_ids):,} items.",
        results_file.table(rows),
        NOTES,
    ]
    results_file.write(path, f"Partitioning: {arguments.name}", parts, shown=_command(arguments))
    print(path.read_text(encoding="utf-8"))


NOTES = """Edge cut: the share of interactions whose user and item have different owners. Balance: the heaviest partition's
sum of degrees over the mean. Rows: embedding rows (or partial sums of rows, under `cover`) that all partitions together
send in one layer; the backward pass sends as many. Seconds: one run each; planning is the sum over the partitions, planned
one after the other in one process."""


def measure(graph: InteractionGraph, partitions: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """One row of the table for each number of partitions and each strategy.

    Raises:
        ValueError: the plans of two partitions do not fit together.
    """
    rows = []
    for count in partitions:
        for strategy in STRATEGIES:
            start = time.perf_counter()
            assignment = assign(graph, strategy, count, seed)
            seconds = time.perf_counter() - start
            row: dict[str, Any] = {
                "partitions": count,
                "strategy": strategy,
                "edge cut": edge_cut(graph, assignment),
                "balance": balance(graph, assignment),
                "assign, s": seconds,
            }
            shards = build_shards(graph.users, graph.items, graph.counts, assignment)
            for halo in HALOS:
                start = time.perf_counter()
                plans = [plan(shard, assignment, halo) for shard in shards]
                seconds = time.perf_counter() - start
                check_plans(plans)
                row |= {f"{halo}, rows": int(sum(p.send_counts.sum() for p in plans)), f"{halo}, s to plan": seconds}
            rows.append(row)
    return rows


def _read(interactions: str | None, seed: int) -> InteractionGraph:
    """The graph of a table of interactions; None: that of the generated sample."""
    if interactions is not None:
        return read_interactions(interactions, Columns(), AWS)
    with tempfile.TemporaryDirectory() as folder:
        sample = make_sample(folder, users=3000, items=1500, seed=seed)
        return read_interactions(sample["train"], Columns(), AWS)


def _command(arguments: argparse.Namespace) -> str:
    """The command that makes this file again. Of a path it has only the last folder and the name."""
    words = ["unlearnrec bench partitioning"]
    if arguments.interactions is not None:
        words.append(f"--interactions {'/'.join(Path(arguments.interactions).parts[-2:])}")
    words += ["--partitions", *map(str, arguments.partitions), f"--name {arguments.name} --seed {arguments.seed}"]
    return " ".join(words)


if __name__ == "__main__":
    main()
