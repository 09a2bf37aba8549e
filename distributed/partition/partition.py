"""What one worker hosts: the partition's shard, its rows of the tables, and the operations that a driver calls on them.

Every method is SPMD (all ranks call it with the same arguments, except where it says "only the affected") and reads
committed files or writes files that count only once a version names them. So a call can be repeated after a failure:
load the committed version, call again.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ..graph.removal import Ids
from ..measures.ranking import evaluate, pair_scores, rank
from .forgetting import PartitionForgetting
from .results import Rows
from .training import PartitionTraining


class Partition(PartitionTraining, PartitionForgetting):
    """All of it: the methods that train and forget, and those that use a version."""

    def evaluate(self, test_users: Ids, test_items: Ids, cutoffs: Sequence[int], batch_users: int) -> dict[str, float]:
        """Recall and NDCG over all partitions; the same on every rank."""
        model = self._loaded_model()
        self._say(phase="evaluate")
        test = self._tensors((test_users, test_items))
        return evaluate(model.graph, model.nodes.readout, *test, cutoffs, batch_users)

    def scores(self, users: Ids, items: Ids) -> tuple[Ids, Rows]:
        """(positions, scores) of those pairs whose user lies here; pairs are the same on every rank."""
        model = self._loaded_model()
        positions, scores = pair_scores(model.graph, model.nodes.readout, *self._tensors((users, items)))
        return positions.cpu().numpy(), scores.cpu().numpy()

    def readouts(self) -> tuple[Ids, Rows, Ids, Rows]:
        """User ids, their readouts, item ids, their readouts."""
        graph, z = self._loaded_model().graph, self._loaded_model().nodes.readout.cpu().numpy()
        users = graph.num_local_users
        return graph.user_ids.cpu().numpy(), z[:users], graph.item_ids.cpu().numpy(), z[users:]

    def recommend(self, k: int, batch_users: int) -> tuple[Ids, Ids, Rows]:
        """Users [n], their best items [n, k], and scores [n, k] (-inf: no item left)."""
        model = self._loaded_model()
        blocks = list(rank(model.graph, model.nodes.readout, model.graph.user_ids, k, batch_users))
        empty = torch.empty((0, k))
        items, scores = (
            torch.cat([getattr(b, name) for b in blocks]) if blocks else empty for name in ("items", "scores")
        )
        return model.graph.user_ids.cpu().numpy(), items.cpu().numpy().astype(np.int64), scores.cpu().numpy()
