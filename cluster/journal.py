"""The log: numbered immutable records in segments, each with the hash of the one before (docs/commit.md).

Exclusive creation of a segment decides who wins its numbers. Threads that append at the same time share a segment: while
one is written the others queue, and the next takes all that wait.

Requests to the store: following the log is one `read` more than there are new segments; threads that wait for one
another share it. An append is one `create`; where
another writer was faster, the log is followed and it is one `create` more (on S3 a refused one costs a `read` besides).
Opening lists the folder once, and reads the last checkpoint and the segments after it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Any

from ..partitioning.errors import InputError
from ..partitioning.storage import Store
from .checkpoints import Checkpoint, open_chain, read_whole
from .segments import FIRST, FOLDER, Chain, Record, encode

log = logging.getLogger(__name__)


class JournalConflict(RuntimeError):
    """Another writer appended first."""


@dataclass
class _Append:
    """A record on its way; it is over when there is a record or an error."""

    kind: str
    body: dict[str, Any]
    after: int | None
    void: Callable[[Record], bool]
    record: Record | None = None
    error: BaseException | None = None

    @property
    def over(self) -> bool:
        return self.record is not None or self.error is not None


class Journal:
    """The log of one output, for any number of threads. Holds the records that it has read since it was opened, and those
    after the last checkpoint."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = Condition()
        """Held to read the chain or to extend it, not while a segment is written."""
        self._under_way: bytes | None = None
        """The segment that is being written."""
        self._opened: Chain | None = None
        self._checkpoint: Checkpoint | None = None
        self._warned: str | None = None
        self._begun = self._looked = 0
        """Looks for new segments: how many began, and the last one that has ended."""
        self._turn = Condition()
        self._queue: list[_Append] = []
        self._writing = False

    # ---- reading -----------------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """All records that are there, in order, their chain verified. Reads every file where there is a checkpoint.

        Raises:
            InputError: a record is missing, unreadable, or does not continue the one before; names the file.
        """
        arrived = self._begun
        with self._state:
            chain = self._follow(arrived)
            if self._checkpoint is None:
                return list(chain.records)
            found = self._checkpoint
        return read_whole(self._store, found)

    def since(self, number: int, look: bool = True) -> list[Record]:
        """The records after `number`; without `look` those that this object knows already.

        Raises:
            InputError: as `records`, or some of them were removed behind a checkpoint.
        """
        arrived = self._begun
        with self._state:
            chain = self._follow(arrived) if look else self._open()
            if number >= chain.base:
                return chain.records[number - chain.base :]
        records = self.records()
        if records[0].number > number + 1:
            raise InputError(
                f"{self._store.root_uri}/{FOLDER} begins at record {records[0].number}: record {number + 1} was removed by "
                "`purge --truncate-log`"
            )
        return [record for record in records if record.number > number]

    def head(self) -> int:
        """The number of the last record, 0 for an empty log.

        Raises:
            InputError: as `records`.
        """
        arrived = self._begun
        with self._state:
            return self._follow(arrived).head

    def checkpoint(self) -> Checkpoint | None:
        """The one that reading began at.

        Raises:
            InputError: as `records`.
        """
        with self._state:
            self._open()
            return self._checkpoint

    def _follow(self, arrived: int) -> Chain:
        """arrived: `_begun` when this was asked for. Who had to wait for a look that began later needs none."""
        chain = self._open()
        if self._looked > arrived:
            return chain
        self._begun = begun = self._begun + 1
        while (data := chain.peek()) is not None:
            if data == self._under_way:  # there, but perhaps not durable yet
                self._state.wait_for(lambda: data != self._under_way)
            else:
                chain.take(data)
        self._looked = max(self._looked, begun)
        self._warn(chain)
        return chain

    def _warn(self, chain: Chain) -> None:
        if chain.torn not in (None, self._warned):
            self._warned = chain.torn
            log.warning(
                "%s/%s ends in the middle of record %d: the log goes on after record %d. If this output is a copy, what "
                "stood there is lost in it",
                *(self._store.root_uri, chain.torn, chain.head + 1, chain.head),
            )

    def _open(self) -> Chain:
        if self._opened is None:
            self._checkpoint, self._opened = open_chain(self._store)
        return self._opened

    # ---- writing -----------------------------------------------------------------------------------------------------

    def append(
        self,
        kind: str,
        body: dict[str, Any],
        after: int | None = None,
        void: Callable[[Record], bool] = lambda record: True,
    ) -> Record:
        """Write the next record; it is durable when this returns.

        after: the head that the decision was based on; None takes whatever the head is. void: which records after that
        one make the decision void; by default all do.

        Raises:
            JournalConflict: there is such a record, or the head is not at `after` yet. Nothing was written.
            InputError: as `records`.
            OSError: of the store. Whether the record was written is not known; the log says so later.
        """
        mine = _Append(kind, json.loads(json.dumps(body)), after, void)
        with self._turn:
            self._queue.append(mine)
            while self._writing and not mine.over:
                self._turn.wait()
            if not mine.over:
                together, self._queue = self._queue, []
                self._writing = True
        if not mine.over:
            self._lead(together)
        if mine.error is not None:
            raise mine.error
        assert mine.record is not None
        return mine.record

    def _lead(self, together: list[_Append]) -> None:
        """Write what waits, one's own and that of other threads."""
        try:
            # What depends on the head goes before what does not.
            pending = sorted(together, key=lambda one: one.after is None)
            while pending := [one for one in pending if not one.over]:
                self._write(pending)
        except Exception as error:
            _fail(together, error)
        except BaseException:
            _fail(together, OSError("the write of the log was interrupted"))
            raise
        finally:
            with self._turn:
                self._writing = False
                self._turn.notify_all()

    def _write(self, pending: Sequence[_Append]) -> None:
        """One attempt at one segment with all that may stand in it."""
        with self._state:
            chain = self._open()
            if any(one.after is not None and one.after > chain.head for one in pending):
                chain.follow()
            name, first, lines = chain.next_name, chain.head + 1, b""
            records: list[Record] = []
            placed: list[_Append] = []
            for one in pending:
                if (one.after is not None) and (conflict := _conflict(chain, one.after, one.void)) is not None:
                    one.error = conflict
                elif one.after is None or not any(map(one.void, records)):  # else decided when these are written
                    number, previous = first + len(records), records[-1].digest if records else chain.previous
                    line = encode(number, previous or FIRST, one.kind, one.body)
                    records.append(chain.decode(line, number, previous))
                    placed.append(one)
                    lines += line
            if not placed:
                return
            self._under_way = lines
        try:
            self._store.create(name, lines)
            written = True
        except FileExistsError:
            written = False
        except BaseException:
            with self._state:
                self._end_write()
            raise
        with self._state:
            self._end_write()
            if written:
                there = chain.take(lines)
            else:
                chain.follow()
                there = chain.records[first - 1 - chain.base :][: len(records)]
                # The refusal may be that of a repetition: then the segment is this one, as its nonces tell.
                if [record.digest for record in there] != [record.digest for record in records]:
                    return
        for one, record in zip(placed, there, strict=True):
            one.record = record

    def _end_write(self) -> None:
        self._under_way = None
        self._state.notify_all()


def _conflict(chain: Chain, after: int, void: Callable[[Record], bool]) -> JournalConflict | None:
    """Why a decision on the head `after` does not hold any more; None where it does."""
    if chain.base <= after <= chain.head and not any(map(void, chain.records[after - chain.base :])):
        return None
    return JournalConflict(f"the log is at record {chain.head}, not at {after}")


def _fail(appends: Sequence[_Append], error: BaseException) -> None:
    for one in appends:
        if not one.over:
            one.error = error
