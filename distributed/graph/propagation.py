"""One propagation layer over all partitions, with its gradient: scale rows, exchange halo rows, sum over neighbours,
scale.

The layer is y = M x with M = D^-1/2 A D^-1/2, where A is the adjacency matrix and D the degrees (LightGCN, eq. 3: He et
al., SIGIR 2020). The matrix is symmetric, so the backward pass is the same operation on the gradient (docs/halo.md).
Every rank takes part in every layer, even if no pair of the batch is its own.

Shape legend: N = local rows, R = received rows, D = columns.
"""

import copy
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...partitioning.halo import HaloPlan
from ..comm import Comm
from .neighbour_sum import NeighbourSum

BLOCK_NODES = 2**16
"""The sum of an item's row goes over its users block by block, each of so many global node ids. Their rows stay in the
cache meanwhile. Users' lists are too short for it to pay."""


class Layer(Protocol):
    """x [N, D] -> M x [N, D], differentiable, over all partitions."""

    def __call__(self, x: Tensor) -> Tensor:
        """M x."""

    def mean(self, x: Tensor, first: int, last: int) -> Tensor:
        """The mean of M^l x over l = first .. last, where last >= 1."""


class Propagation:
    """The layer of one partition, a `Layer`. Autograd follows all but `neighbour_sum`."""

    def __init__(
        self,
        halo: HaloPlan,
        degrees: Tensor,
        comm: Comm,
        kernel: str = "torch",
        everybody: bool = True,
        items: NeighbourSum | None = None,
    ) -> None:
        """everybody: whether all ranks take part in each layer, or only those that have rows to exchange. items: the sums
        of the rows of items, where they are known; to make them costs as much as some layers."""
        self._comm, self._everybody = comm, everybody
        self.both_ways = False
        """Whether many rows are exchanged, by all ranks together: the same on each."""
        self._send_counts = [int(n) for n in halo.send_counts]
        self._recv_counts = [int(n) for n in halo.recv_counts]
        self._own, received = halo.num_own, halo.num_received
        self._total = total = self._own + received
        users = halo.num_own_users
        first = int(halo.indptr[users])  # entry of an item's row
        columns = _tensor(halo.columns, comm)
        self._users = NeighbourSum(_tensor(halo.indptr[: users + 1], comm), columns[:first], total, kernel)
        if items is None:
            blocks = _tensor(halo.nodes // BLOCK_NODES, comm)
            items = NeighbourSum(_tensor(halo.indptr[users:] - first, comm), columns[first:], total, kernel, blocks)
        self.items = items
        """The sums of the rows of items."""
        self._first_item = users
        self._send_columns = _tensor(halo.send_columns, comm)
        self._partial = (
            None
            if halo.gathers_only
            else NeighbourSum(_tensor(halo.send_indptr, comm), self._send_columns, total, kernel)
        )
        # Where nothing neighbours a node its sum is zero, whatever the scale.
        exact = 1.0 / degrees.clamp(min=1).to(torch.float64).sqrt()
        self._scale = exact.to(torch.float32)[:, None]
        self._scale64 = exact[:, None]
        self._kept: dict[Any, Tensor] | None = None
        self._keeps_results = False

    def keeping_buffers(self, results: bool = False) -> "Propagation":
        """The same layer with buffers that it keeps from call to call, for a training: to get fresh memory costs about
        as much as the arithmetic on it.

        results: whether it keeps the memory of results too. A result, and the gradient that autograd finds, is then
        overwritten by the next one.
        """
        other = copy.copy(self)
        other._kept, other._keeps_results = {}, results
        return other

    def __call__(self, x: Tensor) -> Tensor:
        """M x [N, D]."""
        return self.mean(x, 1, 1)

    def mean(self, x: Tensor, first: int, last: int) -> Tensor:
        """The mean of M^l x [N, D] over l = first .. last, where last >= 1."""
        return _Mean.apply(x, self, first, last)

    def mean_of_layers(self, x: Tensor, first: int, last: int, result: str = "forward") -> Tensor:
        """As `mean`, without a gradient. result: which of the kept results it overwrites.

        By Horner's rule: the sum of M^l x is x + M(x + M(x + ...)), with x only where l >= first. Each step sums over
        buffers of rows that are already scaled by D^-1/2, and works on a tile of its result while that is in the cache.
        """
        scale = self._scale64 if x.dtype == torch.float64 else self._scale
        scaled, other = self._buffer("layer", x), self._buffer("next layer", x) if last > 1 else None
        torch.mul(x, scale, out=scaled[: self._own])
        for depth in range(last - 1, 0, -1):
            assert other is not None
            for rows, sums in self._sums(scaled):
                z = sums.mul_(scale[rows])
                if depth >= first:
                    z += x[rows]
                torch.mul(z, scale[rows], out=other[rows])
            scaled, other = other, scaled
        mean = self._buffer(result, x, self._own) if self._keeps_results else x.new_empty(x.shape)
        for rows, sums in self._sums(scaled):
            z = sums.mul_(scale[rows])
            if first == 0:
                z += x[rows]
            torch.div(z, last - first + 1, out=mean[rows])
        return mean

    def neighbour_sum(self, x: Tensor) -> Tensor:
        """A x [N, D]: the sum over the neighbours of each node, without a gradient."""
        buffer = self._buffer("layer", x)
        buffer[: self._own] = x.detach()
        y = x.new_empty(x.shape)
        for rows, sums in self._sums(buffer):
            y[rows] = sums
        return y

    def neighbour_sum_of(self, x: Tensor, rows: Tensor) -> Tensor:
        """Those rows of A x [n, D] whose numbers are `rows` int64 [n], ascending, with the same bits as in `neighbour_sum`.

        All ranks call it, each with rows of its own: what it receives is the same, and only its sums are fewer.
        """
        buffer = x.detach()
        if self._total > self._own or self._partial is not None:
            buffer = self._buffer("layer", x)
            buffer[: self._own] = x.detach()
        self._receive(buffer)
        users = int(torch.searchsorted(rows, self._first_item))
        sums = (self._users.of_rows(buffer, rows[:users]), self.items.of_rows(buffer, rows[users:] - self._first_item))
        return torch.cat(sums)

    def _sums(self, buffer: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """A x in pieces, as `NeighbourSum.tiles`, where x are the first N rows of the buffer [N + R, D]. The others are
        received first."""
        self._receive(buffer)
        yield from self.local_sums(buffer)

    def _receive(self, buffer: Tensor) -> None:
        """Receive the last R rows of the buffer [N + R, D], and send what others need of the first N. All ranks call it."""
        if self._partial is None:
            sent = self._buffer("sent", buffer, len(self._send_columns))
            torch.index_select(buffer, 0, self._send_columns, out=sent)
        else:
            sent = self._partial(buffer)
        counts, received = (self._send_counts, self._recv_counts), buffer[self._own :]
        if self._everybody:
            self._comm.exchange_rows(sent, *counts, "halo", received, self.both_ways)
        else:
            self._comm.sparse_all_to_all(sent, *counts, "halo", received)

    def local_sums(self, buffer: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """As `_sums`, of a buffer [N + R, D] that has the received rows."""
        yield from self._users.tiles(buffer)
        for rows, sums in self.items.tiles(buffer):
            yield slice(rows.start + self._first_item, rows.stop + self._first_item), sums

    def _buffer(self, name: str, like: Tensor, rows: int | None = None) -> Tensor:
        """An uninitialised buffer of so many rows [rows, D]; by default [N + R, D]."""
        shape = (self._total if rows is None else rows, like.shape[1])
        if self._kept is None:
            return like.new_empty(shape)
        key = (name, shape, like.dtype)
        if key not in self._kept:
            self._kept[key] = like.new_empty(shape)
        return self._kept[key]


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, propagation: Propagation, first: int, last: int) -> Tensor:
        ctx.propagation, ctx.layers = propagation, (first, last)
        return propagation.mean_of_layers(x, first, last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.propagation.mean_of_layers(gradients[0], *ctx.layers, "backward"), None, None, None


def _tensor(array: np.ndarray[Any, Any], comm: Comm) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(comm.device)
