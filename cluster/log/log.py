"""The log: numbered records that never change, in segments; each names the hash of the one before (docs/commit.md).

A segment is created exclusively: of several writers of one segment exactly one succeeds, and gets its numbers. Threads that
append at the same time share a segment: while one segment is being written, other threads queue their records, and the next
segment takes all that are in the queue.

Requests to the store:

- Following the log costs one `read` for each new segment and one more. It costs another `read`, which asks for a new cut
  (cuts.py), where there are new segments or nobody asked within the last second. Threads that follow the log at the same
  time share these requests.
- An append costs one `create`, and one `read` that asks for a new cut. Where another writer was faster, the log is followed
  and both are done once more. On S3 a refused `create` costs a `read` besides.
- Opening the log lists its folder once, reads the last cut, the last checkpoint and the segments after it, and asks for a
  new cut.
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
from .told import tell

CUT_SECONDS = 1.0
"""Following the log asks for a new cut at most this often, where there are no new segments. A process that has stood still
may therefore take an older record for the last one for so long. It cannot append behind that record, because every write
asks for a new cut."""

log = logging.getLogger(__name__)


class LogConflict(RuntimeError):
    """A record was not appended, because another writer's record makes the decision behind it void."""


@dataclass
class _Append:
    """A record that waits to be written. It is over when `record` or `error` is set; `after` and `void` as `Log.append`."""

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
    """The log of one output, for any number of threads.

    It holds the records from the last checkpoint on that were there when it was opened, and all that it has read since.
    Where a cut has removed records that it did not know yet, it opens the log anew.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = Condition()
        """Held by a thread that reads or extends the chain; not held while a segment is written to the store."""
        self._under_way: bytes | None = None
        """The content of the segment that this process is writing at the moment."""
        self._opened: Chain | None = None
        self._checkpoint: Checkpoint | None = None
        self._asked = 0.0
        """When the chain was last known to be the log's, by `time.monotonic`."""
        self._warned: str | None = None
        self._begun = self._looked = 0
        """Looks for new segments are numbered: the last one that began, and the last one that has ended."""
        # Appends: one thread at a time writes, for all threads whose records are in the queue.
        self._turn = Condition()
        self._queue: list[_Append] = []
        self._writing = False

    # ---- reading -----------------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """All records that are in the store, in order, their chain verified.

        Where there is a checkpoint, every segment is read again: use `resume` where the ledger is enough.

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
        """The records after `number`. With look=False only those that this object has read already.

        Raises:
            InputError: as `records`; or some of the records were removed, because a checkpoint stands for them.
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
        """What is needed to go on from record `number`.

        Returns (None, the records after `number`) where this object holds them. Where they begin before its checkpoint,
        returns (the checkpoint, the records after the checkpoint). With look=False the store is not asked for new segments.

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
        """The checkpoint after which this object began to read; None where it began at record 1.

        Raises:
            InputError: as `records`.
        """
        with self._state:
            self._open()
            return self._checkpoint

    def _follow(self, arrived: int) -> Chain:
        """Read all new segments; returns the chain. The caller holds `_state`.

        arrived: the value of `_begun` when the caller asked. A thread that waited while another thread's look began and
        ended does not look itself: that look began after it asked, and so has found all that it may miss.
        """
        chain = self._open()
        if self._looked > arrived:
            return chain
        self._begun = begun = self._begun + 1
        try:
            while (data := chain.peek()) is not None:
                if data == self._under_way:  # our own write: visible, but perhaps not durable before it returns
                    self._state.wait_for(lambda: data != self._under_way)
                    chain = self._open()
                else:
                    chain.take(data)
        except InputError:
            # After a cut the next names may hold records of another process that does not know the cut either.
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
        """The chain as far as this object has read it; opened anew where a cut has made it void.

        The caller holds `_state`.
        """
        # New segments were read since the store was last asked for a cut: ask before they are taken for the log's.
        if self._opened is not None and self._opened.sure != self._opened.next_segment:
            self._leave_cut_off(self._opened)
        if self._opened is None:
            self._asked = time.monotonic()
            self._checkpoint, self._opened = open_chain(self._store)
        return self._opened

    def _leave_cut_off(self, chain: Chain) -> bool:
        """Ask for a new cut. If it makes the chain void, forget the chain and return True; the next `_open` opens the log
        anew."""
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

        after: the head of the log that the decision was based on. With None the record is written behind any head. void:
        tells which records after `after` make the decision void; by default all do.

        Raises:
            LogConflict: a record after `after` makes the decision void, or the log has no record `after` yet. Nothing was
                written.
            InputError: as `records`.
            OSError: the store failed, or the log was cut off where the record would stand. It is not known whether the
                record was written; the log tells later.
        """
        # Through JSON and back: a copy that the caller cannot change any more; and a body that JSON cannot hold fails here,
        # not in the thread that writes.
        mine = _Append(kind, json.loads(json.dumps(body)), after, void)
        with self._turn:
            self._queue.append(mine)
            # The thread that writes takes the whole queue with it: when it ends, our record is over, or is next.
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
        tell(mine.record)
        return mine.record

    def _lead(self, together: list[_Append]) -> None:
        """Write these records, those of this thread and of others, until each is over; then let the next thread write."""
        try:
            # A record with `after` goes first: one without would be a new head before it, and could make it void.
            pending = sorted(together, key=lambda one: one.after is None)
            while pending := [one for one in pending if not one.over]:
                self._write(pending)
        except Exception as error:
            _fail(together, error)
        except BaseException:
            # This thread is being ended; the others must not wait for it for ever.
            _fail(together, OSError("the write of the log was interrupted"))
            raise
        finally:
            with self._turn:
                self._writing = False
                self._turn.notify_all()

    def _write(self, pending: Sequence[_Append]) -> None:
        """One attempt to write one segment, with all of these records that may stand in it.

        It sets `record` or `error` of those that are over. The others stay as they are, and the caller tries again.
        """
        with self._state:
            chain = self._open()
            # Somebody decided on records that this object has not read yet.
            if any(one.after is not None and one.after > chain.head for one in pending):
                chain = self._follow(self._begun)
            name, first, lines = chain.next_name, chain.head + 1, b""
            records: list[Record] = []
            placed: list[_Append] = []
            for one in pending:
                # First against the records that are in the log, then against those that will stand before it in this file.
                if (one.after is not None) and (conflict := _conflict(chain, one.after, one.void)) is not None:
                    one.error = conflict
                elif one.after is None or not any(map(one.void, records)):  # else it is tried again after these records
                    number, previous = first + len(records), records[-1].digest if records else chain.previous
                    line = encode(number, previous or FIRST, one.kind, one.body)
                    records.append(chain.decode(line, number, previous))
                    placed.append(one)
                    lines += line
            if not placed:
                return
            self._under_way = lines
        # Without `_state`: others may read the log while the store works. `_writing` keeps other appends away.
        try:
            self._store.create(name, lines)
            written = True
        except FileExistsError:
            written = False
        except BaseException:
            # Nothing is taken into the chain: the segment may be there or not, and the next look reads it if it is.
            with self._state:
                self._end_write()
            raise
        with self._state:
            self._end_write()
            if written:
                there = chain.take(lines)
            else:
                # Another writer has this segment. Its records are read before anything is decided again.
                self._follow(self._begun)
                there = chain.records[first - 1 - chain.base :][: len(records)]
                # The store's client may have repeated a request that had succeeded, and got a refusal. The segment is then
                # our own, and the digests are equal, since each line has a nonce.
                if [record.digest for record in there] != [record.digest for record in records]:
                    return
            # Last, before anybody is told: a cut that was announced before the write may leave this segment out.
            self._check_counts(chain, name)
        for one, record in zip(placed, there, strict=True):
            one.record = record

    def _check_counts(self, chain: Chain, name: str) -> None:
        """Raise OSError, and remove the segment that was written, if a cut leaves it out: no reader would ever see it."""
        if not self._leave_cut_off(chain):
            return
        with contextlib.suppress(OSError):  # it does not count, whether it is there or not
            self._store.remove(name)
        raise OSError(
            f"{self._store.root_uri}/{name} was left out when `purge --truncate-log` cut the log off: this process had "
            "stood still. Run the command again"
        )

    def _end_write(self) -> None:
        self._under_way = None
        self._state.notify_all()


def _conflict(chain: Chain, after: int, void: Callable[[Record], bool]) -> LogConflict | None:
    """The error to raise where a decision on the head `after` is void; None where it still holds.

    It is void, too, where `after` lies before the first record of the chain, since what came between is not known, or
    behind the last one.
    """
    if chain.base <= after <= chain.head and not any(map(void, chain.records[after - chain.base :])):
        return None
    return LogConflict(f"the log is at record {chain.head}, not at {after}")


def _fail(appends: Sequence[_Append], error: BaseException) -> None:
    """Give this error to all of the appends that are not over."""
    for one in appends:
        if not one.over:
            one.error = error
