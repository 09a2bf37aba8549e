"""Ours: the Influence Encoder trained on counterfactual retrains (docs/encoder.md)."""

import torch

from ...distributed.forget import changed_rows, influence
from ..lab import Lab, Model, Pairs
from .base import Method, changed, cut


class CounterfactualEncoder(Method):
    """The default of `unlearnrec pretrain`."""

    def prepare(self, lab: Lab, original: Model) -> None:
        self.encoder = lab.encoder(original)

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        users, items = (torch.from_numpy(x) for x in request)
        rows, change = influence(original.graph, original.nodes, self.encoder, users, items)
        rest = cut(original, request)
        return changed(rest, changed_rows(rest.graph, rest.backbone, rows, change, self.encoder.around))
