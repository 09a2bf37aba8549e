"""From a table of the lake to a partitioned graph under `graph/` of the output.

The manifest is written last and names every file with its checksum. Files carry names that no other attempt uses, so an
attempt that dies leaves the graph that was there untouched, and files that no manifest names.
"""

import io
import json
import uuid
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .assignment import Assignment, assign, balance, edge_cut
from .errors import InputError
from .graph import Progress, Suppress, read_interactions
from .halo import HALOS, rows_per_layer
from .lake import Columns
from .manifest import FORMAT, MANIFEST, EventTimes, File, Graph
from .shard import GraphShard, build_shards
from .storage import StorageOptions, Store


def ingest(
    interactions_uri: str,
    columns: Columns,
    store: Store,
    options: StorageOptions,
    num_partitions: int,
    strategy: str,
    seed: int,
    halo: str,
    assignment_file: str | None = None,
    progress: Progress | None = None,
    suppress: Suppress | None = None,
    before_publishing: Callable[[Graph], None] = lambda manifest: None,
) -> Graph:
    """Read a table, partition its graph and write the result. Returns the manifest.

    `halo` ("pull" or "cover") is the plan that training will use; the manifest gives the rows a layer of both.
    `progress` is called with the number of rows read so far. Rows that `suppress` names are left out and counted.
    `before_publishing` is called with the manifest when all files are written but that, which makes them count; what it
    raises leaves the graph that was there.

    Raises:
        InputError: bad input, settings or output. Nothing has been written then.
    """
    if halo not in HALOS:
        raise InputError(f"partitioning.halo is '{halo}'; it must be one of {', '.join(HALOS)}")
    graph = read_interactions(interactions_uri, columns, options, progress, suppress)
    # Before METIS, which may take minutes.
    store.check()
    assignment = assign(graph, strategy, num_partitions, seed, assignment_file, options)
    shards = build_shards(graph.users, graph.items, graph.counts, assignment, graph.times)
    attempt = uuid.uuid4().hex[:8]
    files: dict[str, bytes] = {
        f"graph/users-{attempt}.parquet": _id_map("user_id", graph.user_ids, assignment.owner_of_user),
        f"graph/items-{attempt}.parquet": _id_map("item_id", graph.item_ids, assignment.owner_of_item),
    }
    sizes = {}
    shard_names = [f"graph/shard-{k:03d}-{attempt}.safetensors" for k in range(num_partitions)]
    for name, content in files.items():
        sizes[name] = _put(store, name, content)
    for name, shard in zip(shard_names, shards, strict=True):
        sizes[name] = _put(store, name, shard.to_bytes())
    users_file, items_file = files
    manifest = Graph(
        format=FORMAT,
        users=len(graph.user_ids),
        items=len(graph.item_ids),
        interactions=len(graph.users),
        events=graph.events,
        skipped=graph.skipped,
        suppressed=graph.suppressed,
        time=None if graph.times is None else EventTimes(unit=graph.time_unit),
        partitions=num_partitions,
        strategy=strategy,
        seed=seed,
        halo=halo,
        edge_cut=edge_cut(graph, assignment),
        balance=balance(graph, assignment),
        rows_per_layer={name: rows_per_layer(shards, assignment, name) for name in HALOS},
        id_type={"user": str(graph.user_ids.type), "item": str(graph.item_ids.type)},
        source=interactions_uri,
        user_file=users_file,
        item_file=items_file,
        shard_files=tuple(shard_names),
        files=sizes,
    )
    before_publishing(manifest)
    store.write(MANIFEST, json.dumps(manifest.document(), indent=1).encode())
    return manifest


def load_shard(store: Store, manifest: Graph, k: int) -> GraphShard:
    """Partition k of the graph, its checksum verified.

    Raises:
        InputError: the file is not the one that was written.
    """
    return GraphShard.from_bytes(_get(store, manifest, manifest.shard_files[k]))


def load_ids(store: Store, manifest: Graph, side: str) -> tuple[pa.Array, npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    """The id map of a side ("user" or "item"): (external ids ascending [N], dense id int64 [N], owner int16 [N]).

    Raises:
        InputError: the file is not the one that was written.
    """
    table = pq.read_table(io.BytesIO(_get(store, manifest, manifest.id_file(side))))
    return table[f"{side}_id"].combine_chunks(), table["node"].to_numpy(), table["owner"].to_numpy()


def load_assignment(store: Store, manifest: Graph) -> Assignment:
    """The owner map, as it was decided at ingest.

    Raises:
        InputError: a file is not the one that was written.
    """
    owners = []
    for side in ("user", "item"):
        _, node, owner = load_ids(store, manifest, side)
        by_node = np.zeros(manifest.nodes(side), dtype=np.int16)
        by_node[node] = owner
        owners.append(by_node)
    return Assignment(owners[0], owners[1], manifest.partitions)


def _id_map(name: str, ids: pa.Array, owner: npt.NDArray[np.int16]) -> bytes:
    table = pa.table({name: ids, "node": pa.array(np.arange(len(ids))), "owner": pa.array(owner)})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _put(store: Store, name: str, data: bytes) -> File:
    store.write(name, data)
    return File(sha256=store.sha256(data), bytes=len(data))


def _get(store: Store, manifest: Graph, name: str) -> bytes:
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
