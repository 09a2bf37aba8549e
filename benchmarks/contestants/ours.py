"""This package's training, in one process with one partition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ...distributed.backbones.registry import make_backbone
from ...distributed.comm import Comm
from ...distributed.graph.local_graph import LocalGraph
from ...distributed.training.batch import batches
from ...distributed.training.trainer import Trainer, TrainSettings
from ...partitioning.assignment import Assignment
from ...partitioning.shard import build_shards
from .protocol import Rows, Task, serve


class Ours:
    """The program."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.threads)
        owners = Assignment(np.zeros(task.num_users, np.int16), np.zeros(task.num_items, np.int16), 1)
        users, items = task.users.astype(np.int32), task.items.astype(np.int32)
        [shard] = build_shards(users, items, np.ones(len(users), dtype=np.int32), owners)
        self._graph = LocalGraph(shard, owners, Comm())
        recipe = task.recipe
        own = recipe.get("train", {})
        settings: dict[str, Any] = {
            "learning_rate": recipe["learning_rate"],
            "loss": "bpr",
            "initial_deviation": 0.1,
            "l2": recipe["decay"],
            "softmax_temperature": 0.2,
            "softmax_negatives": 2048,
            "batch_size": task.batch_size,
        }
        self._settings = TrainSettings(seed=task.seed, total_pairs=len(users), **(settings | own))
        shape = {"name": "lightgcn", "embedding_size": recipe["size"], "num_layers": recipe["layers"]}
        backbone = make_backbone(shape | recipe.get("backbone", {}), task.seed)
        self._trainer = Trainer(self._graph, backbone, self._settings)

    def epoch(self) -> Iterator[None]:
        """As `Contestant`."""
        trainer, settings = self._trainer, self._settings
        for number, batch in enumerate(batches(self._graph, settings.seed, trainer.epoch, settings.num_batches)):
            trainer.step(batch, number)
            yield
        trainer.epoch += 1

    def embeddings(self) -> tuple[Rows, Rows]:
        """As `Contestant`. Every user and item has a row, in order of its id."""
        z = self._trainer.readouts().numpy()
        return z[: self._graph.num_users], z[self._graph.num_users :]


if __name__ == "__main__":
    serve(Ours)
