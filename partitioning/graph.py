"""The interaction graph: sorted external ids, and the interactions with their events.

Three words have different meanings everywhere. An event is one row of the table. An interaction is one edge of the graph: a
user and an item with one or more events. A pair is any user with any item, given as two arrays of dense ids; it need not be
an interaction.

The table is read as a stream. `read_stored` needs memory for the ids only, and puts the interactions into a spool;
`read_interactions` returns them in memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .errors import InputError
from .lake import Columns, interactions_of, open_table, read_table
from .spool import Spool
from .storage import StorageOptions
from .stored import BLOCK_ROWS, Block, Rows, StoredGraph

Progress = Callable[[int], None]
"""A function that is called with the number of rows read so far."""

Suppress = Callable[[pa.Array, pa.Array, pa.Array | None], npt.NDArray[np.bool_]]
"""A function that tells which rows are to be left out, bool [n]. It gets the users [n] and items [n] of the rows (external
ids, int64 or string), and their times [n], as `lake.read_table` gives them, or None."""

CHUNK_ROWS = 1 << 20


@dataclass(frozen=True, eq=False)
class InteractionGraph:
    """A bipartite graph of users and items.

    Shapes:
        user_ids [U], item_ids [I]: external ids, pyarrow arrays of int64 or string, ascending; the position is the dense id.
        users, items: int32 [E], the interactions by dense id, sorted by (user, item).
        counts: int32 [E], the number of events of each interaction.
    """

    user_ids: pa.Array
    item_ids: pa.Array
    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]
    skipped: int = 0
    """The number of rows that were left out because their value is null, NaN or <= 0."""
    suppressed: int = 0
    """The number of other rows that were left out because the caller's `suppress` said so."""
    times: npt.NDArray[np.int64] | None = None
    """[sum of counts]: the times of the events, interaction after interaction, ascending in each; None where no column of
    times is mapped."""
    time_unit: str | None = None
    """"s", "ms", "us" or "ns" since the epoch; None where there are no times, or their unit is not known."""
    table: Mapping[str, Any] = field(default_factory=dict)
    """The table, and the state of it, that the graph was read from (`lake.Table.pinned`)."""

    @property
    def events(self) -> int:
        """The number of events: rows of the table that were not left out."""
        return int(self.counts.sum(dtype=np.int64))

    @cached_property
    def user_degrees(self) -> npt.NDArray[np.int64]:
        """The number of interactions of each user, int64 [U]."""
        return np.bincount(self.users, minlength=len(self.user_ids))

    @cached_property
    def item_degrees(self) -> npt.NDArray[np.int64]:
        """The number of interactions of each item, int64 [I]."""
        return np.bincount(self.items, minlength=len(self.item_ids))

    def __len__(self) -> int:
        """The number of interactions."""
        return len(self.users)

    def blocks(self) -> Iterator[Block]:
        """The interactions, block after block; all those of a user are in one block."""
        first = 0
        while first < len(self.users):
            end = min(first + BLOCK_ROWS, len(self.users))
            end = int(np.searchsorted(self.users, self.users[end - 1], side="right"))
            yield Block(self.users[first:end], self.items[first:end], self.counts[first:end], None)
            first = end


AnyGraph = InteractionGraph | StoredGraph
"""What is partitioned: in memory, or in a spool."""


def read_interactions(
    uri: str,
    columns: Columns,
    options: StorageOptions,
    progress: Progress | None = None,
    suppress: Suppress | None = None,
) -> InteractionGraph:
    """Read a table of interactions, in which each row is an event, into memory. Arguments and errors as of `read_stored`."""
    with Spool() as spool:
        stored = read_stored(uri, columns, options, spool, progress, suppress)
        return InteractionGraph(
            stored.user_ids,
            stored.item_ids,
            np.repeat(np.arange(len(stored.user_ids), dtype=np.int32), stored.user_degrees),
            stored.items.read(),
            stored.counts.read(),
            stored.skipped,
            stored.suppressed,
            None if stored.times is None else stored.times.read(),
            stored.time_unit,
            stored.table,
        )


def read_stored(
    uri: str,
    columns: Columns,
    options: StorageOptions,
    spool: Spool,
    progress: Progress | None = None,
    suppress: Suppress | None = None,
) -> StoredGraph:
    """Read a table of interactions, in which each row is an event, into columns of a spool.

    progress: called after each chunk with the number of rows read so far. suppress: tells which rows are left out, as if the
    table did not have them.

    Raises:
        InputError: as `lake.open_table` and `lake.read_table`; the table has no interaction; or the spool's disk is full.
    """
    if columns.user == columns.item:
        raise InputError(f"columns.user and columns.item are both '{columns.user}'. They must be two columns")
    users, items = Encoder(), Encoder()
    read = Rows(spool, timed=columns.time is not None)
    rows = skipped = suppressed = 0
    time_unit = None
    table = open_table(uri, options)
    batches = read_table(table, (columns.user, columns.item), options, columns.value, columns.time)
    with ThreadPoolExecutor(1) as beside:
        for chunk in _chunks(batches, users, items):
            rows += chunk.num_rows
            if columns.value:
                whole, chunk = chunk.num_rows, interactions_of(chunk)
                skipped += whole - chunk.num_rows
            if suppress is not None and chunk.num_rows:
                left = pa.array(~suppress(*_columns(chunk, columns)))
                whole, chunk = chunk.num_rows, chunk.filter(left)
                suppressed += whole - chunk.num_rows
            user_column, item_column, times = _columns(chunk, columns)
            if times is not None:
                time_unit = times.type.unit if pa.types.is_timestamp(times.type) else columns.time_unit
            if len(user_column):
                item_codes = beside.submit(items.encode, item_column)
                read.add(users.encode(user_column), item_codes.result(), times)
            if progress:
                progress(rows)
    if not len(read.users):
        why = "it has no rows"
        if suppressed:
            why = f"{suppressed} of {rows} rows are on the suppression list, and no other counts"
        elif rows:
            why = f"all {rows} rows have a value ('{columns.value}') that is null or <= 0"
        raise InputError(f"{uri}: no interactions, {why}. Name a table with at least one interaction")
    user_ids, rank_of_user = users.sorted()
    item_ids, rank_of_item = items.sorted()
    found = read.sorted(rank_of_user, rank_of_item)
    return StoredGraph(
        user_ids=user_ids,
        item_ids=item_ids,
        user_degrees=found.user_degrees,
        item_degrees=found.item_degrees,
        events=found.events,
        skipped=skipped,
        suppressed=suppressed,
        time_unit=time_unit,
        table=table.pinned,
        items=found.items,
        counts=found.counts,
        times=found.times,
        ranges=tuple(found.ranges),
    )


