"""What an auditor asks a partition: the rows that an attacker can see of a model, before and after it forgets."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...partitioning.manifest import Graph
from ...partitioning.storage import Store
from ..attacks.view import node_columns
from ..backbones import Backbone
from ..backbones.registry import make_backbone
from ..encoder.changes import around_influence, influence
from ..encoder.influence import AroundEncoder
from ..encoder.published import Published, published_influence
from ..encoder.second_order import whitening
from ..graph.local_graph import LocalGraph
from ..graph.removal import Ids, Pairs
from ..measures.ranking import rank
from ..training.checkpoint import from_bytes
from ..training.run import TrainRun
from .results import Looked
from .state import Location, PartitionState, node_rows

TOP = 20
"""The length of the lists in which a forgotten item may return."""
BATCH_USERS = 1024
"""The largest number of users that are ranked at once."""


@dataclass(frozen=True, eq=False)
class Ask:
    """What is asked of a model. Ids are dense and ascending; the same on all ranks."""

    users: Ids
    items: Ids
    """Of the nodes whose rows are told."""
    listed: Pairs
    """Pairs of which is told whether the item is among the TOP best of its user."""
    hidden: Pairs
    """Interactions that the model's graph has and the attacker's has not, sorted by user, then item."""
    forgets: bool = False
    """Whether the model forgets `hidden` first, with the loaded version's encoder."""


@dataclass(frozen=True)
class AuditedRun:
    """A finished training run: its graph, its settings, the files of its rows by rank, and of its dense weights."""

    graph: Graph
    run: TrainRun
    names: Sequence[str]
    dense: str | None
    alike: bool = True
    """Whether it has the seed of the loaded version. With another one its rows have other axes, so the encoder's matrices of
    second order are made again for it, as where an encoder is carried over."""


class PartitionAuditing(PartitionState):
    """The method that the command `audit` calls."""

    @torch.no_grad()
    def look(self, location: Location, asks: Sequence[Ask], run: AuditedRun | None = None) -> list[Looked]:
        """What an attacker sees of the loaded version, or of a run, for each of `asks`. Nothing is written.

        A node that this partition does not own, or that is deleted, is not told of.

        Raises:
            RuntimeError: a model shall forget, and the loaded version has no encoder, or one with tables of its own, which
                fit no other model.
        """
        self._say(phase="audit")
        model = self._loaded_model()
        if run is None:
            return [self._looked(model.graph, model.e0, model.backbone, ask, run) for ask in asks]
        store = location.store()
        graph, nodes = self._graph_to_train_on(store, run.graph, run.run.halo, run.run.kernel, run.run.removal)
        backbone = make_backbone(run.run.backbone, run.run.settings.seed).to(self._device)
        if run.dense is not None:
            backbone.load_state_dict(from_bytes(store.read(run.dense)))
        e0 = self._rows_of(store, run, graph, nodes)
        return [self._looked(graph, e0, backbone, ask, run) for ask in asks]

    def _rows_of(self, store: Store, run: AuditedRun, graph: LocalGraph, nodes: Pairs) -> Tensor:
        """The rows of E0 that a run wrote, for these nodes, in the rows of its graph. Rows of nodes deleted before the run
        are 0."""
        found = from_bytes(store.read(run.names[self._rank]))["e0"].to(self._device)
        users, items = self._tensors(nodes)
        rows = torch.cat([graph.user_rows(users), graph.item_rows(items)])
        return found.new_zeros((graph.num_rows, found.shape[1])).index_copy_(0, rows, found)

    def _looked(self, graph: LocalGraph, e0: Tensor, backbone: Backbone, ask: Ask, run: AuditedRun | None) -> Looked:
        after = graph.without(*ask.hidden) if len(ask.hidden[0]) else graph
        if ask.forgets:
            e0 = e0 + self._change(graph, e0, backbone, ask.hidden, run)
            readout = backbone.readout(e0, after.propagation)
        else:
            readout = backbone.readout(e0, graph.propagation)
        columns = node_columns(after, e0, readout)
        users, items = self._tensors((ask.users, ask.items))
        own = [after.user_rows(users), after.item_rows(items)]
        sides = []
        for ids, rows in zip((ask.users, ask.items), own, strict=True):
            there = (rows >= 0).cpu().numpy()
            sides.append((ids[there], *(x[rows[rows >= 0]].cpu().numpy() for x in columns)))
        return {"users": sides[0], "items": sides[1], "returned": self._returned(after, readout, ask.listed)}

    def _change(
        self, graph: LocalGraph, e0: Tensor, backbone: Backbone, hidden: Pairs, run: AuditedRun | None
    ) -> Tensor:
        """The change of E0 [N, d] by which the loaded version's encoder forgets these interactions."""
        encoder = self._loaded_model().encoder
        if encoder is None or (isinstance(encoder, Published) and run is not None):
            raise RuntimeError("the loaded version has no encoder that could forget in this model")
        owners = graph.assignment
        here = (owners.owner_of_user[hidden[0]] == self._rank) | (owners.owner_of_item[hidden[1]] == self._rank)
        pairs = self._tensors((hidden[0][here], hidden[1][here]))
        nodes = node_rows(graph, backbone, e0)
        if run is not None and not run.alike and not isinstance(encoder, Published):
            encoder = copy.deepcopy(encoder)
            if (encoder.rows if isinstance(encoder, AroundEncoder) else encoder).whitening is not None:
                encoder.use(whitening(graph, nodes))
        if isinstance(encoder, AroundEncoder):
            return around_influence(graph, backbone, nodes, encoder, *pairs)[1]
        if isinstance(encoder, Published):
            rows, change = published_influence(graph, nodes.readout, encoder, *pairs)
        else:
            share = len(hidden[0]) / max(self._loaded_model().version.graph.interactions, 1)
            rows, change = influence(graph, nodes, encoder, *pairs, share=share)
        return torch.zeros_like(e0).index_copy_(0, rows, change)

    def _returned(self, graph: LocalGraph, readout: Tensor, listed: Pairs) -> tuple[Ids, Ids]:
        """(positions [m], 1 or 0 [m]) of the pairs of users that this partition owns: whether the item is in the list."""
        users, items = self._tensors(listed)
        positions = torch.nonzero(graph.user_rows(users) >= 0)[:, 0]
        owned, place = torch.unique(users[positions], return_inverse=True)
        blocks = [block.items for block in rank(graph, readout, owned, TOP, BATCH_USERS)]
        lists = torch.cat(blocks) if blocks else torch.empty((0, TOP), dtype=torch.int64, device=self._device)
        if not len(lists):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        found = (lists[place] == items[positions, None]).any(1)
        return positions.cpu().numpy(), found.cpu().numpy().astype(np.int64)
