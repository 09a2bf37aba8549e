"""The Influence Encoder in the form of the paper (UnlearnRec, SIGIR 2025), beside ours for comparison.

Two owner-sharded tables, H0 [N, d] and a gate w [N, 1], and a small MLP. For a request with the symmetric adjacency
A_D: H^l = A_D H^(l-1) (eq. 15), W^0 = w * readout, W^l = A_D W^(l-1) (eq. 16), change = MLP(sum of H^l - c W^L) (eq.
17).

Where it departs from the paper: H^0 itself is left out of the sum and rows of untouched nodes stay zero through the
MLP, so that only touched nodes change; the withdrawal takes an odd power, since even ones come back to the same side; a
readout of several blocks is withdrawn by their mean. There is no fine-tuning after it but `forget.fine_tune_steps`.

Shape legend: N = local rows, d = embedding size, B = pairs of a batch on this rank, D = columns of a readout.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...partitioning.errors import InputError
from ...partitioning.halo import plan
from ...partitioning.shard import GraphShard
from ..backbones import Backbone
from ..graph.keyed import EDGE_DROP, keyed_uniform
from ..graph.local_graph import LocalGraph
from ..graph.lookup import ItemLookup, add_by_row
from ..graph.propagation import Propagation
from ..graph.removal import Removal, Simulated, restricted_to
from ..training.batch import Batch, batches, pair_key
from ..training.finite import are_finite
from ..training.trainer import FIXED_POINT, Trainer, TrainSettings

WITHDRAWAL = 0.1
"""c of eq. 17."""
INITIAL_GATE = 0.002
FRESH_REQUEST_EPOCHS = 5
"""Epochs between two simulated requests."""


@dataclass(frozen=True)
class PublishedSettings:
    """The weights of the losses (a, b, c of the paper are `forget_weight`, `preserve_weight`, `contrast_weight`), and
    how to train."""

    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    request_share: float
    forget_weight: float
    preserve_weight: float
    contrast_weight: float
    edge_drop: float
    temperature: float = 1.0


class PublishedEncoder(nn.Module):
    """The dense part: an MLP that starts as the identity, and is not trained, as in the authors' code."""

    def __init__(self, size: int, num_layers: int = 3, mlp_layers: int = 2) -> None:
        super().__init__()
        self.num_layers = num_layers
        linears = [nn.Linear(size, size) for _ in range(mlp_layers)]
        for linear in linears:
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.layers = nn.ModuleList(linears)

    def forward(self, h0: Tensor, gate: Tensor, readout: Tensor, request: Propagation) -> tuple[Tensor, list[Tensor]]:
        """(change [N, d], [H^1 .. H^L]) of a request, from h0 [N, d], gate [N, 1] and the frozen readout [N, D]."""
        size = h0.shape[1]
        h, layers = h0, []
        w = readout.unflatten(1, (-1, size)).mean(1) * gate
        withdrawal = torch.zeros_like(w)
        for number in range(1, self.num_layers + 1):
            h, w = request(h), request(w)
            layers.append(h)
            if number % 2:
                withdrawal = w
        x = torch.stack(layers).sum(0) - WITHDRAWAL * withdrawal
        touched = (x != 0).any(1, keepdim=True)
        for position, linear in enumerate(self.layers):
            x = linear(functional.leaky_relu(x, 0.99) if position else x)
        return x * touched, layers


@dataclass(frozen=True)
class Published:
    """A trained encoder on one rank: the dense part, H0 [N, d] and the gate [N, 1] of the local rows."""

    dense: PublishedEncoder
    h0: Tensor
    gate: Tensor

    def fresh_rows(self, rows: Tensor) -> dict[str, Tensor]:
        """Copies of both tables, in which these rows int64 [t] are as they were before training."""
        h0, gate = self.h0.clone(), self.gate.clone()
        h0[rows], gate[rows] = 0.0, INITIAL_GATE
        return {"h0": h0, "gate": gate}


