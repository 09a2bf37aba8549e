"""PyG's LightGCN (`torch_geometric.nn.LightGCN`), used as its documentation shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .protocol import Rows, Task, serve


class Pyg:
    """The program."""

    def __init__(self, task: Task) -> None:
        from torch_geometric.nn import LightGCN

        torch.set_num_threads(task.threads)
        torch.manual_seed(task.seed)
        self._task, recipe = task, task.recipe
        users, items = torch.from_numpy(task.users), torch.from_numpy(task.items) + task.num_users
        self._pairs = torch.stack([users, items])
        self._edges = torch.cat([self._pairs, self._pairs.flip(0)], dim=1)
        nodes = task.num_users + task.num_items
        self._model: Any = LightGCN(nodes, recipe["size"], recipe["layers"])
        self._adam = torch.optim.Adam(self._model.parameters(), lr=recipe["learning_rate"])

    def epoch(self) -> Iterator[None]:
        """As `Contestant`."""
        task = self._task
        for batch in torch.randperm(self._pairs.shape[1]).split(task.batch_size):
            positive = self._pairs[:, batch]
            drawn = torch.randint(task.num_users, task.num_users + task.num_items, (len(batch),))
            negative = torch.stack([positive[0], drawn])
            labels = torch.cat([positive, negative], dim=1)
            self._adam.zero_grad()
            scores = self._model(self._edges, labels)
            pairs = scores.chunk(2)
            loss = self._model.recommendation_loss(*pairs, node_id=labels.unique(), lambda_reg=task.recipe["decay"])
            loss.backward()
            self._adam.step()
            yield

    @torch.no_grad()
    def embeddings(self) -> tuple[Rows, Rows]:
        """As `Contestant`."""
        z = self._model.get_embedding(self._edges).numpy()
        return z[: self._task.num_users], z[self._task.num_users :]


if __name__ == "__main__":
    serve(Pyg)
