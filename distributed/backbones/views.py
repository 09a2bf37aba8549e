"""The self-supervised part of a training step: perturbed views of the graph, and InfoNCE between two of them.

Every perturbation is a keyed draw (`keyed.py`): whether an edge is dropped depends on the pair, noise on the node, and
the anchors on the step alone. So removing an interaction changes no other draw, and draws are the same for any number
of partitions.

Shape legend: N = local rows, A = anchors of a side over all partitions, a = those of them here, D = columns of the
readout.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ...partitioning.halo import plan
from ..graph.keyed import ANCHOR, NOISE, NOISE_POOL, VIEW_EDGE, keyed, keyed_uniform
from ..graph.local_graph import Ids, LocalGraph
from ..graph.propagation import Layer, Propagation

MAX_ANCHORS = 1024
"""Anchors of a side in one step, at most. The cost of InfoNCE is quadratic in their number."""

_POOL_ROWS = 2**14
"""Size of the pool that noise rows are drawn from. To hash every number of every step would cost more than the
layers."""


class Views:
    """The perturbations of a step, which `set_step` chooses. Each of a step's two views (0, 1) has its own."""

    def __init__(self, graph: LocalGraph, seed: int) -> None:
        self._graph, self._seed = graph, seed
        self._epoch, self._step = 0, 0
        self._thinned: dict[tuple[int, int, float], Propagation] = {}
        self._pool: Tensor | None = None

    def set_step(self, epoch: int, step: int) -> None:
        """Choose the step whose perturbations the other methods give."""
        if epoch != self._epoch:
            self._thinned.clear()
        self._epoch, self._step = epoch, step

    def thinned(self, view: int, keep: float) -> Layer:
        """The layer of a graph that keeps each edge with probability `keep`. It is the same for all steps of an epoch.

        It is normalised by the degrees that are left.
        """
        key = (self._epoch, view, keep)
        if key not in self._thinned:
            graph, shard = self._graph, self._graph.shard

            def kept(users: Ids, items: Ids) -> npt.NDArray[np.bool_]:
                ends = torch.from_numpy(users), torch.from_numpy(items)
                draws: npt.NDArray[np.bool_] = (
                    keyed_uniform(self._seed, VIEW_EDGE, self._epoch, view, *ends) < keep
                ).numpy()
                return draws

            smaller = shard.with_entries(*shard.marked(kept))
            halo = plan(smaller, graph.assignment, graph.halo.halo)
            layer = self._thinned[key] = Propagation(
                halo, torch.from_numpy(smaller.degrees()).to(graph.degrees.device), graph.comm, graph.kernel
            )
            layer.both_ways = graph.propagation.both_ways
        return self._thinned[key]

    def noise(self, view: int, layer: int, size: int) -> Tensor:
        """Noise rows [N, size] with entries >= 0. The entries are uniform before each row is scaled to length 1."""
        graph = self._graph
        device = graph.degrees.device
        if self._pool is None or self._pool.shape[1] != size:
            rows, columns = torch.arange(_POOL_ROWS, device=device)[:, None], torch.arange(size, device=device)
            self._pool = functional.normalize(keyed_uniform(self._seed, NOISE_POOL, rows, columns), dim=1)
        draws = [
            keyed(self._seed, NOISE, self._epoch, self._step, view, layer, side, ids)
            for side, ids in ((0, graph.user_ids), (1, graph.item_ids))
        ]
        return self._pool.index_select(0, torch.cat(draws) % _POOL_ROWS)

    def anchors(self, side: int) -> Tensor:
        """Ids int64 of at most MAX_ANCHORS nodes of a side (0 user, 1 item), ascending, the same on every rank."""
        graph = self._graph
        total = (graph.num_users, graph.num_items)[side]
        positions = torch.arange(MAX_ANCHORS, device=graph.degrees.device)
        return torch.unique(keyed(self._seed, ANCHOR, self._epoch, self._step, side, positions) % total)


def contrast_gradients(
    graph: LocalGraph, views: Views, first: Tensor, second: Tensor, temperature: float, weight: float
) -> tuple[Tensor, Tensor]:
    """Gradients [N, D] of weight * (mean InfoNCE of the users + mean InfoNCE of the items) with respect to the readouts
    of the first and of the second view.

    Each rank computes the terms of the anchors that it owns, against all anchors of the side. A node without
    interactions is not an anchor. All ranks call it.
    """
    size = first.shape[1]
    gradients = (torch.zeros_like(first), torch.zeros_like(second))
    for side, rows_of in enumerate((graph.user_rows, graph.item_rows)):
        rows = rows_of(views.anchors(side))
        here = torch.nonzero(rows >= 0)[:, 0]
        here = here[graph.degrees[rows[here]] > 0]
        mine = rows[here]
        shared = first.new_zeros((len(rows), size + 1))
        shared[here] = torch.cat([second[mine], second.new_ones((len(mine), 1))], dim=1)
        graph.comm.all_reduce(shared)
        present = torch.nonzero(shared[:, size])[:, 0]
        own = torch.searchsorted(present, here)
        first_grad, second_grad = info_nce(
            first[mine], shared[present, :size], own, temperature, weight / max(1, len(present))
        )
        graph.comm.all_reduce(second_grad)
        gradients[0].index_copy_(0, mine, first_grad)
        gradients[1].index_copy_(0, mine, second_grad[own])
    return gradients


def info_nce(
    first_aD: Tensor, second_AD: Tensor, own_a: Tensor, temperature: float, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients [a, D] and [A, D] of `scale` times the sum over the anchors of InfoNCE between two views, on cosines.

    The positive of anchor j is row own_a[j] (int64) of the second view, and all other rows are its negatives (eq. 10 of
    SGL: Wu et al., SIGIR 2021).
    """
    leaves = [x.detach().requires_grad_() for x in (first_aD, second_AD)]
    with torch.enable_grad():
        logits_aA = functional.normalize(leaves[0], dim=1) @ functional.normalize(leaves[1], dim=1).T / temperature
        loss = functional.cross_entropy(logits_aA, own_a, reduction="sum") * scale
        first, second = torch.autograd.grad(loss, leaves)
    return first, second
