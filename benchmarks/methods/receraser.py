"""A model for each shard of the interactions, and an attention over them: RecEraser (Chen et al., "Recommendation
Unlearning", WWW 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...distributed.training.trainer import TrainSettings
from ..lab import NOTHING, Lab, Model, Pairs, Recipe
from .attention import Attention, AttentionSettings, shard_rows, train_attention
from .balanced import balanced_partition
from .base import Method, mean_block

SHARDS = 10
ROUNDS = 50
"""The most rounds of the partition."""
EPOCHS_FACTOR = 1
"""A shard's model is trained for so many times the epochs of the recipe, with the recipe's number of steps in each."""
ATTENTION = AttentionSettings(epochs=15, steps=12, learning_rate=0.01)


@dataclass
class Aggregated(Model):
    """The models of all shards as one, by an attention. `e0` is the mean of their E0 by the weights of the attention.

    retrained: how many of the models were trained for the request. attention_seconds: what the attention took."""

    parts: tuple[Model, ...] = ()
    combined: Tensor | None = None
    retrained: int = 0
    attention_seconds: float = 0.0

    @cached_property
    def readout(self) -> Tensor:
        assert self.combined is not None
        power = self.backbone.length_power
        return self.combined * self.combined.norm(dim=1, keepdim=True).clamp(min=1e-12) ** (power - 1)


class RecEraser(Method):
    """SHARDS models of interactions that are alike, with which `forget` begins instead of the original. A request retrains
    those that have one of its interactions, and then the attention, from its start.

    The rows by which interactions are alike are the readouts of the original, where the paper has those of another model
    (WMF). They come from all interactions, and the partition stays as it is: it knows of forgotten ones, as in the paper.
    A shard's model has the recipe with smaller batches, so that an epoch has as many steps as one of the original's. All
    models begin at the same keyed rows. The settings of the attention are the best of those that were tried on held-out
    training interactions (docs/log.md).
    """

    def prepare(self, lab: Lab, original: Model) -> None:
        rows = mean_block(original).cpu().numpy()
        users, items = rows[: lab.data.num_users], rows[lab.data.num_users :]
        self.shard = balanced_partition((lab.data.users, lab.data.items), (users, items), SHARDS, ROUNDS, lab.seed)
        self.codes = lab.data.codes((lab.data.users, lab.data.items))
        before = lab.clock()
        self.first = self._aggregated(lab, NOTHING)
        # Runs that the store had already cost what they took when they were made.
        lab.learned_seconds += self.first.seconds - (lab.clock() - before)

    def start(self, lab: Lab, original: Model) -> Model:
        return self.first

    def forget(self, lab: Lab, original: Model, request: Pairs) -> Model:
        return self._aggregated(lab, request)

    def note(self, model: Model) -> str:
        assert isinstance(model, Aggregated)
        return (
            f"{model.retrained} of {SHARDS} shards were retrained; the attention took {model.attention_seconds:.0f} of the "
            f"{model.seconds:.0f} s"
        )

    def touched(self, lab: Lab, request: Pairs) -> list[int]:
        """The shards that have an interaction of the request."""
        found: list[int] = np.unique(self._shards_of(lab, request)).tolist()
        return found

    def train_shard(self, lab: Lab, shard: int, request: Pairs) -> Model:
        """The model of a shard without the request's interactions, from the store if it is there."""
        mine, gone = self.shard == shard, self._shards_of(lab, request) == shard
        data = replace(lab.data, users=lab.data.users[mine], items=lab.data.items[mine])
        other = Lab(lab.store, data, shard_recipe(lab.recipe, int(mine.sum()), len(mine)), lab.seed, lab.device)
        return other.train((request[0][gone], request[1][gone]))

    def _shards_of(self, lab: Lab, request: Pairs) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        found: np.ndarray[tuple[int], np.dtype[np.int64]] = self.shard[
            np.searchsorted(self.codes, lab.data.codes(request))
        ]
        return found

    def _aggregated(self, lab: Lab, request: Pairs) -> Aggregated:
        parts = [self.train_shard(lab, shard, request) for shard in range(SHARDS)]
        trained = self.touched(lab, request) if len(request[0]) else range(SHARDS)
        graph = lab.graph(request)
        train = TrainSettings(seed=lab.seed, total_pairs=len(lab.data.users), **lab.recipe.train)
        before = lab.clock()
        attention = Attention(SHARDS, parts[0].backbone.readout_size, lab.data.num_users, lab.seed).to(lab.device)
        train_attention(attention, parts, graph, train, ATTENTION)
        with torch.no_grad():
            rows, weights = attention(shard_rows(parts))
            e0 = (weights[:, :, None] * torch.stack([part.e0 for part in parts])).sum(0)
        took = lab.clock() - before
        seconds = sum(parts[k].seconds for k in trained) + took
        return Aggregated(graph, e0, parts[0].backbone, seconds, tuple(parts), rows, len(trained), took)


def shard_recipe(recipe: Recipe, interactions: int, all_interactions: int) -> Recipe:
    """The recipe of a shard's model: as many steps an epoch as the recipe has for all interactions, and more epochs."""
    batch = max(1, -(-recipe.train["batch_size"] * interactions // all_interactions))
    return replace(
        recipe,
        train=recipe.train | {"batch_size": batch},
        epochs=EPOCHS_FACTOR * recipe.epochs,
        pretrain=recipe.pretrain | {"fork": 0.0},
    )
