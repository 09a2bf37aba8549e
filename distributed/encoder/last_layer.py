"""The last layer of an encoder's MLP, solved by least squares after the fit.

The predicted change of a node is linear in the weights of the last layer. So for given hidden layers the best weights
solve a linear system, to which many small steps only come near.

Shape legend: g = targets of this rank, n = interactions, h = outputs of the last hidden layer and a one for the bias, k
= directions, p = h k unknowns, d = embedding size.
"""

import math

import torch
from torch import Tensor, nn

from ..comm import Comm
from ..graph.keyed import LAST_LAYER, keyed_uniform
from .examples import Examples
from .influence import Side

TARGETS = 8_192
"""The number of targets of a side, over all ranks, above which the system is made from a sample of them. Each gives d
equations, so that at d = 64 there are still a thousand for each unknown of LightGCN."""
_RIDGES = (1e-5, 1e-4, 1e-3, 1e-2)
"""Weights of the ridge terms that are tried, relative to the diagonal of the system."""
_BLOCK_BYTES = 16 * 2**20
"""Size of the array that is made of a block of targets."""
_ROUND = 4e10
"""Multiplications and additions of a round, after which all ranks meet: about a second of a core. A rank that has few
targets would otherwise wait for one that has many, for longer than a collective may take
(`cluster.collective_timeout_seconds`)."""
_INTERACTIONS = 1_024
"""The number of interactions whose directions are copied at once."""


@torch.no_grad()
def solve_last_layer(comm: Comm, side: Side, data: Examples, held_out: Tensor, seed: int) -> None:
    """Replace the last layer of a side by the least-squares solution for the targets that are not held out (bool [g]),
    with the ridge that is best for those held out.

    It stays as it is if no solution is better for these, or if there are none. All ranks call it, and have the same
    layer afterwards. The sums over targets are of float64, so that another number of partitions only rounds them
    differently.
    """
    last = side.layers[-1]
    assert isinstance(last, nn.Linear)
    square, right = _normal_equations(comm, side, data, _drawn(comm, data, ~held_out, seed))
    scale = square.diagonal() + 1e-3 * square.diagonal().mean()
    best, chosen = _squared_error(comm, side, data, held_out, last), None
    for ridge in _RIDGES:
        factor, failed = torch.linalg.cholesky_ex(square + torch.diag(ridge * scale))
        if failed:
            continue
        found = torch.cholesky_solve(right[:, None], factor).view(-1, last.out_features).T.to(last.weight)
        layer = nn.Linear(last.in_features, last.out_features, device=last.weight.device)
        layer.weight.copy_(found[:, :-1])
        layer.bias.copy_(found[:, -1])
        error = _squared_error(comm, side, data, held_out, layer)
        if error < best:  # not so if it is NaN, or if nothing is held out
            best, chosen = error, layer
    if chosen is not None:
        last.load_state_dict(chosen.state_dict())


def _drawn(comm: Comm, data: Examples, used: Tensor, seed: int) -> Tensor:
    """Those of the used targets (bool [g]) that the system is made from. A node's targets are drawn together."""
    count = comm.all_reduce(used.sum())
    return used & (keyed_uniform(seed, LAST_LAYER, data.key) < TARGETS / count.clamp(min=1))


def _normal_equations(comm: Comm, side: Side, data: Examples, used: Tensor) -> tuple[Tensor, Tensor]:
    """(matrix float64 [p, p], right-hand side [p]) of the least squares for the used targets (bool [g]) of all ranks,
    on the CPU."""
    num_directions, size = data.directions.shape[1:]
    last = side.layers[-1]
    assert isinstance(last, nn.Linear)
    unknowns = (last.in_features + 1) * num_directions
    sums = torch.zeros(unknowns, unknowns + 1, dtype=torch.float64, device=data.needed.device)
    # The number of all ranks' targets, so that it is the same on each of them.
    work = 2.0 * unknowns**2 * size * int(comm.all_reduce(used.sum()))
    at_once = max(1, _BLOCK_BYTES // (8 * unknowns * size))
    for part in torch.nonzero(used)[:, 0].tensor_split(math.ceil(work / _ROUND) or 1):
        for chosen in part.split(at_once):
            flat = _block(side, data, chosen, unknowns)
            sums[:, :-1] += flat @ flat.T
            sums[:, -1] += flat @ data.needed[chosen].double().flatten()
        comm.all_reduce(sums.new_zeros(1))
    sums = comm.all_reduce(sums).cpu()
    return sums[:, :-1], sums[:, -1]


def _block(side: Side, data: Examples, targets: Tensor, unknowns: int) -> Tensor:
    """What targets [t] get from each unknown, float64 [p, t d]: their hidden outputs times their directions, summed
    over their interactions."""
    size = data.needed.shape[1]
    block = torch.zeros(unknowns, len(targets), size, dtype=torch.float64, device=data.needed.device)
    first = torch.searchsorted(data.target, torch.stack([targets, targets + 1])).tolist()
    for place, (begin, end) in enumerate(zip(*first, strict=True)):
        for start in range(begin, end, _INTERACTIONS):
            some = slice(start, min(start + _INTERACTIONS, end))
            ways = data.directions[some].double().flatten(1)
            block[:, place] += (_hidden(side, data.features[some]).T @ ways).view(unknowns, size)
    return block.view(unknowns, len(targets) * size)


def _hidden(side: Side, features_nF: Tensor) -> Tensor:
    """The outputs of the last hidden layer and a one, float64 [n, h]."""
    outputs = side.hidden(features_nF).double()
    return torch.cat([outputs, outputs.new_ones(len(outputs), 1)], dim=1)


def _squared_error(comm: Comm, side: Side, data: Examples, counted: Tensor, last: nn.Linear) -> float:
    """The squared error of the changes of the counted targets (bool [g]) of all ranks, with this last layer."""
    predicted = torch.zeros_like(data.needed)
    of = torch.nonzero(counted[data.target])[:, 0]
    for some in of.split(_INTERACTIONS):
        weights = last(side.hidden(data.features[some]))
        predicted.index_add_(0, data.target[some], (weights[:, :, None] * data.directions[some]).sum(1))
    return float(comm.all_reduce(((predicted - data.needed)[counted].double() ** 2).sum()))
