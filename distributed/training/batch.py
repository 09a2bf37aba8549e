"""The interactions of a training step, each with a negative item.

The owner of its user works on an interaction. Batches are sorted by user, then item, so that every sum adds in the same
order for any number of partitions.

Shape legend: B = interactions of the batch on this rank.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.keyed import BATCH, CHUNK, NEGATIVE, SHARED_NEGATIVE, keyed, keyed_below
from ..graph.local_graph import LocalGraph

WINDOW = 4_194_304
"""Interactions that are put into the order of their steps at a time. All of them at once would take 36 bytes each."""


@dataclass(frozen=True)
class Batch:
    """The interactions users, items and their negative items, int64 [B]: global ids, sorted by (user, item)."""

    users: Tensor
    items: Tensor
    negatives: Tensor


def batches(graph: LocalGraph, seed: int, epoch: int, num_batches: int) -> Iterator[Batch]:
    """The interactions of this rank in one epoch, dealt to `num_batches` steps by a hash of (seed, epoch, user, item).
    Each has a negative, which is a keyed draw.

    Negatives are uniform over all items, including those of the user's own interactions. If these were rejected, a draw
    would depend on other interactions, some of which a counterfactual lacks.
    """
    step = torch.empty(len(graph.pair_users), dtype=torch.int32, device=graph.pair_users.device)
    for start in range(0, len(step), CHUNK):
        chunk = slice(start, start + CHUNK)
        step[chunk] = keyed_below(num_batches, seed, BATCH, epoch, graph.pair_users[chunk], graph.pair_items[chunk])
    sizes = torch.bincount(step, minlength=num_batches).tolist()
    for first, end in _windows(sizes):
        members = torch.nonzero((step >= first) & (step < end))[:, 0]
        members = members[torch.argsort(step[members], stable=True)]
        for places in members.split(sizes[first:end]):
            users, items = graph.pairs_at(places)
            yield Batch(users, items, keyed_below(graph.num_items, seed, NEGATIVE, epoch, users, items))


def _windows(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Steps that are dealt together, as (first, end): up to WINDOW interactions, and at least one step."""
    first, held = 0, 0
    for step, size in enumerate(sizes):
        if step > first and held + size > WINDOW:
            yield first, step
            first, held = step, 0
        held += size
    yield first, len(sizes)


def pair_key(users: Tensor, items: Tensor, num_items: int, role: int) -> Tensor:
    """Unique int64 keys [B] of (pair, role), where role is 0 or 1. Keys have the order of (user, item, role)."""
    return (users * num_items + items) * 2 + role


def shared_negatives(graph: LocalGraph, seed: int, epoch: int, step: int, count: int) -> Tensor:
    """The negative items int64 [count] that all pairs of a step share, the same on every rank."""
    positions = torch.arange(count, device=graph.pair_users.device)
    return keyed(seed, SHARED_NEGATIVE, epoch, step, positions) % graph.num_items
