"""Halo plans: what the partitions send each other in one layer of neighbour sums y = A x, where A is the symmetric adjacency
matrix of the graph.

A partition holds x for its own rows. It receives rows from the other partitions, puts them behind its own rows in a buffer,
and sums over that buffer. There are two plans:

- `pull`: it receives the row of every neighbour that another partition owns.
- `cover`: two partitions take a minimum vertex cover of the edges that are cut between them. For each covered node one row
  is sent. If the sender owns the node, it is the row of the node. If the receiver owns it, it is the sum over those of its
  neighbours at the sender that are not covered themselves.

The global node id of a user is its dense id; that of an item is num_users + its dense id. Local rows are the owned users,
then the owned items, each ascending.

Shape legend: n = own rows, e = entries of own rows (whole neighbour lists), c = edges cut between two partitions,
K = partitions, S = sent rows.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_bipartite_matching

from .assignment import Assignment
from .errors import InputError
from .shard import GraphShard

HALOS = ("pull", "cover")
AUTO = "auto"
"""The setting that takes one of HALOS."""

Ints = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class HaloPlan:
    """What partition `partition` sends, receives and sums in one layer. It follows from its shard and the owners alone.

    Sent row s is the sum of x[send_columns[send_indptr[s] : send_indptr[s + 1]]]; with `pull` that is one row. Sent rows are
    grouped by receiver, ascending. Received rows stand behind the own rows, in order of their sender. y of own row r is the
    sum of buffer[columns[indptr[r] : indptr[r + 1]]]. With `pull` these columns are in ascending order of global node id, so
    that sums of floats add in the same order for any number of partitions.

    Shapes: send_indptr [S + 1], send_columns [.], indptr [n + 1], columns [.]: int32, or int64 where int32 is too small.
    send_counts, recv_counts: int64 [K], the numbers of rows sent to and received from each partition.
    """

    halo: str
    partition: int
    send_indptr: Ints
    send_columns: Ints
    send_counts: npt.NDArray[np.int64]
    recv_counts: npt.NDArray[np.int64]
    indptr: Ints
    columns: Ints
    nodes: Ints
    """[n + received] The global node id of each row of the buffer. Of a received sum it is the node whose sum it is a part
    of."""
    num_own_users: int
    """How many of the own rows are users'. They are the first."""
    cut_digests: tuple[str, ...]
    """[K] For each other partition, the `CutDigest` of the halo and of the edges cut between the two; "" if there are none.
    The plan of partition q must have at [p] what the plan of p has at [q]. If one of the two has a shard of another version,
    these differ."""

    @property
    def num_own(self) -> int:
        """The number of rows that this partition owns."""
        return len(self.indptr) - 1

    @property
    def num_received(self) -> int:
        """The number of rows that this partition receives from all others."""
        return int(self.recv_counts.sum())

    @property
    def gathers_only(self) -> bool:
        """Whether every sent row is the row of one node, so that nothing has to be summed before sending."""
        return self.halo == "pull"

    def digest(self) -> str:
        """The SHA-256 of the whole plan, in hexadecimal."""
        hashed = hashlib.sha256(repr((self.halo, self.partition, self.cut_digests)).encode())
        messages = (self.send_indptr, self.send_columns, self.send_counts, self.recv_counts)
        for array in (*messages, self.indptr, self.columns):
            hashed.update(f"{array.dtype}{array.shape}".encode())
            hashed.update(array.tobytes())
        return hashed.hexdigest()


