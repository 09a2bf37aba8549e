"""The Influence Encoder: from forgotten interactions and the current model to changed rows of E0.

A forgotten interaction (a, b) changes a by a combination of a few directions in embedding space, such as b's readout or
a's own row, whose weights a small MLP computes from what is known about the pair: score, degrees, norms, and how much else
of a and of b the request takes. The changes of a node's forgotten interactions are added up. The MLP sees no ids, so that
it carries over to nodes it has never seen.

It is trained on counterfactual retrains: `pretrain.py`. The form of the paper is `published.py`.

Shape legend: n = forgotten interactions seen from their end a, d = embedding size, m = blocks of d columns in a readout
(1, or layers + 1 where the readout is concatenated), F = features.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FORMATS = {"counterfactual": 2, "published": 3}
"""Of a stored encoder, by objective: 1 did not know what else goes, and the published one of 2 normalised a request by the
graph's degrees."""
NUM_FEATURES = 13
MOST_REMOVED = 0.1
"""Beyond this share of a node's interactions the encoder does not tell requests apart: it has seen few larger ones."""
FARTHEST = 30.0
"""Deviations from the mean of pre-training, at most, that a feature is taken for: beyond them nothing was learned."""
_TYPICAL_DEGREE = 20
"""Where a direction is taken as it is; only the size of an untrained encoder's answer depends on it."""


def readable_format(objective: str) -> int:
    """The format that an encoder of this objective has to have here."""
    return FORMATS[objective]


@dataclass(frozen=True)
class NodeRows:
    """What the encoder knows of nodes, row by row: e0 [n, d], readout [n, m d], mean [n, m d] (of the neighbours'
    readouts), degree [n]."""

    e0: Tensor
    readout: Tensor
    mean: Tensor
    degree: Tensor

    def select(self, rows: Tensor) -> "NodeRows":
        """Some of the rows."""
        return NodeRows(self.e0[rows], self.readout[rows], self.mean[rows], self.degree[rows])

    def packed(self) -> Tensor:
        """What travels to another partition [n, d + m d + 1]: all but the means, which only the end `a` itself needs."""
        return torch.cat([self.e0, self.readout, self.degree.to(self.e0.dtype)[:, None]], dim=1)

    @staticmethod
    def unpacked(packed: Tensor, size: int) -> "NodeRows":
        """The inverse of `packed`, with embedding size `size`; the means are empty."""
        e0, readout, degree = packed[:, :size], packed[:, size:-1], packed[:, -1]
        return NodeRows(e0, readout, readout[:, :0], degree)


def removed_share(count: Tensor, degree: Tensor) -> Tensor:
    """Share of a node's other interactions that go with one of them, [n], where `count` of its `degree` go: 0 for a
    single one, at most MOST_REMOVED."""
    return ((count - 1).clamp(min=0) / degree.clamp(min=1)).clamp(max=MOST_REMOVED)


def features(own: NodeRows, other: NodeRows, removed_share_n2: Tensor) -> Tensor:
    """[n, F] of interactions between a (`own`) and b (`other`); removed_share_n2: `removed_share` of a and of b."""
    score = (own.readout * other.readout).sum(1)
    columns = (
        score,
        torch.sigmoid(-score),  # how far BPR still was from being content with the pair
        own.degree.to(score.dtype).clamp(min=1).log(),
        other.degree.to(score.dtype).clamp(min=1).log(),
        own.readout.norm(dim=1),
        other.readout.norm(dim=1),
        own.mean.norm(dim=1),
        (other.readout * own.mean).sum(1),
        own.e0.norm(dim=1),
        other.e0.norm(dim=1),
        (own.e0 * other.e0).sum(1),
    )
    return torch.cat([torch.stack(columns, dim=1), removed_share_n2], dim=1)


def directions(own: NodeRows, other: NodeRows) -> Tensor:
    """[n, 3 m + 2, d]: the blocks of b's readout, of the mean of a's neighbours, of a's readout; E0 of b and of a.

    All over the root of a's degree: one of many interactions changes little, and the sum over hundreds of a heavy node
    stays bounded.
    """
    size = own.e0.shape[1]
    blocks = [x.unflatten(1, (-1, size)) for x in (other.readout, own.mean, own.readout, other.e0, own.e0)]
    scale = (_TYPICAL_DEGREE / own.degree.to(own.e0.dtype).clamp(min=1)).sqrt()
    return torch.cat(blocks, dim=1) * scale[:, None, None]


class Side(nn.Module):
    """The MLP for interactions seen from one side, users or items."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, num_directions: int, hidden: int, mlp_layers: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [NUM_FEATURES, *[hidden] * mlp_layers, num_directions]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            linear = nn.Linear(inputs, outputs)
            nn.init.kaiming_uniform_(linear.weight, a=5**0.5, generator=generator)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.SiLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.register_buffer("mean", torch.zeros(NUM_FEATURES))
        self.register_buffer("deviation", torch.ones(NUM_FEATURES))

    def forward(self, features_nF: Tensor) -> Tensor:
        """Weights of the directions [n, 3 m + 2]."""
        standard = ((features_nF - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)
        weights: Tensor = self.layers(standard)
        return weights


class InfluenceEncoder(nn.Module):
    """Both sides. Its weights are dense: every rank holds them, DDP keeps them equal.

    `gain` [2] scales the changes of users and of items. In a retrain the neighbours' rows move as well;
    `pretrain.calibrate` finds how much more the touched rows have to move where the others stay.
    """

    gain: Tensor

    def __init__(self, blocks: int, hidden: int = 64, mlp_layers: int = 2, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed % 2**63)
        self.users, self.items = (Side(3 * blocks + 2, hidden, mlp_layers, generator) for _ in range(2))
        self.register_buffer("gain", torch.ones(2))

    def forward(self, users: tuple[Tensor, Tensor], items: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Changes [n, d] of the ends of interactions before the gain, from (features [n, F], directions
        [n, 3 m + 2, d]) of each side."""
        return self._side(self.users, users), self._side(self.items, items)

    def change(self, side: int, own: NodeRows, other: NodeRows, removed_share_n2: Tensor) -> Tensor:
        """Each interaction's change [n, d] of its end `own` on a side (0 user, 1 item)."""
        inputs = (features(own, other, removed_share_n2), directions(own, other))
        return self.gain[side] * self._side((self.users, self.items)[side], inputs)

    @staticmethod
    def _side(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> Tensor:
        return (module(inputs[0])[:, :, None] * inputs[1]).sum(1)


class AroundEncoder(nn.Module):
    """One encoder for the touched nodes' rows of E0, and one for their readouts before lengths are scaled: what the rows
    leave to be done of these, the rows around bring about (`changes.around_influence`). So neither needs a gain."""

    def __init__(self, blocks: int, hidden: int = 64, mlp_layers: int = 2, seed: int = 0) -> None:
        super().__init__()
        self.rows, self.readouts = (InfluenceEncoder(blocks, hidden, mlp_layers, seed) for _ in range(2))
