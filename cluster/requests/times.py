"""Ends of time ranges (bounds): how people write them, and what they mean for the times that a graph stores.

A bound is either a whole number, in the unit of the time column, or a moment, which is ISO-8601 text in UTC. Moments are
computed as whole nanoseconds since 1970, so that nothing is rounded before it is compared.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

Bound = int | str
"""A bound in canonical form: a number in the unit of the column, or text as `moment` writes it."""


class Moment(int):
    """A moment as nanoseconds since 1970 in UTC. The type tells it from a number in the unit of a column."""


NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""The number of nanoseconds in each unit of time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FRACTION = re.compile(r"(.*:\d\d)[.,](\d{1,9})(\D.*)?", re.DOTALL)
_NUMBER = re.compile(r"[+-]?[0-9]+")
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_FIRST, _LAST = -62135596800 * 10**9, 253402300799 * 10**9
"""The first and the last second of the years 1 to 9999, in nanoseconds since 1970."""


def parse_bound(value: Any) -> Bound | None:
    """The bound that this value means; None for an open end (None, "", NaN).

    A text of digits alone is a number; any other text is ISO-8601. Without a time zone it is in UTC, and a date means its
    midnight. A number with a fraction is rounded up, which means the same for times that are whole numbers.

    Raises:
        ValueError: the value means no bound. The message does not hold the value.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, Moment):
        return moment(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return math.ceil(value)
    if isinstance(value, datetime):
        return moment(_of_datetime(value))
    if isinstance(value, date):
        return moment(_of_datetime(datetime(value.year, value.month, value.day)))
    if isinstance(value, str):
        return int(value) if _NUMBER.fullmatch(value.strip()) else moment(_nanoseconds(value.strip()))
    raise ValueError(f"is neither a number nor ISO-8601 text but {type(value).__name__}")


def moment(nanoseconds: int) -> str:
    """The ISO-8601 text in UTC for a number of nanoseconds since 1970.

    Raises:
        ValueError: the moment is not in the years 1 to 9999.
    """
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    except OverflowError:
        raise ValueError("is not in the years 1 to 9999") from None
    return f"{text.rjust(19, '0')}{f'.{rest:09d}'.rstrip('0') if rest else ''}Z"


def is_empty_range(since: Bound | None, until: Bound | None) -> bool:
    """Whether no time is in [since, until). For a number and a moment this cannot be told without a unit: False then."""
    if isinstance(since, str) and isinstance(until, str):
        return _nanoseconds(since) >= _nanoseconds(until)
    return isinstance(since, int) and isinstance(until, int) and since >= until


def in_unit(since: Bound | None, until: Bound | None, unit: str | None) -> tuple[int, int]:
    """(since, until) as whole numbers of `unit`, for the range [since, until). An open end becomes the end of int64.

    A moment between two whole numbers is rounded up: whole times at or after the moment are at or after the result.

    Raises:
        ValueError: a bound is a moment, and `unit` is None; or the range is empty.
    """
    low, high = (
        open_end if bound is None else min(max(_number(bound, unit), _LOWEST), _HIGHEST)
        for bound, open_end in ((since, _LOWEST), (until, _HIGHEST))
    )
    if low >= high and {type(since), type(until)} == {int, str}:  # else it was compared already, and exactly
        raise ValueError("since is not before until")
    return low, high


def portable(bound: Bound | None, unit: str | None) -> Bound | None:
    """The bound as a moment where `unit` is known, so that its meaning no longer depends on a table."""
    if not isinstance(bound, int) or unit is None:
        return bound
    return moment(min(max(bound * NANOSECONDS[unit], _FIRST), _LAST))


def _number(bound: Bound, unit: str | None) -> int:
    """The bound as a number of `unit`, rounded up.

    Raises:
        ValueError: it is a moment, and `unit` is None.
    """
    if isinstance(bound, int):
        return bound
    if unit is None:
        raise ValueError(
            "is a date, and the table's times are numbers without a unit: set columns.time_unit, ingest again"
        )
    return -(-_nanoseconds(bound) // NANOSECONDS[unit])


def _nanoseconds(text: str) -> int:
    """Nanoseconds since 1970 of ISO-8601 text. Raises ValueError where it is none."""
    # Digits of a second are read apart: datetime keeps six of them, and a moment has up to nine.
    found = _FRACTION.fullmatch(text)
    whole, fraction, zone = (found[1], found[2], found[3] or "") if found else (text, "", "")
    try:
        return _of_datetime(datetime.fromisoformat(whole + zone)) + int(fraction.ljust(9, "0") or 0)
    except (ValueError, OverflowError):
        raise ValueError("is no time: write ISO-8601 (2024-05-01T12:00:00+02:00) or a number") from None


def _of_datetime(value: datetime) -> int:
    elapsed = (value.replace(tzinfo=UTC) if value.tzinfo is None else value) - _EPOCH
    return (elapsed.days * 86400 + elapsed.seconds) * 10**9 + elapsed.microseconds * 1000
