"""Cut interactions into shards of equal size whose interactions are alike: the interaction-based balanced partition of
RecEraser (Chen et al., "Recommendation Unlearning", WWW 2022, algorithm 2).

Shape legend: n = interactions, K = shards, d = columns of the rows that tell what is alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..lab import Ids, Pairs

Rows = npt.NDArray[np.float32]
Distances = npt.NDArray[np.float32]


def balanced_partition(pairs: Pairs, rows: tuple[Rows, Rows], shards: int, rounds: int, seed: int) -> Ids:
    """The shard of each interaction, int64 [n]. Each has at most ceil(n / shards).

    The anchors of the shards begin at interactions that are drawn, and move to the means of their shards in each round. The
    distance from an anchor is that of the users' rows times that of the items' rows, both squared. It ends when nothing
    changes, or after `rounds` rounds.

    rows: of users [users, d] and of items [items, d].
    """
    users, items = pairs
    draw = np.random.default_rng(seed)
    first = np.sort(draw.choice(len(users), min(shards, len(users)), replace=False))
    anchors = [side[ids[first]] for side, ids in zip(rows, pairs, strict=True)]
    limit = -(-len(users) // shards)
    shard = np.full(len(users), -1, dtype=np.int64)
    for _ in range(max(1, rounds)):
        apart = [_squared(side, centres) for side, centres in zip(rows, anchors, strict=True)]
        before, shard = shard, nearest_with_room(apart[0][users] * apart[1][items], limit)
        if np.array_equal(before, shard):
            break
        counts = np.bincount(shard, minlength=len(first))
        anchors = [
            np.stack([_mean(side, ids[shard == k]) if counts[k] else old[k] for k in range(len(first))])
            for side, ids, old in zip(rows, pairs, anchors, strict=True)
        ]
    return shard


def nearest_with_room(distances: Distances, limit: int) -> Ids:
    """The shard of each interaction, int64 [n], if the pairs (interaction, shard) are gone through from the least of the
    distances [n, K] to the largest, and each interaction takes the first shard with room for it. A shard has `limit` places.

    It is found in rounds, as a stable matching, in which both sides rank by the same distances: each interaction that has
    no shard asks the nearest that did not refuse it, and a shard keeps the nearest that asked.
    """
    n, shards = distances.shape
    if n > limit * shards:
        raise ValueError(f"{shards} shards of {limit} have no room for {n} interactions")
    open_to = distances.copy()  # infinite where a shard has refused
    held = np.full(n, -1, dtype=np.int64)
    asking = np.arange(n)
    while len(asking):
        wanted = open_to[asking].argmin(1)
        refused = []
        for shard in np.unique(wanted):
            both = np.concatenate([np.flatnonzero(held == shard), asking[wanted == shard]])
            if len(both) > limit:
                both = both[np.argpartition(distances[both, shard], limit - 1)]
            held[both[:limit]] = shard
            refused.append(both[limit:])
            open_to[both[limit:], shard] = np.inf
        asking = np.concatenate(refused)
        held[asking] = -1
    return held


def _squared(rows: Rows, centres: Rows) -> Distances:
    """The squared distances of rows [v, d] from centres [K, d], [v, K]."""
    found: Distances = np.stack([((rows - centre) ** 2).sum(1) for centre in centres], axis=1).astype(np.float32)
    return found


def _mean(rows: Rows, ids: Ids) -> Rows:
    """The mean [d] of these rows, each as often as its id is in ids [m]."""
    counts = np.bincount(ids, minlength=len(rows)).astype(np.float64)
    found: Rows = (counts @ rows / counts.sum()).astype(np.float32)
    return found
