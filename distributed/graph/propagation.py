"""One propagation layer over all partitions, with its gradient: scale rows, exchange halo rows, sum over neighbours,
scale.

The layer is y = D^-1/2 A D^-1/2 x, where A is the adjacency matrix and D the degrees (LightGCN, eq. 3: He et al., SIGIR
2020). The matrix is symmetric, so the backward pass is the same operation on the gradient (docs/halo.md). Every rank
takes part in every layer, even if no pair of the batch is its own.

Shape legend: N = local rows, R = received rows, D = columns.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...partitioning.halo import HaloPlan
from ..comm import Comm
from .neighbour_sum import NeighbourSum


class Propagation:
    """The layer of one partition. Autograd follows a call of it on x [N, D], but not `layer` and `neighbour_sum`."""

    def __init__(
        self, halo: HaloPlan, degrees: Tensor, comm: Comm, kernel: str = "torch", everybody: bool = True
    ) -> None:
        """everybody: whether all ranks take part in each layer, or only those that have rows to exchange."""
        self._comm = comm
        self._exchange = comm.all_to_all if everybody else comm.sparse_all_to_all
        self._send_counts = [int(n) for n in halo.send_counts]
        self._recv_counts = [int(n) for n in halo.recv_counts]
        own, received = halo.num_own, halo.num_received
        self._received = received
        indptr, columns = _tensor(halo.indptr, comm), _tensor(halo.columns, comm)
        self._local = NeighbourSum(indptr, columns, own + received, kernel)
        self._send_columns = _tensor(halo.send_columns, comm)
        self._partial = (
            None
            if halo.gathers_only
            else NeighbourSum(_tensor(halo.send_indptr, comm), self._send_columns, own, kernel)
        )
        # Where nothing neighbours a node its sum is zero, whatever the scale.
        exact = 1.0 / degrees.clamp(min=1).to(torch.float64).sqrt()
        self._scale = exact.to(torch.float32)[:, None]
        self._scale64 = exact[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        """D^-1/2 A D^-1/2 x [N, D], with a gradient."""
        return _Layer.apply(x, self)

    def layer(self, x: Tensor) -> Tensor:
        """D^-1/2 A D^-1/2 x [N, D], without a gradient."""
        scale = self._scale64 if x.dtype == torch.float64 else self._scale
        return self.neighbour_sum(x * scale).mul_(scale)

    def neighbour_sum(self, x: Tensor) -> Tensor:
        """A x [N, D]: the sum over the neighbours of each node, without a gradient."""
        sent = x.index_select(0, self._send_columns) if self._partial is None else self._partial(x)
        received = self._exchange(sent, self._send_counts, self._recv_counts, "halo")
        return self._local(torch.cat([x, received]) if self._received else x)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, propagation: Propagation) -> Tensor:
        ctx.propagation = propagation
        return propagation.layer(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.propagation.layer(gradients[0]), None


def _tensor(array: np.ndarray[Any, Any], comm: Comm) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(comm.device)


Layer = Callable[[Tensor], Tensor]
"""x [N, D] -> D^-1/2 A D^-1/2 x [N, D], differentiable, over all partitions."""
