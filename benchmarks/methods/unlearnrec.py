"""UnlearnRec as its authors have it (Chen et al., "Pre-training for Recommendation Unlearning", SIGIR 2025): their encoder,
their pre-training, and their fine-tuning."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...distributed.encoder.published import (
    WITHDRAWAL,
    Published,
    PublishedEncoder,
    PublishedSettings,
    TrainedModel,
    forget_and_preserve,
    pretrain_published,
    request_layer,
)
from ...distributed.graph.propagation import Propagation
from ...distributed.graph.removal import restricted_to
from ...distributed.training.batch import batches
from ...distributed.training.trainer import Trainer, TrainSettings
from ..lab import Lab, Model, Pairs
from .base import Method, cut_edges, fresh_epoch

SETTINGS: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 2048,
    "learning_rate": 1e-3,
    "request_share": 0.1,
    "forget_weight": 1.0,
    "preserve_weight": 0.05,
    "contrast_weight": 1e-4,
    "edge_drop": 0.05,
}
TUNING_EPOCHS = 1
TUNING_RATE = 1e-3


class ReleasedEncoder(PublishedEncoder):
    """The encoder as the authors' code has it. It differs from `PublishedEncoder` in that H^0 itself is a part of the sum
    and nothing keeps rows of other nodes as they are, so that a request changes the rows of all nodes."""

    def forward(self, h0: Tensor, gate: Tensor, readout: Tensor, request: Propagation) -> tuple[Tensor, list[Tensor]]:
        h, w = h0, readout.unflatten(1, (-1, h0.shape[1])).mean(1) * gate
        layers = []
        for _ in range(self.num_layers):
            h, w = request(h), request(w)
            layers.append(h)
        x = h0 + torch.stack(layers).sum(0) - WITHDRAWAL * w
        for position, linear in enumerate(self.layers):
            x = linear(functional.leaky_relu(x, 0.99) if position else x)
        return x, layers


class UnlearnRec(Method):
    """The encoder's change of E0, and then TUNING_EPOCHS epochs on the remaining interactions, in which E0 and the MLP learn
    with L_M + a L_u + b L_p, while H^0 and the gate stay as they are.

    Learning rate, size and number of the simulated requests and the weights of the losses are in the ranges that the
    authors released. The number of epochs of both parts is the best on a simulated request (docs/log.md).
    """

    def prepare(self, lab: Lab, original: Model) -> None:
        encoder = ReleasedEncoder(original.e0.shape[1]).to(lab.device)
        model = TrainedModel(original.backbone, original.e0, original.readout)
        self.settings = PublishedSettings(seed=lab.seed, **SETTINGS)
        tables = pretrain_published(original.graph, model, encoder, self.settings, _train_settings(lab))
        self.trained = Published(encoder, *tables)

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        model = cut_edges(original, request)
        graph, backbone = model.graph, copy.deepcopy(original.backbone).requires_grad_(False)
        layer = request_layer(original.graph, restricted_to(original.graph.shard, *request))
        forgotten = list(original.tensors(request))
        encoder = copy.deepcopy(self.trained.dense).requires_grad_()
        given = self.trained.h0, self.trained.gate, original.readout, layer
        e0 = original.e0.clone().requires_grad_()
        optimizer = torch.optim.Adam([e0, *encoder.parameters()], lr=TUNING_RATE)
        train = replace(_train_settings(lab), batch_size=self.settings.batch_size)
        trainer = Trainer(graph, backbone, train, start=original.e0)
        trainer.epoch = fresh_epoch(lab, model)
        for _ in range(TUNING_EPOCHS):
            for number, batch in enumerate(batches(graph, train.seed, trainer.epoch, train.num_batches)):
                optimizer.zero_grad()
                whole = e0 + encoder(*given)[0]
                changed = whole.detach().requires_grad_()
                trainer.backward(changed, batch, number)
                z = backbone.readout(changed, graph.propagation)
                gradient, _ = forget_and_preserve(graph, z.detach(), original.readout, batch, forgotten, self.settings)
                z.backward(gradient)
                whole.backward(changed.grad)
                optimizer.step()
            trainer.epoch += 1
        with torch.no_grad():
            return Model(graph, e0.detach() + encoder(*given)[0], original.backbone)


def _train_settings(lab: Lab) -> TrainSettings:
    return TrainSettings(seed=lab.seed, total_pairs=len(lab.data.users), **lab.recipe.train)
