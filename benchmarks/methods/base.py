"""What a way to forget is to the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ...distributed.graph.local_graph import LocalGraph
from ...distributed.measures import scores as measures
from ..lab import Lab, Model, Pairs


class Method:
    """Gets ready once for a trained model, then carries out requests on it."""

    def prepare(self, lab: Lab, original: Model) -> None:
        """What is done before there is any request; it may use `lab.counterfactuals`, never a request or held-out data."""

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        """The model without the interactions request [n], of those of `original`."""
        raise NotImplementedError

    def start(self, lab: Lab, original: Model) -> Model:
        """The model that `forget` begins with, where the method trains in a way of its own."""
        return original


def cut_edges(original: Model, request: Pairs) -> Model:
    """The edges gone, parameters as they were."""
    graph = original.graph
    smaller = LocalGraph(graph.shard.without(*request), graph.assignment, graph.comm)
    return Model(smaller, original.e0, original.backbone)


def with_change(model: Model, change: Tensor) -> Model:
    """The model with change [N, d] added to its embeddings."""
    return Model(model.graph, model.e0 + change, model.backbone)


def calibrate(lab: Lab, original: Model, apply: Callable[[float, Pairs], Model], candidates: Sequence[float]) -> float:
    """The candidate under which `apply(candidate, request)` explains most of a simulated request's shifts."""
    request, target = lab.counterfactuals()[1]  # the small one
    before = original.scores(request)
    needed = target.scores(request) - before
    found = [measures.explained(needed, apply(c, request).scores(request) - before) for c in candidates]
    return candidates[found.index(max(found))]


def ends_of(original: Model, request: Pairs) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(own rows, other rows) int64 [n] of the interactions, seen from their users and from their items."""
    users, items = original.tensors(request)
    items = items + original.graph.num_users
    return (users, items), (items, users)


def mean_block(original: Model) -> Tensor:
    """The readout [N, d], the mean of its blocks where it is concatenated."""
    return original.readout.unflatten(1, (-1, original.e0.shape[1])).mean(1)
