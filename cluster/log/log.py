"""The log: numbered immutable records in segments, each with the hash of the one before (docs/commit.md).

Exclusive creation of a segment decides who wins its numbers. Threads that append at the same time share a segment: while
one is written the others queue, and the next takes all that wait.

Requests to the store: following the log is one `read` more than there are new segments, and one that asks for a new cut
(cuts.py) where there are any, or nobody asked within the last second; threads that wait for one another share them. An
append is one `create`, and one `read` that asks for a new cut; where another writer was faster, the log is followed and it
is both once more (on S3 a refused `create` costs a `read` besides). Opening lists the folder once, reads the last cut, the
last checkpoint and the segments after it, and asks for a new cut.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.storage import Store
from ..layout import LOG
from .checkpoints import Checkpoint, open_chain, read_whole
from .cuts import is_cut_off
from .records import FIRST, Record, encode
from .segments import Chain

CUT_SECONDS = 1.0
"""A look that finds nothing asks for a new cut only so often: for so long after it stood still, a process may take an older
record for the last one. Not to append behind it: a write always asks."""

log = logging.getLogger(__name__)


class LogConflict(RuntimeError):
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


class Log:
    """The log of one output, for any number of threads. Holds the records that it has read since it was opened, and those
    after the last checkpoint; it opens the log anew where that was cut off behind the last record that it knew."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = Condition()
        """Held to read the chain or to extend it, not while a segment is written."""
        self._under_way: bytes | None = None
        """The segment that is being written."""
        self._opened: Chain | None = None
        self._checkpoint: Checkpoint | None = None
        self._asked = 0.0
        """When it was known the last time that the chain is the log's, by `time.monotonic`."""
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
        checkpoint, found = self.resume(number, look)
        if checkpoint is None:
            return found
        records = self.records()
        if records[0].number > number + 1:
            raise InputError(
                f"{self._store.root_uri}/{LOG} begins at record {records[0].number}: record {number + 1} was removed by "
                "`purge --truncate-log`"
            )
        return [record for record in records if record.number > number]

    def resume(self, number: int, look: bool = True) -> tuple[Checkpoint | None, list[Record]]:
        """(None, the records after `number`), or (the checkpoint that reading begins at, the records after it) where that
        stands for record `number` + 1 as well. Without `look` as far as this object knows already.

        Raises:
            InputError: as `records`.
        """
        arrived = self._begun
        with self._state:
            chain = self._follow(arrived) if look else self._open()
            if number >= chain.base:
                return None, chain.records[number - chain.base :]
            return self._checkpoint, list(chain.records)

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
        try:
            while (data := chain.peek()) is not None:
                if data == self._under_way:  # there, but perhaps not durable yet
                    self._state.wait_for(lambda: data != self._under_way)
                    chain = self._open()
                else:
                    chain.take(data)
        except InputError:
            if not self._leave_cut_off(chain):
                raise
        if time.monotonic() >= self._asked + CUT_SECONDS:
            self._leave_cut_off(chain)
        chain = self._open()
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
        """The chain, as far as it is known and is the log's."""
        if self._opened is not None and self._opened.sure != self._opened.next_segment:
            self._leave_cut_off(self._opened)
        if self._opened is None:
            self._asked = time.monotonic()
            self._checkpoint, self._opened = open_chain(self._store)
        return self._opened

    def _leave_cut_off(self, chain: Chain) -> bool:
        """Give the chain up, if it was cut off; says whether it was."""
        asked = time.monotonic()
        if not is_cut_off(self._store, chain):
            self._asked = asked
            return False
        if self._opened is chain:
            self._opened = None
            log.warning(
                "%s/%s was cut off by `purge --truncate-log` behind record %d, the last that this process knew: it goes on "
                "from the checkpoint",
                *(self._store.root_uri, LOG, chain.head),
            )
        return True

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
            LogConflict: there is such a record, or the head is not at `after` yet. Nothing was written.
            InputError: as `records`.
            OSError: of the store, or the log was cut off where the record would stand. Whether it was written is not known;
                the log says so later.
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
                chain = self._follow(self._begun)
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
                self._follow(self._begun)
                there = chain.records[first - 1 - chain.base :][: len(records)]
                # The refusal may be that of a repetition: then the segment is this one, as its nonces tell.
                if [record.digest for record in there] != [record.digest for record in records]:
                    return
            self._check_counts(chain, name)
        for one, record in zip(placed, there, strict=True):
            one.record = record

    def _check_counts(self, chain: Chain, name: str) -> None:
        """Raise OSError, and remove the segment that was written, if the log was cut off behind it."""
        if not self._leave_cut_off(chain):
            return
        with contextlib.suppress(OSError):  # a cut leaves it out, whether it is there or not
            self._store.remove(name)
        raise OSError(
            f"{self._store.root_uri}/{name} was left out when `purge --truncate-log` cut the log off: this process had "
            "stood still. Run the command again"
        )

    def _end_write(self) -> None:
        self._under_way = None
        self._state.notify_all()


def _conflict(chain: Chain, after: int, void: Callable[[Record], bool]) -> LogConflict | None:
    """Why a decision on the head `after` does not hold any more; None where it does."""
    if chain.base <= after <= chain.head and not any(map(void, chain.records[after - chain.base :])):
        return None
    return LogConflict(f"the log is at record {chain.head}, not at {after}")


def _fail(appends: Sequence[_Append], error: BaseException) -> None:
    for one in appends:
        if not one.over:
            one.error = error
