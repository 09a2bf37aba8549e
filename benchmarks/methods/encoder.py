"""The method of this project: the Influence Encoder, trained on counterfactual retrains (docs/encoder.md)."""

import torch

from ...distributed.encoder.changes import around_influence, influence
from ...distributed.encoder.common_change import share_of
from ...distributed.encoder.influence import AroundEncoder
from ..lab import Lab, Model, Pairs
from .base import Method, cut_edges, with_change


class CounterfactualEncoder(Method):
    """The encoder that `unlearnrec pretrain` makes by default."""

    def prepare(self, lab: Lab, original: Model) -> None:
        self.encoder = lab.encoder(original)

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        users, items = original.tensors(request)
        model = (original.graph, original.backbone, original.nodes)
        if isinstance(self.encoder, AroundEncoder):
            _, whole = around_influence(*model, self.encoder, users, items)
        else:
            rows, change = influence(
                original.graph, original.nodes, self.encoder, users, items, share=share_of(original.graph, users)
            )
            whole = torch.zeros_like(original.e0).index_copy_(0, rows, change)
        return with_change(cut_edges(original, request), whole)
