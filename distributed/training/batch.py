"""The pairs of a training step: which they are, their items' rows from the owners, and gradients back to the owners.

A pair is worked on by the owner of its user. Order is canonical everywhere (by user, then item), and gradients travel one
by one and are summed at their owner by pair, so that every sum adds in the same order for any number of partitions.

Shape legend: B = pairs of the batch on this rank, C = items asked of other ranks, R = items that others ask of this
rank, D = columns of the readout.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.keyed import BATCH, NEGATIVE, SHARED_NEGATIVE, keyed, keyed_below
from ..graph.local_graph import LocalGraph


@dataclass(frozen=True)
class Batch:
    """Shapes: users, items, negatives int64 [B], global ids, sorted by (user, item)."""

    users: Tensor
    items: Tensor
    negatives: Tensor


def batches(graph: LocalGraph, seed: int, epoch: int, num_batches: int) -> list[Batch]:
    """An epoch's pairs, dealt to `num_batches` steps by a hash of (seed, epoch, pair), each with a keyed negative.

    Negatives are uniform over all items and may be items that the user has: rejecting those would make a draw depend on
    other interactions, which a counterfactual lacks.
    """
    step = keyed_below(num_batches, seed, BATCH, epoch, graph.pair_users, graph.pair_items)
    negatives = keyed_below(graph.num_items, seed, NEGATIVE, epoch, graph.pair_users, graph.pair_items)
    order = torch.argsort(step, stable=True)
    sizes = torch.bincount(step, minlength=num_batches).tolist()
    columns = [x[order].split(sizes) for x in (graph.pair_users, graph.pair_items, negatives)]
    return [Batch(*parts) for parts in zip(*columns, strict=True)]


def pair_key(users: Tensor, items: Tensor, num_items: int, role: int) -> Tensor:
    """Unique int64 keys [B] of (pair, role) with role 0 or 1, ascending with (user, item, role)."""
    return (users * num_items + items) * 2 + role


def shared_negatives(graph: LocalGraph, seed: int, epoch: int, step: int, count: int) -> Tensor:
    """Item ids int64 [count] of a step, the same on every rank."""
    positions = torch.arange(count, device=graph.pair_users.device)
    return keyed(seed, SHARED_NEGATIVE, epoch, step, positions) % graph.num_items
