"""Reads a table of the lake, partitions its graph, and writes it under `graph/` of the output.

The manifest is written last, and names every file with its checksum. The files have names that no other attempt uses. An
attempt that dies therefore leaves the graph that was there as it was, and new files that no manifest names.
"""

import io
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .assignment import Assignment, assign, balance, edge_cut
from .delta import GoneNodes, ShardDelta, joined
from .errors import InputError
from .estimate import metis_bytes
from .graph import Progress, Suppress, read_stored
from .halo import AUTO, HALOS
from .lake import Columns
from .manifest import FORMAT, MANIFEST, EventTimes, File, Graph
from .mapped import mapped_arrays
from .shard import GraphShard
from .shard_file import write_shards
from .spool import Spool
from .storage import StorageOptions, Store
from .stored import ByItem, StoredGraph
from .traffic import rows_per_layer

IdMap = tuple[pa.Array, npt.NDArray[np.int64], npt.NDArray[np.int16]]
"""(external ids [N], ascending; dense ids [N]; owners [N]) of one side."""


@dataclass(frozen=True)
class InteractionTable:
    """A table of interactions: its path or URI, which of its columns are read, and how to reach the storage."""

    uri: str
    columns: Columns
    options: StorageOptions


@dataclass(frozen=True)
class PartitioningSettings:
    """How a graph is partitioned. With the same settings and interactions every node gets the same owner.

    strategy: one of `assignment.STRATEGIES`, or "file", which reads `assignment_file`. halo: the plan of training, "pull",
    "cover" or "auto". metis_limit: in bytes; where METIS would need more, by estimate, "stream" takes the place of "metis".
    spool: the folder of temporary files; None: the system's.
    """

    num_partitions: int
    strategy: str
    seed: int
    halo: str
    assignment_file: str | None = None
    metis_limit: int = 4 << 30
    spool: str | None = None


def ingest(
    table: InteractionTable,
    settings: PartitioningSettings,
    store: Store,
    *,
    progress: Progress | None = None,
    suppress: Suppress | None = None,
    note: Callable[[str], None] = lambda text: None,
    before_publishing: Callable[[Graph], None] = lambda manifest: None,
) -> Graph:
    """Read a table, partition its graph and write the result. Returns the manifest.

    progress: called with the number of rows read so far. suppress: tells which rows are left out; they are counted. note:
    called with what the user should know, in a sentence. before_publishing: called with the manifest when all files but the
    manifest are written. If it raises an exception, the manifest is not written, and the graph that was there before stays.

    Raises:
        InputError: bad input, settings or output. Nothing has been written then.
    """
    if settings.halo not in (*HALOS, AUTO):
        raise InputError(f"partitioning.halo is '{settings.halo}'; it must be one of {', '.join((*HALOS, AUTO))}")
    with Spool(settings.spool) as spool:
        graph = read_stored(table.uri, table.columns, table.options, spool, progress, suppress)
        # The store is tried out before METIS, which may take minutes.
        store.check()
        manifest = _write(graph, table, settings, store, spool, note)
    # The manifest comes last: from then on readers rely on every file that it names. What has to be known of this ingest by
    # whoever reads the manifest (its record in the log) comes before it.
    before_publishing(manifest)
    store.write(MANIFEST, json.dumps(manifest.document(), indent=1).encode())
    return manifest


def _write(
    graph: StoredGraph,
    table: InteractionTable,
    settings: PartitioningSettings,
    store: Store,
    spool: Spool,
    note: Callable[[str], None],
) -> Graph:
    """Partition the graph and write all its files but the manifest, which is returned."""
    num_partitions = settings.num_partitions
    items = ByItem(graph, spool)
    strategy = settings.strategy
    needed = metis_bytes(len(graph), len(graph.user_ids) + len(graph.item_ids))
    if strategy == "metis" and num_partitions > 1 and needed > settings.metis_limit:
        strategy = "stream"
        note(
            f"METIS would need about {needed / 2**30:.1f} GiB for {len(graph):,} interactions, and "
            f"partitioning.metis_gib allows {settings.metis_limit / 2**30:g}: partitioning.strategy=stream is used instead"
        )
    assignment = assign(graph, strategy, num_partitions, settings.seed, settings.assignment_file, table.options, items)
    traffic = rows_per_layer(graph, items, assignment, settings.halo, spool)
    # In all names: the files of the graph that is there, which versions may need, are never overwritten.
    attempt = uuid.uuid4().hex[:8]
    users_file, items_file = f"graph/users-{attempt}.parquet", f"graph/items-{attempt}.parquet"
    sizes = {
        name: _put(store, name, id_map_bytes(side, (ids, np.arange(len(ids)), owner)))
        for name, side, ids, owner in (
            (users_file, "user", graph.user_ids, assignment.owner_of_user),
            (items_file, "item", graph.item_ids, assignment.owner_of_item),
        )
    }
    shard_names = [f"graph/shard-{k:03d}-{attempt}.safetensors" for k in range(num_partitions)]
    sizes |= write_shards(graph, items, assignment, store, shard_names, spool)
    return Graph(
        format=FORMAT,
        users=len(graph.user_ids),
        items=len(graph.item_ids),
        interactions=len(graph),
        events=graph.events,
        skipped=graph.skipped,
        suppressed=graph.suppressed,
        time=None if graph.times is None else EventTimes(unit=graph.time_unit),
        partitions=num_partitions,
        strategy=strategy,
        seed=settings.seed,
        halo=settings.halo,
        edge_cut=edge_cut(graph, assignment),
        balance=balance(graph, assignment),
        rows_per_layer=traffic,
        id_type={"user": str(graph.user_ids.type), "item": str(graph.item_ids.type)},
        source=table.uri,
        table=dict(graph.table),
        user_file=users_file,
        item_file=items_file,
        shard_files=tuple(shard_names),
        files=sizes,
    )


