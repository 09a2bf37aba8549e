"""Degree-normalised withdrawal: subtract from the row of each touched node a share of the readouts that it forgets."""

import torch

from ..lab import Lab, Model, Pairs
from .base import Method, calibrate, cut_edges, ends_of, mean_block, with_change

CANDIDATES = tuple(0.05 * 2**step for step in range(9))


class Withdrawal(Method):
    """From the row of E0 of a node, c / degree times the sum of the readouts of its forgotten neighbours is subtracted. The
    number c is the same for all nodes, and is chosen on a simulated request."""

    def prepare(self, lab: Lab, original: Model) -> None:
        self.scale = calibrate(lab, original, lambda c, request: self._apply(lab, original, request, c), CANDIDATES)

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return self._apply(lab, original, request, self.scale)

    def _apply(self, lab: Lab, original: Model, request: Pairs, scale: float) -> Model:
        readout, change = mean_block(original), torch.zeros_like(original.e0)
        for own, other in ends_of(original, request):
            change.index_add_(0, own, readout[other])
        degrees = original.graph.degrees.clamp(min=1)[:, None]
        return with_change(cut_edges(original, request), -scale * change / degrees)
