"""The Influence Encoder in the form of the paper (UnlearnRec, SIGIR 2025), with the paper's loss and the encoder's own
tables."""

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
    """The paper's encoder without its fine-tuning. The weights and the size of the requests are in the ranges that the
    authors released. The learning rate and the number of steps are those that were best on a simulated request
    (docs/log.md); more or larger steps lower the Recall."""

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
