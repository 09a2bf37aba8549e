"""The interface of backbones. A backbone computes readouts from embeddings, by means of a layer that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..graph.propagation import Layer

if TYPE_CHECKING:
    from .views import Views


class Backbone(nn.Module):
    """A recommender without its embeddings E0, whose rows the partitions own. It has the dense weights, if there are
    any.

    Weights must be initialised from `seed` alone, so that they are the same on all ranks.
    """

    contrast_weight = 0.0
    """Weight in the loss of the InfoNCE between two views; 0 for none. See `SelfSupervised`."""
    contrast_temperature = 0.2
    one_mean = False
    """Whether `forward` is one call of `layer.mean` and nothing else. Its result may then lie in the same memory in every
    step. Of a backbone that uses more than one result of the layer, one would be overwritten while it is needed."""
    holds_own_row = True
    """Whether a node's readout contains its own row of E0. If not, it can be changed only through its neighbours'
    rows."""

    def __init__(
        self, embedding_size: int, num_layers: int, seed: int = 0, length_power: float = 1.0, **others: Any
    ) -> None:
        """others: keys of the configuration that only other backbones use."""
        super().__init__()
        self.embedding_size, self.num_layers, self.length_power = embedding_size, num_layers, length_power

    @property
    def readout_size(self) -> int:
        """Columns of the readout."""
        return self.embedding_size

    def forward(self, e0_ND: Tensor, layer: Layer) -> Tensor:
        """The rows [N, readout_size] of the local nodes whose dot products or cosines the training loss compares."""
        raise NotImplementedError

    def readout(self, e0_ND: Tensor, layer: Layer) -> Tensor:
        """The readouts [N, readout_size] of the local nodes. The score of a pair is the dot product of its two
        readouts.

        They are the rows of `forward`, scaled from length l to length l^length_power. A loss on cosines does not train
        the lengths: they follow the popularity of the items, which would then count too much in the scores.
        """
        rows_ND = self(e0_ND, layer)
        if self.length_power == 1:
            return rows_ND
        lengths_N1 = rows_ND.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return rows_ND * lengths_N1 ** (self.length_power - 1)

    def view(self, e0_ND: Tensor, layer: Layer, views: Views, number: int) -> Tensor:
        """The rows of `forward` [N, readout_size] under the perturbations of view `number` (0 or 1) of this step."""
        raise NotImplementedError


class SelfSupervised(Backbone):
    """A backbone that is trained to agree between two perturbed views of itself, which `view` computes."""

    def __init__(
        self, *args: Any, contrast_weight: float = 0.001, contrast_temperature: float = 0.2, **others: Any
    ) -> None:
        super().__init__(*args, **others)
        self.contrast_weight, self.contrast_temperature = contrast_weight, contrast_temperature
