"""Cuts of the log: a cut removes the first segments of the log, and is announced by a file before it does (docs/commit.md).

Without the announcement, a process that stood still for long could create a segment anew whose file was removed, and take
its own record for a part of the log.

The file of the first cut is `log/cut-000001.json`, that of the second `log/cut-000002.json`. A file names the first segment
that the cut leaves. It never changes and is never removed. A process that knows cut n asks for the file of cut n + 1: as
long as that file is not there, all segments that cut n leaves are there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ...partitioning.errors import InputError
from ...partitioning.storage import Store
from ..layout import LOG, SegmentId, cut_name, cut_number, segment_id, segment_name
from .segments import Chain

BEGINNING: SegmentId = (1, 0)
"""The first segment of a log that was never cut off."""


def last_cut(store: Store, listed: Sequence[str]) -> tuple[int, SegmentId]:
    """(number of the last cut, the first segment that it leaves); (0, BEGINNING) where there is no cut.

    listed: the names of all files of the log.

    Raises:
        InputError: the file of the last cut is damaged.
    """
    number = max(filter(None, map(cut_number, listed)), default=0)
    return number, (read_cut(store, number) if number else None) or BEGINNING


def read_cut(store: Store, number: int) -> SegmentId | None:
    """The first segment that cut `number` leaves; None where there is no such cut yet.

    Raises:
        InputError: the file of the cut is damaged.
    """
    name = cut_name(number)
    try:
        begins = segment_id(json.loads(store.read(name))["begins"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        begins = None
    if begins is None:
        raise InputError(f"{store.root_uri}/{name} names no segment of the log. Restore it from a backup")
    return begins


def announce_cut(store: Store, last: SegmentId) -> None:
    """Announce that the segments up to and including `last` are removed. The caller removes them after this returns.

    There must be a segment after `last`.
    """
    while True:
        # Listed anew at each attempt: another purge may have announced a cut meanwhile.
        names = store.list(LOG)
        number, before = last_cut(store, names)
        left = min(segment for segment in map(segment_id, names) if segment is not None and segment > last)
        # The maximum, because a cut never brings back segments that an earlier one left out.
        data = json.dumps({"begins": segment_name(max(before, left))}).encode() + b"\n"
        try:
            # Exclusive creation: cuts are numbered without a gap, since a reader asks for the next number only.
            return store.create(cut_name(number + 1), data)
        except FileExistsError:
            continue  # another purge took this number; processes that know its cut must learn of this one too


def is_cut_off(store: Store, chain: Chain) -> bool:
    """Whether segments were removed behind the place up to which the chain was known to be the log's (`Chain.sure`).

    If so, records that the chain has from there on may not be the log's. Otherwise the whole chain is the log's, and `sure`
    moves to its end. It costs one request to the store, and one more for each cut that is new to the chain.

    Raises:
        InputError: the file of a cut is damaged.
    """
    while (begins := read_cut(store, chain.cut + 1)) is not None:
        if chain.sure < begins:
            return True
        # This cut leaves the place where the chain was sure, so it took nothing that the chain still has to read.
        chain.cut += 1
    chain.sure = chain.next_segment
    return False
