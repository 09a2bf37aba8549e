"""Deletion requests on a partition: what they remove, the changed files, and how the forgotten pairs stand."""

import posixpath
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...partitioning.ingest import load_shard
from ...partitioning.manifest import Graph
from ...partitioning.shard import GraphShard
from ...partitioning.storage import Store
from ..encoder.changes import around_influence, influence, shrink
from ..encoder.influence import AroundEncoder
from ..encoder.published import Published, published_influence
from ..graph.removal import Found, Ids, Pairs, Removal
from ..measures.ranking import quality_by_user
from ..measures.standing import Standing, standing, trained_pairs
from ..training.checkpoint import from_bytes, to_bytes
from ..training.fine_tune import fine_tune
from ..training.run import TrainRun
from .results import BaselineStanding, Forgotten, Recall, RecallAndStanding, Reduced, WithFiles, Written
from .state import Location, PartitionState, write_file


class PartitionForgetting(PartitionState):
    """The methods that `forget` and its gate call."""

    def find(self, removal: Removal, timed: Ids) -> Found:
        """The interactions here that a request may remove, as `Removal.find`. Only the owners of what it names need be
        asked."""
        return removal.find(self._loaded_model().graph.shard, timed)

    def forget(
        self,
        location: Location,
        users: Ids,
        items: Ids,
        names: Mapping[int, tuple[str, ...]],
        cut_only: bool = False,
        thinned: tuple[Ids, Ids, Ids, Ids] | None = None,
    ) -> Forgotten:
        """Only the affected partitions, which are all with an `AroundEncoder`.

        Forget interactions users, items [n] (sorted; others than with an end here are left alone), and write shard and
        rows of E0 to names[rank], to which the generation is added: what a worker of an earlier one still writes is no
        file of this attempt.

        thinned: interactions that lose some of their events, as for `GraphShard.thinned`. They change counts and times,
        and no row: a partition that has no other writes its shard only.

        The model in memory is not changed: the driver commits, and then loads the new version.
        """
        start = time.perf_counter()
        model, store = self._loaded_model(), location.store()
        pairs = self._tensors((users, items))
        graph = model.graph
        here = (graph.owner_of_user[pairs[0]] == self._rank) | (graph.owner_of_item[pairs[1]] == self._rank)
        mine = [x[here] for x in pairs]
        shard = graph.shard if thinned is None else graph.shard.thinned(*thinned)
        own = [self._own_name(name) for name in names[self._rank]]
        everywhere = isinstance(model.encoder, AroundEncoder) and len(users) > 0 and not cut_only
        if not len(mine[0]) and not everywhere:
            return _only_shard(write_file(store, own[0], shard.to_bytes()), start)
        pairs_here = (mine[0].cpu().numpy(), mine[1].cpu().numpy())
        e0, rows = model.e0.clone(), torch.empty(0, dtype=torch.int64, device=self._device)
        change = e0[rows]
        if not cut_only:
            if model.encoder is None:
                raise RuntimeError("the loaded version has no encoder")
            if isinstance(model.encoder, AroundEncoder):
                rows, whole = around_influence(graph, model.backbone, model.nodes, model.encoder, mine[0], mine[1])
                e0 += whole
                change = whole[rows]
            else:
                if isinstance(model.encoder, Published):
                    rows, change = published_influence(graph, model.nodes.readout, model.encoder, mine[0], mine[1])
                else:
                    rows, change = influence(graph, model.nodes, model.encoder, mine[0], mine[1])
                e0[rows] += change
        result = self._write_shrunk(store, shard, e0, pairs_here, own[:2])
        if isinstance(model.encoder, Published):
            # What the encoder knew of touched nodes goes with them: rows of deleted nodes, and the rest start again.
            tables = {}
            for name, table in model.encoder.fresh_rows(rows).items():
                _, tables[name] = shrink(graph.shard, table, *pairs_here)
            result["files"].append(write_file(store, own[2], to_bytes(tables)))
        gone = self._tensors((result["gone_users"], result["gone_items"]))
        deleted = torch.cat([graph.user_rows(gone[0]), graph.item_rows(gone[1])])
        sizes = change[~torch.isin(rows, deleted)].norm(dim=1)
        largest = float(sizes.max()) if len(sizes) else 0.0
        return {
            "shard": result["shard"],
            "files": result["files"],
            "gone_users": result["gone_users"],
            "gone_items": result["gone_items"],
            "touched": len(rows),
            "largest_change": largest,
            "seconds": time.perf_counter() - start,
        }

    def fine_tune(
        self, location: Location, users: Ids, items: Ids, run: TrainRun, steps: int, names: Sequence[str]
    ) -> WithFiles:
        """Training steps of the loaded version after the last epoch of `run`, in which only the rows of these nodes move.

        A rank that has any of them writes its rows of E0 to names[rank], named as by `forget`.
        """
        self._say(phase="fine-tune")
        model = self._loaded_model()
        nodes = self._tensors((users, items))
        rows = torch.cat([model.graph.user_rows(nodes[0]), model.graph.item_rows(nodes[1])])
        rows = rows[rows >= 0]
        e0 = fine_tune(model.graph, model.backbone, model.e0, rows, run.settings, run.epochs, steps)
        name = self._own_name(names[self._rank])
        files = [write_file(location.store(), name, to_bytes({"e0": e0}))] if len(rows) else []
        return {"files": files}

    def _own_name(self, name: str) -> str:
        stem, suffix = posixpath.splitext(name)
        return f"{stem}-g{self._generation}{suffix}"

    def reduce(
        self,
        location: Location,
        manifest: Graph,
        removal: Removal,
        embeddings: Sequence[str],
        names: Sequence[tuple[str, str]],
    ) -> Reduced:
        """Write shard and rows of E0 (from embeddings[k]) without a removal to names[k]."""
        store = location.store()
        e0 = from_bytes(store.read(embeddings[self._rank]))["e0"]
        shard = load_shard(store, manifest, self._rank)
        pairs = removal.pairs(shard)
        return self._write_shrunk(store, shard, e0, pairs, names[self._rank])

    def _write_shrunk(self, store: Store, shard: GraphShard, e0: Tensor, pairs: Pairs, names: Sequence[str]) -> Reduced:
        smaller, e0 = shrink(shard, e0, *pairs)
        return {
            "shard": write_file(store, names[0], smaller.to_bytes()),
            "files": [write_file(store, names[1], to_bytes({"e0": e0}))],
            "removed": len(shard.user_neighbours) - len(smaller.user_neighbours),
            "removed_events": int(shard.user_counts.sum() - smaller.user_counts.sum()),
            "gone_users": np.setdiff1d(shard.user_ids, smaller.user_ids),
            "gone_items": np.setdiff1d(shard.item_ids, smaller.item_ids),
        }

    # ---- the gate ------------------------------------------------------------------------------------------------

    def baseline(self, held_out: Pairs, seed: int, cutoff: int, batch_users: int) -> BaselineStanding:
        """{"recall", "held_out", "trained"}: recall on the held-out pairs of each user here (users int64 [n], float64 [n]),
        and how they, and as many trained pairs of the same users, stand among comparable ones."""
        graph, z = self._loaded_model().graph, self._loaded_model().nodes.readout
        users, items = self._tensors(held_out)
        never = (users * graph.num_items + items).sort().values
        return {
            "recall": self._recall((users, items), cutoff, batch_users),
            "held_out": standing(graph, z, users, items, never, seed),
            "trained": standing(graph, z, *trained_pairs(graph, users, seed), never, seed),
        }

    def standing(
        self, pairs: Pairs, held_out: Pairs, seed: int, references: Sequence[Standing] | None = None
    ) -> Standing:
        """How pairs stand among comparable ones, which are no pairs of either kind.

        references: by rank, of an earlier call with the same pairs; None draws them.
        """
        graph = self._loaded_model().graph
        mine, test = self._tensors(pairs), self._tensors(held_out)
        never = torch.cat([users * graph.num_items + items for users, items in (mine, test)]).sort().values
        known = (
            None if references is None else torch.from_numpy(references[self._rank].references.copy()).to(self._device)
        )
        return standing(graph, self._loaded_model().nodes.readout, *mine, never, seed, known)

    def recall_and_standing(
        self,
        pairs: Pairs,
        held_out: Pairs,
        seed: int,
        references: Sequence[Standing] | None,
        cutoff: int,
        batch_users: int,
    ) -> RecallAndStanding:
        """{"recall", "standing"}: as `baseline`, and `standing`; in one call, since the way to the workers is most of its
        time."""
        return {
            "recall": self._recall(self._tensors(held_out), cutoff, batch_users),
            "standing": self.standing(pairs, held_out, seed, references),
        }

    def _recall(self, held_out: tuple[Tensor, Tensor], cutoff: int, batch_users: int) -> Recall:
        model = self._loaded_model()
        found = quality_by_user(model.graph, model.nodes.readout, *held_out, [cutoff], batch_users)
        return found.users.cpu().numpy(), found.recall[:, 0].cpu().numpy()


def _only_shard(shard: Written, start: float) -> Forgotten:
    """What `forget`, which began at `start`, returns where only the shard changed."""
    nobody: Ids = np.empty(0, dtype=np.int64)
    return {
        "shard": shard,
        "files": [],
        "gone_users": nobody,
        "gone_items": nobody,
        "touched": 0,
        "largest_change": 0.0,
        "seconds": time.perf_counter() - start,
    }
