"""Pre-training of the Influence Encoder on counterfactual retrains (method: docs/encoder.md).

A counterfactual is the training run of the current version without the interactions of a simulated request, under the
same keyed draws. The encoder has to predict the difference between its rows of E0 and the original's, at the nodes that
the request touches.

Shape legend: g = targets of this rank, one for each touched node of each counterfactual, n = forgotten interactions
seen from their ends that this rank owns, F = features, m = blocks of a readout, d = embedding size.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...partitioning.errors import InputError
from ..backbones import Backbone
from ..comm import Comm
from ..graph.keyed import PAIRS, keyed, keyed_uniform
from ..graph.local_graph import LocalGraph
from ..graph.removal import Removal, Simulated
from ..measures.ranking import pair_scores
from ..training.finite import are_finite
from .changes import Ends, ends_by_side, influence
from .influence import InfluenceEncoder, NodeRows, Side, directions, features

_VALIDATION_SHARE = 0.1
"""Share of the targets that is held out to report the quality of the fit. The draw is keyed by node."""
_GAIN_ROUNDS, _GAIN_STEP = 3, 0.05
_GAINS = (0.25, 3.0)
"""Lower and upper limit of the gains. On tiny graphs calibration is unreliable; the lower limit ensures that the rows
of neither side stay as they are."""

EPOCH_STEPS, BATCHES = 50, (16, 256)
_LEAST_DEVIATION = 1e-3
"""Least standard deviation of a feature, relative to its mean, at which the feature is taken to distinguish
interactions."""

POPULAR_SHARE = 0.03
"""Share of the items, by degree, that counts as popular. Some simulated requests remove more of these."""


@dataclass(frozen=True)
class PretrainSettings:
    """The fields of `pretrain` in the configuration, and the run's seed."""

    seed: int
    epochs: int
    batch_size: int | None
    """None: chosen such that an epoch has about EPOCH_STEPS steps, within the limits BATCHES."""
    learning_rate: float


def simulated_requests(seed: int, count: int, share: float, popular: Sequence[int]) -> list[Simulated]:
    """The requests that `count` counterfactuals leave out. There are three kinds, in turn: the given share of all
    interactions, a fifth of that share, and a request that is concentrated on some nodes.

    The third kind removes more from some users and from the `popular` items (global dense ids). Without it the encoder
    is trained only on requests in which all nodes lose the same share. It then changes the scores of popular items'
    forgotten interactions far more than a retrain does (docs/log.md).
    """
    kinds = (
        {"share": share},
        {"share": share / 5},
        {"users": 0.03, "of_users": min(1.0, 3 * share), "items": tuple(popular), "of_items": min(1.0, 1.6 * share)},
    )
    return [Simulated(seed, number, **kinds[number % len(kinds)]) for number in range(count)]


@dataclass(frozen=True)
class Examples:
    """The training data of one side on this rank.

    Shapes: features [n, F] and directions [n, 3 m + 2, d] of the interactions; target int64 [n], ascending: the index
    of each interaction's target; needed [g, d]: the change that each target needs; key int64 [g]: a hash of its node.
    """

    features: Tensor
    directions: Tensor
    target: Tensor
    needed: Tensor
    key: Tensor


def make_examples(
    graph: LocalGraph,
    backbone: Backbone,
    nodes: NodeRows,
    counterfactuals: list[tuple[Removal, Tensor]],
    of_readouts: bool = False,
) -> tuple[Examples, Examples]:
    """(examples of users, examples of items) from counterfactuals: (removal, E0 [N, d] of the run without it). All
    ranks call it.

    The needed change is that of the node's row of E0. With `of_readouts` it is that of its readout before its length is
    scaled, beyond what the missing edges alone change.
    """
    parts: tuple[list[Examples], list[Examples]] = ([], [])
    ids = torch.cat([graph.user_ids, graph.item_ids])
    for removal, e0 in counterfactuals:
        pairs = removal.pairs(graph.shard)
        users, items = (torch.from_numpy(x).to(e0.device) for x in pairs)
        moved = e0 - nodes.e0
        if of_readouts:
            with torch.no_grad():
                moved = backbone(moved, graph.without(*pairs).propagation)
        for side, view in enumerate(ends_by_side(graph, nodes, users, items)):
            rows, target = torch.unique_consecutive(view.rows, return_inverse=True)
            needed = moved[rows]
            key = keyed(side, ids[rows]) if len(rows) else rows
            parts[side].append(_examples(view, target, needed, key))
    joined = []
    for side_parts in parts:
        offsets = torch.tensor([len(p.needed) for p in side_parts]).cumsum(0).tolist()
        target = torch.cat([p.target + o for p, o in zip(side_parts, [0, *offsets[:-1]], strict=True)])
        columns = [
            torch.cat([getattr(p, name) for p in side_parts]) for name in ("features", "directions", "needed", "key")
        ]
        joined.append(Examples(columns[0], columns[1], target, columns[2], columns[3]))
    return joined[0], joined[1]


