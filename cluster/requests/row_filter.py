"""Finds the rows of a table that name something on the suppression list (`lifecycle/suppression.py`)."""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...partitioning.errors import InputError
from ...partitioning.graph import Encoder
from .digests import ANY_ITEM, Digests, id_digest, pair_digest
from .times import Bound, in_unit

_TIMES_NEEDED = (
    "a time range is on the suppression list, and what it means for the table's times is not known: forgotten data could "
    "come back. Set columns.time, and columns.time_unit, as they were when it was forgotten"
)


class RowFilter:
    """Tells which rows of a table name something on a list.

    Each distinct id of the table is hashed once. Pairs are hashed only if the list has pairs: then each distinct pair of a
    call is.
    """

    def __init__(self, key: bytes, listed: Digests, time_unit: str | None = None) -> None:
        """key: that of the digests in `listed`. time_unit: the unit of a time column that holds numbers; None where it is
        not known."""
        self._key, self._pairs, self._time_unit = key, listed["pairs"], time_unit
        self._ranges: dict[bytes, list[tuple[bytes, Bound | None, Bound | None]]] = {}
        for entry in listed["ranges"]:
            since, until = json.loads(entry[64:])
            self._ranges.setdefault(entry[:32], []).append((entry[32:64], since, until))
        self._sides = [_Side(key, b"user\0", listed["users"], self._ranges), _Side(key, b"item\0", listed["items"])]

    @property
    def needs_times(self) -> bool:
        """Whether there is a time range on the list, so that the times of rows are needed."""
        return bool(self._ranges)

    def __call__(self, users: pa.Array, items: pa.Array, times: pa.Array | None = None) -> npt.NDArray[np.bool_]:
        """Tell which rows name something on the list: bool [n].

        users, items: [n], int64 or string. times: [n], as `lake.read_table` gives them.

        Raises:
            InputError: a time range is on the list, and what it means for these times is not known.
        """
        named = np.zeros(len(users), dtype=bool)
        codes = []
        for side, ids in zip(self._sides, (users, items), strict=True):
            if side.wanted or self._pairs or self._ranges:
                codes.append(side.codes(ids))
                named |= side.listed[codes[-1]]
        if self._pairs:
            digests, row = self._pair_digests(codes[0], codes[1])
            named |= np.array([digest in self._pairs for digest in digests], dtype=bool)[row]
        if self._ranges:
            if times is None:
                raise InputError(_TIMES_NEEDED)
            named |= self._ranged(codes[0], codes[1], times)
        return named

    def _pair_digests(
        self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]
    ) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        """(digests of the distinct pairs, int64 [n] the place among them of the pair of each row)."""
        pairs, row = np.unique((users << 32) | items, return_inverse=True)
        texts = (side.texts(code) for side, code in zip(self._sides, (pairs >> 32, pairs & 0xFFFFFFFF), strict=True))
        return [pair_digest(self._key, user, item) for user, item in zip(*texts, strict=True)], row.reshape(-1)

    def _ranged(
        self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], times: pa.Array
    ) -> npt.NDArray[np.bool_]:
        """bool [n]: the rows whose time lies in a listed range of their user, or of their pair."""
        unit = times.type.unit if pa.types.is_timestamp(times.type) else self._time_unit
        hit = np.zeros(len(users), dtype=bool)
        rows = np.flatnonzero(self._sides[0].ranged[users])
        numbers = times.take(pa.array(rows)).cast(pa.int64()).to_numpy()
        owners, first = np.unique(users[rows], return_inverse=True)
        for owner, text in enumerate(self._sides[0].texts(owners)):
            mine = np.flatnonzero(first.reshape(-1) == owner)
            digests, of_pair = self._pair_digests(users[rows[mine]], items[rows[mine]])
            for pair, since, until in self._ranges[id_digest(self._key, b"user\0", text)]:
                low, high = _in_unit(since, until, unit)
                inside = (numbers[mine] >= low) & (numbers[mine] < high)
                if pair != ANY_ITEM:
                    inside &= np.array([digest == pair for digest in digests], dtype=bool)[of_pair]
                hit[rows[mine[inside]]] = True
        return hit


def _in_unit(since: Bound | None, until: Bound | None, unit: str | None) -> tuple[int, int]:
    """As `times.in_unit`, with InputError: a number on the list has no unit, so that it can only be compared with numbers
    without one."""
    try:
        if unit is not None and (isinstance(since, int) or isinstance(until, int)):
            raise ValueError(f"is a number without a unit, and the table has {unit}")
        return in_unit(since, until, unit)
    except ValueError as error:
        raise InputError(f"{_TIMES_NEEDED}: an end of it {error}") from None


class _Side:
    """The distinct ids of one side, with codes 0, 1, ... in order of appearance.

    listed, ranged: bool by code, whether the id is on the list, and whether the list has a time range of it.
    """

    def __init__(self, key: bytes, domain: bytes, wanted: set[bytes], ranges: Collection[bytes] = ()) -> None:
        self._key, self._domain, self.wanted, self._ranges = key, domain, wanted, ranges
        self._encoder, self.listed, self.ranged = Encoder(), np.empty(0, dtype=bool), np.empty(0, dtype=bool)

    def codes(self, ids: pa.Array) -> npt.NDArray[np.int64]:
        """The codes [n] of ids [n]; new ids get new codes."""
        codes = self._encoder.encode(ids)
        new = self._encoder.known.slice(len(self.listed)).to_pylist()
        hashed = [id_digest(self._key, self._domain, str(x)) if self.wanted or self._ranges else b"" for x in new]
        self.listed = np.concatenate([self.listed, np.array([x in self.wanted for x in hashed], dtype=bool)])
        self.ranged = np.concatenate([self.ranged, np.array([x in self._ranges for x in hashed], dtype=bool)])
        return codes

    def texts(self, codes: npt.NDArray[np.int64]) -> list[str]:
        """The ids of these codes as text, as they were hashed."""
        return [str(x) for x in self._encoder.known.take(pa.array(codes)).to_pylist()]
