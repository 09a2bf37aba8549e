"""The id maps of the last graph that was asked for, kept in memory: to read a million ids from a file takes far longer than
to look some of them up."""

from __future__ import annotations

from threading import Lock

import numpy as np

from ...partitioning.assignment import Assignment
from ...partitioning.ingest import IdMap, left_of, load_gone, load_id_file
from ...partitioning.manifest import Graph
from ...partitioning.storage import Store

SIDES = ("user", "item")


class IdMaps:
    """What the files of the id maps say, for graphs of one output. Any thread may ask; the arrays must not be changed."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._files: dict[str, tuple[str, IdMap]] = {}
        """By side: the name of a file, and what it holds."""
        self._left: dict[str, tuple[tuple[str, str | None], IdMap]] = {}
        """By side: the names of the files, and the nodes that are left."""
        self._owners: tuple[tuple[str, ...], Assignment] | None = None

    def of(self, graph: Graph, side: str) -> IdMap:
        """The id map of a side ("user" or "item"), as `partitioning.ingest.load_ids`.

        Raises:
            InputError: a file is missing or damaged.
        """
        with self._lock:
            return self._of(graph, side)

    def file_of(self, graph: Graph, side: str) -> IdMap:
        """As `of`, but with the nodes that were deleted since the file was written.

        Raises:
            InputError: the file is missing or damaged.
        """
        with self._lock:
            return self._file(graph, side)

    def owners(self, graph: Graph) -> Assignment:
        """The owners of all nodes, as `partitioning.ingest.load_assignment`; deleted nodes may still have theirs.

        Raises:
            InputError: a file is missing or damaged.
        """
        with self._lock:
            names = (graph.user_file, graph.item_file)
            if self._owners is None or self._owners[0] != names:
                by_node = []
                for side in SIDES:
                    _, node, owner = self._file(graph, side)
                    owners = np.zeros(graph.nodes(side), dtype=np.int16)
                    owners[node] = owner
                    by_node.append(owners)
                self._owners = names, Assignment(by_node[0], by_node[1], graph.partitions)
            return self._owners[1]

    def _of(self, graph: Graph, side: str) -> IdMap:
        names = (graph.id_file(side), graph.gone_file)
        known = self._left.get(side)
        if known is None or known[0] != names:
            left = left_of(self._file(graph, side), load_gone(self._store, graph).of(side), graph.nodes(side))
            known = self._left[side] = names, left
        return known[1]

    def _file(self, graph: Graph, side: str) -> IdMap:
        name = graph.id_file(side)
        known = self._files.get(side)
        if known is None or known[0] != name:
            known = self._files[side] = name, load_id_file(self._store, graph, side)
        return known[1]
