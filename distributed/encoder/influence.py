"""The Influence Encoder: it computes changes of rows of E0 from forgotten interactions and the current model.

A forgotten interaction (a, b) changes the row of a by a weighted sum of a few directions in embedding space, such as
the readout of b or the row of a itself. A small MLP computes the weights from features of the pair: score, degrees,
norms, and how much else of a and of b the request removes. The changes of a node's forgotten interactions are added up.
The MLP sees no ids, so that it can be applied to nodes that it was not trained on.

It is trained on counterfactual retrains (`pretrain.py`). The form of the paper is in `published.py`.

Shape legend: n = forgotten interactions seen from their end a, d = embedding size, m = blocks of d columns in a readout
(1, or layers + 1 where the readout is concatenated), F = features, k = directions, r = RIDGES.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

FORMATS = {"counterfactual": 6, "published": 3}
"""The format of a stored encoder, by objective; of one that turns rows, ACROSS_FORMAT (`format_of`).

Format 1 had no feature for what else of a node is removed. In format 2 the published encoder normalised a request by the
degrees of the graph, and the counterfactual one had no `hub_degree`. In format 3 the counterfactual encoder had no
directions of second order, in format 4 no `common`, in format 5 no `gain_by_share`, in format 6 no `across`."""
ACROSS_FORMAT = 7
READABLE = {"counterfactual": (2, 3, 4, 5, 6, 7), "published": (3,)}
"""The formats that this release reads. A counterfactual encoder of format 2 is one without a `hub_degree` and without a
`size`, one of format 3 is one without a `size`, one of format 4 is one without `common`, one of format 5 is one without
`gain_by_share`, one of format 6 one without `across`."""
RIDGES = (0.03, 0.3)
"""For each of them an encoder with a `size` has a direction of second order for each block of a readout
(`second_order`)."""
HUB_DEGREE = 3_000
"""The degree above which a removed interaction changes a node less in proportion to its degree, and no longer to the root
of it. MovieLens-1M and Gowalla have no node above it."""
NUM_FEATURES = 13
MOST_REMOVED = 0.1
"""Upper limit of `removed_share`. The encoder was trained on few requests that remove a larger share of a node."""
FARTHEST = 30.0
"""Features are clipped to so many standard deviations from their mean in pre-training, since beyond nothing was
learned."""
_CHUNK = 4_096
"""The number of interactions whose changes are computed at once, so that what is between stays in a cache of the CPU."""
_TYPICAL_DEGREE = 20
"""The degree at which a direction is not scaled. Only the size of an untrained encoder's answer depends on it."""


def format_of(objective: str, across: bool) -> int:
    """The format that this release makes. across: whether the encoder turns rows (`across`). The others are as they were
    before there was that format, so that earlier releases read them, and they can be carried over."""
    return ACROSS_FORMAT if across and objective == "counterfactual" else FORMATS[objective]


def readable_formats(objective: str) -> tuple[int, ...]:
    """The formats that this release reads for an encoder of this objective."""
    return READABLE[objective]


@dataclass(frozen=True)
class NodeRows:
    """What the encoder knows about nodes.

    Shapes: e0 [n, d]; readout [n, m d]; mean [n, m d], the mean of the neighbours' readouts; degree [n].
    """

    e0: Tensor
    readout: Tensor
    mean: Tensor
    degree: Tensor

    def select(self, rows: Tensor | slice) -> "NodeRows":
        """The nodes at these rows."""
        return NodeRows(self.e0[rows], self.readout[rows], self.mean[rows], self.degree[rows])

    def packed(self) -> Tensor:
        """The columns [n, d + m d + 1] that are sent to another partition. Means are left out: only the own end needs
        them."""
        return torch.cat([self.e0, self.readout, self.degree.to(self.e0.dtype)[:, None]], dim=1)

    @staticmethod
    def unpacked(packed: Tensor, size: int) -> "NodeRows":
        """The nodes of `packed` columns, where `size` is the embedding size d. Their means have no columns."""
        e0, readout, degree = packed[:, :size], packed[:, size:-1], packed[:, -1]
        return NodeRows(e0, readout, readout[:, :0], degree)


def removed_share(count: Tensor, degree: Tensor) -> Tensor:
    """(count - 1) / degree, at most MOST_REMOVED: the share of a node's interactions that a request removes besides the
    one looked at.

    Shapes: count [n]: removed interactions of the node; degree [n]: all of them; the result is [n]. It is 0 for a
    single one.
    """
    return ((count - 1).clamp(min=0) / degree.clamp(min=1)).clamp(max=MOST_REMOVED)


