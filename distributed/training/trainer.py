"""Training steps whose result does not depend on the number of partitions: bit for bit under BPR, `pull` and LightGCN
on CPU, within rounding otherwise (docs/halo.md).

A step is one propagation over the full graph, a loss on the readouts of the batch, the same propagation backward, and a
step of Adam. Tables are sharded by owner, and each rank computes the loss of the pairs whose users it owns. Dense
weights, if the backbone has any, are trained under DDP.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..backbones import Backbone
from ..backbones.views import Views, contrast_gradients
from ..graph.keyed import initial_rows
from ..graph.local_graph import LocalGraph
from ..graph.lookup import ItemLookup, add_by_row
from ..graph.neighbour_sum import TILE_ROWS
from ..graph.propagation import Layer
from ..graph.scored_pairs import ScoredPairs
from .batch import Batch, batches, pair_key, shared_negatives
from .losses import bpr, sampled_softmax
from .table import Table

FIXED_POINT = 2.0**24
"""Losses are summed as integers in units of 1 / FIXED_POINT, so that the sum does not depend on the order."""
DIVERGED = 2**56
"""The loss of a step, or of an epoch on a rank, that is NaN or at least so many units: a mean loss of 4,096 over a million
pairs. Larger ones would not fit into int64 when all ranks are added up, and a NaN has no integer at all."""

Progress = Callable[[int, int, float], None]
"""Called with (epoch, step, mean loss of the step's pairs on this rank)."""


@dataclass(frozen=True)
class TrainSettings:
    """What a run depends on besides its graph and backbone. The fields are those of the section `train`."""

    seed: int
    batch_size: int
    learning_rate: float
    loss: str
    initial_deviation: float
    l2: float
    softmax_temperature: float
    softmax_negatives: int
    total_pairs: int
    """Interactions of the graph as it was ingested. So a run that leaves some out has the same number of steps."""
    dense_learning_rate: float | None = None
    """Of the dense weights of a backbone. None: as `learning_rate`."""

    @property
    def num_batches(self) -> int:
        """Number of steps of an epoch."""
        return max(1, -(-self.total_pairs // self.batch_size))

    @property
    def scale(self) -> float:
        """The weight of a pair's loss in that of its step: 1 / size of a full batch, or 1 / number of all pairs if
        these are fewer. The mean over the pairs of a step would depend on which of them a counterfactual leaves out."""
        return 1.0 / max(1, min(self.batch_size, self.total_pairs))


class Trainer:
    """One rank's part of a training run. All ranks call its methods together."""

    def __init__(
        self, graph: LocalGraph, backbone: Backbone, settings: TrainSettings, start: Tensor | None = None
    ) -> None:
        """start: the embeddings [N, d] to begin with. By default they are drawn from the seed."""
        self.graph, self.backbone, self.settings = graph, backbone, settings
        self.epoch = 0
        """Number of epochs that are done."""
        if start is None:
            size, deviation = backbone.embedding_size, settings.initial_deviation
            sides = ((0, graph.user_ids), (1, graph.item_ids))
            start = torch.cat([initial_rows(settings.seed, side, ids, size, deviation) for side, ids in sides])
        self.table = Table(start, settings.learning_rate)
        self._gradient: Tensor | None = None
        weights = [x for x in backbone.parameters() if x.requires_grad]
        passes = _Passes(backbone)
        self._module = graph.comm.replicate(passes) if weights else passes
        self._views = Views(graph, settings.seed) if backbone.contrast_weight else None
        self._layer = graph.propagation.keeping_buffers(results=backbone.one_mean and self._views is None)
        rate = settings.learning_rate if settings.dense_learning_rate is None else settings.dense_learning_rate
        self._dense = torch.optim.Adam(weights, lr=rate) if weights else None

    def run_epoch(self, on_step: Progress | None = None) -> float:
        """Train one epoch. Returns the mean loss of its pairs over all ranks, without the L2 and the contrastive term;
        infinity if it diverged on any rank."""
        total = 0
        pairs = len(self.graph.pair_users)
        for number, batch in enumerate(batches(self.graph, self.settings.seed, self.epoch, self.settings.num_batches)):
            loss = self.step(batch, number)
            total += loss
            if on_step is not None:
                on_step(self.epoch, number, loss / FIXED_POINT / max(1, len(batch.users)))
        self.epoch += 1
        diverged = total >= DIVERGED
        mine = [0 if diverged else total, pairs, int(diverged)]
        sums = self.graph.comm.all_reduce(torch.tensor(mine, device=self.graph.comm.device))
        return math.inf if int(sums[2]) else float(sums[0]) / FIXED_POINT / max(1, int(sums[1]))

    @torch.no_grad()
    def readouts(self) -> Tensor:
        """The readouts [N, readout_size] of the current parameters."""
        return self.backbone.readout(self.table.rows, self.graph.propagation)

    def step(self, batch: Batch, number: int, free: Tensor | None = None) -> int:
        """Take one step on this rank's pairs of the batch, which may be none. Returns their loss, times FIXED_POINT.

        free [N, 1]: 1 for rows that may change, 0 for others. If it is given, the dense weights do not change.
        """
        e0 = self.table.leaf()
        loss = self.backward(e0, batch, number)
        assert e0.grad is not None
        self.table.step(e0.grad if free is None else e0.grad * free)
        if self._dense is not None and free is None:
            # DDP averages what a partitioned loss sums.
            for parameter in self.backbone.parameters():
                if parameter.grad is not None:
                    parameter.grad *= self.graph.comm.size
            self._dense.step()
            self._dense.zero_grad(set_to_none=True)
        return loss

    def backward(self, e0: Tensor, batch: Batch, number: int) -> int:
        """Compute the gradient of a step's whole loss with respect to e0 [N, d], a leaf, and to the dense weights.

        Returns the loss of this rank's pairs, times FIXED_POINT, without the L2 and the contrastive term.
        """
        if self._views is not None:
            self._views.set_step(self.epoch, number)
        readouts = self._module(e0, self._layer, self._views)
        gradient, occurrences, loss = self.pair_gradients(readouts[0].detach(), batch, number)
        gradients = [gradient]
        if self._views is not None:
            weights = self.backbone.contrast_temperature, self.backbone.contrast_weight
            first, second = (z.detach() for z in readouts[1:])
            gradients += contrast_gradients(self.graph, self._views, first, second, *weights)
        if self._dense is None:
            e0.grad = torch.autograd.grad(readouts, e0, gradients)[0]
        else:
            with self.graph.comm.dense_step():
                torch.autograd.backward(readouts, gradients)
        assert e0.grad is not None
        if self.settings.l2:
            # Of l2 / 2 times the squared norm of each row, as often as it occurs in the batch.
            weight = (occurrences.to(torch.float32) * (self.settings.l2 * self.settings.scale))[:, None]
            for gradient, rows, factor in zip(
                *(x.split(TILE_ROWS) for x in (e0.grad, e0.detach(), weight)), strict=True
            ):
                gradient += rows * factor
        return loss

    def pair_gradients(self, z: Tensor, batch: Batch, number: int) -> tuple[Tensor, Tensor, int]:
        """(gradient of the loss of a step's pairs with respect to the readouts [N, D], how often each row occurs in the
        batch [N], the loss times FIXED_POINT). The next call overwrites the gradient. number: keys shared negatives."""
        graph, settings = self.graph, self.settings
        users = graph.user_rows(batch.users)
        scale = settings.scale
        gradient = self._zeros(z)
        keys = [pair_key(batch.users, batch.items, graph.num_items, role) for role in (0, 1)]
        if settings.loss == "bpr":
            scored = ScoredPairs(graph, z, _both(users, users), _both(batch.items, batch.negatives), _both(*keys))
            scores = scored.scores().view(-1, 2)
            loss_B, weight_B = bpr(scores[:, 0], scores[:, 1], scale)
            scored.gradient(_both(-weight_B, weight_B), gradient)
            item_rows = scored.rows
        else:
            lookup = ItemLookup(graph, batch.items, keys[0])
            negatives = shared_negatives(graph, settings.seed, self.epoch, number, settings.softmax_negatives)
            mine = graph.item_rows(negatives)
            here = torch.nonzero(mine >= 0)[:, 0]
            shared = z.new_zeros((len(negatives), z.shape[1]))
            shared[here] = z[mine[here]]
            graph.comm.all_reduce(shared)
            pairs = sampled_softmax(z[users], lookup.fetch(z), shared, settings.softmax_temperature, scale)
            lookup.add_gradients(pairs.positive_BD, gradient)
            graph.comm.all_reduce(pairs.negative)
            gradient.index_add_(0, mine[here], pairs.negative[here])
            add_by_row(users, pairs.user_BD, gradient)
            loss_B, item_rows = pairs.loss_B, lookup.rows
        occurrences = torch.bincount(users, minlength=graph.num_rows)
        occurrences += torch.bincount(item_rows, minlength=graph.num_rows)
        units_B = (loss_B * FIXED_POINT).round()
        fits = bool(units_B.sum() < DIVERGED)  # also false for NaN
        return gradient, occurrences, int(units_B.to(torch.int64).sum()) if fits else DIVERGED

    def _zeros(self, like: Tensor) -> Tensor:
        """Zeros of this shape, in a buffer that is kept from step to step."""
        if self._gradient is None:
            self._gradient = torch.empty_like(like)
        return self._gradient.zero_()

    def state(self) -> dict[str, Tensor]:
        """All that the next epoch depends on, as tensors by name. The dense part is the same on every rank.

        They share memory with the trainer, and change with its steps.
        """
        state = {f"table.{name}": x for name, x in self.table.state().items()}
        state |= {f"dense.{name}": x for name, x in self.backbone.state_dict().items()}
        if self._dense is not None:
            for position, moments in self._dense.state_dict()["state"].items():
                state |= {f"adam.{position}.{name}": x.reshape(-1) for name, x in moments.items()}
        return state | {"epoch": torch.tensor([self.epoch])}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.table.load_state(_below(state, "table."))
        self.backbone.load_state_dict(_below(state, "dense."))
        if self._dense is not None:
            shapes = [p.shape for p in self.backbone.parameters()]
            moments: dict[int, dict[str, Tensor]] = {}
            for name, x in _below(state, "adam.").items():
                position, kind = name.split(".")
                moments.setdefault(int(position), {})[kind] = (
                    x.reshape(()) if kind == "step" else x.reshape(shapes[int(position)])
                )
            self._dense.load_state_dict(self._dense.state_dict() | {"state": moments})
        self.epoch = int(state["epoch"])


class _Passes(nn.Module):
    """The forward passes of a step as one module, since DDP only follows what its own forward returns."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, e0: Tensor, layer: Layer, views: Views | None) -> list[Tensor]:
        """The readouts [N, readout_size], followed by those of the two views if the backbone has views."""
        readouts = [self.backbone(e0, layer)]
        if views is not None:
            readouts += [self.backbone.view(e0, layer, views, number) for number in (0, 1)]
        return readouts


def _both(first: Tensor, second: Tensor) -> Tensor:
    """[2 B]: an element of the first, of the second, of the first, ..."""
    return torch.stack([first, second], dim=1).reshape(-1)


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
