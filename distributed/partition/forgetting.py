"""Deletion requests on one partition: which interactions they remove, the files that change, and what the gate
measures."""

import posixpath
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...partitioning.delta import RowsDelta, ShardDelta
from ...partitioning.ingest import load_shard
from ...partitioning.manifest import Graph
from ..encoder.changes import around_influence, influence, shrink
from ..encoder.influence import AroundEncoder
from ..encoder.published import Published, published_influence
from ..graph.removal import Found, Ids, Pairs, Removal
from ..measures.quality import quality_by_user
from ..measures.standing import SAMPLE_REFERENCES, Standing, items_of, standing, standing_with_stand_in, trained_pairs
from ..training.checkpoint import from_bytes, to_bytes
from ..training.fine_tune import fine_tune
from ..training.finite import are_finite
from ..training.run import TrainRun
from .files import write_file
from .results import (
    BaselineStanding,
    Forgotten,
    ForgottenStanding,
    Recall,
    RecallAndStanding,
    Reduced,
    WithFiles,
)
from .state import Location, PartitionState
from .written import FileNames, Writer, emptied, rows_after

_NOBODY: Ids = np.empty(0, dtype=np.int64)


class PartitionForgetting(PartitionState):
    """The methods that the command `forget` and its gate call."""

    def find(self, removal: Removal, timed: Ids) -> Found:
        """The interactions of this partition that a request may remove, as `Removal.find`.

        Only the owners of the users and items that the request names need to be called."""
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
        """Forget the interactions users, items int64 [n], sorted by (user, item), and write what that changes
        (`written`).

        Only the affected partitions are called; with an `AroundEncoder` these are all. Interactions without an end in
        this partition are ignored.

        cut_only: remove the interactions and change no row. thinned: interactions that lose some of their events, as
        for `GraphShard.thinned`. Only their counts and times change, so a partition that has no others writes nothing
        of its rows. names: what each rank may write, as `written.FileNames`. The generation is added to each name, so
        that what a worker of an earlier generation still writes is not mistaken for a file of this attempt.

        The model in memory stays as it is. The driver commits the new version and then loads it.

        Raises:
            RuntimeError: the loaded version has no encoder, and `cut_only` is not set.
            FloatingPointError: a changed row is infinite or NaN. Nothing was written.
        """
        start = time.perf_counter()
        model = self._loaded_model()
        graph, shard, encoder = model.graph, model.graph.shard, model.encoder
        own = FileNames(*map(self._own_name, names[self._rank]))
        writer = Writer(location.store(), model.version, self._rank, own)
        owners = graph.assignment
        here = (owners.owner_of_user[users] == self._rank) | (owners.owner_of_item[items] == self._rank)
        mine = users[here], items[here]
        thinned_here = (_NOBODY,) * 4 if thinned is None else thinned
        everywhere = isinstance(encoder, AroundEncoder) and len(users) > 0 and not cut_only
        if not len(mine[0]) and not everywhere:
            delta = ShardDelta(_NOBODY, _NOBODY, *thinned_here, _NOBODY, _NOBODY)
            chain = writer.shard(delta, shard)
            rows_chain = model.version.model.embedding_chain(self._rank)
            return _forgotten(writer, chain, rows_chain, ((own.shard_delta,), ()), delta, start)
        rows = torch.empty(0, dtype=torch.int64, device=self._device)
        change, whole = model.e0[rows], None
        if not cut_only:
            pairs = self._tensors(mine)
            if encoder is None:
                raise RuntimeError("the loaded version has no encoder")
            if isinstance(encoder, AroundEncoder):
                rows, whole = around_influence(graph, model.backbone, model.nodes, encoder, *pairs)
                change = whole[rows]
            elif isinstance(encoder, Published):
                rows, change = published_influence(graph, model.nodes.readout, encoder, *pairs)
            else:
                rows, change = influence(
                    graph, model.nodes, encoder, *pairs, share=len(users) / max(model.version.graph.interactions, 1)
                )
        encoder_seconds = time.perf_counter() - start
        changed = model.e0[rows] + change
        _check_rows(changed if whole is None else model.e0 + whole, "the Influence Encoder")
        delta = ShardDelta(*mine, *thinned_here, *emptied(shard, *mine))
        gone = self._tensors((delta.gone_users, delta.gone_items))
        gone_rows = torch.cat([graph.user_rows(gone[0]), graph.item_rows(gone[1])])
        stay = ~torch.isin(rows, gone_rows)
        sizes = change[stay].norm(dim=1)
        row_delta = RowsDelta(*(x.cpu().numpy() for x in (rows[stay], changed[stay], gone_rows)))
        follow: tuple[tuple[str, ...], tuple[str, ...]] | None = ((own.shard_delta,), (own.rows_delta,))
        tables = None
        if whole is None and not isinstance(encoder, Published):
            chains = writer.shard(delta, shard), writer.rows(row_delta, model.e0)
        else:
            # All rows change, or tables of the encoder do: nothing is gained by deltas.
            follow = None
            after = rows_after(row_delta, model.e0 if whole is None else model.e0 + whole)
            chains = (writer.whole_shard(delta.applied_to(shard)),), (writer.whole_rows(after),)
            if isinstance(encoder, Published):
                # What the encoder knew of touched nodes goes with them: rows of deleted nodes, and the rest start again.
                empty = RowsDelta(_NOBODY, np.empty((0, 0), dtype=np.float32), row_delta.gone)
                fresh = encoder.fresh_rows(rows)
                tables = writer.tables({name: rows_after(empty, table) for name, table in fresh.items()})
        result = _forgotten(writer, *chains, follow, delta, start)
        result["tables"], result["touched"], result["encoder_seconds"] = tables, len(rows), encoder_seconds
        result["largest_change"] = float(sizes.max()) if len(sizes) else 0.0
        return result

    def fine_tune(
        self, location: Location, users: Ids, items: Ids, run: TrainRun, steps: int, names: Sequence[str]
    ) -> WithFiles:
        """Train the loaded version for `steps` steps after the last epoch of `run`; only the rows of these users and
        items (dense ids, each once) change.

        A rank that owns any of them writes a delta of its rows to names[rank], with the generation added as in `forget`.

        Raises:
            FloatingPointError: a row is infinite or NaN. Nothing was written.
        """
        self._say(phase="fine-tune")
        model = self._loaded_model()
        nodes = self._tensors((users, items))
        rows = torch.cat([model.graph.user_rows(nodes[0]), model.graph.item_rows(nodes[1])])
        rows = rows[rows >= 0]
        e0 = fine_tune(model.graph, model.backbone, model.e0, rows, run.settings, run.epochs, steps)
        _check_rows(e0, "fine-tuning")
        rows = rows.sort().values
        delta = RowsDelta(rows.cpu().numpy(), e0[rows].cpu().numpy(), _NOBODY)
        name = self._own_name(names[self._rank])
        files = [write_file(location.store(), name, delta.to_bytes())] if len(rows) else []
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
        """Write the shard and the rows of E0 without the interactions of a removal, and without the nodes that lose
        their last one, to the two files names[rank]. The rows are read from embeddings[rank]."""
        store = location.store()
        e0 = from_bytes(store.read(embeddings[self._rank]))["e0"]
        shard = load_shard(store, manifest, self._rank)
        pairs = removal.pairs(shard)
        smaller, e0 = shrink(shard, e0, *pairs)
        return {
            "shard": write_file(store, names[self._rank][0], smaller.to_bytes()),
            "files": [write_file(store, names[self._rank][1], to_bytes({"e0": e0}))],
            "removed": len(shard.user_neighbours) - len(smaller.user_neighbours),
            "removed_events": int(shard.user_counts.sum() - smaller.user_counts.sum()),
            "gone_users": np.setdiff1d(shard.user_ids, smaller.user_ids),
            "gone_items": np.setdiff1d(shard.item_ids, smaller.item_ids),
        }

    # ---- the gate ------------------------------------------------------------------------------------------------

    def baseline(self, held_out: Pairs, larger: Pairs, seed: int, cutoff: int, batch_users: int) -> BaselineStanding:
        """What the gate compares a candidate with: Recall@cutoff of each user of this partition on the held-out pairs,
        the standing of the held-out pairs, and the standing of one trained pair of the same user for each of them. The
        same standings with stand-ins are of the sample `larger`."""
        graph, z = self._loaded_model().graph, self._loaded_model().nodes.readout
        users, items = self._tensors(held_out)
        never = (users * graph.num_items + items).sort().values
        trained = trained_pairs(graph, users, seed)
        # The stand-in of a user is the same for a held-out pair and a trained one: both leave out the trained item.
        more_users, more_items = self._tensors(larger)
        more = trained_pairs(graph, more_users, seed)
        known = torch.isin(more_users, more[0])
        held = more_users[known], more_items[known]
        never_more = (more_users * graph.num_items + more_items).sort().values
        lists = items_of(graph, held[0])

        def with_stand_in(pairs: tuple[Tensor, Tensor]) -> Standing:
            return standing_with_stand_in(graph, z, lists, pairs, more[1], never_more, seed, count=SAMPLE_REFERENCES)

        return {
            "recall": self._recall((users, items), cutoff, batch_users),
            "held_out": standing(graph, z, users, items, never, seed),
            "trained": standing(graph, z, *trained, never, seed),
            "stand_in_held_out": with_stand_in(held),
            "stand_in_trained": with_stand_in(more),
        }

    def standing(
        self,
        kept: Pairs,
        deleted: Pairs,
        held_out: Pairs,
        seed: int,
        references: Sequence[ForgottenStanding] | None = None,
    ) -> ForgottenStanding:
        """How high forgotten pairs score among comparable pairs (`measures.standing`). None of the pairs that are named
        here is taken as a comparable pair.

        Args:
            kept: pairs whose users stay.
            deleted: whole lists of interactions of deleted users, sorted by user, then item. Each rank judges the users
                whose id modulo the number of ranks is its own, as nobody owns them any more.
            references: the results, by rank, of an earlier call with the same pairs, whose comparable pairs are used
                again; None draws new ones.
        """
        graph, z = self._loaded_model().graph, self._loaded_model().nodes.readout
        known = None if references is None else references[self._rank]
        mine, gone, test = (self._tensors(pairs) for pairs in (kept, deleted, held_out))
        never = torch.cat([users * graph.num_items + items for users, items in (mine, gone, test)]).sort().values
        here = torch.nonzero(gone[0] % graph.comm.size == graph.comm.rank)[:, 0]
        own = gone[0][here], gone[1][here]
        by_stand_in = standing_with_stand_in(
            graph, z, own, own, own[1], never, seed, self._references(known and known["deleted"])
        )
        return {
            "kept": standing(graph, z, *mine, never, seed, self._references(known and known["kept"])),
            "deleted": replace(by_stand_in, positions=here.cpu().numpy()),
        }

    def _references(self, known: Standing | None) -> Tensor | None:
        return None if known is None else torch.from_numpy(known.references.copy()).to(self._device)

    def recall_and_standing(
        self,
        kept: Pairs,
        deleted: Pairs,
        held_out: Pairs,
        seed: int,
        references: Sequence[ForgottenStanding] | None,
        cutoff: int,
        batch_users: int,
    ) -> RecallAndStanding:
        """Recall as in `baseline`, and the standing of the pairs as in `standing`. They are one call because most of
        its time is the way to the workers."""
        return {
            "recall": self._recall(self._tensors(held_out), cutoff, batch_users),
            **self.standing(kept, deleted, held_out, seed, references),
        }

    def _recall(self, held_out: tuple[Tensor, Tensor], cutoff: int, batch_users: int) -> Recall:
        model = self._loaded_model()
        found = quality_by_user(model.graph, model.nodes.readout, *held_out, [cutoff], batch_users)
        return found.users.cpu().numpy(), found.recall[:, 0].cpu().numpy()


def _check_rows(e0: Tensor, maker: str) -> None:
    """Raise FloatingPointError if a row [N, d] is infinite or NaN: no version may have such a row."""
    if not are_finite([e0]):
        raise FloatingPointError(
            f"{maker} makes rows that are infinite or NaN for this request, so nothing was committed. Run `unlearnrec "
            "pretrain` again; if that does not help, `unlearnrec retrain`"
        )


def _forgotten(
    writer: Writer,
    shard: Sequence[str],
    embeddings: Sequence[str],
    follow: tuple[tuple[str, ...], tuple[str, ...]] | None,
    delta: ShardDelta,
    start: float,
) -> Forgotten:
    """The result of a `forget` that began at `start` (time.perf_counter) and changed no row."""
    return {
        "files": writer.files,
        "shard_chain": tuple(shard),
        "embedding_chain": tuple(embeddings),
        "follow": follow,
        "tables": None,
        "gone_users": delta.gone_users,
        "gone_items": delta.gone_items,
        "touched": 0,
        "largest_change": 0.0,
        "encoder_seconds": 0.0,
        "seconds": time.perf_counter() - start,
    }
