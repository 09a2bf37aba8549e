"""The interface of a way to forget in the benchmark, and functions that several of them use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from ...distributed.graph.local_graph import LocalGraph
from ...distributed.measures import scores as measures
from ..lab import Lab, Model, Pairs

Candidate = TypeVar("Candidate")


class Method:
    """A way to forget. It is prepared once for a trained model, and then carries out requests on it."""

    def prepare(self, lab: Lab, original: Model) -> None:
        """Do what can be done before there is a request. It may use `lab.counterfactuals`, but no request and no held-out
        data."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        """The model without the interactions of `request` [n]. original: the model that has them."""
        raise NotImplementedError

    def start(self, lab: Lab, original: Model) -> Model:
        """The model with which `forget` begins. It is another one than `original` if the method has its own way to train."""
        return original

    def note(self, model: Model) -> str:
        """What a reader should know of how `forget` made this model; empty if nothing. It stands below the table."""
        return ""


def cut_edges(original: Model, request: Pairs) -> Model:
    """The model with the same parameters, and without the edges of the request in its graph."""
    graph = original.graph
    smaller = LocalGraph(graph.shard.without(*request), graph.assignment, graph.comm)
    return Model(smaller, original.e0, original.backbone)


def with_change(model: Model, change: Tensor) -> Model:
    """The model with change [N, d] added to its embeddings."""
    return Model(model.graph, model.e0 + change, model.backbone)


def calibrate(
    lab: Lab, original: Model, apply: Callable[[Candidate, Pairs], Model], candidates: Sequence[Candidate]
) -> Candidate:
    """The candidate with which `apply(candidate, request)` explains most of the changes of scores that a retrain without a
    simulated request makes."""
    request, target = lab.counterfactuals()[:2][-1]  # where there are several, the second request is a small one
    before = original.scores(request)
    needed = target.scores(request) - before
    found = [measures.explained(needed, apply(c, request).scores(request) - before) for c in candidates]
    return candidates[found.index(max(found))]


def fresh_epoch(lab: Lab, model: Model) -> int:
    """The number of an epoch that neither the training nor an earlier request of a stream used, so that its draws are new.
    model: the one without the request."""
    return lab.recipe.epochs + len(lab.data.users) - len(model.graph.pair_users)


def ends_of(original: Model, request: Pairs) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The rows at both ends of the interactions, int64 [n]: (users, items), and then (items, users)."""
    users, items = original.tensors(request)
    items = items + original.graph.num_users
    return (users, items), (items, users)


def mean_block(original: Model) -> Tensor:
    """The readouts [N, d]. If a readout consists of several blocks of d columns, it is the mean of its blocks."""
    return original.readout.unflatten(1, (-1, original.e0.shape[1])).mean(1)
