"""Write the files of the current version anew without what its deltas take away, so that a purge can remove the old ones.

The result is a version of the same interactions and the same rows, bit for bit. Workers that hold the version before hold
this one too, and load nothing (`Manifest.follows`). docs/commit.md has this under "Deltas".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save

from ...distributed.partition.files import read_rows
from ...distributed.partition.version import Follows
from ...partitioning.ingest import id_map_bytes, load_ids, load_shard
from ...partitioning.manifest import File, IngestedGraph
from ..log.log import LogConflict
from .id_maps import SIDES
from .manifest import Manifest, needed_files
from .session import Session

COMPACT = "compact"
"""The reason of a version that differs from the one before in nothing but its files."""
OWN = ("version", "base", "answers", "rolled_back_to", "replayed", "follows")
"""The keys of a manifest that belong to its own commit, and are not taken over."""


def compact(session: Session) -> Manifest | None:
    """Commit a version like the current one, in files that hold nothing of what was deleted; None if there is nothing to do.

    One partition is in memory at a time. If another version is committed meanwhile, that one is compacted instead.

    Raises:
        InputError, OSError: a file of the version is missing or damaged. Nothing was committed.
    """
    while True:
        ledger = session.ledger()
        head, version = ledger.seen, ledger.current
        if version is None or not version.has_deltas:
            return None
        # The files come before the record that names them (W4 to W6), under names that no other attempt uses.
        manifest = _Compaction(session, version).manifest()
        try:
            return session.versions.commit(manifest, after=head)
        except LogConflict:  # a request, or another purge, was faster
            continue


def covered_files(version: Manifest) -> list[str]:
    """The files of a version that hold what deltas take away, and these deltas, which name it."""
    names = list(version.follows.named_files()) if version.follows else []
    for graph in (version.graph, version.lake_graph):
        names += [name for chain in graph.shard_chains if len(chain) > 1 for name in chain]
        if graph.gone_file is not None:
            names += [graph.user_file, graph.item_file, graph.gone_file]
    chains = map(version.model.embedding_chain, range(version.graph.partitions))
    names += [name for chain in chains if len(chain) > 1 for name in chain]
    return list(dict.fromkeys(names))


class _Compaction:
    """Writes the files of one version anew."""

    def __init__(self, session: Session, version: Manifest) -> None:
        self._session, self._version = session, version
        self._number = session.versions.next_number()
        self._files: dict[str, File] = {}
        self._made: dict[tuple[str, ...], str] = {}
        """Of each chain, or pair of a map of ids and the nodes it has lost: the one file that replaces it."""

    def manifest(self) -> Manifest:
        """The manifest of the compacted version; its files are written."""
        version, model = self._version, self._version.model
        graph, lake_graph = self._graph(version.graph), self._graph(version.lake_graph)
        rows = [self._rows(k) for k in range(version.graph.partitions)]
        trained_on = model.trained_on
        if model.was_trained_on(version.graph):
            trained_on = tuple(name for chain in graph.shard_chains for name in chain)
        model = model.replaced(embeddings=tuple(rows), embedding_deltas=None, trained_on=trained_on)
        nothing: tuple[tuple[str, ...], ...] = ((),) * graph.partitions
        known = version.files | version.lake_graph.files | self._files
        kept = {key: value for key, value in version.document().items() if key not in OWN}
        changed: dict[str, Any] = {
            "reason": COMPACT,
            "version": self._number,
            "graph": graph,
            "lake_graph": lake_graph,
            "model": model,
            "files": {name: known[name] for name in needed_files(graph, model)},
            "follows": Follows(fingerprint=self._session.fingerprint(version), shards=nothing, embeddings=nothing),
        }
        return Manifest.model_validate(kept | changed)

    def _graph(self, graph: IngestedGraph) -> IngestedGraph:
        shards = [self._shard(graph, k) for k in range(graph.partitions)]
        maps = {f"{side}_file": self._ids(graph, side) for side in SIDES}
        small = graph.replaced(shard_files=tuple(shards), shard_deltas=None, gone_file=None, **maps)
        known = graph.files | self._files
        return small.replaced(files={name: known[name] for name in small.named_files()})

    def _shard(self, graph: IngestedGraph, k: int) -> str:
        chain = graph.shard_chain(k)
        if len(chain) == 1:
            return chain[0]
        return self._once(
            chain, f"shard-{k:03d}.safetensors", lambda: load_shard(self._session.store, graph, k).to_bytes()
        )

    def _rows(self, k: int) -> str:
        chain = self._version.model.embedding_chain(k)
        if len(chain) == 1:
            return chain[0]

        def rows() -> bytes:
            return save({"e0": np.ascontiguousarray(read_rows(self._session.store, self._version, k))})

        return self._once(chain, f"embeddings-{k:03d}.safetensors", rows)

    def _ids(self, graph: IngestedGraph, side: str) -> str:
        name = graph.id_file(side)
        if graph.gone_file is None:
            return name

        def ids() -> bytes:
            return id_map_bytes(side, load_ids(self._session.store, graph, side))

        return self._once((name, graph.gone_file), f"{side}s.parquet", ids)

    def _once(self, chain: tuple[str, ...], file: str, content: Callable[[], bytes]) -> str:
        """Write the file that replaces a chain, unless it is written already; returns its name."""
        if chain not in self._made:
            stem, suffix = file.split(".")
            name = self._session.versions.new_name(self._number, stem, suffix)
            self._files[name] = self._session.versions.put(name, content())
            self._made[chain] = name
        return self._made[chain]
