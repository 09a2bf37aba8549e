"""Gradient ascent on the BPR loss of the forgotten interactions (NegGrad, Golatkar et al., CVPR 2020)."""

import torch

from ...distributed.graph.keyed import NEGATIVE, keyed_below
from ...distributed.training.batch import pair_key
from ...distributed.training.losses import bpr
from ..lab import Lab, Model, Pairs
from .base import Method, calibrate, cut_edges, with_change

STEPS = 10
CANDIDATES = tuple(0.01 * 2**step for step in range(10))


class Ascent(Method):
    """STEPS steps of the touched rows. The size of the steps is relative to the length of the rows, and is chosen on a
    simulated request."""

    def prepare(self, lab: Lab, original: Model) -> None:
        self.rate = calibrate(lab, original, lambda c, request: self._apply(lab, original, request, c), CANDIDATES)

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return self._apply(lab, original, request, self.rate)

    def _apply(self, lab: Lab, original: Model, request: Pairs, rate: float) -> Model:
        model = cut_edges(original, request)
        graph, backbone = model.graph, model.backbone
        users, items = model.tensors(request)
        negatives = keyed_below(graph.num_items, lab.seed, NEGATIVE, pair_key(users, items, graph.num_items, 0))
        first, second, third = users, items + graph.num_users, negatives + graph.num_users
        touched = model.e0.new_zeros(len(model.e0), 1)
        touched[model.rows(request)] = 1
        e0 = model.e0.clone()
        for _ in range(STEPS):
            leaf = e0.clone().requires_grad_()
            z = backbone.readout(leaf, graph.propagation)
            rows = z.detach()
            positive, negative = ((rows[first] * rows[other]).sum(1) for other in (second, third))
            weight = bpr(positive, negative, 1.0)[1][:, None]
            gradient = torch.zeros_like(rows).index_add_(0, first, weight * (rows[third] - rows[second]))
            gradient.index_add_(0, second, -weight * rows[first]).index_add_(0, third, weight * rows[first])
            z.backward(gradient)
            assert leaf.grad is not None
            # In each step, the longest change of a row is rate / STEPS times the root mean square of the rows' lengths.
            uphill = leaf.grad * touched
            e0 += rate / STEPS * uphill * (model.e0.norm() / model.e0.shape[0] ** 0.5) / uphill.norm(dim=1).max()
        return with_change(model, e0 - model.e0)
