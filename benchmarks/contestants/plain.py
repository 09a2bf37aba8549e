"""LightGCN as a plain torch program, with the recipe of the paper's own code (LightGCN-PyTorch), from its description.

The normalised adjacency is a sparse matrix, a layer is its product with all embeddings, and the readout is the mean of all
layers. Each epoch draws as many triples as there are interactions: a user at random, one of its items, and an item that is
not. BPR, an L2 term on the first embeddings of the triples, and Adam with dense gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .protocol import Ids, Rows, Task, serve


class Plain:
    """The program."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.threads)
        torch.manual_seed(task.seed)
        self._task, recipe = task, task.recipe
        self._layers, self._decay = recipe["layers"], recipe["decay"]
        self._draw = np.random.default_rng(task.seed)
        nodes = task.num_users + task.num_items
        self._rows = torch.nn.Parameter(torch.randn(nodes, recipe["size"]) * 0.1)
        self._adam = torch.optim.Adam([self._rows], lr=recipe["learning_rate"])
        self._adjacency = self._normalised(nodes)
        self._codes = task.users * task.num_items + task.items
        degrees = np.bincount(task.users, minlength=task.num_users)
        self._degrees, self._starts = degrees, np.cumsum(degrees) - degrees

    def _normalised(self, nodes: int) -> Tensor:
        """D^-1/2 A D^-1/2, sparse [nodes, nodes]."""
        users, items = torch.from_numpy(self._task.users), torch.from_numpy(self._task.items) + self._task.num_users
        places = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
        degrees = torch.bincount(places[0], minlength=nodes).clamp(min=1).to(torch.float32)
        values = (degrees[places[0]] * degrees[places[1]]).rsqrt()
        return torch.sparse_coo_tensor(places, values, (nodes, nodes)).coalesce().to_sparse_csr()

    def _triples(self) -> tuple[Ids, Ids, Ids]:
        task, count = self._task, len(self._task.users)
        known = np.flatnonzero(self._degrees)
        users = known[self._draw.integers(len(known), size=count)]
        positives = task.items[self._starts[users] + (self._draw.random(count) * self._degrees[users]).astype(np.int64)]
        negatives = self._draw.integers(task.num_items, size=count)
        while len(wrong := np.flatnonzero(self._are_known(users, negatives))):
            negatives[wrong] = self._draw.integers(task.num_items, size=len(wrong))
        return users, positives, negatives

    def _are_known(self, users: Ids, items: Ids) -> npt.NDArray[np.bool_]:
        codes = users * self._task.num_items + items
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        known: npt.NDArray[np.bool_] = self._codes[places] == codes
        return known

    def _readouts(self) -> Tensor:
        total = layer = self._rows
        for _ in range(self._layers):
            layer = self._adjacency @ layer
            total = total + layer
        return total / (self._layers + 1)

    def epoch(self) -> Iterator[None]:
        """As `Contestant`."""
        users, positives, negatives = (torch.from_numpy(x) for x in self._triples())
        positives, negatives = positives + self._task.num_users, negatives + self._task.num_users
        for batch in torch.randperm(len(users)).split(self._task.batch_size):
            u, p, n = users[batch], positives[batch], negatives[batch]
            z = self._readouts()
            loss = torch.nn.functional.softplus((z[u] * z[n]).sum(1) - (z[u] * z[p]).sum(1)).mean()
            first = self._rows[u].square().sum() + self._rows[p].square().sum() + self._rows[n].square().sum()
            self._adam.zero_grad()
            (loss + self._decay * first / 2 / len(batch)).backward()
            self._adam.step()
            yield

    @torch.no_grad()
    def embeddings(self) -> tuple[Rows, Rows]:
        """As `Contestant`."""
        z = self._readouts().numpy()
        return z[: self._task.num_users], z[self._task.num_users :]


if __name__ == "__main__":
    serve(Plain)
