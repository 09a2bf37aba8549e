"""Checkpoints of the log: the ledger of its first N records, so that readers start from there (docs/commit.md).

A checkpoint is a file `log/checkpoint-NNNNNNNNN.json`. It counts when a later record of kind "checkpoint" names its SHA-256:
the chain of records then vouches for it, also where the records before it were removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ...partitioning.errors import InputError
from ...partitioning.storage import Store
from ..layout import LOG, SegmentId, checkpoint_name, checkpoint_number, cut_number, segment_id
from .cuts import is_cut_off, last_cut
from .records import CHECKPOINT, FIRST, Record
from .segments import Chain

FORMAT = 2
"""The format of the file and of the state in it. It changes when `Ledger` makes something else of the same records.
Checkpoints of other formats are passed over."""
EARLIER = 1
"""An earlier format, which lacks `Ticket.closed_at`; `Ledger` fills that in. It is read only where the log no longer begins
at record 1: the records before the checkpoint are gone then, and cannot be read instead."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Checkpoint:
    """The ledger of records 1 to `number`.

    digest: that of record `number`. state: what `Ledger.state` gave. sha256: that of the file.
    """

    number: int
    digest: str
    state: dict[str, Any]
    sha256: str

    @property
    def name(self) -> str:
        """The name of its file under the output."""
        return checkpoint_name(self.number)


def read_checkpoint(store: Store, number: int, formats: Collection[int] = (FORMAT,)) -> Checkpoint | None:
    """The checkpoint that stands for `number` records; None where its format is none of `formats`.

    Raises:
        InputError: the file is damaged.
        FileNotFoundError: there is no such file.
    """
    name = checkpoint_name(number)
    data = store.read(name)
    try:
        content = json.loads(data)
        if content["format"] not in formats:
            return None
        if content["number"] != number:
            raise ValueError(f"it is that of {content['number']} records")
        return Checkpoint(number, content["digest"], dict(content["state"]), store.sha256(data))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{store.root_uri}/{name} is no checkpoint of the log ({error}). Restore it from a backup; where the log "
            "still begins at record 1, it may be removed instead"
        ) from error


def put_checkpoint(store: Store, number: int, digest: str, state: dict[str, Any]) -> dict[str, Any] | None:
    """Write a checkpoint. Returns the body of the record that makes it count, which the caller appends.

    Returns None where a file with another content has this name, or where a purge has removed the file already, because a
    later checkpoint counts.
    """
    name = checkpoint_name(number)
    content = {"format": FORMAT, "number": number, "digest": digest, "state": state}
    data = json.dumps(content, separators=(",", ":")).encode() + b"\n"
    # The file comes before its record, so that no record names a file that is not there yet.
    with contextlib.suppress(FileExistsError):
        store.create(name, data)
    # Read back, because the file may be that of another process: the record must name the SHA-256 of what is there.
    with contextlib.suppress(FileNotFoundError):
        if store.read(name) == data:
            return {"number": number, "file": name, "sha256": hashlib.sha256(data).hexdigest(), "format": FORMAT}
    return None


def open_chain(store: Store) -> tuple[Checkpoint | None, Chain]:
    """The last checkpoint that the log vouches for, or None where there is none, and the records after it.

    Raises:
        InputError: a checkpoint, or a record after the last checkpoint, is missing, damaged, or does not fit the others; or
            the bucket does not exist.
    """
    while True:
        begin, chain = _outlasting_cuts(store, _open)
        # Asked after reading: a cut that was announced meanwhile may have removed what was about to be read.
        if not is_cut_off(store, chain):
            return begin, chain


def read_whole(store: Store, begin: Checkpoint) -> list[Record]:
    """All records that are in the store, also those before the checkpoint `begin`.

    Raises:
        InputError: a record is missing, damaged, or does not fit the others or the checkpoint.
    """

    def read(store: Store, names: Sequence[str]) -> list[Record]:
        _, segments = _segments(store, names)
        number, attempt = segments[0]
        chain = Chain(store, number - 1, FIRST if number == 1 else None, attempt)
        chain.follow()
        chain.check_whole(segments)
        if chain.base < begin.number:
            _check_match(store, begin, chain)
        return chain.records

    return _outlasting_cuts(store, read)