def features(own: NodeRows, other: NodeRows, removed_share_n2: Tensor) -> Tensor:
    """The features [n, F] of interactions between a (`own`) and b (`other`). removed_share_n2: `removed_share` of a and
    b."""
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


def unit_readouts(readouts: Tensor, size: int) -> Tensor:
    """The blocks [n, m, d] of readouts [n, m d] that are brought to length 1; zero where a readout is. size: d."""
    return functional.normalize(readouts, dim=1).unflatten(1, (-1, size))


def directions(
    own: NodeRows, other: NodeRows, hub_degree: int | None = None, whitening: Tensor | None = None
) -> Tensor:
    """The directions [n, k, d] in which a forgotten interaction may change a: the blocks of b's readout, of the mean of
    a's neighbours, and of a's readout; then the rows of E0 of b and of a. These are 3 m + 2.

    whitening [r, m, d, d]: the matrices of a's side (`second_order.whitening`). With them there are r m more, the
    products of the matrices with the blocks of b's readout at length 1.

    They are scaled by sqrt(20 / degree of a). One interaction of many changes a node little, and the sum over hundreds
    of interactions of a popular node stays bounded. Above `hub_degree` they are scaled by one over the degree instead, from
    the same value on. Then the sum over a given share of a node's interactions no longer grows with its degree, of which
    the largest may be many thousands.
    """
    size = own.e0.shape[1]
    blocks = [x.unflatten(1, (-1, size)) for x in (other.readout, own.mean, own.readout, other.e0, own.e0)]
    if whitening is not None:
        unit = unit_readouts(other.readout, size)
        blocks += [torch.einsum("nmd,mde->nme", unit, matrices) for matrices in whitening]
    return torch.cat(blocks, dim=1) * _direction_scale(own, hub_degree)[:, :, None]


def weighted_directions(
    weights: Tensor, own: NodeRows, other: NodeRows, hub_degree: int | None = None, whitening: Tensor | None = None
) -> Tensor:
    """The sum [n, d] of `directions`, each times its weight, weights [n, k].

    No array [n, k, d] is made: at d = 64 it has 1.8 kB for each interaction, and a request of thousands of users has
    hundreds of thousands of interactions.
    """
    size = own.e0.shape[1]
    columns = iter((weights * _direction_scale(own, hub_degree)).split(1, dim=1))
    total = torch.zeros_like(own.e0)
    for rows in (other.readout, own.mean, own.readout, other.e0, own.e0):
        for block in rows.split(size, dim=1):
            total.addcmul_(next(columns), block)
    if whitening is not None:
        unit = unit_readouts(other.readout, size)
        for matrices in whitening:
            for block, matrix in enumerate(matrices):
                total.addmm_(next(columns) * unit[:, block], matrix)
    return total


def across(e0: Tensor, vectors: Tensor) -> Tensor:
    """The vectors [n, d] or [n, k, d] without their parts along the rows e0 [n, d]: to the first order they change the
    directions of these rows, and not their lengths."""
    unit = functional.normalize(e0, dim=1)
    if vectors.dim() == 3:
        unit = unit[:, None]
    return vectors - (vectors * unit).sum(-1, keepdim=True) * unit


def _direction_scale(own: NodeRows, hub_degree: int | None) -> Tensor:
    """What `directions` are scaled by, [n, 1]."""
    degree = own.degree.to(own.e0.dtype).clamp(min=1)
    scale = (_TYPICAL_DEGREE / degree).sqrt()
    if hub_degree is not None:
        scale = scale * (hub_degree / degree).clamp(max=1).sqrt()
    return scale[:, None]


