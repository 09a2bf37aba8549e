"""What one worker hosts: the shard of a partition, its rows of the tables, and the operations that the driver calls on
them.

Every method is SPMD: all ranks call it with the same arguments, unless its docstring says that only some do. Methods
read committed files, and write files that count only after a version names them. So a call can be repeated after a
failure: load the committed version, then call again.
"""

import functools
from typing import Any

import numpy as np
import torch

from ..graph.removal import Ids
from ..measures.evaluation import Evaluation, evaluate_in_detail
from ..measures.ranking import pair_scores, rank
from .auditing import PartitionAuditing
from .carrying import PartitionCarrying
from .forgetting import PartitionForgetting
from .results import Rows

RANKING = "rank"
"""The phase, in the progress of a partition, in which it ranks items for users: `done` of `total` users."""


class Partition(PartitionCarrying, PartitionForgetting, PartitionAuditing):
    """The host of one partition: the methods that train, forget and audit, and here those that use the loaded version."""

    def evaluate(self, test_users: Ids, test_items: Ids, evaluation: Evaluation) -> dict[str, Any]:
        """The quality of the loaded version, as `evaluation.evaluate_in_detail`. The same on every rank.

        test_users, test_items int64 [n]: held-out interactions by dense id."""
        model = self._loaded_model()
        self._say(phase=RANKING)
        test = self._tensors((test_users, test_items))
        return evaluate_in_detail(model.graph, model.nodes.readout, *test, evaluation, self._say_ranked)

    def _say_ranked(self, what: str, done: int, total: int) -> None:
        self._say(phase=RANKING, what=what, done=done, total=total)

    def scores(self, users: Ids, items: Ids) -> tuple[Ids, Rows]:
        """(positions int64 [m], scores float32 [m]) of those of the pairs users, items [n] whose user this partition
        owns.

        A position is the place of a pair among the n, which are the same on every rank. Pairs with a deleted user or
        item are left out."""
        model = self._loaded_model()
        positions, scores = pair_scores(model.graph, model.nodes.readout, *self._tensors((users, items)))
        return positions.cpu().numpy(), scores.cpu().numpy()

    def readouts(self) -> tuple[Ids, Rows, Ids, Rows]:
        """(user ids [u], their readouts [u, D], item ids [i], their readouts [i, D]) of the nodes that this partition
        owns."""
        graph, z = self._loaded_model().graph, self._loaded_model().nodes.readout.cpu().numpy()
        users = graph.num_local_users
        return graph.user_ids.cpu().numpy(), z[:users], graph.item_ids.cpu().numpy(), z[users:]

    def recommend(self, k: int, batch_users: int) -> tuple[Ids, Ids, Rows]:
        """(users [n], their k best items [n, k], scores [n, k]) of the users that this partition owns.

        Items of a user's interactions are left out. A score of -inf means that no item is left."""
        model = self._loaded_model()
        self._say(phase=RANKING)
        said = functools.partial(self._say_ranked, "model")
        blocks = list(rank(model.graph, model.nodes.readout, model.graph.user_ids, k, batch_users, said))
        empty = torch.empty((0, k))
        items, scores = (
            torch.cat([getattr(b, name) for b in blocks]) if blocks else empty for name in ("items", "scores")
        )
        return model.graph.user_ids.cpu().numpy(), items.cpu().numpy().astype(np.int64), scores.cpu().numpy()
