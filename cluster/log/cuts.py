"""Cuts of the log: announced before its first segments are removed, so that nobody who stood still begins one of them anew
(docs/commit.md).

`log/cut-000001.json` is the first one's, and so on. It names the first segment that is left, stays for ever, and never
changes. Who knows of cut n asks for cut n + 1: as long as that is not there, all that cut n leaves is there.
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
    """(number of the last cut, the first segment that it leaves) in a listing of the log; (0, BEGINNING) without one.

    Raises:
        InputError: it is damaged.
    """
    number = max(filter(None, map(cut_number, listed)), default=0)
    return number, (read_cut(store, number) if number else None) or BEGINNING


def read_cut(store: Store, number: int) -> SegmentId | None:
    """The first segment that this cut leaves; None before it is there.

    Raises:
        InputError: it is damaged.
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
    """Tell all who follow the log that its segments up to this one go; then they may be removed. One comes after it."""
    while True:
        names = store.list(LOG)
        number, before = last_cut(store, names)
        left = min(segment for segment in map(segment_id, names) if segment is not None and segment > last)
        data = json.dumps({"begins": segment_name(max(before, left))}).encode() + b"\n"
        try:
            return store.create(cut_name(number + 1), data)
        except FileExistsError:
            continue  # another purge was faster; who opened the log behind its cut has to be told of this one


def is_cut_off(store: Store, chain: Chain) -> bool:
    """Whether the chain ends, or went on since this was asked last, where segments have gone: what it has from there on may
    not be the log's. One request to the store.

    Raises:
        InputError: as `read_cut`.
    """
    while (begins := read_cut(store, chain.cut + 1)) is not None:
        if chain.sure < begins:
            return True
        chain.cut += 1
    chain.sure = chain.next_segment
    return False
