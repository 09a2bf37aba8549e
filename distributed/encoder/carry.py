"""Carrying an encoder over to another model of the same recipe: after a retrain, or a training on a further ingest.

The weights of an Influence Encoder belong to no node. What belongs to the model that it was fitted on, such as the means of
features, is made again from the new model. One counterfactual run then says how well it does there, and sets the gains again
(docs/encoder.md).

Shape legend: N = local rows, d = embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backbones import Backbone
from ..graph.local_graph import LocalGraph
from ..graph.removal import Removal, Simulated
from .examples import EXAMPLES, make_examples
from .gains import calibrate, explained_shifts
from .influence import InfluenceEncoder, NodeRows
from .pretrain import standardise

LEAST_R2 = 0.5
"""The share of the squared changes of scores that a carried encoder has to explain on the run that checks it."""


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
    """Set what in the encoder belongs to a model, the means and deviations of features, from this model. All ranks call it.

    requests: those of a whole pre-training. They say which interactions are looked at; no run without them is needed. seed,
    most: as for `make_examples`.
    """
    same = [(Removal(simulated=(request,)), nodes.e0) for request in requests]
    data = make_examples(graph, backbone, nodes, same, seed=seed, most=most, hub_degree=encoder.hub_degree)
    for side, examples in zip((encoder.users, encoder.items), data, strict=True):
        standardise(graph.comm, side, examples.features)


def refresh(
    graph: LocalGraph,
    backbone: Backbone,
    nodes: NodeRows,
    encoder: InfluenceEncoder,
    counterfactual: tuple[Removal, Tensor],
) -> dict[str, float]:
    """Set the gains of a carried encoder again by one counterfactual, and measure by it. All ranks call it.

    counterfactual: (removal, E0 [N, d] of the run without it).

    Returns:
        "carried_r2": R2 of the changes of scores before (`gains.explained_shifts`), when nothing was fitted on this model;
        "refreshed_r2": afterwards; "user_gain", "item_gain".

    Raises:
        InputError: as `calibrate`.
    """
    before = explained_shifts(graph, backbone, nodes, encoder, counterfactual)
    user_gain, item_gain = calibrate(graph, backbone, nodes, encoder, [counterfactual])
    after = explained_shifts(graph, backbone, nodes, encoder, counterfactual)
    return {"carried_r2": before, "refreshed_r2": after, "user_gain": user_gain, "item_gain": item_gain}
