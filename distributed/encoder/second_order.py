"""Directions of second order: how a row moves in answer to a readout, where the readouts of the other side are not
alike in all directions of embedding space.

The loss of a node is steep in the directions in which the readouts that it is compared with differ, and flat in the
others. So the pull of a readout that is missing moves the node's row far in flat directions and little in steep ones,
as in a step of Newton's method. The curvature is taken to be the covariance of all readouts of the other side at length
1, one matrix for all nodes (docs/encoder.md#directions-of-second-order).

Shape legend: n = nodes of a side, m = blocks of d columns in a readout, d = embedding size, r = RIDGES.
"""

import torch
from torch import Tensor

from ..graph.local_graph import LocalGraph
from .influence import RIDGES, NodeRows, unit_readouts

_CHUNK = 16_384
"""The number of nodes whose readouts are in memory as float64 at once."""
_LEAST_SPREAD = 1e-10
"""Readouts at length 1 whose variance is below this share of their mean square are taken to be all the same."""


@torch.no_grad()
def whitening(graph: LocalGraph, nodes: NodeRows) -> Tensor:
    """The matrices [2, r, m, d, d] that give the directions of second order of users, and of items. All ranks call it.

    Those of users are (C / t + ridge I)^-1 divided by the mean of its diagonal. C [d, d] is the covariance of a block
    of all items' readouts at length 1, t the mean of its diagonal. Those of items are the same of the users' readouts.

    The sums over all partitions are of float64, so that another number of partitions only rounds them differently.
    Where there is no covariance (one node, all readouts alike or zero) or it is not a number, the matrix is the
    identity.
    """
    size = nodes.e0.shape[1]
    blocks, first_item = nodes.readout.shape[1] // size, graph.num_local_users
    # The other side's readouts: of the items for users, of the users for items.
    sides = (nodes.readout[first_item:], nodes.readout[:first_item])
    sums = graph.comm.all_reduce(torch.stack([_sums(x, size) for x in sides])).cpu()
    matrices = torch.eye(size, dtype=torch.float64).repeat(2, len(RIDGES), blocks, 1, 1)
    for side, row in enumerate(sums):
        count, (total, square) = row[0].clamp(min=1), row[1:].split([blocks * size, blocks * size * size])
        mean, second = total.view(blocks, size) / count, square.view(blocks, size, size) / count
        for block in range(blocks):
            covariance = second[block] - mean[block].outer(mean[block])
            spread = covariance.diagonal().mean()
            # With NaN neither side is larger.
            if not spread > _LEAST_SPREAD * second[block].diagonal().mean():
                continue
            for number, ridge in enumerate(RIDGES):
                matrices[side, number, block] = _inverse(covariance / spread, ridge)
    return matrices.to(nodes.e0.device, nodes.e0.dtype)


def _sums(readouts: Tensor, size: int) -> Tensor:
    """In one row: the number of nodes, the sum of their readouts at length 1 [m, d], and that of the outer products of
    these with themselves [m, d, d], float64."""
    blocks = readouts.shape[1] // size
    total = torch.zeros(blocks, size, dtype=torch.float64, device=readouts.device)
    square = torch.zeros(blocks, size, size, dtype=torch.float64, device=readouts.device)
    for part in readouts.split(_CHUNK):
        unit = unit_readouts(part, size).double()
        total += unit.sum(0)
        square += torch.einsum("nmd,nme->mde", unit, unit)
    count = total.new_tensor([float(len(readouts))])
    return torch.cat([count, total.flatten(), square.flatten()])


def _inverse(covariance: Tensor, ridge: float) -> Tensor:
    """(covariance + ridge I)^-1 [d, d], divided by the mean of its diagonal."""
    # It has no negative eigenvalue but by rounding, and the ridge is far above that.
    inverse = torch.linalg.inv(covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype))
    inverse = (inverse + inverse.T) / 2
    return inverse / inverse.diagonal().mean()
