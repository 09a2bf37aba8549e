"""SimGCL (Yu et al., SIGIR 2022): no augmented graphs; the two views differ by noise on every layer."""

from typing import Any

from torch import Tensor

from ..graph.propagation import Layer
from .base import SelfSupervised
from .views import Views


class SimGCL(SelfSupervised):
    """Readout = the mean of layers 1 .. L, with `ego` of 0 .. L. A view adds to each layer but E0 a row of length
    `noise` in the layer's own orthant (eq. 7, 8).

    Without `ego` a node's own row of E0 is not in its readout, which then changes only through its neighbours' rows.
    """

    def __init__(self, *args: Any, noise: float = 0.1, ego: bool = False, **others: Any) -> None:
        super().__init__(*args, **others)
        self.noise, self.ego = noise, ego
        self.holds_own_row = ego

    def forward(self, e0_ND: Tensor, layer: Layer) -> Tensor:
        return layer.mean(e0_ND, 0 if self.ego else 1, self.num_layers)

    def view(self, e0_ND: Tensor, layer: Layer, views: Views, number: int) -> Tensor:
        x_ND = e0_ND
        layers = [e0_ND] if self.ego else []
        for depth in range(self.num_layers):
            x_ND = layer(x_ND)
            x_ND = x_ND + self.noise * x_ND.detach().sign() * views.noise(number, depth, self.embedding_size)
            layers.append(x_ND)
        return sum(layers[1:], layers[0]) / len(layers)
