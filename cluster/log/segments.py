"""The files of the log: segments of records as JSON lines. Each record names the hash of the record before it.

A segment is a file such as `log/000000001.json`, named after the number of its first record. It is created whole and never
changed. A copy or a backup may end a file in the middle of a record: what stands behind its last newline is then a torn
tail, and only the records before it count. A file with a torn tail and no whole record leaves its number free: the next
file is `log/000000001-1.json`.
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
    """The records after number `base`. They are read segment by segment, and each is checked against the one before."""

    def __init__(
        self, store: Store, base: int = 0, previous: str | None = FIRST, attempt: int = 0, origin: str = "its beginning"
    ) -> None:
        """base: the number of the record after which the chain begins. previous: the digest of record `base`; None takes
        the one that the first record names. attempt: the attempt of the first segment (`layout.SegmentId`). origin: where
        `previous` comes from, for messages."""
        self._store, self._attempt, self._before, self._origin = store, attempt, previous, origin
        self.base = base
        self.records: list[Record] = []
        self.seen: set[SegmentId] = set()
        self.torn: str | None = None
        """The name of the last file, if it ends in the middle of a record; else None."""
        self.cut, self.sure = 0, self.next_segment
        """cut: the number of the last cut that is known (cuts.py). sure: the segment that came next when the store was last
        asked for a new cut. The records before it are the log's; those from it on may not be, until it is asked again."""

    @property
    def head(self) -> int:
        """The number of the last record."""
        return self.base + len(self.records)

    @property
    def previous(self) -> str | None:
        """The digest of the last record. The next record must name it."""
        return self.records[-1].digest if self.records else self._before

    @property
    def next_segment(self) -> SegmentId:
        """The segment that is to be read, or written, next."""
        return self.head + 1, self._attempt

    @property
    def next_name(self) -> str:
        """The name of the file of `next_segment`."""
        return segment_name(self.next_segment)

    def follow(self) -> None:
        """Read all new segments, up to the first name that is not there.

        It costs one request to the store for each new segment, and one more.

        Raises:
            InputError: a record is unreadable or does not continue the one before; names the file and the record.
        """
        while (data := self.peek()) is not None:
            self.take(data)

    def peek(self) -> bytes | None:
        """The content of the next segment; None where there is none yet. The chain does not change."""
        try:
            return self._store.read(self.next_name)
        except FileNotFoundError:
            return None

    def take(self, data: bytes) -> list[Record]:
        """Add the records of the next segment to the chain, and return them. data: the content of the segment.

        Raises:
            InputError: as `follow`. The chain is then as before.
        """
        name = self.next_name
        *whole, tail = data.split(b"\n")
        records: list[Record] = []
        for line in whole:
            previous = records[-1].digest if records else self.previous
            records.append(self.decode(line + b"\n", self.head + 1 + len(records), previous))
        self.seen.add(self.next_segment)
        self.torn = name if tail or not whole else None
        # A file without a whole record took no number: the next file has the same number and the next attempt.
        self._attempt = 0 if records else self._attempt + 1
        self.records += records
        return records

    def decode(self, line: bytes, number: int, previous: str | None) -> Record:
        """The record that this line of the next segment holds.

        number, previous: the number that it must have, and the digest that it must name; None accepts any digest.

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
        """Check that the chain has all segments that are there.

        The chain ends at the first name that is not there. A segment behind that name shows that a file is missing.

        listed: the segments that were in the store before this chain was read.

        Raises:
            InputError: one of them is not part of the chain; names the place where the chain ends.
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
