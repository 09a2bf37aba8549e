"""What a backbone is to everything else: from embeddings to readouts, through a layer that it is given."""

from collections.abc import Callable

from torch import Tensor, nn

Layer = Callable[[Tensor], Tensor]
"""x [N, D] -> D^-1/2 A D^-1/2 x [N, D], differentiable, over all partitions."""


class Backbone(nn.Module):
    """Holds the dense weights, if any. The embeddings E0 belong to the partitions.

    Weights must be initialised from `seed` alone, so that all ranks begin alike.
    """

    def __init__(self, embedding_size: int, num_layers: int, seed: int = 0, negative_slope: float = 0.2) -> None:
        super().__init__()
        self.embedding_size, self.num_layers = embedding_size, num_layers

    @property
    def readout_size(self) -> int:
        """Columns of the readout."""
        return self.embedding_size

    def forward(self, e0_ND: Tensor, layer: Layer) -> Tensor:
        """The readout [N, readout_size] of local rows; the score of a pair is the dot product of its two."""
        raise NotImplementedError
