"""SGL (Wu et al., SIGIR 2021): LightGCN whose readouts must agree between two graphs with some edges dropped (SGL-ED)."""

from typing import Any

from torch import Tensor

from ..graph.propagation import Layer
from .base import SelfSupervised
from .lightgcn import LightGCN
from .views import Views


class SGL(SelfSupervised, LightGCN):
    """InfoNCE between the readouts of two subgraphs, which keep each edge with probability `edge_keep` (eq. 6, 10)."""

    def __init__(self, *args: Any, edge_keep: float = 0.9, **others: Any) -> None:
        super().__init__(*args, **others)
        self.edge_keep = edge_keep

    def view(self, e0_ND: Tensor, layer: Layer, views: Views, number: int) -> Tensor:
        return self(e0_ND, views.thinned(number, self.edge_keep))