def load_shard(store: Store, manifest: Graph, k: int) -> GraphShard:
    """Load the shard of partition k, with what was removed from it since, and verify the checksums.

    Raises:
        InputError: a file is missing or damaged.
    """
    base, *deltas = manifest.shard_chain(k)
    # Not a copy of the content, which the library would make: the arrays are views of it.
    shard = GraphShard.from_arrays(mapped_arrays(memoryview(_get(store, manifest, base))))
    return after([ShardDelta.from_bytes(_get(store, manifest, name)) for name in deltas], shard)


def after(deltas: Sequence[ShardDelta], shard: GraphShard) -> GraphShard:
    """The shard after these deltas, one after the other."""
    return joined(deltas, shard.num_items).applied_to(shard) if deltas else shard


def load_gone(store: Store, manifest: Graph) -> GoneNodes:
    """The nodes that are deleted though the files of the id maps still have them; their file's checksum is verified.

    Raises:
        InputError: the file is missing or damaged.
    """
    if manifest.gone_file is None:
        return GoneNodes(*np.empty((2, 0), dtype=np.int64))
    return GoneNodes.from_bytes(_get(store, manifest, manifest.gone_file))


def load_ids(store: Store, manifest: Graph, side: str) -> IdMap:
    """Load the id map of a side ("user" or "item"), without the nodes that were deleted, and verify its checksum.

    Returns (external ids [N], ascending; dense ids int64 [N]; owners int16 [N]).

    Raises:
        InputError: a file is missing or damaged.
    """
    return left_of(load_id_file(store, manifest, side), load_gone(store, manifest).of(side), manifest.nodes(side))


def load_id_file(store: Store, manifest: Graph, side: str) -> IdMap:
    """As `load_ids`, but with the nodes that were deleted since the file of the id map was written."""
    table = pq.read_table(io.BytesIO(_get(store, manifest, manifest.id_file(side))))
    return table[f"{side}_id"].combine_chunks(), table["node"].to_numpy(), table["owner"].to_numpy()


def left_of(ids: IdMap, gone: npt.NDArray[np.int64], total: int) -> IdMap:
    """An id map without the nodes `gone` [g]. total: the number of dense ids of the side."""
    if not len(gone):
        return ids
    stays = np.ones(total, dtype=bool)
    stays[gone] = False
    kept = stays[ids[1]]
    return ids[0].filter(pa.array(kept)), ids[1][kept], ids[2][kept]


def load_assignment(store: Store, manifest: Graph) -> Assignment:
    """Load the owners of all nodes, as they were decided at ingest. Nodes that were deleted count as owned by partition 0.

    Raises:
        InputError: a file is missing or damaged.
    """
    owners, gone = [], load_gone(store, manifest)
    for side in ("user", "item"):
        # Without the external ids, which take most of the time and memory of an id map.
        data = io.BytesIO(_get(store, manifest, manifest.id_file(side)))
        table = pq.read_table(data, columns=["node", "owner"])
        by_node = np.zeros(manifest.nodes(side), dtype=np.int16)
        by_node[table["node"].to_numpy()] = table["owner"].to_numpy()
        by_node[gone.of(side)] = 0
        owners.append(by_node)
    return Assignment(owners[0], owners[1], manifest.partitions)


def id_map_bytes(side: str, ids: IdMap) -> bytes:
    """The Parquet file of the id map of a side ("user" or "item")."""
    table = pa.table({f"{side}_id": ids[0], "node": pa.array(ids[1]), "owner": pa.array(ids[2])})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _put(store: Store, name: str, data: bytes) -> File:
    """Write a file; returns what the manifest says of it."""
    store.write(name, data)
    return File(sha256=store.sha256(data), bytes=len(data))


def _get(store: Store, manifest: Graph, name: str) -> bytes:
    """The content of a file of the graph. Raises InputError if it is missing or its checksum is wrong."""
    expected = manifest.files[name]
    try:
        data = store.read(name)
    except FileNotFoundError as error:
        raise InputError(f"{store.root_uri}/{name} is missing. Restore it, or run `unlearnrec ingest` again") from error
    if store.sha256(data) != expected.sha256:
        raise InputError(
            f"{store.root_uri}/{name} is damaged: {len(data)} bytes, {expected.bytes} expected, and the SHA-256 "
            "differs from the manifest's. Restore the file, or run `unlearnrec ingest` again"
        )
    return data
