"""LightGCN (He et al., SIGIR 2020): the mean of layers 0 .. L, nothing dense to train."""

from torch import Tensor

from ..graph.propagation import Layer
from .base import Backbone


class LightGCN(Backbone):
    """Readout = 1 / (L + 1) * sum over l of A^l E0 (eq. 4 with the uniform weights of section 3.1.2)."""

    one_mean = True

    def forward(self, e0_ND: Tensor, layer: Layer) -> Tensor:
        return layer.mean(e0_ND, 0, self.num_layers)
