"""The steps of a request: what happened to it and when, as the ledger keeps it and a timeline shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..log.records import RECEIPT


def with_step(steps: Sequence[Any], kind: str, seconds: float) -> list[Any]:
    """The steps of a request, and one more. Of receipts only the newest is kept, since every look at the lake makes one.

    steps: [kind of a record, its seconds since the epoch, and so on], flat, because a ledger holds many of them.
    """
    kept = list(steps)
    if kind == RECEIPT and RECEIPT in kept:
        place = kept.index(RECEIPT)
        del kept[place : place + 2]
    return [*kept, kind, seconds]


def pairs(steps: Sequence[Any]) -> Iterator[tuple[str, float]]:
    """(kind, seconds) of each step, in order."""
    return zip(steps[::2], steps[1::2], strict=True)
