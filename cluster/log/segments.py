"""The files of the log: segments of records, each record with the hash of the one before, as JSON lines.

A segment is `log/000000001.json`, named after the number of its first record; it is created whole and never changed. What
stands behind its last newline is a torn tail, as a copy or a backup may leave it; the records before it count. A file
with a torn tail and no whole record leaves its number free: the next one is `log/000000001-1.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from ...partitioning.errors import InputError
from ...partitioning.storage import Store
from ..layout import SegmentId, segment_name
from .records import FIRST, Record


class Chain:
    """Records after number `base`, read from one segment after the other, each checked against the one before."""

    def __init__(
        self, store: Store, base: int = 0, previous: str | None = FIRST, attempt: int = 0, origin: str = "its beginning"
    ) -> None:
        """previous: the digest of record `base`; None takes what the first record names. attempt: of the first file.
        origin: where that digest comes from, for messages."""
        self._store, self._attempt, self._before, self._origin = store, attempt, previous, origin
        self.base = base
        self.records: list[Record] = []
        self.seen: set[SegmentId] = set()
        self.torn: str | None = None
        """The last file, if it ends in the middle of a record."""
        self.cut, self.sure = 0, self.next_segment
        """The last cut that is known (cuts.py), and the segment that came next then: what the chain has from there on may
        not be the log's."""

    @property
    def head(self) -> int:
        """The number of the last record."""
        return self.base + len(self.records)

    @property
    def previous(self) -> str | None:
        """The digest of the last record."""
        return self.records[-1].digest if self.records else self._before

    @property
    def next_segment(self) -> SegmentId:
        """The one to be read, or written, next."""
        return self.head + 1, self._attempt

    @property
    def next_name(self) -> str:
        """Its file."""
        return segment_name(self.next_segment)

    def follow(self) -> None:
        """Read on, to the first name that is not there: one request more than there are new segments.

        Raises:
            InputError: a record is unreadable or does not continue the one before; names the file and the record.
        """
        while (data := self.peek()) is not None:
            self.take(data)

    def peek(self) -> bytes | None:
        """The content of the next segment, None before it is there."""
        try:
            return self._store.read(self.next_name)
        except FileNotFoundError:
            return None

    def take(self, data: bytes) -> list[Record]:
        """The content of the next segment; returns its records.

        Raises:
            InputError: as `follow`. Nothing was taken.
        """
        name = self.next_name
        *whole, tail = data.split(b"\n")
        records: list[Record] = []
        for line in whole:
            previous = records[-1].digest if records else self.previous
            records.append(self.decode(line + b"\n", self.head + 1 + len(records), previous))
        self.seen.add(self.next_segment)
        self.torn = name if tail or not whole else None
        self._attempt = 0 if records else self._attempt + 1
        self.records += records
        return records

    def decode(self, line: bytes, number: int, previous: str | None) -> Record:
        """A record of the next segment.

        Raises:
            InputError: as `follow`.
        """
        place = f"{self._store.root_uri}/{self.next_name}, record {number}"
        try:
            content = json.loads(line)
            named = content["previous"]
            digest = hashlib.sha256(line).hexdigest()
            record = Record(number, content["kind"], content["time"], content["body"], digest, self.next_name)
            continues = content["number"] == number
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{place}, is no record of the log ({error}). Restore the file from a backup") from error
        if not continues or named != (previous or named):
            before = "the record before it" if number > self.base + 1 else self._origin
            raise InputError(
                f"{place}, does not continue {before}: one of the two was changed. Restore both from a backup"
            )
        return record

    def check_whole(self, listed: Iterable[SegmentId]) -> None:
        """listed: the segments that were there before this chain was read.

        Raises:
            InputError: one of them is not part of it; names the place where the chain ends.
        """
        left = sorted(segment for segment in listed if segment[0] > self.base and segment not in self.seen)
        if not left:
            return
        there = f"{self._store.root_uri}/{segment_name(left[0])}"
        if left[0][0] <= self.head:
            file = self.records[left[0][0] - self.base - 1].file
            raise InputError(f"{there} holds a record that {file} holds too. Restore the folder from a backup")
        if self.torn is not None:
            raise InputError(
                f"{self._store.root_uri}/{self.torn} ends in the middle of record {self.head + 1}, but {there} is there: "
                "it was cut off. Restore the file from a backup"
            )
        raise InputError(
            f"{self._store.root_uri}/{self.next_name} is missing, but {there} is there: the log has a gap after record "
            f"{self.head}. Restore the file from a backup"
        )
