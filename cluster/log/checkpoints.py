"""Checkpoints of the log: what its first N records come to, so that readers start from there (docs/commit.md).

`log/checkpoint-NNNNNNNNN.json` counts when a later record of the log, kind "checkpoint", names its SHA-256: then the
chain vouches for it, also where the records before it were removed.
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
"""Of the file, and of what it comes to: another where `Ledger` makes something else of the same records. A checkpoint of
another format is passed over."""
EARLIER = 1
"""The format without `Ticket.closed_at`, which `Ledger` makes up for. It is read only where the log no longer begins at
record 1, and nothing else is there to read."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Checkpoint:
    """What records 1 to `number` come to; `digest` is that of the last of them, `sha256` that of the file."""

    number: int
    digest: str
    state: dict[str, Any]
    sha256: str

    @property
    def name(self) -> str:
        """Its file under the output."""
        return checkpoint_name(self.number)


def read_checkpoint(store: Store, number: int, formats: Collection[int] = (FORMAT,)) -> Checkpoint | None:
    """The checkpoint of `number` records; None where it has another format than these.

    Raises:
        InputError: it is damaged.
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
    """Write a checkpoint; returns the body of the record that makes it count, None where another one is in its place, or
    a purge has removed it behind a later one."""
    name = checkpoint_name(number)
    content = {"format": FORMAT, "number": number, "digest": digest, "state": state}
    data = json.dumps(content, separators=(",", ":")).encode() + b"\n"
    with contextlib.suppress(FileExistsError):
        store.create(name, data)
    with contextlib.suppress(FileNotFoundError):
        if store.read(name) == data:
            return {"number": number, "file": name, "sha256": hashlib.sha256(data).hexdigest(), "format": FORMAT}
    return None


def open_chain(store: Store) -> tuple[Checkpoint | None, Chain]:
    """The last checkpoint that the log vouches for, None where there is none, and the records after it.

    Raises:
        InputError: a checkpoint, or a record after the last one, is missing, damaged, or does not fit the others; or there
            is no such bucket.
    """
    while True:
        begin, chain = _outlasting_cuts(store, _open)
        if not is_cut_off(store, chain):
            return begin, chain


def read_whole(store: Store, begin: Checkpoint) -> list[Record]:
    """All records that are there, also those before the checkpoint.

    Raises:
        InputError: one of them is missing, damaged, or does not fit the others or the checkpoint.
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
    """What `read` makes of a listing of the log: of another one where files that were listed are gone when it fails."""
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
    cut, segments = _segments(store, names)
    formats = {FORMAT} if segments and segments[0][0] == 1 else {FORMAT, EARLIER}
    loose: list[Checkpoint] = []
    begin, chain = None, None
    for number in sorted(filter(None, map(checkpoint_number, names)), reverse=True):
        if (found := read_checkpoint(store, number, formats)) is not None:
            chain = Chain(store, number, found.digest, origin=found.name)
            chain.follow()
            if _is_vouched_for(store, found, chain.records):
                begin = found
                break
            loose.append(found)  # a crash came before its record, or records were lost
    if begin is None or chain is None:
        chain = Chain(store)
        chain.follow()
    chain.check_whole(segments)
    for found in loose:
        _check_match(store, found, chain)
    chain.cut = cut
    return begin, chain


def _segments(store: Store, names: Sequence[str]) -> tuple[int, list[SegmentId]]:
    """(number of the last cut, the segments that it leaves): others may be there still, or were made by who did not know
    of it."""
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
    """Whether one of the later records names this checkpoint; InputError if it names another content."""
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
    """Raise InputError unless the chain has the record that the checkpoint ends with."""
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
