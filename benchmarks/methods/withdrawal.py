"""Degree-normalised withdrawal: each touched node gives back a share of what it forgets, one scalar for all."""

import torch

from ..lab import Lab, Model, Pairs
from .base import Method, blocks, calibrate, changed, cut, ends_of

CANDIDATES = tuple(0.05 * 2**step for step in range(9))


class Withdrawal(Method):
    """E0 of a node loses c / degree times the sum of the readouts that it forgets; c from a simulated request."""

    def prepare(self, lab: Lab, original: Model) -> None:
        self.scale = calibrate(lab, original, lambda c, request: self._apply(lab, original, request, c), CANDIDATES)

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return self._apply(lab, original, request, self.scale)

    def _apply(self, lab: Lab, original: Model, request: Pairs, scale: float) -> Model:
        readout, change = blocks(original), torch.zeros_like(original.e0)
        for own, other in ends_of(original, request):
            change.index_add_(0, own, readout[other])
        degrees = original.graph.degrees.clamp(min=1)[:, None]
        return changed(cut(original, request), -scale * change / degrees)
