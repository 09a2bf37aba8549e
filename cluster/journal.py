"""The log: numbered immutable records, each with the hash of the one before. What it says happened, in this order.

Record n is the file `log/000000001.json`, one JSON line. Exclusive creation decides who wins a number; a nonce tells a
writer its own record from another's of the same content, when the answer to a write was lost.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ..partitioning.errors import InputError
from ..partitioning.storage import Store

FOLDER = "log"
_FIRST = "0" * 64


@dataclass(frozen=True)
class Record:
    """One record; `digest` is the SHA-256 of its bytes, which the next one names."""

    number: int
    kind: str
    time: str
    body: dict[str, Any]
    digest: str


class JournalConflict(RuntimeError):
    """Another writer appended first."""


class Journal:
    """The log of one output. Holds the records that it has verified; later calls read only what is new."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: list[Record] = []

    def records(self) -> list[Record]:
        """All records in order, their chain verified.

        Raises:
            InputError: a record is missing, unreadable, or does not continue the one before; names the file.
        """
        there = {self._number(name) for name in self._store.list(FOLDER)}
        known = len(self._records)
        for number in range(1, max(known, *there, 0) + 1):
            # Looked up once more: a listing may miss a record that was written while it ran.
            if number not in there and not self._store.exists(self._name(number)):
                later = min((n for n in there if n > number), default=0)
                why = f"{self._place(later)} is there" if later else "it was there before"
                raise InputError(
                    f"{self._place(number)} is missing, but {why}: the log has a gap. Restore the file from a backup"
                )
            if number > known:
                self._records.append(self._read(number))
        return list(self._records)

    def head(self) -> int:
        """The number of the last record, 0 for an empty log."""
        records = self.records()
        return records[-1].number if records else 0

    def append(self, kind: str, body: dict[str, Any], after: int | None = None) -> Record:
        """Write the next record.

        after: the head that the decision was based on; None takes whatever the head is, and tries again when another
        writer was faster.

        Raises:
            JournalConflict: the head is not `after`. Nothing was written.
            InputError: as `records`.
        """
        while True:
            head = self.head()
            if after is not None and head != after:
                raise JournalConflict(f"the log is at record {head}, not at {after}")
            number = head + 1
            content = {
                "number": number,
                "previous": self._records[-1].digest if self._records else _FIRST,
                "nonce": uuid.uuid4().hex,
                "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "kind": kind,
                "body": body,
            }
            data = json.dumps(content, separators=(",", ":")).encode() + b"\n"
            try:
                self._store.create(self._name(number), data)
            except FileExistsError:
                continue
            record = Record(number, kind, str(content["time"]), json.loads(data)["body"], self._store.sha256(data))
            self._records.append(record)
            return record

    def _read(self, number: int) -> Record:
        data = self._store.read(self._name(number))
        try:
            content = json.loads(data)
            previous = content["previous"]
            record = Record(number, content["kind"], content["time"], content["body"], self._store.sha256(data))
            continues = content["number"] == number
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._place(number)} is no record of the log ({error}). Restore it from a backup"
            ) from error
        expected = self._records[-1].digest if self._records else _FIRST
        if not continues or previous != expected:
            raise InputError(
                f"{self._place(number)} does not continue the record before it: one of the two was changed. Restore both "
                "from a backup"
            )
        return record

    def _name(self, number: int) -> str:
        return f"{FOLDER}/{number:09d}.json"

    def _place(self, number: int) -> str:
        return f"{self._store.root_uri}/{self._name(number)}"

    def _number(self, name: str) -> int:
        stem = name.removeprefix(f"{FOLDER}/").removesuffix(".json")
        if not stem.isdecimal() or name != self._name(int(stem)):
            raise InputError(f"{self._store.root_uri}/{name} is no record of the log. Move it elsewhere")
        return int(stem)
