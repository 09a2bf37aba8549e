"""NGCF (Wang et al., SIGIR 2019): feature transforms in each layer, readout concatenated."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..graph.propagation import Layer
from .base import Backbone


class NGCF(Backbone):
    """E(l+1) = LeakyReLU((A E + E) W1 + (A E * E) W2) (eq. 7); the readout holds E0 and each layer's rows at length 1.

    The paper's dropouts are left out: keyed dropout of messages would cost more than the layer itself.
    """

    def __init__(
        self, embedding_size: int, num_layers: int, seed: int = 0, negative_slope: float = 0.2, **others: Any
    ) -> None:
        super().__init__(embedding_size, num_layers, seed, **others)
        self.negative_slope = negative_slope
        generator = torch.Generator().manual_seed(seed % 2**63)
        self.neighbour, self.product = (
            nn.ModuleList(nn.Linear(embedding_size, embedding_size) for _ in range(num_layers)) for _ in range(2)
        )
        for linear in [*self.neighbour, *self.product]:
            assert isinstance(linear, nn.Linear)
            nn.init.xavier_uniform_(linear.weight, generator=generator)
            nn.init.zeros_(linear.bias)

    @property
    def readout_size(self) -> int:
        return self.embedding_size * (self.num_layers + 1)

    def forward(self, e0_ND: Tensor, layer: Layer) -> Tensor:
        x_ND, parts = e0_ND, [e0_ND]
        for first, second in zip(self.neighbour, self.product, strict=True):
            neighbours_ND = layer(x_ND)
            x_ND = functional.leaky_relu(
                first(neighbours_ND + x_ND) + second(neighbours_ND * x_ND), self.negative_slope
            )
            parts.append(functional.normalize(x_ND, dim=1))
        return torch.cat(parts, dim=1)
