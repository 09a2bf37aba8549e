"""The edges go, the parameters stay: what a careless system does."""

from ..lab import Lab, Model, Pairs
from .base import Method, cut


class Cut(Method):
    """Must fail the criteria, or they are too weak."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return cut(original, request)
