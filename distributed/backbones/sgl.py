"""SGL (Wu et al., SIGIR 2021): LightGCN whose readouts must agree between two graphs with some edges dropped (SGL-ED)."""

from typing import Any

from torch import Tensor

from ..contrast import Views
from .base import Layer
from .lightgcn import LightGCN


class SGL(LightGCN):
    """InfoNCE between the readouts of two subgraphs, which keep each edge with probability `edge_keep` (eq. 6, 10)."""

    def __init__(
        self,
        embedding_size: int,
        num_layers: int,
        seed: int = 0,
        edge_keep: float = 0.9,
        contrast_weight: float = 0.1,
        contrast_temperature: float = 0.2,
        **others: Any,
    ) -> None:
        super().__init__(embedding_size, num_layers, seed, **others)
        self.edge_keep = edge_keep
        self.contrast_weight, self.contrast_temperature = contrast_weight, contrast_temperature

    def view(self, e0_ND: Tensor, layer: Layer, views: Views, number: int) -> Tensor:
        return self(e0_ND, views.thinned(number, self.edge_keep))
