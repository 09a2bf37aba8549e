"""Remove the edges and leave the parameters as they are. That is what a careless system does."""

from ..lab import Lab, Model, Pairs
from .base import Method, cut_edges


class Cut(Method):
    """The negative control: if it meets the criteria, the criteria are too weak."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return cut_edges(original, request)
