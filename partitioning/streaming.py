"""Owners for a graph that is too large for METIS: METIS places a sample, and streams over the interactions do the rest.

The sample has whole users, as many as a given number of interactions allows, and the items that they met. Then users and
items in turn go to the partition that owns most of their neighbours, if it has room: a partition has room for CAPACITY
times the mean sum of degrees. It is label propagation with a bound on the labels (Ugander & Backstrom 2013), with the
sample in the place of a random start, from which it does not get far. Memory is that of the sample, of a block, and some
bytes for each node.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from .stored import ByItem, Interactions

SAMPLE_INTERACTIONS = 3_000_000
CAPACITY = 1.03
ROUNDS = 3
NODES_AT_ONCE, CELLS_AT_ONCE = 8192, 4_000_000

Owners = npt.NDArray[np.int16]
Ints = npt.NDArray[np.int64]

Metis = Callable[[csr_array, int, int], Owners]
"""(users' interactions [u, i], number of partitions, seed) -> the owners of the users and of the items, [u + i]."""


def by_stream(
    graph: Interactions, items: ByItem, num_partitions: int, seed: int, order: Ints, metis: Metis
) -> tuple[Owners, Owners]:
    """The owners of the users and of the items.

    order [U]: the users, as the sample is taken from them. Nodes without neighbours go where there is room.
    """
    num_users, num_items = len(graph.user_degrees), len(graph.item_degrees)
    taken = order[np.cumsum(graph.user_degrees[order]) <= SAMPLE_INTERACTIONS]
    in_sample = np.zeros(num_users, dtype=bool)
    in_sample[taken if len(taken) else order[:1]] = True
    users, neighbours = [], []
    for block in graph.blocks():
        chosen = in_sample[block.users]
        users.append(block.users[chosen])
        neighbours.append(block.items[chosen])
    user, item = np.concatenate(users), np.concatenate(neighbours)
    user_ids, item_ids = np.flatnonzero(in_sample), np.flatnonzero(np.bincount(item, minlength=num_items))
    rows, columns = np.searchsorted(user_ids, user), np.searchsorted(item_ids, item)
    shape = (len(user_ids), len(item_ids))
    owners = metis(csr_array((np.ones(len(user), np.int8), (rows, columns)), shape), num_partitions, seed)
    del users, neighbours, user, item, rows, columns
    of_user, of_item = np.full(num_users, -1, dtype=np.int16), np.full(num_items, -1, dtype=np.int16)
    of_user[user_ids], of_item[item_ids] = owners[: len(user_ids)], owners[len(user_ids) :]

    load = np.zeros(num_partitions, dtype=np.int64)
    for owner, degrees in ((of_user, graph.user_degrees), (of_item, graph.item_degrees)):
        placed = owner >= 0
        load += np.bincount(owner[placed], degrees[placed], minlength=num_partitions).astype(np.int64)
    room = int(np.ceil(CAPACITY * 2 * len(graph) / num_partitions))
    for _ in range(ROUNDS):
        for block in graph.blocks():
            _move(block.users, block.items, of_user, of_item, graph.user_degrees, load, room)
        for block in items.blocks():
            _move(block.items, block.users, of_item, of_user, graph.item_degrees, load, room)
    return of_user, of_item


def _move(
    nodes: npt.NDArray[np.int32],
    others: npt.NDArray[np.int32],
    owner: Owners,
    owner_of_other: Owners,
    degrees: Ints,
    load: Ints,
    room: int,
) -> None:
    """Give the nodes of a block to new owners, in place. nodes [n]: ascending, with their neighbours others [n]."""
    count = len(load)
    starts = np.flatnonzero(np.r_[True, nodes[1:] != nodes[:-1]][: len(nodes)])
    distinct = nodes[starts]
    size = max(1, min(NODES_AT_ONCE, CELLS_AT_ONCE // count))
    for first in range(0, len(distinct), size):
        some = distinct[first : first + size]
        begin = starts[first]
        end = starts[first + size] if first + size < len(starts) else len(nodes)
        theirs = owner_of_other[others[begin:end]]
        line = np.repeat(np.arange(len(some)), degrees[some])
        known = theirs >= 0
        votes = np.bincount(line[known] * count + theirs[known], minlength=len(some) * count).reshape(-1, count)
        before = owner[some]
        had = before >= 0
        load -= np.bincount(before[had], degrees[some[had]], minlength=count).astype(np.int64)
        # A node stays where it is unless another partition has more of its neighbours; without any it goes where least is.
        score = votes.astype(np.float64)
        score[np.flatnonzero(had), before[had]] += 0.5
        score -= 0.25 * load / max(1, room)
        owner[some] = _with_room(score, degrees[some], load, room)


def _with_room(score: npt.NDArray[np.float64], degrees: Ints, load: Ints, room: int) -> Owners:
    """The owners of nodes [n], each the best by score [n, K] that has room; `load` [K] grows in place.

    Where not all who want a partition find room, those come first who lose most by going elsewhere.
    """
    count = len(load)
    chosen = np.full(len(score), -1, dtype=np.int64)
    open_ = np.arange(len(score))
    for _ in range(count):
        best = score[open_].argmax(axis=1)
        wanted = load + np.bincount(best, degrees[open_], minlength=count).astype(np.int64)
        if (wanted <= room).all():
            chosen[open_] = best
            load[:] = wanted
            return chosen.astype(np.int16)
        ranked = np.partition(score[open_], count - 2, axis=1)
        loss = ranked[:, -1] - ranked[:, -2]
        order = np.lexsort((-loss, best))
        sums = np.cumsum(degrees[open_[order]])
        ends = np.cumsum(np.bincount(best, minlength=count))
        before = np.concatenate([[0], sums])[ends - np.bincount(best, minlength=count)]
        fits = load[best[order]] + sums - before[best[order]] <= room
        into = open_[order[fits]]
        chosen[into] = best[order[fits]]
        load += np.bincount(chosen[into], degrees[into], minlength=count).astype(np.int64)
        full = wanted > room
        open_ = np.sort(open_[order[~fits]])
        # Whoever found no room looks elsewhere from now on.
        score[np.ix_(open_, np.flatnonzero(full))] = -np.inf
        if full.all() or not np.isfinite(score[open_]).any(axis=1).all():
            break
    for node in open_[np.argsort(-degrees[open_], kind="stable")]:  # no room anywhere: where least is
        chosen[node] = int(np.argmin(load))
        load[chosen[node]] += degrees[node]
    return chosen.astype(np.int16)
