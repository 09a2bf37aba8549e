"""What commits of a watched table come to as deletion requests (docs/watching.md). Nothing is accepted here.

The same commit gives the same requests in the same order, at each look: their ids are derived from the table, the commit
and what they name, so that a look that was interrupted is repeated without harm.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from ...partitioning.lake.columns import ID_COLUMNS, Columns
from ...partitioning.lake.data_file import Table
from ...partitioning.lake.following.changes import ROWS_AT_ONCE, fate_of, removed_rows
from ...partitioning.lake.following.history import Commit, History
from ...partitioning.lake.following.new_rows import new_rows
from ..layout import REQUEST_ID
from ..lifecycle.operators import LONGEST_NAME, OPERATOR
from ..requests.request import Range, make_request
from ..requests.rows import KINDS, RANGE, parse_row
from ..requests.times import NANOSECONDS, Moment, moment
from .interface import NewRequest

WATCH = "watch"
"""Who asks for what was deleted in a table, by the log."""
OPTIONAL = ("request_id", "requester")


@dataclass(frozen=True)
class Found:
    """One thing that a commit came to."""

    commit: Commit
    request: NewRequest | None = None
    """None: all of the commit was told."""
    skipped: int = 0
    """Deleted rows whose interaction is still in the table."""
    invalid: str = ""
    """Why a row of a table of requests means nothing; no id."""
    derived: bool = True
    """Whether the request's id is derived from its content; else somebody chose it."""


def named(request: NewRequest, commit: Commit, table_id: str, key: bytes) -> NewRequest:
    """The request under the id that is derived from its content, the table and the commit.

    key: the secret of derived request ids.
    """
    content = make_request(request.users, request.items, request.interactions, "-", key, request.ranges).body()
    text = b"\0".join([b"watch", table_id.encode(), str(commit.position).encode(), content])
    digest = hmac.new(key, text, hashlib.sha256).hexdigest()[:16]
    return replace(request, request_id=f"{WATCH}-{commit.position}-{digest}")


# ---- deletions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeletionRules:
    """How deleted rows become requests."""

    columns: Columns
    whole_users: bool
    max_rows: int


def deletions(
    history: History,
    commits: Sequence[Commit],
    newest: Callable[[], Table],
    rules: DeletionRules,
) -> Iterator[Found]:
    """What each commit deleted, in order.

    A row counts as deleted where nothing like it is left in the table's state `newest`, which is read once for as many
    commits as deleted ROWS_AT_ONCE rows together.
    """
    held: list[tuple[Commit, pa.Table | None]] = []
    rows = 0
    for commit in commits:
        for removed in removed_rows(history, commit, rules.columns):
            if held and (rows + removed.num_rows > ROWS_AT_ONCE or _other_types(held, removed)):
                yield from _judged(held, newest, rules)
                held, rows = [], 0
            held.append((commit, removed))
            rows += removed.num_rows
        held.append((commit, None))
        if not rows:  # nothing to read the table for
            yield from _judged(held, newest, rules)
            held = []
    yield from _judged(held, newest, rules)


def _other_types(held: Sequence[tuple[Commit, pa.Table | None]], rows: pa.Table) -> bool:
    return any(part is not None and part.schema != rows.schema for _, part in held)


def _judged(
    held: Sequence[tuple[Commit, pa.Table | None]], newest: Callable[[], Table], rules: DeletionRules
) -> Iterator[Found]:
    parts = [part for _, part in held if part is not None]
    if parts:
        fate = fate_of(pa.concat_tables(parts), newest(), rules.columns)
    start = 0
    for commit, part in held:
        if part is None:
            yield Found(commit)
            continue
        own = slice(start, start + part.num_rows)
        start += part.num_rows
        yield from _requests(commit, part, fate.user[own], fate.pair[own], fate.event[own], rules)


def _requests(
    commit: Commit, rows: pa.Table, user: Any, pair: Any, event: Any, rules: DeletionRules
) -> Iterator[Found]:
    """The requests for removed rows [n]; the masks are those of `Fate`."""
    whole = ~user if rules.whole_users else np.zeros(len(user), dtype=np.bool_)
    pairs = ~pair & ~whole
    events = ~event & pair if rules.columns.time else np.zeros(len(user), dtype=np.bool_)
    users = dict.fromkeys(rows.filter(pa.array(whole))["user"].to_pylist())
    several = rows.filter(pa.array(pairs))
    # Rows of one interaction at several times are one.
    gone = dict.fromkeys(zip(several["user"].to_pylist(), several["item"].to_pylist(), strict=True))
    ranges = _ranges(rows.filter(pa.array(events))) if rules.columns.time else []
    skipped = int((~whole & ~pairs & ~events).sum()) + sum(one is None for one in ranges)
    if skipped:
        yield Found(commit, skipped=skipped)
    for kind, entries in (("users", users), ("interactions", gone), ("ranges", [one for one in ranges if one])):
        entries_left = iter(entries)
        while chunk := list(islice(entries_left, rules.max_rows)):
            content: dict[str, Any] = {kind: chunk}
            yield Found(commit, NewRequest(**content, requester=WATCH))


def _ranges(rows: pa.Table) -> list[Range | None]:
    """The range that holds just the event, for each row; None where no time range can name it."""
    times = rows["time"]
    per = NANOSECONDS[times.type.unit] if pa.types.is_timestamp(times.type) else None
    found: list[Range | None] = []
    for user, item, time in zip(
        rows["user"].to_pylist(), rows["item"].to_pylist(), times.cast(pa.int64()).to_pylist(), strict=True
    ):
        try:
            bounds = (time, time + 1) if per is None else (moment(time * per), moment((time + 1) * per))
        except ValueError:  # not in the years 1 to 9999
            found.append(None)
            continue
        found.append((user, item, *bounds))
    return found


# ---- a table of requests ---------------------------------------------------------------------------------------------


def requests(history: History, commits: Sequence[Commit]) -> Iterator[Found]:
    """What new rows of a table of requests ask for, in order. Rows of a commit with one request_id are one request; each
    other row is one of its own."""
    for commit in commits:
        chosen: dict[str, dict[str, Any]] = {}
        who: dict[str, str | None] = {}
        for *row, request_id, requester in new_rows(history, commit, ID_COLUMNS, (*RANGE, *OPTIONAL)):
            parsed = parse_row(*(Moment(value[0]) if isinstance(value, tuple) else value for value in row))
            if isinstance(parsed, str):
                yield Found(commit, invalid=parsed)
                continue
            kind, entry = parsed
            name = None if request_id is None else str(request_id)
            asks = _operator(requester)
            if name is not None and REQUEST_ID.fullmatch(name):
                who.setdefault(name, asks)
                chosen.setdefault(name, {kind: [] for kind in KINDS})[kind].append(entry)
            else:
                content: dict[str, Any] = {kind: [entry]}
                yield Found(commit, NewRequest(**content, requester=asks))
        for name, entries in chosen.items():
            request = NewRequest(**entries, request_id=name, requester=who[name])
            yield Found(commit, request, derived=False)
        yield Found(commit)


def _operator(requester: Any) -> str | None:
    """Who asks, where the log can hold the name."""
    name = None if requester is None else str(requester)
    return name if name is not None and len(name) <= LONGEST_NAME and OPERATOR.fullmatch(name) else None


def told(reasons: Counter[str]) -> str:
    """Reasons why rows mean nothing, most frequent first."""
    return "; ".join(f"{count} rows: {reason}" for reason, count in reasons.most_common(5))
