"""An influence function for each node by itself: one Newton step on its own row. `Ifru` is that of the whole model."""

import torch
from torch import Tensor

from ..lab import Lab, Model, Pairs
from .base import Method, calibrate, cut_edges, ends_of, mean_block, with_change

CANDIDATES = tuple(2.0**step for step in range(-12, 3))
RIDGE = 0.1
"""What is added to the diagonal of the Hessian, as a share of the diagonal's mean."""


class InfluenceFunction(Method):
    """One Newton step for each touched node.

    The logistic loss of a node on its interactions has the gradient -sum sigmoid(-s) z and the Hessian sum sigmoid'(s) z
    z^T, where z are the readouts of its neighbours and s the scores. Without the forgotten interactions the optimum moves by
    -H^-1 g, where H is the Hessian of the remaining interactions and g = sum sigmoid(-s) z over the forgotten ones. All
    steps are scaled by one number, which is chosen on a simulated request, because the backbone is not this simple model.
    """

    def prepare(self, lab: Lab, original: Model) -> None:
        made: list[tuple[Model, Tensor]] = []  # the step is the same for all candidates

        def apply(scale: float, request: Pairs) -> Model:
            if not made:
                model = cut_edges(original, request)
                made.append((model, self._step(original, model, request)))
            return with_change(made[0][0], scale * made[0][1])

        self.scale = calibrate(lab, original, apply, CANDIDATES)

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        model = cut_edges(original, request)
        return with_change(model, self.scale * self._step(original, model, request))

    def _step(self, original: Model, model: Model, request: Pairs) -> Tensor:
        """The steps [N, d], which are zero for untouched nodes. model: the original without the edges of the request."""
        z, readout = mean_block(original), original.readout
        gradient = torch.zeros_like(original.e0)
        for own, other in ends_of(original, request):
            weight = torch.sigmoid(-(readout[own] * readout[other]).sum(1))
            gradient.index_add_(0, own, weight[:, None] * z[other])
        shard, num_users = model.graph.shard, model.graph.num_users
        change = torch.zeros_like(original.e0)
        unit = torch.eye(original.e0.shape[1], device=original.e0.device)
        for row in model.rows(request).tolist():
            if row < num_users:
                begin, end = shard.user_indptr[row : row + 2]
                others = torch.from_numpy(shard.user_neighbours[begin:end]).to(z.device).long() + num_users
            else:
                begin, end = shard.item_indptr[row - num_users : row - num_users + 2]
                others = torch.from_numpy(shard.item_neighbours[begin:end]).to(z.device).long()
            score = readout[others] @ readout[row]
            weighted = (torch.sigmoid(score) * torch.sigmoid(-score))[:, None] * z[others]
            hessian = weighted.T @ z[others]
            ridge = RIDGE * hessian.diagonal().mean() + 1e-6
            change[row] = -torch.linalg.solve(hessian + ridge * unit, gradient[row])
        return change
