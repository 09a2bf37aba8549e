"""Carrying an encoder over to another model of the same recipe: after a retrain, or a training on a further ingest.

The weights of an Influence Encoder belong to no node. What belongs to the model that it was fitted on, such as the means of
features, is made again from the new model. One counterfactual run then says how well it does there
(`gains.explained_shifts`). Nothing is fitted to that run: on MovieLens-1M a fit to so short a run, be it of the gain alone,
was worse than the weights as they were (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..backbones import Backbone
from ..graph.local_graph import LocalGraph
from ..graph.removal import Removal, Simulated
from .examples import EXAMPLES, make_examples
from .forks import Fork
from .influence import InfluenceEncoder, NodeRows
from .pretrain import standardise
from .second_order import whitening

LEAST_R2 = 0.2
"""The R2 by `gains.explained_shifts` that a carried encoder needs on the run that checks it. A short run has noise of its
own: an encoder that was put to the very model it was made for had .41 on generated data with BPR (docs/log.md)."""


def does_well(r2: float, factor: float, fork: Fork) -> bool:
    """Whether an encoder that explains this much of a fork's changes, scaled by this factor, is carried over.

    How far a whole run would have gone is estimated from the fork, at least as the fork itself. A whole run goes at most
    further in proportion to its epochs, so the factor may be that large or small."""
    return r2 >= LEAST_R2 and 1 / fork.times <= factor <= fork.times


@torch.no_grad()
def make_statistics_again(
    graph: LocalGraph,
    backbone: Backbone,
    nodes: NodeRows,
    encoder: InfluenceEncoder,
    requests: Sequence[Simulated],
    seed: int,
    most: int = EXAMPLES,
) -> None:
    """Set what in the encoder belongs to a model from this model: the means and deviations of features, and the matrices of
    the directions of second order. All ranks call it.

    requests: those of a whole pre-training. They say which interactions are looked at; no run without them is needed. seed,
    most: as for `make_examples`.
    """
    if encoder.whitening is not None:
        encoder.use(whitening(graph, nodes))
    same = [(Removal(simulated=(request,)), nodes.e0) for request in requests]
    data = make_examples(graph, backbone, nodes, same, seed=seed, most=most, hub_degree=encoder.hub_degree)
    for side, examples in zip((encoder.users, encoder.items), data, strict=True):
        standardise(graph.comm, side, examples.features)
