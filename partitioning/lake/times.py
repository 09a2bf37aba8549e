"""Types of time columns: one unit for all files of a table, in which every value is exact.

Timestamps with a zone are in UTC whatever the zone; those without are taken to be. Dates are timestamps of their
beginning; numbers stay numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError
from .ids import null_error, plain_type

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""How many to a second, coarsest first."""
NUMBER = "int64"

_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?$"
_ZONE = r"[T ].*(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_NANOSECONDS = r"\.[0-9]{7,9}"


class TimeFacts(NamedTuple):
    """What one file has in a column of times."""

    uri: str
    unit: str | None
    """A key of UNITS, or NUMBER; None where it is of the type null."""
    least: int | None = None
    largest: int | None = None
    """In this unit; None where no value is, or where nobody looked."""
    coarsest: str = ""
    """The coarsest unit in which all values are exact; "" where nobody looked."""


def time_unit(column_type: pa.DataType, name: str, uri: str) -> str | None:
    """The unit of timestamps, "s" for dates, NUMBER for numbers, None for the type null.

    Raises:
        InputError: no times are of this type.
    """
    plain = plain_type(column_type)
    if pa.types.is_null(plain):
        return None
    if pa.types.is_timestamp(plain):
        return str(plain.unit)
    if pa.types.is_date(plain):
        return "s"
    if is_number(plain):
        return NUMBER
    raise InputError(
        f"{uri}: column '{name}' (columns.time) is {column_type}; it must be a time: a timestamp, a date or a number. "
        "Cast the column"
    )


def is_number(column_type: pa.DataType) -> bool:
    """Whether the type is one of numbers."""
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(kind(column_type) for kind in kinds)


def time_type(name: str, facts: Sequence[TimeFacts]) -> pa.DataType:
    """The one type of a column: int64, or a timestamp without a zone in the finest unit that holds all values exactly.

    Where units differ, facts must be complete.

    Raises:
        InputError: some files hold numbers and others times, or no unit holds all values. Both files are named.
    """
    first: dict[str, TimeFacts] = {}
    for fact in facts:
        if fact.unit is not None:
            first.setdefault(fact.unit, fact)
    if not first:
        return pa.timestamp("us")
    if len(first) == 1:
        unit = next(iter(first))
        return pa.int64() if unit == NUMBER else pa.timestamp(unit)
    if NUMBER in first:
        here, there = sorted(first.values(), key=lambda fact: facts.index(fact), reverse=True)[:2]
        raise InputError(
            f"{here.uri}: column '{name}' holds {_held(here)}, but {there.uri} holds {_held(there)}. Write the column with "
            "one type in all files"
        )
    order = list(UNITS)
    for unit in order[max(map(order.index, first)) :: -1]:
        if all(_exact(fact, unit) for fact in facts if fact.unit is not None):
            return pa.timestamp(unit)
    finest = max((fact for fact in facts if fact.coarsest), key=lambda fact: order.index(fact.coarsest))
    outside = next(fact for fact in facts if fact.unit is not None and not _exact(fact, finest.coarsest))
    raise InputError(
        f"{outside.uri}: column '{name}' has times that timestamp[{finest.coarsest}] cannot hold, and {finest.uri} has "
        "times that need it. Write the column with one unit in all files"
    )


def _held(fact: TimeFacts) -> str:
    return NUMBER if fact.unit == NUMBER else f"timestamp[{fact.unit}]"


def _exact(fact: TimeFacts, unit: str) -> bool:
    if fact.least is None or fact.largest is None or fact.unit is None:
        return True
    if UNITS[unit] < UNITS[fact.unit]:
        return UNITS[unit] >= UNITS[fact.coarsest]
    factor = UNITS[unit] // UNITS[fact.unit]
    return fact.least * factor >= -(2**63) and fact.largest * factor < 2**63


class Gathered:
    """Facts of a column of int64 in `unit`, by a look at all of it."""

    def __init__(self, uri: str, unit: str) -> None:
        self.facts = TimeFacts(uri, unit, coarsest="s")

    def add(self, column: pa.Array) -> None:
        """Some more of the column."""
        values = column.drop_null().to_numpy()
        if not len(values):
            return
        _, unit, least, largest, coarsest = self.facts
        assert unit is not None
        low, high = int(values.min()), int(values.max())
        while UNITS[coarsest] < UNITS[unit] and (values % (UNITS[unit] // UNITS[coarsest])).any():
            coarsest = list(UNITS)[list(UNITS).index(coarsest) + 1]
        low, high = min(low, low if least is None else least), max(high, high if largest is None else largest)
        self.facts = self.facts._replace(least=low, largest=high, coarsest=coarsest)


def as_int64(column: pa.Array) -> pa.Array:
    """Timestamps and dates as they are stored: int64 in their unit; dates in seconds."""
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if pa.types.is_date(plain.type):
        plain = plain.cast(pa.date32()).cast(pa.timestamp("s"))
    return plain.cast(pa.int64())


def to_times(
    column: pa.Array, target: pa.DataType, name: str, uri: str, rows: Sequence[int] | npt.NDArray[np.int64]
) -> pa.Array:
    """A column of times in its type; rows as in `ids.to_ids`.

    Raises:
        InputError: a time is null, or does not fit.
    """
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    try:
        if pa.types.is_timestamp(plain.type):  # a zone goes through integers, which are in UTC
            cast = plain.cast(pa.int64()).cast(pa.timestamp(plain.type.unit)).cast(target)
        elif pa.types.is_date(plain.type):
            cast = plain.cast(pa.date32()).cast(pa.timestamp("s")).cast(target)
        else:
            cast = plain.cast(target)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{uri}: column '{name}' does not fit {target}: {error}. Use timestamps or whole numbers for times"
        ) from error
    if cast.null_count:
        raise null_error(cast, name, uri, rows)
    return cast


# ---- times written as text --------------------------------------------------------------------------------------------


def text_unit(texts: pa.Array) -> str | None:
    """The unit that times written as text need: "s" for dates alone, "us", or "ns"; None if one is no time."""
    if not pc.all(pc.match_substring_regex(texts, _TIME), min_count=0).as_py():
        return None
    if pc.all(pc.match_substring_regex(texts, _DATE), min_count=0).as_py():
        return "s"
    return "ns" if pc.any(pc.match_substring_regex(texts, _NANOSECONDS)).as_py() else "us"


def parse_texts(texts: pa.Array, unit: str) -> pa.Array:
    """Times written as text (ISO 8601; without a zone in UTC) as timestamps in `unit`.

    Raises:
        ArrowInvalid: one is no time, or does not fit.
    """
    zoned = pc.fill_null(pc.match_substring_regex(texts, _ZONE), False)
    nothing = pa.scalar(None, pa.string())
    with_zone = pc.if_else(zoned, texts, nothing).cast(pa.timestamp(unit, "UTC")).cast(pa.int64())
    without = pc.if_else(zoned, nothing, texts).cast(pa.timestamp(unit)).cast(pa.int64())
    return pc.coalesce(with_zone, without).cast(pa.timestamp(unit))
