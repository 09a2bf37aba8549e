"""Pre-training of the Influence Encoder on counterfactual retrains (method: docs/encoder.md).

A counterfactual is the training run of the current version without the interactions of a simulated request, under the
same keyed draws. The encoder has to predict the difference between its rows of E0 and the original's, at the nodes that
the request touches.

Shape legend: g = targets of this rank, one for each touched node of each counterfactual, n = forgotten interactions
seen from their ends that this rank owns, F = features, m = blocks of a readout, d = embedding size.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...partitioning.errors import InputError
from ..backbones import Backbone
from ..comm import Comm
from ..graph.keyed import PAIRS, keyed, keyed_uniform
from ..graph.removal import Simulated
from ..training.finite import are_finite
from .examples import EXAMPLES, Examples
from .influence import InfluenceEncoder, Side
from .last_layer import solve_last_layer

_VALIDATION_SHARE = 0.1
"""Share of the targets that is held out to report the quality of the fit. The draw is keyed by node."""
EPOCH_STEPS, BATCHES = 50, (16, 256)
_MEASURED = 16_384
"""The number of interactions whose changes are computed at once when R2 is measured."""
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
    examples: int = EXAMPLES
    """About how many removed interactions of each side are used, over all counterfactuals (`make_examples`)."""


def simulated_requests(seed: int, count: int, share: float, popular: Sequence[int]) -> list[Simulated]:
    """The requests that `count` counterfactuals leave out. There are three kinds, in turn: the given share of all
    interactions, a fifth of that share, and a request that is concentrated on some nodes.

    The third kind removes more from some users and from the `popular` items (global dense ids). Without it the encoder
    is trained only on requests in which all nodes lose the same share. It then changes the scores of popular items'
    forgotten interactions far more than a retrain does. Each of these nodes loses a share of its own, so that the encoder
    sees all shares up to the largest one (docs/log.md).
    """
    kinds = (
        {"share": share},
        {"share": share / 5},
        {
            "users": 0.03,
            "most_of_users": min(1.0, 6 * share),
            "items": tuple(popular),
            "most_of_items": min(1.0, 3.2 * share),
        },
    )
    return [Simulated(seed, number, **kinds[number % len(kinds)]) for number in range(count)]


def stays_whole(number: int) -> bool:
    """Whether the run of this simulated request is a whole training, also where the others are forks: that of the second
    kind. A fork shows well which rows change and in which direction, but how large the changes of a whole run are only a
    whole run shows, and it is this kind that requests are of most often (docs/encoder.md#forks)."""
    return number % 3 == 1


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
    ranks. `on_epoch` is called with (epoch, mean loss of a side). After the last epoch the last layers are solved by least
    squares (`last_layer`). All ranks call it.

    Raises:
        InputError: it diverged: a weight of the encoder, or what it predicts for a target, is infinite or NaN.
    """
    held_out = [keyed_uniform(settings.seed, PAIRS, x.key) < _VALIDATION_SHARE for x in data]
    for side, x in zip((encoder.users, encoder.items), data, strict=True):
        assert isinstance(side, Side)
        standardise(comm, side, x.features)
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
        steps = [_deal(x, ~h, num_steps, settings.seed, epoch) for x, h in zip(data, held_out, strict=True)]
        total = torch.zeros(1, device=comm.device)
        for step in range(num_steps):
            optimizer.zero_grad()
            loss = _error(module, data, [side[step] for side in steps], needed / num_steps)
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
    for side, x, h in zip((encoder.users, encoder.items), data, held_out, strict=True):
        assert isinstance(side, Side)
        solve_last_layer(comm, side, x, h, settings.seed)
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


@dataclass(frozen=True)
class _Step:
    """What a step of the fit works on, of one side: targets int64 [t], their interactions int64 [n], both ascending, and the
    place of each interaction's target among `targets`, int64 [n]."""

    targets: Tensor
    interactions: Tensor
    place: Tensor


def _deal(x: Examples, used: Tensor, num_steps: int, seed: int, epoch: int) -> list[_Step]:
    """Deal the targets of a side that are used (bool [g]) to the steps of an epoch, by a keyed hash of their nodes."""
    # Those that are not used go to a step behind the last.
    of_target = torch.where(used, keyed(seed, PAIRS, epoch, x.key) % num_steps, num_steps)
    of_interaction = of_target[x.target]
    parts, sizes = [], []
    for of in (of_target, of_interaction):
        sizes.append(torch.bincount(of, minlength=num_steps + 1).tolist())
        parts.append(torch.argsort(of, stable=True))
    # The place of a target in its step is its place in the order, less that of the step's first.
    first = torch.tensor([0, *sizes[0][:-1]], device=x.target.device).cumsum(0)
    place = torch.empty_like(parts[0])
    place[parts[0]] = torch.arange(len(place), device=place.device)
    place = (place - first[of_target])[x.target][parts[1]]
    columns = (parts[0].split(sizes[0]), parts[1].split(sizes[1]), place.split(sizes[1]))
    return [_Step(*step) for step in zip(*columns, strict=True)][:num_steps]


def _error(module: nn.Module, data: tuple[Examples, Examples], steps: list[_Step], needed: Tensor) -> Tensor:
    """The squared error of the targets of a step, divided by `needed` [2], added over the two sides."""
    inputs = [(x.features[s.interactions], x.directions[s.interactions]) for x, s in zip(data, steps, strict=True)]
    errors = []
    for x, s, change, size in zip(data, steps, module(*inputs), needed, strict=True):
        wanted = x.needed[s.targets]
        predicted = torch.zeros_like(wanted).index_add(0, s.place, change)
        errors.append(((predicted - wanted) ** 2).sum() / size.clamp(min=1e-30))
    return errors[0] + errors[1]


def standardise(comm: Comm, side: Side, values: Tensor) -> None:
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
        predicted = torch.zeros_like(x.needed)
        columns = (x.features, x.directions, x.target)
        for features_, directions_, target in zip(*(column.split(_MEASURED) for column in columns), strict=True):
            change = (modules[side](features_)[:, :, None] * directions_).sum(1)
            predicted.index_add_(0, target, change)
        for part, chosen in enumerate((~h, h)):
            sums[side, part, 0] = ((predicted - x.needed)[chosen] ** 2).sum()
            sums[side, part, 1] = (x.needed[chosen] ** 2).sum()
    comm.all_reduce(sums)
    return sums
