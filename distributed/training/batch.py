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
from ..graph.neighbour_sum import NeighbourSum


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


class ItemLookup:
    """Rows of items [C] from their owners, and gradients for them back. keys [C] order the sums: unique, canonical."""

    def __init__(self, graph: LocalGraph, items: Tensor, keys: Tensor) -> None:
        self._graph, comm = graph, graph.comm
        owners = graph.owner_of_item[items]
        self._order = torch.argsort(owners, stable=True)
        self._back = torch.argsort(self._order)
        counts = torch.bincount(owners, minlength=comm.size)
        ones = [1] * comm.size
        self._wanted: list[int] = comm.all_to_all(counts, ones, ones, "lookup").tolist()
        self._asked: list[int] = counts.tolist()
        asked = torch.stack([items, keys], dim=1)[self._order]
        wanted = comm.all_to_all(asked, self._asked, self._wanted, "lookup")
        self.rows = graph.item_rows(wanted[:, 0])
        """Local rows [R] that the other ranks ask for."""
        self._keys = wanted[:, 1]

    def fetch(self, z: Tensor) -> Tensor:
        """The rows [C, D] of z [N, D] (local rows on each rank), in the order in which they were asked for."""
        return self._graph.comm.all_to_all(z[self.rows], self._wanted, self._asked, "lookup")[self._back]

    def add_gradients(self, gradients: Tensor, into: Tensor) -> None:
        """Add gradients [C, D] to the rows of `into` [N, D] on the owners, each row's in order of key."""
        received = self._graph.comm.all_to_all(gradients[self._order], self._asked, self._wanted, "lookup")
        by_key = torch.argsort(self._keys)
        order = by_key[torch.argsort(self.rows[by_key], stable=True)]
        add_by_row(self.rows[order], received, into, order)


def add_by_row(rows: Tensor, gradients: Tensor, into: Tensor, order: Tensor | None = None) -> None:
    """into[rows[j]] += gradients[order[j]], rows [n] ascending: each row's terms are added one after the other."""
    touched, counts = torch.unique_consecutive(rows, return_counts=True)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    columns = order if order is not None else torch.arange(len(rows), device=rows.device)
    into[touched] += NeighbourSum(indptr.int(), columns.int(), len(gradients))(gradients)


def pair_key(users: Tensor, items: Tensor, num_items: int, role: int) -> Tensor:
    """Unique int64 keys [B] of (pair, role) with role 0 or 1, ascending with (user, item, role)."""
    return (users * num_items + items) * 2 + role


def shared_negatives(graph: LocalGraph, seed: int, epoch: int, step: int, count: int) -> Tensor:
    """Item ids int64 [count] of a step, the same on every rank."""
    positions = torch.arange(count, device=graph.pair_users.device)
    return keyed(seed, SHARED_NEGATIVE, epoch, step, positions) % graph.num_items