def plan(shard: GraphShard, assignment: Assignment, halo: str) -> HaloPlan:
    """Make the plan of one partition, from its own shard. The partition at the other end of a message finds the same rows.

    Raises:
        InputError: `halo` is none of HALOS.
    """
    _check(halo)
    here_e, there_e, owner_e = _entries(shard, assignment)
    mine = np.zeros(shard.num_users + shard.num_items, dtype=bool)
    own_nodes = _own_nodes(shard)
    mine[own_nodes] = True
    place = np.zeros(len(mine), dtype=_index_type(len(mine)))  # by node: where its row stands in the buffer
    place[own_nodes] = np.arange(len(own_nodes))
    slot = np.zeros_like(place)  # by node: where its row stands in the message to one partition

    plain_e = owner_e == shard.partition  # entries that are summed here one by one
    partial_rows, partial_columns = [here_e[:0]], [place[:0]]
    send_columns, send_sizes = [place[:0]], [np.arange(0)]
    send_counts, recv_counts = np.zeros((2, shard.num_partitions), dtype=np.int64)
    cut_digests = [""] * shard.num_partitions
    buffer_rows = len(own_nodes)
    nodes: list[Ints] = [own_nodes]
    for cut in _cuts(shard, here_e, there_e, owner_e):
        sent, received = _messages(cut, halo, len(mine))
        send_counts[cut.other], recv_counts[cut.other] = len(sent), len(received)
        cut_digests[cut.other] = cut.digest(shard, halo)

        here, there = here_e[cut.entries], there_e[cut.entries]
        columns = np.arange(buffer_rows, buffer_rows + len(received), dtype=place.dtype)
        buffer_rows += len(received)
        nodes.append(received)
        # Received rows of own nodes are sums that the sender has made; the others are rows of nodes of the sender.
        summed_there = mine[received]
        partial_rows.append(place[received[summed_there]])
        partial_columns.append(columns[summed_there])
        place[received[~summed_there]] = columns[~summed_there]
        plain_e[cut.entries] = _marks(received, len(mine))[there]

        # Sent are the rows of own nodes, and sums over own neighbours, not sent themselves, of nodes of the receiver.
        slot[sent] = np.arange(len(sent))
        is_sent = _marks(sent, len(mine))
        summed_here = is_sent[there] & ~is_sent[here]
        slots = np.concatenate([np.flatnonzero(mine[sent]), slot[there[summed_here]]])
        rows = place[np.concatenate([sent[mine[sent]], here[summed_here]])]
        send_columns.append(rows[np.argsort(slots, kind="stable")])
        send_sizes.append(np.bincount(slots, minlength=len(sent)))

    if len(partial_rows) == 1:  # no cut: all entries are summed here, in their order
        row_sizes, columns = shard.degrees(), place[there_e]
    else:
        rows = np.concatenate([place[here_e[plain_e]], *partial_rows])
        columns = np.concatenate([place[there_e[plain_e]], *partial_columns])
        if halo != "pull":
            columns = columns[np.argsort(rows, kind="stable")]
        row_sizes = np.bincount(rows, minlength=len(own_nodes))
    indptr, local_columns = _csr(row_sizes, columns, buffer_rows)
    send_indptr, sent_columns = _csr(np.concatenate(send_sizes), np.concatenate(send_columns), buffer_rows)
    return HaloPlan(
        halo=halo,
        partition=shard.partition,
        send_indptr=send_indptr,
        send_columns=sent_columns,
        send_counts=send_counts,
        recv_counts=recv_counts,
        indptr=indptr,
        columns=local_columns,
        nodes=np.concatenate(nodes).astype(place.dtype, copy=False),
        num_own_users=len(shard.user_ids),
        cut_digests=tuple(cut_digests),
    )


def rows_per_layer(shards: Sequence[GraphShard], assignment: Assignment, halo: str) -> int:
    """The number of rows that all partitions together send in one layer.

    Raises:
        InputError: `halo` is none of HALOS.
    """
    _check(halo)
    total = 0
    for shard in shards:
        for cut in _cuts(shard, *_entries(shard, assignment)):
            if shard.partition < cut.other:
                total += sum(map(len, _messages(cut, halo, shard.num_users + shard.num_items)))
    return total


def chosen(halo: str, rows_per_layer: Mapping[str, int]) -> str:
    """The plan that the setting `partitioning.halo` stands for. `auto` is the one that sends fewer rows in a layer, `pull`
    where both send as many.

    rows_per_layer: by plan, as the manifest of a graph has it; a plan that was not counted is not chosen.
    """
    return (
        min((plan for plan in HALOS if plan in rows_per_layer), key=rows_per_layer.__getitem__)
        if halo == AUTO
        else halo
    )


def rows_between(low: Ints, high: Ints, halo: str, num_nodes: int) -> int:
    """The number of rows that two partitions send each other in one layer, both ways.

    low, high: [c] the ends of the edges that are cut between them, global node ids, each at one of the two.
    """
    return sum(map(len, _messages(_Cut(-1, np.empty(0, dtype=np.int64), low, high, True), halo, num_nodes)))