class Side(nn.Module):
    """The MLP that weights the directions of one side, users or items."""

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
        """The weights of the directions [n, k], from features [n, F]."""
        weights: Tensor = self.layers[-1](self.hidden(features_nF))
        return weights

    def hidden(self, features_nF: Tensor) -> Tensor:
        """What the last layer reads, from features [n, F]."""
        standard = ((features_nF - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)
        outputs: Tensor = self.layers[:-1](standard)
        return outputs


class InfluenceEncoder(nn.Module):
    """The encoder: one MLP for users and one for items. The weights are dense: all ranks have the same, kept equal by
    DDP.

    `gain` [2] scales the changes of users and of items. In a retrain the rows of the neighbours change as well.
    `gains.calibrate` finds how much more the touched rows must change if the others do not.

    `gain_by_share` [2, 2]: what is added to the gain of a side where `removed_share` of the own end, and of the other end,
    is MOST_REMOVED, and in proportion where it is less; None for encoders of earlier formats. The more of the nodes around
    a row changes too, the less it has to change in their stead.

    `common` [2]: what a run without a share of all interactions does to all rows of users, and of items, as a multiple
    of the rows and of that share (`common_change`); None for encoders of earlier formats.

    `whitening` [2, r, m, d, d]: the matrices of `second_order.whitening`, which are part of what is stored; None
    without a `size`.
    """

    gain: Tensor
    gain_by_share: Tensor | None
    common: Tensor | None
    whitening: Tensor | None

    def __init__(
        self,
        blocks: int,
        hidden: int = 64,
        mlp_layers: int = 2,
        seed: int = 0,
        hub_degree: int | None = None,
        size: int | None = None,
        common: int = 0,
        gain_by_share: int = 0,
        across: int = 0,
    ) -> None:
        """hub_degree: as `directions`. None: no node is a hub, as in encoders of format 2.

        size: the embedding size d. None: there are no directions of second order, as in encoders of formats 2 and 3.

        common: 1 if it has a `common`, and 0 if not, as encoders of formats 2 to 4.

        gain_by_share: 1 if it has a `gain_by_share`, and 0 if not, as encoders of formats 2 to 5.

        across: 1 if it turns rows without making them longer or shorter (`across`), and 0 if not, as encoders of formats 2
        to 6.
        """
        super().__init__()
        self.hub_degree, self.across = hub_degree, bool(across)
        generator = torch.Generator().manual_seed(seed % 2**63)
        count = 3 * blocks + 2 + (0 if size is None else len(RIDGES) * blocks)
        self.users, self.items = (Side(count, hidden, mlp_layers, generator) for _ in range(2))
        self.register_buffer("gain", torch.ones(2))
        self.register_buffer("gain_by_share", torch.zeros(2, 2) if gain_by_share else None)
        self.register_buffer("common", torch.zeros(2) if common else None)
        shape = (2, len(RIDGES), blocks, 1, 1)
        self.register_buffer("whitening", None if size is None else torch.eye(size).repeat(shape))

    def use(self, whitening: Tensor) -> None:
        """Take over the matrices of `second_order.whitening`."""
        assert self.whitening is not None, "an encoder without a size has no directions of second order"
        self.whitening.copy_(whitening)

    def forward(self, users: tuple[Tensor, Tensor], items: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The changes [n, d] of users and of items, without the gain. users, items: (features [n, F], directions
        [n, k, d]) of the interactions seen from each side."""
        return self._side(self.users, users), self._side(self.items, items)

    def change(self, side: int, own: NodeRows, other: NodeRows, removed_share_n2: Tensor) -> Tensor:
        """The change [n, d] that each interaction makes to its end `own` on a side (0 user, 1 item), with the gain."""
        whitening = None if self.whitening is None else self.whitening[side]
        module = (self.users, self.items)[side]
        change = torch.empty_like(own.e0)
        for start in range(0, len(change), _CHUNK):
            some = slice(start, start + _CHUNK)
            ends, others = own.select(some), other.select(some)
            weights = module(features(ends, others, removed_share_n2[some]))
            found = weighted_directions(weights, ends, others, self.hub_degree, whitening)
            change[some] = across(ends.e0, found) if self.across else found
        gain = self.gain[side]
        if self.gain_by_share is not None:
            gain = gain + (removed_share_n2 / MOST_REMOVED) @ self.gain_by_share[side][:, None]
        return change.mul_(gain)

    @staticmethod
    def _side(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> Tensor:
        return (module(inputs[0])[:, :, None] * inputs[1]).sum(1)


class AroundEncoder(nn.Module):
    """Two encoders: one for the rows of E0 of the touched nodes, and one for their readouts before lengths are scaled.

    Where the changed rows do not change the readouts as predicted, the rows of nodes around them are changed as well
    (`changes.around_influence`). So neither encoder needs a gain."""

    def __init__(
        self,
        blocks: int,
        hidden: int = 64,
        mlp_layers: int = 2,
        seed: int = 0,
        hub_degree: int | None = None,
        size: int | None = None,
        common: int = 0,
        gain_by_share: int = 0,
        across: int = 0,
    ) -> None:
        """Arguments as of `InfluenceEncoder`, but that neither of the two has a `common`, a `gain_by_share` or an
        `across`."""
        super().__init__()
        shape = (blocks, hidden, mlp_layers, seed, hub_degree, size)
        self.rows, self.readouts = (InfluenceEncoder(*shape) for _ in range(2))

    def use(self, whitening: Tensor) -> None:
        """As `InfluenceEncoder.use`, for both."""
        for encoder in (self.rows, self.readouts):
            encoder.use(whitening)
