"""What becomes of deletion requests: pure decisions on tickets (output/ledger.py) and the clock (docs/serving.md).

Nothing here reads, writes, waits or knows Ray's actors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from enum import Enum

from ray.exceptions import RayError

from ...partitioning.errors import InputError
from ...workers.failures import LOST, Kind, WorkerFailure
from ..log.log import LogConflict
from ..log.records import iso
from ..output.ledger import OPEN, State, Ticket

MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 5, 3600
MAX_LOSSES = 3
"""So often in a row a batch may lose workers before one of its requests is suspected."""


# ---- when ------------------------------------------------------------------------------------------------------------


def next_batch(
    tickets: Iterable[Ticket], now: float, grace_seconds: float, limit: int, alone: Mapping[str, int] = {}
) -> list[str]:
    """The requests to carry out next: those whose grace window has passed, oldest first, up to `limit`.

    alone: requests of a batch that failed, with the number of times that each lost workers by itself since. They are
    tried one by one: before the others while that is zero, else after all others, the ones with the fewest losses first.
    """
    due = sorted((t for t in tickets if _due_at(t, grace_seconds) <= now), key=lambda t: t.accepted_at)
    suspects = sorted((t.request_id for t in due if t.request_id in alone), key=alone.__getitem__)
    others = [t.request_id for t in due if t.request_id not in alone]
    if others and not (suspects and alone[suspects[0]] == 0):
        return others[:limit]
    return suspects[:1]


def seconds_until_due(tickets: Iterable[Ticket], now: float, grace_seconds: float) -> float:
    """Until the next grace window ends; infinity where nothing is open."""
    return max(0.0, min((_due_at(t, grace_seconds) - now for t in tickets), default=math.inf))


def may_cancel(ticket: Ticket, now: float, grace_seconds: float) -> bool:
    """Whether it is still in its grace window, or held."""
    return ticket.state in OPEN and now < _due_at(ticket, grace_seconds)


def oldest_age(tickets: Iterable[Ticket], now: float) -> float:
    """Seconds since the oldest of these was first accepted, 0 for none."""
    return max((now - t.accepted_at for t in tickets), default=0.0)


def overdue(tickets: Iterable[Ticket], now: float, deadline_seconds: float) -> list[Ticket]:
    """Those that were first accepted longer ago than the deadline."""
    return [ticket for ticket in tickets if now - ticket.accepted_at > deadline_seconds]


def due_by(ticket: Ticket, deadline_seconds: float) -> str | None:
    """When it becomes overdue, in ISO-8601; None where it has its answer.

    The commands call this `due_by`, and HTTP calls it `expected_completion_time`, as OpenDSR does.
    """
    return None if ticket.final else iso(ticket.accepted_at + deadline_seconds)


def retry_after(
    tickets: Collection[Ticket], now: float, grace_seconds: float, limit: int, arriving: int = 0
) -> int | None:
    """None where one more request may be accepted; else the seconds after which another attempt is worth it.

    arriving: requests that are being accepted at this moment, besides these.
    """
    if len(tickets) + arriving < limit:
        return None
    due = seconds_until_due(tickets, now, grace_seconds) if tickets else 0.0
    return max(MIN_RETRY_SECONDS, math.ceil(min(MAX_RETRY_SECONDS, due)))


def _due_at(ticket: Ticket, grace_seconds: float) -> float:
    return math.inf if ticket.state is State.HELD else ticket.waits_from + grace_seconds


# ---- how much at once ------------------------------------------------------------------------------------------------


def within_limit(
    shares: Mapping[str, float], max_share: float, approved: Collection[str]
) -> tuple[list[str], list[str]]:
    """(the requests of one version, those to hold until somebody approves them).

    shares: of the graph that each request removes, oldest request first. One that alone removes more than `max_share` is
    held unless it is approved. The version takes the others up to the first with which it would remove more; the rest are
    left for the next version. An approved one that is larger has a version of its own.
    """
    held = [name for name, share in shares.items() if share > max_share and name not in approved]
    batch: list[str] = []
    total = 0.0
    for name in (name for name in shares if name not in held):
        total += shares[name]
        if batch and total > max_share:
            break
        batch.append(name)
    return batch, held


# ---- after a failure -------------------------------------------------------------------------------------------------


class Verdict(Enum):
    """What to do when a batch failed."""

    AGAIN = "again"  # somebody else committed: decide anew on what is there now
    WAIT = "wait"  # not the requests' fault: storage, machines, or a version that cannot forget
    LAST = "last"  # it loses workers by itself: after all others, so that it does not block them
    ALONE = "alone"  # one of the batch may be poison: try each by itself
    QUARANTINE = "quarantine"  # it failed by itself: close it, so that it does not block the others


def loses_workers(error: BaseException) -> bool:
    """Whether workers were lost, be it to their machine or to the batch."""
    return isinstance(error, WorkerFailure) and any(cause.kind in LOST for cause in error.causes.values())


def judge(error: BaseException, alone: bool, losses: int = 0) -> Verdict:
    """alone: whether the batch was one request that had been in a failed batch before. losses: how many attempts in a row
    have lost workers, this one included."""
    if isinstance(error, LogConflict):
        return Verdict.AGAIN
    if loses_workers(error):
        if alone:
            return Verdict.LAST
        return Verdict.WAIT if losses < MAX_LOSSES else Verdict.ALONE
    if isinstance(error, WorkerFailure):
        if Kind.ERROR not in {cause.kind for cause in error.causes.values()}:
            return Verdict.WAIT
    elif isinstance(error, InputError | OSError | MemoryError | RayError):
        return Verdict.WAIT
    return Verdict.QUARANTINE if alone else Verdict.ALONE


def error_class(error: BaseException) -> str:
    """The name of what went wrong, which names nobody; of a worker's own exception where there is one."""
    if isinstance(error, WorkerFailure):
        for cause in error.causes.values():
            if cause.kind is Kind.ERROR and cause.exception is not None:
                return type(cause.exception).__name__
    return type(error).__name__
