"""How far a run without a few interactions moves the scores of others, which nobody asked to change.

Two trainings that differ in a few interactions drift apart in all they learn, the more the longer and the steeper they
learn. What a run does to interactions that it kept has little to do with those that it left out, and it does as much to
these. So an encoder, which sees a request, can know of the changes of scores about all but this part (docs/encoder.md).
"""

import math

import torch
from torch import Tensor

from ..backbones import Backbone
from ..graph.keyed import KEPT_PAIRS, keyed_uniform
from ..graph.local_graph import LocalGraph
from ..graph.removal import Removal
from ..measures.ranking import pair_scores
from .influence import NodeRows

PAIRS = 20_000
"""About how many kept interactions are looked at, over all ranks."""
LEAST = 100
"""The number of left-out interactions, over all ranks, from which on they say something."""


@torch.no_grad()
def moves_of_kept(
    graph: LocalGraph, backbone: Backbone, nodes: NodeRows, counterfactual: tuple[Removal, Tensor], seed: int = 0
) -> float:
    """The mean squared change of the scores of interactions that a run kept, as a part of that of those that it left out.
    All ranks call it.

    nodes: of the original. counterfactual: (removal, E0 [N, d] of the run without it). The kept interactions are a sample,
    keyed by `seed` and ids. About 1 less this is the largest R2 that can be reached of the changes of the left-out ones.
    NaN where the run kept nothing, left out fewer than LEAST, or moved no score of these.
    """
    removal, e0 = counterfactual
    removed = removal.pairs(graph.shard)
    rest = graph.without(*removed)
    users, items = rest.pair_users.long(), rest.pair_items.long()
    total = int(graph.comm.all_reduce(torch.tensor([len(users)], device=graph.comm.device)))
    sampled = keyed_uniform(seed, KEPT_PAIRS, users, items) < PAIRS / max(total, 1)
    gone = [torch.from_numpy(x).to(graph.comm.device) for x in removed]
    mine = graph.user_rows(gone[0]) >= 0
    moved = backbone.readout(e0, rest.propagation)
    sums = []
    for pairs in ((users[sampled], items[sampled]), (gone[0][mine], gone[1][mine])):
        before, after = pair_scores(graph, nodes.readout, *pairs)[1], pair_scores(rest, moved, *pairs)[1]
        sums += [((after - before).double() ** 2).sum(), before.new_tensor(len(before), dtype=torch.float64)]
    of_kept, kept, of_gone, count = graph.comm.all_reduce(torch.stack(sums)).tolist()
    if not kept or count < LEAST or not of_gone:
        return math.nan
    return (of_kept / kept) / (of_gone / count)
