"""Pre-training of the Influence Encoder on counterfactual retrains (method: docs/encoder.md).

A counterfactual is the training run of the current version minus a simulated request, under the same keyed draws. What
its rows of E0 differ from the original's, at the nodes that the request touches, is what the encoder has to predict.

Shape legend: g = targets here, one for each touched node of each counterfactual, n = forgotten interactions seen from
their end here, d = embedding size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..backbones import Backbone
from ..comm import Comm
from ..graph.keyed import PAIRS, keyed, keyed_uniform
from ..graph.local_graph import LocalGraph
from ..graph.removal import Removal, Simulated
from ..measures.ranking import pair_scores
from .changes import Ends, ends_by_side, influence
from .influence import InfluenceEncoder, NodeRows, Side, directions, features

_VALIDATION_SHARE = 0.1
"""Of the targets, held out to report the quality of the fit; keyed by node."""
_GAIN_ROUNDS, _GAIN_STEP = 3, 0.05
_GAINS = (0.25, 3.0)
"""Where the gains may lie: whatever the counterfactuals of a tiny graph say, neither side's rows stay as they are."""

EPOCH_STEPS, BATCHES = 50, (16, 256)
_LEAST_DEVIATION = 1e-3
"""Of a feature, relative to its mean, for it to tell interactions apart."""

POPULAR_SHARE = 0.03
"""Of the items, by degree: those of which some simulated requests take more."""


@dataclass(frozen=True)
class PretrainSettings:
    """The fields of `pretrain` in the configuration, and the run's seed."""

    seed: int
    epochs: int
    batch_size: int | None
    """None: so many that an epoch has about EPOCH_STEPS steps, within BATCHES."""
    learning_rate: float


def simulated_requests(seed: int, count: int, share: float, popular: Sequence[int]) -> list[Simulated]:
    """What `count` counterfactuals leave out: the given share of all interactions, a fifth of it, and a request unlike
    chance, in turn.

    The last takes more from some users and from the `popular` items (global dense ids). Without it the encoder takes what
    happens when all nodes lose alike for the rule, and changes the scores of popular items' forgotten interactions far
    more than a retrain does (docs/log.md).
    """
    kinds = (
        {"share": share},
        {"share": share / 5},
        {"users": 0.03, "of_users": min(1.0, 3 * share), "items": tuple(popular), "of_items": min(1.0, 1.6 * share)},
    )
    return [Simulated(seed, number, **kinds[number % len(kinds)]) for number in range(count)]


@dataclass(frozen=True)
class Examples:
    """One side's training data here: features [n, F], directions [n, 3 m + 2, d], target int64 [n] of each interaction,
    needed [g, d], key int64 [g] (of the node), ascending target."""

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
    """Both sides' examples from (removal, E0 [N, d] of the run without it) pairs. All ranks call it.

    What is needed is a change of the node's row of E0, or, `of_readouts`, of its readout before its length is scaled, beyond
    what the missing edges do.
    """
    parts: tuple[list[Examples], list[Examples]] = ([], [])
    ids = torch.cat([graph.user_ids, graph.item_ids])
    for removal, e0 in counterfactuals:
        pairs = removal.pairs(graph.shard)
        users, items = (torch.from_numpy(x).to(e0.device) for x in pairs)
        moved = e0 - nodes.e0
        if of_readouts:
            with torch.no_grad():
                moved = backbone(moved, graph.without(*pairs).propagation.layer)
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
    """Train the encoder in place under DDP; returns the share of the needed shifts explained (R2), by side. It is NaN where
    there are no shifts, such as none held out of very few.

    The loss of a side is the squared error of its nodes' changes over their squared size, over all ranks.
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
        if on_epoch is not None:
            on_epoch(epoch, float(total) / 2)
    return _explained(comm, encoder, data, held_out)


def tries_around_encoder(asked: bool | None, backbone: Backbone) -> bool:
    """Whether an `AroundEncoder` is to be tried for a model; asked: `influence.around`."""
    return not backbone.holds_own_row if asked is None else asked


def explains_unseen_nodes(fitted: Mapping[str, float]) -> bool:
    """Whether an encoder, by what `fit` returned, explains anything of nodes that it was not fitted on.

    Of readouts it may not. On a dense graph most of their change is no one interaction's doing, the fit is then worse than
    no change at all, and rows around a node would be moved far for it (docs/log.md).
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

    They minimise, over the counterfactuals, the squared error of the forgotten pairs' scores and that of their mean, each
    relative to what is needed (Gauss-Newton). The mean is what the attack sees; least squares alone would deliver too
    little of it, the less the noisier the targets are. All ranks call it, with the (removal, E0 [N, d] of the run
    without it) pairs of the fit.
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
    encoder.gain.copy_(gains)
    return float(gains[0]), float(gains[1])


@dataclass(frozen=True)
class _Probe:
    """The removed pairs of a counterfactual with a user here. needed [n]: by how much their scores change in the run
    without them."""

    graph: LocalGraph
    backbone: Backbone
    e0: Tensor
    changes: tuple[Tensor, Tensor]
    """Of users and of items [N, d], before the gain."""
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
        """Change of the scores [n] with these gains [2]."""
        users, items = (gain * change for gain, change in zip(gains.to(self.e0.dtype), self.changes, strict=True))
        return self._scores(self.e0 + users + items) - self.before

    def _scores(self, e0: Tensor) -> Tensor:
        readout = self.backbone.readout(e0, self.graph.propagation.layer)
        return pair_scores(self.graph, readout, *self.pairs)[1].double()


def _error(module: nn.Module, data: tuple[Examples, Examples], chosen: list[Tensor], needed: Tensor) -> Tensor:
    """Sum over the sides of the squared error of the chosen targets, over `needed` [2]."""
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

    A feature that hardly differs in pre-training, as where all users have the same degree, is measured by its mean: by its
    deviation, the least change of it would be without comparison.
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
def _explained(
    comm: Comm, encoder: InfluenceEncoder, data: tuple[Examples, Examples], held_out: list[Tensor]
) -> dict[str, float]:
    sums = torch.zeros(2, 2, 2, dtype=torch.float64, device=comm.device)
    modules = (encoder.users, encoder.items)
    for side, (x, h) in enumerate(zip(data, held_out, strict=True)):
        weights = modules[side](x.features)
        predicted = torch.zeros_like(x.needed).index_add(0, x.target, (weights[:, :, None] * x.directions).sum(1))
        for part, chosen in enumerate((~h, h)):
            sums[side, part, 0] = ((predicted - x.needed)[chosen] ** 2).sum()
            sums[side, part, 1] = (x.needed[chosen] ** 2).sum()
    comm.all_reduce(sums)
    r2 = 1 - sums[:, :, 0] / sums[:, :, 1]  # NaN where there are none
    names = [("user_r2", 0, 0), ("item_r2", 1, 0), ("user_r2_held_out", 0, 1), ("item_r2_held_out", 1, 1)]
    return {name: float(r2[side, part]) for name, side, part in names}
