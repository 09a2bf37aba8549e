"""Lookup of items' rows on other partitions: rows are fetched from their owners, and gradients are sent back to
them."""

import torch
from torch import Tensor

from .local_graph import LocalGraph
from .neighbour_sum import NeighbourSum


class ItemLookup:
    """Fetches the rows of items [C] from their owners, and sends gradients for them back. All ranks make and use it
    together.

    keys int64 [C], unique over all ranks, fix the order in which the gradients of a row are added. So the sum has the
    same bits for any number of partitions.
    """

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
        """The rows [C, D] of z, the local rows [N, D] of each rank, in the order of the items."""
        return self._graph.comm.all_to_all(z[self.rows], self._wanted, self._asked, "lookup")[self._back]

    def add_gradients(self, gradients: Tensor, into: Tensor) -> None:
        """Add gradients [C, D] to the rows of `into` [N, D] on the owners; those of one row are added in order of
        key."""
        received = self._graph.comm.all_to_all(gradients[self._order], self._asked, self._wanted, "lookup")
        by_key = torch.argsort(self._keys)
        order = by_key[torch.argsort(self.rows[by_key], stable=True)]
        add_by_row(self.rows[order], received, into, order)


def add_by_row(rows: Tensor, gradients: Tensor, into: Tensor, order: Tensor | None = None) -> None:
    """into[rows[j]] += gradients[order[j]] for rows [n], ascending. The terms of a row are added in the order given, so
    that the bits of the sum do not depend on the kernel."""
    touched, counts = torch.unique_consecutive(rows, return_counts=True)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    columns = order if order is not None else torch.arange(len(rows), device=rows.device)
    into[touched] += NeighbourSum(indptr.int(), columns.int(), len(gradients))(gradients)
