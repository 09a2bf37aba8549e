"""Which columns of a table hold users, items, times and values: a guess by names and types, and how large the table is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError
from ..storage import StorageOptions
from .columns import Columns, interactions_of
from .data_file import Table
from .ids import is_text, plain_type
from .read import columns_of, read_table
from .survey import open_reader
from .times import is_number, text_unit

NAMES: Mapping[str, Sequence[str]] = {
    "user": ("userid", "user", "uid", "userkey", "customerid", "customer", "memberid", "member", "accountid", "account")
    + (
        "visitorid",
        "clientid",
        "reviewerid",
        "readerid",
        "listenerid",
        "playerid",
        "personid",
        "profileid",
        "sessionid",
    ),
    "item": ("itemid", "item", "iid", "itemkey", "productid", "product", "movieid", "movie", "articleid", "trackid")
    + ("songid", "artistid", "bookid", "isbn", "asin", "sku", "gameid", "videoid", "newsid", "contentid", "businessid")
    + ("venueid", "locationid", "poi", "showid", "listingid", "jobid", "recipeid", "postid"),
    "time": ("timestamp", "time", "ts", "eventtime", "datetime", "date", "eventdate", "createdat", "unixreviewtime")
    + ("unixtime", "occurredat", "eventtimestamp", "reviewtime", "updatedat"),
    "value": ("rating", "ratings", "stars", "score", "value", "overall", "count", "playcount", "plays", "weight")
    + ("quantity", "strength", "listens", "clicks"),
}
"""What such columns are called, in small letters and without anything between the words; the likeliest first."""
MAX_IDS = 5_000_000
"""Users or items that are counted exactly; up to twice as many ids are in memory, for each of the two."""
MAX_ROWS = 500_000_000
_SAMPLE = 10_000
Column = tuple[pa.DataType, bool, pa.Array]
"""Type, whether it is text only for want of types, and the first values."""


@dataclass(frozen=True)
class Guess:
    """A column, and why it was taken."""

    name: str
    why: str


@dataclass(frozen=True)
class Size:
    """What was counted; `users` and `items` are at least so many where `exact` is False."""

    users: int
    items: int
    rows: int
    """Rows that are interactions by their value; a pair that stands twice counts twice."""
    skipped: int
    """Rows that are none."""
    exact: bool


def guess_columns(table: Table, given: Mapping[str, str | None]) -> tuple[dict[str, Guess], str | None]:
    """(the columns by role: user, item, and where one looks like it time and value; the unit of a time of numbers).

    given: roles that are settled already, None for one that there is not.

    Raises:
        InputError: a file is unreadable, or nothing can be taken for users or items; names the columns there are.
    """
    there = columns_of(table)
    sample = _sample(table, there)
    taken = {role: Guess(name, "as given on the command line") for role, name in given.items() if name is not None}
    for role in ("user", "item", "time", "value"):
        if role not in given:
            used = {guess.name for guess in taken.values()}
            free = [name for name in there if name in sample and name not in used and _fits(role, sample[name])]
            found = _by_name(role, free) or (_by_type(sample, free) if role == "time" else None)
            if found:
                taken[role] = found
    for role in ("user", "item"):
        if role not in taken:
            used = {guess.name for guess in taken.values()}
            # A number with a point is no id; what a name says is another thing's is left alone.
            free = [name for name in there if name in sample and name not in used and _fits(role, sample[name])]
            if not free:
                raise InputError(
                    f"{table.uri}: no column can be taken for {role}s' ids; it has {', '.join(there)}. Say which it is with "
                    f"columns.{role}=NAME"
                )
            taken[role] = Guess(
                free[0], "a mere guess, as no column's name says it: the first that can hold ids. Check it"
            )
    order = [role for role in ("user", "item", "time", "value") if role in taken]
    unit = _number_unit(sample.get(taken["time"].name)) if "time" in taken else None
    return {role: taken[role] for role in order}, unit


def count(
    table: Table,
    columns: Columns,
    options: StorageOptions,
    max_ids: int = MAX_IDS,
    max_rows: int = MAX_ROWS,
    progress: Callable[[int], None] | None = None,
) -> Size:
    """How large the table is, in one pass over these columns. Ids are kept up to `max_ids` a side; rows are read up to
    `max_rows`.

    Raises:
        InputError: as `read_table`.
    """
    users, items = _Distinct(max_ids), _Distinct(max_ids)
    rows = seen = 0
    exact = True
    for batch in read_table(table, [columns.user, columns.item], options, columns.value, columns.time):
        seen += batch.num_rows
        kept = interactions_of(batch) if columns.value else batch
        rows += kept.num_rows
        users.add(kept.column(0))
        items.add(kept.column(1))
        if progress:
            progress(batch.num_rows)
        if seen >= max_rows:
            exact = False
            break
    return Size(users.count(), items.count(), rows, seen - rows, exact and not (users.full or items.full))


class _Distinct:
    """Distinct values of a stream of arrays of one type."""

    def __init__(self, most: int) -> None:
        self.most, self.full = most, False
        self.known: list[pa.Array] = []
        self.fresh = 0

    def add(self, values: pa.Array) -> None:
        if self.full or not len(values):
            return
        self.known.append(pc.unique(values))
        self.fresh += len(self.known[-1])
        # Merged when the new ones are as many as the old: each value is looked at a few times, and memory stays bounded.
        if self.fresh > max(len(self.known[0]), 1 << 16):
            self._merge()

    def _merge(self) -> None:
        self.known = [pa.chunked_array(self.known).unique()]
        self.fresh = 0
        if len(self.known[0]) > self.most:
            self.known, self.full = [self.known[0][: self.most]], True

    def count(self) -> int:
        if self.known and not self.full:
            self._merge()
        return len(self.known[0]) if self.known else 0


def _sample(table: Table, names: Sequence[str]) -> dict[str, Column]:
    """The columns of the first file that has rows."""
    for data in table.files:
        with closing(open_reader(data)) as reader:
            if reader.num_rows == 0:
                continue
            single = [name for name in names if list(reader.names).count(name) == 1]
            simple = [name for name in single if not pa.types.is_nested(reader.type_of(name))]
            for rows in reader.batches(simple):
                if rows.count:
                    types = {name: (reader.type_of(name), reader.is_untyped(name)) for name in simple}
                    return {name: (*types[name], rows.columns[name][:_SAMPLE]) for name in simple}
    raise InputError(f"{table.uri}: it has no rows. Name a table with at least one interaction")


def _is_number(column: Column) -> bool:
    column_type, untyped, values = column
    return _are_numbers(values) if untyped else is_number(plain_type(column_type))


def _is_time(column: Column) -> bool:
    """Whether it says what it is: a timestamp or a date, or text that is written as one."""
    column_type, untyped, values = column
    if untyped:
        return values.null_count < len(values) and text_unit(values) is not None
    plain = plain_type(column_type)
    return bool(pa.types.is_timestamp(plain) or pa.types.is_date(plain))


def _fits(role: str, column: Column) -> bool:
    column_type, untyped, values = column
    plain = plain_type(column_type)
    number = _is_number(column)
    if role in ("user", "item"):
        fraction = untyped and number and bool(pc.any(pc.match_substring(values, ".")).as_py())
        kind = pa.types.is_integer(plain) or is_text(plain) or pa.types.is_decimal(plain)
        return kind and not (_is_time(column) or fraction)
    return number if role == "value" else number or _is_time(column)


def _are_numbers(texts: pa.Array) -> bool:
    return bool(
        pc.all(pc.match_substring_regex(texts, r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"), min_count=1).as_py()
    )


def _by_name(role: str, free: Sequence[str]) -> Guess | None:
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(free)}
    for known in NAMES[role]:
        if known in plain:
            return Guess(plain[known], "by its name")
    return None


def _by_type(sample: Mapping[str, Column], free: Sequence[str]) -> Guess | None:
    """The only column of times, if there is one."""
    times = [name for name in free if _is_time(sample[name])]
    return Guess(times[0], "the only column of times") if len(times) == 1 else None


def _number_unit(column: Column | None) -> str | None:
    """The unit that puts a time of numbers between 1980 and 2100; None for other times, and where none does."""
    if column is None:
        return None
    column_type, untyped, values = column
    if untyped:
        if not _are_numbers(values):
            return None
        values = pc.cast(values, pa.float64())
    elif not is_number(plain_type(column_type)):
        return None
    largest = pc.max(values).as_py()
    if largest is None:
        return None
    for unit, ticks in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        if 315_532_800 * ticks <= largest <= 4_102_444_800 * ticks:
            return unit
    return None
