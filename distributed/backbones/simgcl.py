"""SimGCL (Yu et al., SIGIR 2022): no augmented graphs; the two views differ by noise on every layer."""

from typing import Any

import torch
from torch import Tensor

from ..contrast import Views
from .base import Layer, SelfSupervised


class SimGCL(SelfSupervised):
    """Readout = the mean of layers 1 .. L. A view adds to each layer a row of length `noise` in the layer's own orthant
    (eq. 7, 8)."""

    def __init__(self, *args: Any, noise: float = 0.1, **others: Any) -> None:
        super().__init__(*args, **others)
        self.noise = noise

    def forward(self, e0_ND: Tensor, layer: Layer) -> Tensor:
        x_ND = total_ND = layer(e0_ND)
        for _ in range(1, self.num_layers):
            x_ND = layer(x_ND)
            total_ND = total_ND + x_ND
        return total_ND / self.num_layers

    def view(self, e0_ND: Tensor, layer: Layer, views: Views, number: int) -> Tensor:
        x_ND, total_ND = e0_ND, torch.zeros_like(e0_ND)
        for depth in range(self.num_layers):
            x_ND = layer(x_ND)
            x_ND = x_ND + self.noise * x_ND.detach().sign() * views.noise(number, depth, self.embedding_size)
            total_ND = total_ND + x_ND
        return total_ND / self.num_layers
