"""Which column of a table is what."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

ID_COLUMNS = ("user_id", "item_id")


@dataclass(frozen=True)
class Columns:
    """Which column of the table is what."""

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None
    """When the event was: timestamps, dates, or integers. Kept with the graph, 8 bytes an event."""
    time_unit: str | None = None
    """Of a time column of numbers, since the epoch: "s", "ms", "us" or "ns"; None: not known, only compared."""
    value: str | None = None
    """Numeric strength, for instance a rating. Rows whose value is null, NaN or <= 0 are not interactions."""


def interactions_of(rows: pa.RecordBatch | pa.Table) -> pa.RecordBatch | pa.Table:
    """Those of some rows, columns (user, item, value, ...), that are interactions by their value: not null, not NaN, > 0."""
    return rows.filter(pc.fill_null(pc.greater(rows.column(2), 0.0), False))
