"""The Influence Encoder as the paper has it (UnlearnRec, SIGIR 2025): one-sided objective, tables of its own."""

import torch

from ...distributed.encoder.published import (
    Published,
    PublishedEncoder,
    PublishedSettings,
    TrainedModel,
    pretrain_published,
    published_influence,
)
from ...distributed.training.trainer import TrainSettings
from ..lab import Lab, Model, Pairs
from .base import Method, cut_edges, with_change

SETTINGS = {
    "epochs": 1,
    "batch_size": 1024,
    "learning_rate": 1.5e-4,
    "request_share": 0.1,
    "forget_weight": 1.0,
    "preserve_weight": 0.05,
    "contrast_weight": 1e-4,
    "edge_drop": 0.05,
}


class PublishedForm(Method):
    """Weights and request size within the ranges that the authors released; without their fine-tuning. Learning rate and
    steps are those that did best on a simulated request (docs/log.md); more or larger steps cost Recall."""

    def prepare(self, lab: Lab, original: Model) -> None:
        encoder = PublishedEncoder(original.e0.shape[1]).to(lab.device)
        settings = PublishedSettings(seed=lab.seed, **SETTINGS)  # type: ignore[arg-type]
        train = TrainSettings(seed=lab.seed, total_pairs=len(lab.data.users), **lab.recipe.train)
        model = TrainedModel(original.backbone, original.e0, original.readout)
        tables = pretrain_published(original.graph, model, encoder, settings, train)
        self.trained = Published(encoder, *tables)

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        users, items = original.tensors(request)
        rows, change = published_influence(original.graph, original.readout, self.trained, users, items)
        whole = torch.zeros_like(original.e0).index_copy_(0, rows, change)
        return with_change(cut_edges(original, request), whole)
