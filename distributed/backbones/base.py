"""What a backbone is to everything else: from embeddings to readouts, through a layer that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..graph.propagation import Layer

if TYPE_CHECKING:
    from .views import Views


class Backbone(nn.Module):
    """Holds the dense weights, if any. The embeddings E0 belong to the partitions.

    Weights must be initialised from `seed` alone, so that all ranks begin alike.
    """

    contrast_weight = 0.0
    """Of the InfoNCE between two views in the loss; 0 for none. See `SelfSupervised`."""
    contrast_temperature = 0.2
    holds_own_row = True
    """Whether a node's readout holds its own row of E0. One that does not changes through the rows around it."""

    def __init__(
        self, embedding_size: int, num_layers: int, seed: int = 0, length_power: float = 1.0, **others: Any
    ) -> None:
        """others: the keys of other backbones in the configuration, which mean nothing here."""
        super().__init__()
        self.embedding_size, self.num_layers, self.length_power = embedding_size, num_layers, length_power

    @property
    def readout_size(self) -> int:
        """Columns of the readout."""
        return self.embedding_size

    def forward(self, e0_ND: Tensor, layer: Layer) -> Tensor:
        """The rows [N, readout_size] of local nodes that training compares."""
        raise NotImplementedError

    def readout(self, e0_ND: Tensor, layer: Layer) -> Tensor:
        """The readout [N, readout_size] of local nodes; the score of a pair is the dot product of its two.

        What `forward` gives, with each row's length l made l^length_power. A loss on cosines leaves the lengths to the
        items' popularity, which then weighs too much in the scores.
        """
        rows_ND = self(e0_ND, layer)
        if self.length_power == 1:
            return rows_ND
        lengths_N1 = rows_ND.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return rows_ND * lengths_N1 ** (self.length_power - 1)

    def view(self, e0_ND: Tensor, layer: Layer, views: Views, number: int) -> Tensor:
        """The readout [N, readout_size] under the perturbations of view `number` (0 or 1) of this step."""
        raise NotImplementedError


class SelfSupervised(Backbone):
    """One that has `view`: the two views of a step must agree."""

    def __init__(
        self, *args: Any, contrast_weight: float = 0.001, contrast_temperature: float = 0.2, **others: Any
    ) -> None:
        super().__init__(*args, **others)
        self.contrast_weight, self.contrast_temperature = contrast_weight, contrast_temperature
