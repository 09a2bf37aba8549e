"""Decides which partition owns which node. It is decided once, at ingest, stored with a checksum, and read on recovery."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array, csr_array

from .errors import InputError
from .graph import AnyGraph, dense_ids
from .lake import read_table
from .spool import Spool
from .storage import AWS, StorageOptions
from .stored import ByItem
from .streaming import SAMPLE_INTERACTIONS, by_stream


@dataclass(frozen=True, eq=False)
class Assignment:
    """The partition that owns each node.

    Shapes: owner_of_user int16 [U], owner_of_item int16 [I], by dense id; all values are in 0 .. num_partitions - 1.
    """

    owner_of_user: npt.NDArray[np.int16]
    owner_of_item: npt.NDArray[np.int16]
    num_partitions: int


def assign(
    graph: AnyGraph,
    strategy: str,
    num_partitions: int,
    seed: int,
    assignment_file: str | None = None,
    options: StorageOptions = AWS,
    items: ByItem | None = None,
) -> Assignment:
    """Choose the owners of all nodes by a strategy of `STRATEGIES`, or read them from a file (strategy "file").

    seed: the same seed gives the same owners. options: how to reach the file, where it is on S3. items: the graph's
    interactions by item, if they are there already.

    Raises:
        InputError: unknown strategy, a number of partitions outside 1 .. 32767, or a bad assignment file.
    """
    if not 1 <= num_partitions <= np.iinfo(np.int16).max:
        raise InputError(f"cluster.partitions is {num_partitions}; it must be from 1 to {np.iinfo(np.int16).max}")
    if strategy == "file":
        if assignment_file is None:
            raise InputError("partitioning.strategy is 'file', but no assignment file is named")
        return _from_file(graph, num_partitions, assignment_file, options)
    if strategy not in STRATEGIES:
        raise InputError(f"partitioning.strategy is '{strategy}'; it must be one of {', '.join([*STRATEGIES, 'file'])}")
    return STRATEGIES[strategy](graph, num_partitions, seed, items)


def hash_owner(nodes: npt.ArrayLike, side: str, num_partitions: int, seed: int) -> npt.NDArray[np.int16]:
    """Owners int16 [n] of nodes with dense ids [n], by a hash of (side, id, seed). Nodes that nothing else places get them.

    side: "user" or "item".
    """
    offset = (2 * seed + (side == "item")) * 0x9E3779B97F4A7C15 % 2**64
    x = np.asarray(nodes).astype(np.uint64) + np.uint64(offset)
    # The last step of splitmix64 (Steele et al. 2014): neighbouring ids get unrelated owners.
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(num_partitions)).astype(np.int16)


def edge_cut(graph: AnyGraph, assignment: Assignment) -> float:
    """The share of the interactions whose user and item have different owners, from 0 to 1."""
    cut = sum(
        int(np.count_nonzero(assignment.owner_of_user[block.users] != assignment.owner_of_item[block.items]))
        for block in graph.blocks()
    )
    return cut / len(graph)


def balance(graph: AnyGraph, assignment: Assignment) -> float:
    """The heaviest partition's sum of degrees divided by the mean partition's. 1 is perfect, num_partitions is the worst."""
    sides = ((assignment.owner_of_user, graph.user_degrees), (assignment.owner_of_item, graph.item_degrees))
    load = sum(np.bincount(owners, degrees, minlength=assignment.num_partitions) for owners, degrees in sides)
    return float(np.max(load) / np.mean(load))


def _by_hash(graph: AnyGraph, num_partitions: int, seed: int, items: ByItem | None = None) -> Assignment:
    owners = [
        hash_owner(np.arange(len(ids)), side, num_partitions, seed)
        for side, ids in (("user", graph.user_ids), ("item", graph.item_ids))
    ]
    return Assignment(owners[0], owners[1], num_partitions)


# METIS writes scratch files to its working directory, takes gigabytes of memory, and ends the process if it gets none. It
# therefore runs in a process of its own, in a temporary folder.
_METIS = """
import sys, numpy, pymetis
indptr, indices, weights = (numpy.load(name + ".npy") for name in ("indptr", "indices", "weights"))
adjacency, options = pymetis.CSRAdjacency(indptr, indices), pymetis.Options(seed=int(sys.argv[2]))
_, parts = pymetis.part_graph(int(sys.argv[1]), adjacency, vweights=weights, options=options)
numpy.save("parts.npy", numpy.asarray(parts, dtype=numpy.int16))
"""


def _by_metis(graph: AnyGraph, num_partitions: int, seed: int, items: ByItem | None = None) -> Assignment:
    """Owners by METIS (Karypis & Kumar 1998): few interactions between partitions, with balanced sums of degrees.

    Nodes without interactions take no part, and are placed by hash. They weigh nothing to METIS, which might put all of them
    into one partition.
    """
    num_users = len(graph.user_ids)
    hashed = _by_hash(graph, num_partitions, seed)
    owner = np.concatenate([hashed.owner_of_user, hashed.owner_of_item])
    if num_partitions == 1:
        owner[:] = 0
    else:
        found, connected = _metis_owners(_matrix(graph), num_partitions, seed)
        owner[connected] = found[connected]
    return Assignment(owner[:num_users], owner[num_users:], num_partitions)


def _by_stream(graph: AnyGraph, num_partitions: int, seed: int, items: ByItem | None = None) -> Assignment:
    """Owners by `streaming.by_stream`; those of METIS where the whole graph is as small as its sample."""
    if num_partitions == 1 or len(graph) <= SAMPLE_INTERACTIONS:
        return _by_metis(graph, num_partitions, seed)
    # The order of the sample has nothing to do with the owners that the hash gives.
    order = np.argsort(hash_owner(np.arange(len(graph.user_ids)), "user", 32_767, seed + 1), kind="stable")

    def metis(matrix: csr_array, count: int, seed: int) -> npt.NDArray[np.int16]:
        return _metis_owners(matrix, count, seed)[0]

    with Spool() as spool:
        there = items or ByItem(graph, spool)
        return Assignment(*by_stream(graph, there, num_partitions, seed, order, metis), num_partitions)


def _matrix(graph: AnyGraph) -> csr_array:
    """The interactions as a matrix of users and items with ones."""
    blocks = list(graph.blocks())
    items = np.concatenate([block.items for block in blocks])
    indptr = np.concatenate([[0], np.cumsum(graph.user_degrees)])
    shape = (len(graph.user_ids), len(graph.item_ids))
    return csr_array((np.ones(len(items), dtype=np.int8), items, indptr), shape=shape)


def _metis_owners(
    matrix: csr_array, num_partitions: int, seed: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
    """(METIS's owners of the users and then the items of a matrix of ones [U, I], the nodes with interactions, which alone
    have one)."""
    num_users, num_items = matrix.shape
    total = num_users + num_items
    entries = matrix.tocoo()
    users, items = entries.row.astype(np.int32), entries.col.astype(np.int32) + np.int32(num_users)
    ends = (np.concatenate([users, items]), np.concatenate([items, users]))
    adjacency = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(total, total)).tocsr()
    degrees = np.diff(adjacency.indptr)
    connected = np.flatnonzero(degrees)
    owner = np.zeros(total, dtype=np.int16)
    if len(connected) < 2 * num_partitions:
        # Too few nodes to optimise anything, and METIS refuses more parts than nodes: they are dealt out in turn.
        owner[connected] = np.arange(len(connected)) % num_partitions
    else:
        position = np.cumsum(degrees > 0) - 1
        owner[connected] = _run_metis(
            np.concatenate([[0], np.cumsum(degrees[connected])]),
            position[adjacency.indices],
            degrees[connected],
            num_partitions,
            seed,
        )
    return owner, connected


def _run_metis(
    indptr: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    weights: npt.NDArray[np.int32],
    num_partitions: int,
    seed: int,
) -> npt.NDArray[np.int16]:
    """Run METIS on a graph of n nodes in CSR form; returns the partition of each node [n].

    indptr [n + 1], indices: the neighbours of each node, every edge from both of its ends. weights [n]: of the nodes.
    """
    with tempfile.TemporaryDirectory(prefix="unlearnrec-metis-") as folder:
        for name, array in (("indptr", indptr), ("indices", indices), ("weights", weights)):
            np.save(Path(folder) / f"{name}.npy", array.astype(np.int64, copy=False))
        command = [sys.executable, "-c", _METIS, str(num_partitions), str(seed % 2**31)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"METIS failed (exit status {done.returncode}; -9 means out of memory) on {len(weights)} nodes and "
                f"{len(indices) // 2} interactions: {done.stderr.strip()[-2000:]}. partitioning.strategy=stream needs "
                "far less memory, partitioning.strategy=hash next to none"
            )
        parts: npt.NDArray[np.int16] = np.load(Path(folder) / "parts.npy")
        return parts


def _from_file(graph: AnyGraph, num_partitions: int, uri: str, options: StorageOptions) -> Assignment:
    """Owners from a Parquet file with the columns side ("user" or "item"), id and partition. Ids that the graph lacks are
    ignored.

    Raises:
        InputError: the file has no rows, a wrong value, two partitions for one node, or none for a node of the graph.
    """
    batches = [batch for batch in read_table(uri, ("side", "id", "partition"), options) if batch.num_rows]
    if not batches:
        raise InputError(f"{uri}: the assignment file has no rows")
    table = pa.Table.from_batches(batches)
    strange = table.filter(pc.invert(pc.is_in(table["side"].cast(pa.string()), pa.array(["user", "item"]))))
    if strange.num_rows:
        raise InputError(f"{uri}: column 'side' holds '{strange['side'][0]}'; it must be 'user' or 'item'")
    if not pa.types.is_integer(table["partition"].type):
        raise InputError(f"{uri}: column 'partition' is {table['partition'].type}; it must be an integer")
    partition = table["partition"].to_numpy()
    outside = (partition < 0) | (partition >= num_partitions)
    if outside.any():
        raise InputError(
            f"{uri}: column 'partition' holds {partition[outside][0]}; it must be from 0 to {num_partitions - 1}, "
            f"since cluster.partitions is {num_partitions}"
        )
    owners = []
    for side, ids in (("user", graph.user_ids), ("item", graph.item_ids)):
        rows = table.filter(pc.equal(table["side"], side))
        nodes = dense_ids(ids, np.arange(len(ids)), rows["id"])
        owner = np.full(len(ids), -1, dtype=np.int16)
        owner[nodes[nodes >= 0]] = rows["partition"].to_numpy()[nodes >= 0]
        if (owner[nodes[nodes >= 0]] != rows["partition"].to_numpy()[nodes >= 0]).any():
            raise InputError(f"{uri}: a {side} is given to two partitions. Name each {side} once")
        if (owner < 0).any():
            raise InputError(
                f"{uri}: {int((owner < 0).sum())} {side}s of the interactions have no row, the first is "
                f"{ids[int(np.argmax(owner < 0))]}. Every user and item needs a partition"
            )
        owners.append(owner)
    return Assignment(owners[0], owners[1], num_partitions)


STRATEGIES: dict[str, Callable[[AnyGraph, int, int, ByItem | None], Assignment]] = {
    "metis": _by_metis,
    "hash": _by_hash,
    "stream": _by_stream,
}