@torch.no_grad()
def published_influence(
    graph: LocalGraph, readout: Tensor, encoder: Published, users: Tensor, items: Tensor
) -> tuple[Tensor, Tensor]:
    """(touched local rows int64 [t] ascending, their changes of E0 [t, d]) if the interactions users, items [n] are
    forgotten, each of which has an end in this partition.

    Only ranks that own an end of an interaction of the request take part.
    """
    request = restricted_to(graph.shard, users.cpu().numpy(), items.cpu().numpy())
    change, _ = encoder.dense(encoder.h0, encoder.gate, readout, request_layer(graph, request, everybody=False))
    counts = np.concatenate([np.diff(request.user_indptr), np.diff(request.item_indptr)])
    rows = torch.from_numpy(np.flatnonzero(counts)).to(change.device)
    return rows, change[rows]


def request_layer(graph: LocalGraph, request: GraphShard, everybody: bool = True) -> Propagation:
    """The layer A_D of eq. 15 over a request's interactions, normalised by their own degrees. request: a shard that has
    the rows of the graph and only these interactions.

    everybody: whether all ranks take part, or only those that own an end of an interaction.
    """
    degrees = torch.from_numpy(request.degrees()).to(graph.degrees.device)
    return Propagation(plan(request, graph.assignment, "pull"), degrees, graph.comm, everybody=everybody)


@dataclass(frozen=True)
class TrainedModel:
    """A trained recommender on one rank: its backbone, E0 [N, d] and the readouts [N, D] of the local rows."""

    backbone: Backbone
    e0: Tensor
    readout: Tensor