def _columns(chunk: pa.Table, columns: Columns) -> tuple[pa.Array, pa.Array, pa.Array | None]:
    """(users, items, times) of a chunk of the table."""
    time = chunk.column(chunk.num_columns - 1).combine_chunks() if columns.time else None
    return chunk.column(0).combine_chunks(), chunk.column(1).combine_chunks(), time


def dense_ids(ids: pa.Array, node: npt.NDArray[np.int64], wanted: pa.Array | Sequence[object]) -> npt.NDArray[np.int64]:
    """The dense ids [n] of external ids; -1 where the id map does not have the id.

    ids [N] (int64 or string), node [N]: the id map. wanted [n]: integers or strings, whatever the map has. In a map of
    integers a text from a command line or a CSV is read as an integer: "17" means 17, and "x" or "1.5" are unknown.
    """
    if not len(wanted):  # a pass over the ids of a large graph takes its time even for none
        return np.empty(0, dtype=np.int64)
    if isinstance(wanted, pa.ChunkedArray):
        wanted = wanted.combine_chunks()
    elif not isinstance(wanted, pa.Array):
        wanted = pa.array([str(x) for x in wanted], pa.string())
    if pa.types.is_integer(ids.type) and not pa.types.is_integer(wanted.type):
        wanted = parse_integers(wanted.cast(pa.string()))
    found = np.full(len(wanted), -1, dtype=np.int64)
    wanted, node = wanted.cast(ids.type), np.asarray(node)
    if len(wanted) < len(ids) // 8:
        # A table of all ids, to look up a few, costs far more than one pass over them: only those that are wanted stay.
        hits = pc.indices_nonzero(pc.is_in(ids, value_set=wanted.unique()))
        ids, node = ids.take(hits), node[hits.to_numpy()]
    position = pc.index_in(wanted, value_set=ids)
    known = position.is_valid().to_numpy(zero_copy_only=False)
    found[known] = node[position.drop_null().to_numpy()]
    return found


def parse_integers(texts: pa.Array) -> pa.Array:
    """The integers that texts [n] mean as ids: int64 [n], null for a text that is no integer of 64 bits.

    "17.0" means 17, because pandas writes a column of integers with nulls so. With more than 15 digits such a text is no
    integer, since a float does not hold all of its digits.
    """
    texts = pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), r"^(-?[0-9]{1,15})\.0+$", r"\1")
    texts = pc.if_else(pc.match_substring_regex(texts, r"^-?[0-9]{1,19}$"), texts, pa.scalar(None, pa.string()))
    try:
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        # A number of 19 digits is too large for 64 bits. This is rare, so the texts are then read one at a time.
        values = (None if text is None else int(text) for text in texts.to_pylist())
        return pa.array([x if x is not None and -(2**63) <= x < 2**63 else None for x in values], pa.int64())


def _chunks(batches: Iterator[pa.RecordBatch], users: "Encoder", items: "Encoder") -> Iterator[pa.Table]:
    """Join batches into chunks. Encoding a chunk costs a hash table of all known ids, so chunks grow with their number."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= max(CHUNK_ROWS, (len(users.known) + len(items.known)) // 2):
            yield pa.Table.from_batches(held)
            held, rows = [], 0
    if rows:
        yield pa.Table.from_batches(held)


@dataclass
class Encoder:
    """Gives external ids codes 0, 1, ... in order of appearance. `known` has the ids by code."""

    known: pa.Array = field(default_factory=lambda: pa.nulls(0))

    def encode(self, ids: pa.Array) -> npt.NDArray[np.int64]:
        """The codes, int64 [n], of ids [n]. Ids that are new get the next codes."""
        encoded = ids.dictionary_encode()
        unique = encoded.dictionary
        if not len(self.known):
            self.known = unique.slice(0, 0)
        codes = pc.index_in(unique, value_set=self.known)
        new = codes.is_null()
        fresh = np.flatnonzero(new.to_numpy(zero_copy_only=False))
        code_of = codes.fill_null(0).to_numpy().astype(np.int64)
        code_of[fresh] = len(self.known) + np.arange(len(fresh))
        self.known = pa.concat_arrays([self.known, unique.filter(new)])
        return code_of[encoded.indices.to_numpy()]

    def sorted(self) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """(all ids, ascending; int64, by code, the rank of each id among them)."""
        order = pc.sort_indices(self.known).to_numpy()
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return self.known.take(pa.array(order)), rank
