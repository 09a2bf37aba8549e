"""Training again without the data, under the same keyed draws: the counterfactual that all others are measured against."""

from ..lab import Lab, Model, Pairs
from .base import Method


class Retrain(Method):
    """The reference."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return lab.train(request)