def pretrain_published(
    graph: LocalGraph,
    model: TrainedModel,
    encoder: PublishedEncoder,
    settings: PublishedSettings,
    train: TrainSettings,
    on_epoch: Callable[[int, float], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Train H0 [N, d] and w [N, 1] with L = L_M + a L_u + b L_p + c L_c (eq. 18-24), and return them. All ranks call
    it.

    L_M is the loss that the model was trained with, as `train` and the backbone define it, on batches of the size in
    `settings`.

    Raises:
        InputError: it diverged: H0 or w is infinite or NaN.
    """
    e0, readout = model.e0, model.readout
    h0 = torch.zeros_like(e0, requires_grad=True)
    gate = torch.full((len(e0), 1), INITIAL_GATE, device=e0.device, requires_grad=True)
    alive = torch.cat(graph.comm.all_gather(graph.item_ids)).sort().values
    optimizer = torch.optim.Adam([h0, gate], lr=settings.learning_rate)
    encoder.requires_grad_(False)
    backbone = copy.deepcopy(model.backbone).requires_grad_(False)
    train = replace(train, seed=settings.seed, batch_size=settings.batch_size)
    for epoch in range(settings.epochs):
        if epoch % FRESH_REQUEST_EPOCHS == 0:
            removal = Removal(simulated=(Simulated(settings.seed, epoch, settings.request_share),))
            gone = removal.pairs(graph.shard)
            forgotten = [torch.from_numpy(x).to(e0.device) for x in gone]
            shard = restricted_to(graph.shard, *gone)
            request = request_layer(graph, shard)
            rest = graph.without(*gone)
            trainer = Trainer(rest, backbone, train, start=e0)
        trainer.epoch = epoch
        total = 0.0
        for number, batch in enumerate(batches(rest, settings.seed, epoch, train.num_batches)):
            optimizer.zero_grad()
            change, layers = encoder(h0, gate, readout, request)
            changed = (e0 + change).detach().requires_grad_()
            # A draw may name an item that was deleted: those that are there take its place.
            batch = replace(batch, negatives=alive[batch.negatives % len(alive)])
            loss = trainer.backward(changed, batch, number) / FIXED_POINT * train.scale
            z = backbone.readout(changed, rest.propagation)
            gradient, more = forget_and_preserve(rest, z.detach(), readout, batch, forgotten, settings)
            z.backward(gradient)
            change.backward(changed.grad, retain_graph=True)
            if settings.contrast_weight:
                draws = keyed_uniform(settings.seed, EDGE_DROP, epoch, number, forgotten[0], forgotten[1])
                kept = (draws >= settings.edge_drop).cpu().numpy()
                dropped = request_layer(graph, restricted_to(shard, gone[0][kept], gone[1][kept]))
                (settings.contrast_weight * _contrast(rest, h0, layers, dropped, batch)).backward()
            optimizer.step()
            total += (loss + more) / train.num_batches
        if not are_finite([h0, gate]):
            raise InputError(
                f"the pre-training diverged in epoch {epoch + 1}: H0 or w is infinite or NaN. Lower "
                f"pretrain.learning_rate (it is {settings.learning_rate:g})"
            )
        if on_epoch is not None:
            on_epoch(epoch, total)
    return h0.detach(), gate.detach()


def forget_and_preserve(
    graph: LocalGraph,
    z: Tensor,
    before: Tensor,
    batch: Batch,
    forgotten: list[Tensor],
    settings: PublishedSettings,
) -> tuple[Tensor, float]:
    """(gradient [N, D] of a L_u + b L_p with respect to the readouts z [N, D], the part of this rank in the two
    losses).

    before [N, D]: the readouts before the request. forgotten: users and items [n] of its interactions."""
    gradient = torch.zeros_like(z)
    loss = 0.0
    if settings.preserve_weight:
        users = graph.user_rows(batch.users)
        lookup = ItemLookup(graph, batch.items, pair_key(batch.users, batch.items, graph.num_items, 0))
        value, for_users, for_items = _preserve(
            graph, (z[users], lookup.fetch(z)), (before[users], lookup.fetch(before)), settings.temperature
        )
        loss = settings.preserve_weight * value
        lookup.add_gradients(settings.preserve_weight * for_items, gradient)
        add_by_row(users, settings.preserve_weight * for_users, gradient)

    mine = torch.nonzero(graph.user_rows(forgotten[0]) >= 0)[:, 0]
    users, items = forgotten[0][mine], forgotten[1][mine]
    total = max(1, int(graph.comm.all_reduce(torch.tensor([len(mine)], device=z.device))))
    lookup = ItemLookup(graph, items, pair_key(users, items, graph.num_items, 0))
    rows, item_rows = graph.user_rows(users), lookup.fetch(z)
    scores = (z[rows] * item_rows).sum(1)
    loss += settings.forget_weight * float(functional.softplus(scores).sum()) / total
    # L_u of eq. 20: -log sigmoid(-s) = softplus(s), with gradient sigmoid(s).
    weight = (torch.sigmoid(scores) * (settings.forget_weight / total))[:, None]
    lookup.add_gradients(weight * z[rows], gradient)
    add_by_row(rows, weight * item_rows, gradient)
    return gradient, loss


def _preserve(
    graph: LocalGraph, after: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor], temperature: float
) -> tuple[float, Tensor, Tensor]:
    """L_p (eq. 21, 22), the sum over this rank's pairs, with gradients for their users and items [B, D]."""
    columns_before = torch.cat(graph.comm.all_gather(before[1]))
    parts = graph.comm.all_gather(after[1])
    first = sum(len(x) for x in parts[: graph.comm.rank])
    users = after[0].detach().requires_grad_()
    columns = torch.cat(parts).requires_grad_()
    here = torch.arange(first, first + len(users), device=users.device)
    with torch.enable_grad():
        new = functional.log_softmax(users @ columns.T / temperature, dim=1).gather(1, here[:, None])
        old = functional.log_softmax(before[0] @ columns_before.T / temperature, dim=1).gather(1, here[:, None])
        loss = ((new - old) ** 2).sum()
        for_users, for_columns = torch.autograd.grad(loss, [users, columns])
    graph.comm.all_reduce(for_columns)
    return float(loss.detach()), for_users, for_columns[here]


def _contrast(graph: LocalGraph, h0: Tensor, layers: list[Tensor], dropped: Propagation, batch: Batch) -> Tensor:
    """L_c (eq. 23, 24): InfoNCE at temperature 1 between each layer and the same step over the thinned request, on the
    rows of the batch's users and items; each rank's own rows against those of all ranks."""
    items = torch.unique(torch.cat(graph.comm.all_gather(batch.items)))
    rows = graph.item_rows(items)
    anchors = torch.cat([torch.unique(graph.user_rows(batch.users)), rows[rows >= 0]])
    loss = h0.sum() * 0
    h = h0
    for layer in layers:
        thinned = dropped(h)
        parts = graph.comm.all_gather(layer.detach()[anchors])
        first = sum(len(x) for x in parts[: graph.comm.rank])
        logits = thinned[anchors] @ torch.cat(parts).T
        target = torch.arange(first, first + len(anchors), device=h0.device)
        loss = loss + functional.cross_entropy(logits, target, reduction="sum") / max(1, sum(len(x) for x in parts))
        h = thinned
    return loss
