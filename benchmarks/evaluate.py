"""Measure how long full ranking takes, next to the matrix products alone that it needs, in the same run and alternating.

The readouts are random and the interactions drawn at random with popular items, so nothing is learned here. It runs in this
process with one partition. Without `--results` it prints the table and writes nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributed.comm import Comm
from ..distributed.graph.local_graph import LocalGraph
from ..distributed.measures.quality import evaluate
from ..distributed.measures.ranking import seen_items
from ..distributed.measures.top_items import TopItems
from ..partitioning.assignment import Assignment
from ..partitioning.shard import build_shards
from . import results_file

PLAIN_USERS = 1024
"""The number of users of a block of the plain way, which makes all of a block's scores before it looks for the best."""
K = 20


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench evaluate", description=__doc__)
    parser.add_argument("--users", type=int, default=20_000, help="users that are ranked for")
    parser.add_argument("--items", type=int, default=99_053)
    parser.add_argument("--size", type=int, default=64, help="columns of a readout")
    parser.add_argument("--interactions", type=int, default=20, help="of a user, on average")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: what torch takes")
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = measure(arguments.users, arguments.items, arguments.size, arguments.interactions, arguments.repeats)
    about = (
        f"{arguments.users:,} users, {arguments.items:,} items, {arguments.size} columns; {torch.get_num_threads()} "
        f"threads; the {K} best items; the median of {arguments.repeats} times, each taken in turn."
    )
    parts = [about, results_file.table(rows), EXPLAINED]
    if arguments.results:
        results_file.write(arguments.results, "Ranking next to its matrix products", parts)
    print("\n\n".join(parts))


EXPLAINED = """\
"Products in tiles" are the matrix products alone, in the tiles and the buffer of the ranking: what no exact ranking by
torch's products can be faster than. "Products in blocks" are those of the plain way: all scores of 1,024 users at once,
in fresh memory. "Plain ranking" adds the exclusion of seen items and `torch.topk`."""


def measure(users: int, items: int, size: int, interactions: int, repeats: int) -> list[dict[str, Any]]:
    """The median seconds of each way, and their ratios to the products in tiles and in blocks."""
    graph, z, test = ranking_case(users, items, size, interactions)
    ways: dict[str, Callable[[], Any]] = {
        "products in tiles": lambda: products_in_tiles(graph, z),
        "products in blocks": lambda: _in_blocks(graph, z, ranked=False),
        "ranking (`evaluate`)": lambda: evaluate(graph, z, *test, (K,), PLAIN_USERS),
        "plain ranking": lambda: _in_blocks(graph, z, ranked=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    return [
        {
            "way": name,
            "seconds": round(median, 2),
            "to products in tiles": round(median / medians["products in tiles"], 2),
            "to products in blocks": round(median / medians["products in blocks"], 2),
            "a million users, s": round(median / users * 1e6),
        }
        for name, median in medians.items()
    ]


def ranking_case(
    users: int, items: int, size: int, interactions: int
) -> tuple[LocalGraph, Tensor, tuple[Tensor, Tensor]]:
    """(graph, readouts, a test interaction of each user)."""
    draw = np.random.default_rng(0)
    popularity = 1.0 / np.arange(10, items + 10)
    drawn = draw.choice(items, size=users * interactions, p=popularity / popularity.sum())
    pairs = np.unique(np.repeat(np.arange(users), interactions) * items + drawn)
    owners = Assignment(np.zeros(users, dtype=np.int16), np.zeros(items, dtype=np.int16), 1)
    both = (pairs // items).astype(np.int32), (pairs % items).astype(np.int32)
    shard = build_shards(*both, np.ones(len(pairs), dtype=np.int32), owners)[0]
    graph = LocalGraph(shard, owners, Comm())
    z = torch.randn(graph.num_rows, size, generator=torch.Generator().manual_seed(0))
    return graph, z, (graph.user_ids, torch.from_numpy(draw.integers(items, size=len(graph.user_ids))))


@torch.no_grad()
def products_in_tiles(graph: LocalGraph, z: Tensor) -> None:
    """The products that the ranking makes, and nothing else."""
    best = TopItems(z[graph.num_local_users :], K, PLAIN_USERS)
    for block in z[: graph.num_local_users].split(best.block_users):
        for tile in best.tiles:
            torch.mm(block, tile.T, out=best.scores[: len(block) * len(tile)].view(len(block), len(tile)))


@torch.no_grad()
def _in_blocks(graph: LocalGraph, z: Tensor, ranked: bool) -> None:
    """The products of blocks of users with all items; ranked: also the best items, by `torch.topk`."""
    items = z[graph.num_local_users :]
    for rows in torch.arange(graph.num_local_users).split(PLAIN_USERS):
        scores = z[rows] @ items.T
        if ranked:
            line, seen = seen_items(graph, rows)
            scores[line, seen] = -torch.inf
            scores.topk(K, dim=1)


if __name__ == "__main__":
    main()
