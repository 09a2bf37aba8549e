"""Train again without the data, with the same keyed draws. All other methods are measured against this counterfactual."""

from ..lab import Lab, Model, Pairs
from .base import Method


class Retrain(Method):
    """The counterfactual retrain, which is the reference."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return lab.train(request)
