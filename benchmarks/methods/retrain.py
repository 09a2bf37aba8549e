"""Train again without the data, with the same keyed draws. All other methods are measured against this counterfactual.

With another seed it is as good a model, and shows how far two retrains are apart."""

from ..lab import Lab, Model, Pairs
from .base import Method


class Retrain(Method):
    """The counterfactual retrain, which is the reference."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return lab.train(request)


class AnotherSeed(Method):
    """A retrain with another seed: the noise of retraining."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return lab.train(request, seed=lab.seed + 1)
