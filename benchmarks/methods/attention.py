"""Aggregate the models of several shards: the attention of RecEraser (Chen et al., "Recommendation Unlearning", WWW 2022,
equations 8 to 12).

Shape legend: N = nodes, users first, K = shards, D = readout size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...distributed.graph.local_graph import LocalGraph
from ...distributed.training.batch import batches
from ...distributed.training.finite import are_finite
from ...distributed.training.trainer import Trainer, TrainSettings
from ...partitioning.errors import InputError
from ..lab import Model


class Attention(nn.Module):
    """Rows of K models to rows of one: each model's are taken to a common space (eq. 8), and are added with weights that an
    attention of the node's own side gives (eq. 9 and 10)."""

    def __init__(self, shards: int, size: int, num_users: int, seed: int) -> None:
        super().__init__()
        self.num_users = num_users
        draw = torch.Generator().manual_seed(seed)
        # The models begin at the same keyed rows, so that their spaces are near each other: so does the common one.
        self.transfer = nn.Parameter(torch.eye(size).repeat(shards, 1, 1))
        self.shift = nn.Parameter(torch.zeros(shards, size))
        hidden = max(1, size // 2)
        for side in ("user", "item"):
            weight = torch.randn(size, hidden, generator=draw) / size**0.5
            self.register_parameter(f"{side}_weight", nn.Parameter(weight))
            self.register_parameter(f"{side}_bias", nn.Parameter(torch.zeros(hidden)))
            self.register_parameter(f"{side}_ask", nn.Parameter(torch.randn(hidden, generator=draw) / hidden**0.5))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(rows [N, D] of one model, the weights [K, N] of the models) from the rows [K, N, D] of the K models."""
        moved = torch.baddbmm(self.shift[:, None], rows, self.transfer)
        asked = [
            torch.relu(part @ getattr(self, f"{side}_weight") + getattr(self, f"{side}_bias"))
            @ getattr(self, f"{side}_ask")
            for side, part in (("user", moved[:, : self.num_users]), ("item", moved[:, self.num_users :]))
        ]
        weights = torch.softmax(torch.cat(asked, dim=1), dim=0)
        return (weights[:, :, None] * moved).sum(0), weights


@dataclass(frozen=True)
class AttentionSettings:
    """How the attention is trained: with Adam, in so many steps an epoch, each of which computes the rows of all nodes."""

    epochs: int
    steps: int
    learning_rate: float


def train_attention(
    attention: Attention, parts: list[Model], graph: LocalGraph, train: TrainSettings, settings: AttentionSettings
) -> None:
    """Train the attention on the interactions of `graph` with the loss that the models were trained with (eq. 11, 12).
    The models stay as they are.

    Raises:
        InputError: it diverged.
    """
    rows = shard_rows(parts)
    backbone = parts[0].backbone
    trainer = Trainer(graph, backbone, train, start=parts[0].e0)
    optimizer = torch.optim.Adam(attention.parameters(), lr=settings.learning_rate)
    share = settings.steps / train.num_batches
    for epoch in range(settings.epochs):
        trainer.epoch = epoch
        for number, batch in enumerate(batches(graph, train.seed, epoch, settings.steps)):
            combined, _ = attention(rows)
            gradient, _, _ = trainer.pair_gradients(combined.detach(), batch, number)
            optimizer.zero_grad()
            combined.backward(gradient * share)
            optimizer.step()
    if not are_finite(list(attention.parameters())):
        raise InputError(
            f"the attention diverged at learning rate {settings.learning_rate:g}: take a lower one, or a lower "
            "train.learning_rate for the models of the shards"
        )


@torch.no_grad()
def shard_rows(parts: list[Model]) -> Tensor:
    """The rows [K, N, readout_size] that the loss of each model compares."""
    return torch.stack([part.backbone(part.e0, part.graph.propagation) for part in parts])
