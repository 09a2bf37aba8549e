"""The edges go, the parameters stay: what a careless system does."""

from ..lab import Lab, Model, Pairs
from .base import Method, cut_edges


class Cut(Method):
    """Must fail the criteria, or they are too weak."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return cut_edges(original, request)
