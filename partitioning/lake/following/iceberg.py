"""`History` of an Iceberg table: the snapshots from the current one back along its ancestors. It has no change data feed
that shows deletions, so that a commit is told by the difference of two snapshots."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from ...errors import InputError
from ...storage import StorageOptions
from ..data_file import Table
from ..iceberg import load_iceberg, open_iceberg
from ..location import ICEBERG, Selection, parse_location
from .history import BEFORE_ALL, Commit, MissedChanges


class IcebergHistory:
    """As `History`."""

    def __init__(self, table: Table, options: StorageOptions) -> None:
        self.uri, self.table_id = table.uri, str(table.pinned["id"])
        self._location = replace(parse_location(table.uri), format=ICEBERG, selection=Selection())
        self._options = options
        self._snapshots: dict[int, Any] = {
            one.snapshot_id: one for one in load_iceberg(self._location, options).snapshots()
        }
        current = table.pinned["snapshot"]
        self.newest = BEFORE_ALL if current is None else int(current)

    def name(self, position: int) -> str:
        """As `History.name`."""
        return f"snapshot {position}" if position != BEFORE_ALL else "the beginning"

    def has(self, position: int) -> bool:
        """As `History.has`."""
        return position == BEFORE_ALL or position in self._snapshots

    def commits(self, after: int, upto: int) -> Sequence[Commit]:
        """As `History.commits`."""
        found: list[Commit] = []
        position = upto
        while position != after:
            if position == BEFORE_ALL:
                raise InputError(
                    f"{self.uri}: {self.name(after)} is no ancestor of {self.name(upto)}: the table was rolled back or "
                    "replaced. Go on with `unlearnrec watch --from-version N` or `--from-now`"
                )
            snapshot = self._snapshots.get(position)
            if snapshot is None:
                child = self.name(found[-1].position if found else upto)
                lost = (
                    f"snapshot {position}, from which {child} came," if position != _LOST else f"what {child} came from"
                )
                raise MissedChanges(self.uri, lost, "it has expired, or the table was replaced")
            found.append(_commit(snapshot))
            position = found[-1].parent
        return found[::-1]

    def at(self, position: int) -> Table:
        """As `History.at`."""
        if position == BEFORE_ALL:
            return Table(self.uri, [], {"format": ICEBERG})
        return open_iceberg(replace(self._location, selection=Selection(snapshot=position)), self._options)

    def feed(self, commit: Commit, names: Sequence[str]) -> Iterator[tuple[bool, pa.RecordBatch]] | None:
        """None."""
        return None


_LOST = -3
"""The parent of a snapshot that has none, although it is not the first: expiring snapshots takes their names away, too."""


def _commit(snapshot: Any) -> Commit:
    parent = snapshot.parent_snapshot_id
    if parent is None:
        parent = BEFORE_ALL if (snapshot.sequence_number or 0) <= 1 else _LOST
    summary = snapshot.summary
    operation = str(getattr(summary.operation, "value", summary.operation)) if summary is not None else "a commit"
    when = dt.datetime.fromtimestamp(snapshot.timestamp_ms / 1000, dt.UTC).isoformat()
    # A replace holds the same rows in other files.
    removes, adds = operation not in ("append", "replace"), operation not in ("delete", "replace")
    return Commit(int(snapshot.snapshot_id), int(parent), removes, adds, f"{operation} of {when}")
