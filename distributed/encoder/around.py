"""Forgetting if the readout of a node does not contain its own row of E0. Then the rows of nodes around it must change.

Shape legend: N = local rows, t = touched local rows, d = embedding size.
"""

import torch
from torch import Tensor

from ..backbones import Backbone
from ..graph.local_graph import LocalGraph

STEPS = 8
"""Steps of conjugate residuals. docs/log.md compares 3, 8 and 20 steps of conjugate gradients on Gowalla."""
RIDGE = 0.01
"""Weight of the ridge term, relative to the Rayleigh quotient of M P P M at `wanted`. It avoids large changes of E0
that change the readouts only little."""


@torch.no_grad()
def solve_for_readouts(graph: LocalGraph, backbone: Backbone, rows: Tensor, wanted: Tensor) -> Tensor:
    """A small change of E0 [N, d] that changes the readouts of these rows by about `wanted` [t, d], before lengths are
    scaled. All ranks call it, with or without rows of their own.

    A backbone without dense weights is a symmetric linear map P of E0. Let M be the projection on the rows. The result
    is x = P M y, where (M P P M + ridge) y = wanted. Without the ridge this is the x of least norm with M P x = wanted.
    The system is solved by a few steps of conjugate residuals (Stiefel 1955) from y = 0, in which the residual never
    grows.
    """

    def apply(x_ND: Tensor) -> Tensor:
        return backbone(x_ND, graph.propagation)

    def dot(x_ND: Tensor, y_ND: Tensor) -> Tensor:
        return graph.comm.all_reduce((x_ND.double() * y_ND.double()).sum())

    def square(x_ND: Tensor) -> Tensor:
        return chosen * apply(apply(x_ND))

    size = wanted.shape[1]
    chosen = torch.zeros(graph.num_rows, 1, dtype=wanted.dtype, device=wanted.device)
    chosen[rows] = 1
    chosen[graph.degrees == 0] = 0  # no row around it
    rest = chosen * wanted.new_zeros(graph.num_rows, size).index_copy_(0, rows, wanted)
    solution, power = torch.zeros_like(rest), dot(rest, rest)
    direction = of_direction = torch.zeros_like(rest)
    ridge = 0.0
    for step in range(STEPS):
        image = square(rest)
        if step == 0:
            ridge = RIDGE * float(dot(rest, image) / power.clamp(min=1e-30))
        image = image + ridge * rest
        before, power = power, dot(rest, image)
        ratio = 0.0 if step == 0 else float(power / before.clamp(min=1e-30))
        direction, of_direction = rest + ratio * direction, image + ratio * of_direction
        length = float(power / dot(of_direction, of_direction).clamp(min=1e-30))
        solution, rest = solution + length * direction, rest - length * of_direction
    return apply(solution)