def check_plans(plans: Sequence[HaloPlan]) -> None:
    """Check that the plans of partitions 0, 1, ... fit together.

    Raises:
        ValueError: two of them disagree on the edges that are cut between them, or on the number of rows of a message.
    """
    for p, one in enumerate(plans):
        for q, other in enumerate(plans):
            if (one.halo, one.cut_digests[q]) != (other.halo, other.cut_digests[p]):
                raise ValueError(f"partitions {p} and {q} plan for different graphs or halos: reload both shards")
            if one.send_counts[q] != other.recv_counts[p]:
                raise ValueError(
                    f"partition {p} sends {one.send_counts[q]} rows to {q}, which expects {other.recv_counts[p]}"
                )


def _check(halo: str) -> None:
    """Raise InputError unless `halo` is one of HALOS."""
    if halo not in HALOS:
        raise InputError(f"partitioning.halo is '{halo}'; it must be one of {', '.join(HALOS)}")


@dataclass(frozen=True)
class _Cut:
    """The edges that are cut between this partition and another one, each as an entry of a row of this partition."""

    other: int
    entries: npt.NDArray[np.int64]
    """[c] The places of the edges among the entries of this partition's rows, ascending."""
    low: Ints
    """[c] The global node id of the end of each edge at the partition with the lower number; `high` has the other ends."""
    high: Ints
    here_is_low: bool

    def digest(self, shard: GraphShard, halo: str) -> str:
        """The `CutDigest` of the halo and the edges. Both partitions get the same."""
        users, items = np.minimum(self.low, self.high), np.maximum(self.low, self.high)
        return CutDigest.of(halo, shard.num_users, shard.num_items).with_edges(users, items - shard.num_users, 1).text


@dataclass(frozen=True)
class CutDigest:
    """A digest of a set of edges that costs as little to change as there are edges that change: the sum of a hash of each.

    It tells shards of different versions apart. It is no protection against somebody who looks for edges with the same sum:
    files are protected by their SHA-256.
    """

    text: str
    """128 bits in hexadecimal."""
    num_items: int

    @classmethod
    def of(cls, halo: str, num_users: int, num_items: int) -> "CutDigest":
        """That of no edges."""
        return cls(hashlib.sha256(f"{halo} {num_users} {num_items}".encode()).hexdigest()[:32], num_items)

    def with_edges(self, users: Ints, items: Ints, times: int) -> "CutDigest":
        """With these edges (users[j], items[j]) added (times=1) or taken out (times=-1)."""
        lanes = [int(self.text[:16], 16), int(self.text[16:], 16)]
        for start in range(0, len(users), _BLOCK):
            part = slice(start, start + _BLOCK)
            keys = users[part].astype(np.uint64) * np.uint64(self.num_items) + items[part].astype(np.uint64)
            for lane, salt in enumerate(_SALTS):
                lanes[lane] = (lanes[lane] + times * int(_mixed(keys + salt).sum(dtype=np.uint64))) % 2**64
        return CutDigest(f"{lanes[0]:016x}{lanes[1]:016x}", self.num_items)


_BLOCK = 1 << 16
_SALTS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03))


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The last step of splitmix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _own_nodes(shard: GraphShard) -> npt.NDArray[np.int64]:
    """The global node ids [n] of the rows of this partition, in order."""
    return np.concatenate([shard.user_ids, shard.item_ids + shard.num_users])


def _entries(shard: GraphShard, assignment: Assignment) -> tuple[Ints, Ints, npt.NDArray[np.int16]]:
    """(own node, neighbour, owner of the neighbour) of each entry [e] of the rows, ascending by node, then by neighbour."""
    dtype = _index_type(shard.num_users + shard.num_items)
    degrees = shard.degrees()
    here: Ints = np.repeat(_own_nodes(shard).astype(dtype), degrees)
    there: Ints = np.concatenate([shard.user_neighbours + dtype(shard.num_users), shard.item_neighbours], dtype=dtype)
    owner = np.concatenate(
        [assignment.owner_of_item[shard.user_neighbours], assignment.owner_of_user[shard.item_neighbours]]
    )
    return here, there, owner