def _examples(view: Ends, target: Tensor, needed: Tensor, key: Tensor) -> Examples:
    return Examples(
        features(view.own, view.other, view.removed_share), directions(view.own, view.other), target, needed, key
    )


def fit(
    comm: Comm,
    encoder: InfluenceEncoder,
    data: tuple[Examples, Examples],
    settings: PretrainSettings,
    on_epoch: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """Train the encoder in place under DDP. Returns R2 of the predicted changes by side, for the targets that it was
    fitted on and for those held out: "user_r2", "item_r2", "user_r2_held_out", "item_r2_held_out". A value is NaN if it
    has no targets.

    The loss of a side is the squared error of the changes, divided by the sum of squares of the needed ones, over all
    ranks. `on_epoch` is called with (epoch, mean loss of a side). All ranks call it.

    Raises:
        InputError: it diverged: a weight of the encoder, or what it predicts for a target, is infinite or NaN.
    """
    held_out = [keyed_uniform(settings.seed, PAIRS, x.key) < _VALIDATION_SHARE for x in data]
    for side, x in zip((encoder.users, encoder.items), data, strict=True):
        assert isinstance(side, Side)
        _standardise(comm, side, x.features)
    needed = torch.stack([(x.needed[~h] ** 2).sum() for x, h in zip(data, held_out, strict=True)])
    counts = torch.tensor([float(len(x.target)) for x in data], device=comm.device)
    comm.all_reduce(needed)
    comm.all_reduce(counts)
    most = int(counts.max())
    num_steps = max(1, most // (settings.batch_size or min(max(most // EPOCH_STEPS, BATCHES[0]), BATCHES[1])))
    module = comm.replicate(encoder)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * num_steps)
    for epoch in range(settings.epochs):
        deal = [keyed(settings.seed, PAIRS, epoch, x.key) % num_steps for x in data]
        total = torch.zeros(1, device=comm.device)
        for step in range(num_steps):
            chosen = [(d == step) & ~h for d, h in zip(deal, held_out, strict=True)]
            optimizer.zero_grad()
            loss = _error(module, data, chosen, needed / num_steps)
            with comm.dense_step():
                # DDP averages over the ranks what is a sum over them.
                (loss * comm.size).backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() / num_steps
        comm.all_reduce(total)
        check_encoder(encoder, epoch, settings.learning_rate)
        if on_epoch is not None:
            on_epoch(epoch, float(total) / 2)
    sums = _squares(comm, encoder, data, held_out)
    # Finite weights may still be so large that no prediction is a number.
    _check([sums], "predictions of the encoder", settings.epochs - 1, settings.learning_rate)
    r2 = 1 - sums[:, :, 0] / sums[:, :, 1]  # NaN where there are none
    names = [("user_r2", 0, 0), ("item_r2", 1, 0), ("user_r2_held_out", 0, 1), ("item_r2_held_out", 1, 1)]
    return {name: float(r2[side, part]) for name, side, part in names}


def check_encoder(encoder: nn.Module, epoch: int, learning_rate: float) -> None:
    """Raise InputError if a weight of the encoder is infinite or NaN after an epoch, counted from 0."""
    _check(encoder.parameters(), "weights of the encoder", epoch, learning_rate)


def _check(tensors: Iterable[Tensor], what: str, epoch: int, learning_rate: float) -> None:
    if not are_finite(tensors):
        raise InputError(
            f"the pre-training diverged in epoch {epoch + 1}: {what} are infinite or NaN. Lower "
            f"pretrain.learning_rate (it is {learning_rate:g})"
        )


def tries_around_encoder(asked: bool | None, backbone: Backbone) -> bool:
    """Whether an `AroundEncoder` should be tried for a model. asked: the setting `influence.around`; None lets the
    backbone decide."""
    return not backbone.holds_own_row if asked is None else asked


def explains_unseen_nodes(fitted: Mapping[str, float]) -> bool:
    """Whether an encoder explains anything about nodes that it was not fitted on. fitted: what `fit` returned.

    For readouts it may explain nothing. On a dense graph most of their change is not due to single interactions. The
    fit is then worse than no change at all, and rows around a node would be changed much for no benefit (docs/log.md).
    """
    return all(fitted[f"{side}_r2_held_out"] > 0 for side in ("user", "item"))


@torch.no_grad()
def calibrate(
    graph: LocalGraph,
    backbone: Backbone,
    nodes: NodeRows,
    encoder: InfluenceEncoder,
    counterfactuals: list[tuple[Removal, Tensor]],
) -> tuple[float, float]:
    """Set the encoder's gains for users and items, and return them.

    Gauss-Newton steps minimise, over the counterfactuals, the squared error of the changes of the forgotten pairs'
    scores, and that of the mean of these changes, each relative to what is needed. The attack depends on the mean.
    Least squares alone would deliver too little of it: the noisier the targets are, the less. All ranks call it, with
    the counterfactuals of the fit: (removal, E0 [N, d] of the run without it).

    Raises:
        InputError: scores are too large for gains that are numbers.
    """
    encoder.gain.fill_(1.0)
    probes = [_Probe.of(graph, backbone, nodes, encoder, *counterfactual) for counterfactual in counterfactuals]
    gains = torch.ones(2, dtype=torch.float64, device=nodes.e0.device)
    for _ in range(_GAIN_ROUNDS):
        normal, right = gains.new_zeros(2, 2), gains.new_zeros(2)
        for probe in probes:
            error = probe.needed - probe.delivered(gains)
            moved = torch.stack(
                [probe.delivered(gains + step) for step in _GAIN_STEP * torch.eye(2, device=gains.device)]
            )
            slope = (moved - (probe.needed - error)) / _GAIN_STEP
            # Every rank sees the same sums, and so takes the same steps.
            parts = [slope @ slope.T, slope @ error, slope.sum(1), error.sum(), (probe.needed**2).sum()]
            parts += [probe.needed.sum(), torch.tensor(len(error), device=error.device)]
            sums = graph.comm.all_reduce(torch.cat([part.reshape(-1).double() for part in parts]))
            squares, mean = sums[9].clamp(min=1e-30), sums[10] ** 2
            # Where the pairs' mean hardly needs to move, its relative error says nothing.
            mean = torch.maximum(mean, 0.01 * sums[11].clamp(min=1) * squares)
            normal += sums[:4].view(2, 2) / squares + sums[6:8].outer(sums[6:8]) / mean
            right += sums[4:6] / squares + sums[6:8] * sums[8] / mean
        ridge = 1e-6 * normal.trace().clamp(min=1e-30) * torch.eye(2, dtype=torch.float64, device=gains.device)
        gains = (gains + torch.linalg.solve(normal + ridge, right)).clamp(*_GAINS)
    if not are_finite([gains]):
        raise InputError(
            "the pre-training diverged: with the encoder's answers, scores of forgotten pairs are infinite or NaN. Lower "
            "pretrain.learning_rate, or train again with a lower train.learning_rate"
        )
    encoder.gain.copy_(gains)
    return float(gains[0]), float(gains[1])


@dataclass(frozen=True)
class _Probe:
    """The removed interactions of a counterfactual whose user this rank owns. `before` [n]: their scores in the model;
    `needed` [n]: how much they change in the run without them."""

    graph: LocalGraph
    backbone: Backbone
    e0: Tensor
    changes: tuple[Tensor, Tensor]
    """The changes of users' and of items' rows [N, d], without the gain."""
    pairs: tuple[Tensor, Tensor]
    before: Tensor
    needed: Tensor

    @classmethod
    def of(
        cls,
        graph: LocalGraph,
        backbone: Backbone,
        nodes: NodeRows,
        encoder: InfluenceEncoder,
        removal: Removal,
        target: Tensor,
    ) -> "_Probe":
        pairs = removal.pairs(graph.shard)
        users, items = (torch.from_numpy(x).to(graph.comm.device) for x in pairs)
        rest = graph.without(*pairs)
        rows, change = influence(graph, nodes, encoder, users, items)
        sides = torch.zeros_like(nodes.e0).index_copy_(0, rows, change)
        changes = (sides.clone(), sides)
        changes[0][graph.num_local_users :] = 0
        changes[1][: graph.num_local_users] = 0
        here = graph.user_rows(users) >= 0
        own = (users[here], items[here])
        before = pair_scores(graph, nodes.readout, *own)[1].double()
        probe = cls(rest, backbone, nodes.e0, changes, own, before, before)
        return replace(probe, needed=probe._scores(target) - before)

    def delivered(self, gains: Tensor) -> Tensor:
        """The change of the scores [n] with these gains [2]."""
        users, items = (gain * change for gain, change in zip(gains.to(self.e0.dtype), self.changes, strict=True))
        return self._scores(self.e0 + users + items) - self.before

    def _scores(self, e0: Tensor) -> Tensor:
        readout = self.backbone.readout(e0, self.graph.propagation)
        return pair_scores(self.graph, readout, *self.pairs)[1].double()


def _error(module: nn.Module, data: tuple[Examples, Examples], chosen: list[Tensor], needed: Tensor) -> Tensor:
    """The squared error of the chosen targets, divided by `needed` [2], added over the two sides."""
    inputs, targets = [], []
    for x, chosen_g in zip(data, chosen, strict=True):
        mine = chosen_g[x.target]
        inputs.append((x.features[mine], x.directions[mine]))
        targets.append(x.target[mine])
    changes = module(inputs[0], inputs[1])
    errors = []
    for x, chosen_g, target, change, size in zip(data, chosen, targets, changes, needed, strict=True):
        predicted = torch.zeros_like(x.needed).index_add(0, target, change)
        errors.append(((predicted - x.needed)[chosen_g] ** 2).sum() / size.clamp(min=1e-30))
    return errors[0] + errors[1]


def _standardise(comm: Comm, side: Side, values: Tensor) -> None:
    """Set the side's feature means and deviations from the values [n, F] of all ranks.

    If a feature hardly varies in pre-training, for instance because all users have the same degree, its mean is used as
    the deviation. Otherwise the smallest difference later would become a huge standardised value.
    """
    wide = values.to(torch.float64)
    sums = torch.cat([wide.sum(0), (wide**2).sum(0), torch.tensor([float(len(wide))], device=wide.device)])
    comm.all_reduce(sums)
    count = sums[-1].clamp(min=1)
    mean, square = sums[:-1].view(2, -1) / count
    deviation = (square - mean**2).clamp(min=0).sqrt()
    size = torch.where(mean == 0, 1.0, mean.abs())
    side.mean.copy_(mean)
    side.deviation.copy_(torch.where(deviation > _LEAST_DEVIATION * mean.abs(), deviation, size))


@torch.no_grad()
def _squares(comm: Comm, encoder: InfluenceEncoder, data: tuple[Examples, Examples], held_out: list[Tensor]) -> Tensor:
    """Sums over all ranks, float64 [2, 2, 2]: by side, and by whether it was fitted on or held out, the squared error of
    the predicted changes and the square of the needed ones."""
    sums = torch.zeros(2, 2, 2, dtype=torch.float64, device=comm.device)
    modules = (encoder.users, encoder.items)
    for side, (x, h) in enumerate(zip(data, held_out, strict=True)):
        weights = modules[side](x.features)
        predicted = torch.zeros_like(x.needed).index_add(0, x.target, (weights[:, :, None] * x.directions).sum(1))
        for part, chosen in enumerate((~h, h)):
            sums[side, part, 0] = ((predicted - x.needed)[chosen] ** 2).sum()
            sums[side, part, 1] = (x.needed[chosen] ** 2).sum()
    comm.all_reduce(sums)
    return sums