def _outlasting_cuts(store: Store, read: Callable[[Store, Sequence[str]], _T]) -> _T:
    """The result of `read(store, names of all files of the log)`.

    Where it fails, and one of these files has gone since, a cut came in between: the log is listed and read again.

    Raises:
        InputError: the bucket does not exist, or as `read` does when no file has gone.
    """
    while True:
        try:
            names = store.list(LOG)
        except FileNotFoundError as error:
            raise InputError(
                f"output {store.root_uri}: there is no such bucket. Create it, or check `output`"
            ) from error
        try:
            return read(store, names)
        except (InputError, FileNotFoundError):
            if set(names).issubset(store.list(LOG)):
                raise


def _open(store: Store, names: Sequence[str]) -> tuple[Checkpoint | None, Chain]:
    """What `open_chain` returns, from one listing of the log."""
    cut, segments = _segments(store, names)
    # An older format is better than nothing, but only where the records that it stands for are gone.
    formats = {FORMAT} if segments and segments[0][0] == 1 else {FORMAT, EARLIER}
    loose: list[Checkpoint] = []
    begin, chain = None, None
    # The newest checkpoint first: fewest records are left to be read after it.
    for number in sorted(filter(None, map(checkpoint_number, names)), reverse=True):
        if (found := read_checkpoint(store, number, formats)) is not None:
            chain = Chain(store, number, found.digest, origin=found.name)
            chain.follow()
            if _is_vouched_for(store, found, chain.records):
                begin = found
                break
            loose.append(found)  # no record names it: its writer died before that, or records were lost
    if begin is None or chain is None:
        chain = Chain(store)
        chain.follow()
    chain.check_whole(segments)
    # One that no record names proves nothing, but it has to match the records: else the end of the log may be lost.
    for found in loose:
        _check_match(store, found, chain)
    chain.cut = cut
    return begin, chain


def _segments(store: Store, names: Sequence[str]) -> tuple[int, list[SegmentId]]:
    """(number of the last cut, the segments that the cut leaves, in order).

    Older segments are left out. They may be there still, because the purge has not removed them yet, or because a process
    that did not know of the cut wrote them.

    Raises:
        InputError: a file in the folder is none of the log's.
    """
    found = []
    for name in names:
        segment = segment_id(name)
        if segment is not None:
            found.append(segment)
        elif checkpoint_number(name) is None and cut_number(name) is None:
            raise InputError(f"{store.root_uri}/{name} is no record of the log. Move it elsewhere")
    cut, begins = last_cut(store, names)
    return cut, sorted(segment for segment in found if segment >= begins)


def _is_vouched_for(store: Store, found: Checkpoint, later: Sequence[Record]) -> bool:
    """Whether one of the records after the checkpoint names it.

    Raises:
        InputError: a record names the checkpoint with another SHA-256.
    """
    for record in later:
        if record.kind == CHECKPOINT and record.body["number"] == found.number:
            if record.body["sha256"] != found.sha256:
                raise InputError(
                    f"{store.root_uri}/{found.name} was changed: its SHA-256 is not the one of record {record.number} in "
                    f"{record.file}. Restore it from a backup"
                )
            return True
    return False


def _check_match(store: Store, found: Checkpoint, chain: Chain) -> None:
    """Raise InputError unless the chain has the last record that the checkpoint stands for, with the same digest."""
    if chain.head < found.number:
        raise InputError(
            f"{store.root_uri}/{found.name} stands for {found.number} records, but the log ends at record {chain.head}. "
            "Restore the missing files from a backup"
        )
    if chain.records[found.number - chain.base - 1].digest != found.digest:
        raise InputError(
            f"{store.root_uri}/{found.name} does not match record {found.number} of the log: one of the two was changed. "
            "Restore both from a backup"
        )