def _cuts(shard: GraphShard, here: Ints, there: Ints, owner: npt.NDArray[np.int16]) -> Iterator[_Cut]:
    """The cuts with all other partitions that share an edge with this one, in order of partition.

    here, there, owner: as `_entries` returns them.
    """
    cut = np.flatnonzero(owner != shard.partition)
    counts = np.bincount(owner[cut], minlength=shard.num_partitions)
    cut = cut[np.argsort(owner[cut], kind="stable")]
    for other, entries in enumerate(np.split(cut, np.cumsum(counts[:-1]))):
        if len(entries):
            here_is_low = shard.partition < other
            ends = (here[entries], there[entries])
            yield _Cut(other, entries, *(ends if here_is_low else ends[::-1]), here_is_low)


def _messages(cut: _Cut, halo: str, num_nodes: int) -> tuple[Ints, Ints]:
    """(the nodes whose rows are sent to the other partition, those whose rows are received from it), each ascending."""
    if halo == "pull":
        low, high = (np.flatnonzero(_marks(ends, num_nodes)) for ends in (cut.low, cut.high))
        return (low, high) if cut.here_is_low else (high, low)
    cover = _minimum_vertex_cover(cut.low, cut.high, num_nodes)
    return cover, cover


def _minimum_vertex_cover(left: Ints, right: Ints, num_nodes: int) -> npt.NDArray[np.int64]:
    """A smallest set of nodes, ascending, that has an end of every edge (left[j], right[j]) of a bipartite graph.

    Koenig's construction takes the left nodes that no alternating path from an unmatched left node reaches, and the right
    nodes that such a path reaches. This set is the same for every maximum matching (Dulmage & Mendelsohn 1958), so both
    partitions find the same cover. No matched edge has both ends in it, so each covered node has a neighbour that is not
    covered.
    """
    left_nodes, row = _numbered(left, num_nodes)
    right_nodes, column = _numbered(right, num_nodes)
    num_left, num_right = len(left_nodes), len(right_nodes)
    ones = np.ones(len(left), dtype=np.int8)
    graph = coo_array((ones, (row, column)), shape=(num_left, num_right)).tocsr()
    left_of_right = maximum_bipartite_matching(graph, perm_type="row")
    matched = left_of_right >= 0
    free = np.setdiff1d(np.arange(num_left), left_of_right[matched], assume_unique=True)
    # Paths go right along any edge and left along matched ones. One additional node, from which the search begins, leads to
    # all free left nodes.
    indices = np.concatenate([graph.indices + num_left, left_of_right[matched], free])
    out_degrees = np.concatenate([np.diff(graph.indptr), matched, [len(free)]])
    total = num_left + num_right + 1
    paths = csr_array((np.ones(len(indices)), indices, np.r_[0, np.cumsum(out_degrees)]), shape=(total, total))
    reached = _marks(breadth_first_order(paths, total - 1, return_predecessors=False), total)
    return np.sort(np.concatenate([left_nodes[~reached[:num_left]], right_nodes[reached[num_left:-1]]]))


def _numbered(nodes: Ints, num_nodes: int) -> tuple[npt.NDArray[np.int64], Ints]:
    """(the distinct nodes, ascending; for each of `nodes` its position among them)."""
    marks = _marks(nodes, num_nodes)
    return np.flatnonzero(marks), (np.cumsum(marks) - 1)[nodes]


def _marks(nodes: Ints, num_nodes: int) -> npt.NDArray[np.bool_]:
    """bool [num_nodes], True for these nodes."""
    marks = np.zeros(num_nodes, dtype=bool)
    marks[nodes] = True
    return marks


def _csr(sizes: Ints, columns: Ints, num_columns: int) -> tuple[Ints, Ints]:
    """(indptr, columns) of a matrix with `sizes` entries in its rows, both in one type that is large enough for both."""
    dtype = _index_type(max(len(columns), num_columns))
    return np.concatenate([[0], np.cumsum(sizes)]).astype(dtype), columns.astype(dtype, copy=False)


def _index_type(largest: int) -> type[np.int32] | type[np.int64]:
    """int32 where it holds `largest`, else int64."""
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64
