"""Decisions on deletion requests: pure functions of tickets (output/tickets.py) and of the time (docs/serving.md).

Nothing here reads, writes, waits or uses Ray's actors. Times are in seconds since the epoch; `grace_seconds` is
`forget.grace_seconds`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum

from ray.exceptions import RayError

from ...partitioning.errors import InputError
from ...workers.failures import LOST, Kind, WorkerFailure
from ..log.log import LogConflict
from ..log.records import iso
from ..output.tickets import OPEN, State, Ticket

MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 5, 3600
MAX_LOSSES = 3
"""The number of attempts in a row that may lose workers before a request of the batch is suspected to be the reason."""


# ---- when ------------------------------------------------------------------------------------------------------------


def next_batch(
    tickets: Iterable[Ticket],
    now: float,
    grace_seconds: float,
    limit: int,
    alone: Mapping[str, int] = {},
    parts: Sequence[Collection[str]] = (),
) -> list[str]:
    """The ids of the requests to carry out next: those whose grace window has passed, oldest first, at most `limit`.

    alone: the requests of batches that failed; for each the number of times that it has since lost workers when it was tried
    by itself. They are tried one at a time. Those that have lost none are tried before all other requests, and those that
    have lost some after all others, the ones with the fewest losses first. parts: of batches that failed and were large
    (`halves`). Each is tried as one batch, after the former and before all others.
    """
    due = sorted((t for t in tickets if due_at(t, grace_seconds) <= now), key=lambda t: t.accepted_at)
    suspects = sorted((t.request_id for t in due if t.request_id in alone), key=alone.__getitem__)
    others = [t.request_id for t in due if t.request_id not in alone]
    if others and not (suspects and alone[suspects[0]] == 0):
        part = next((found for part in parts if (found := [one for one in others if one in part])), others)
        return part[:limit]
    return suspects[:1]


def seconds_until_due(tickets: Iterable[Ticket], now: float, grace_seconds: float) -> float:
    """The seconds until the first grace window of these ends, 0 if one has ended; infinity where none will end."""
    return max(0.0, min((due_at(t, grace_seconds) - now for t in tickets), default=math.inf))


def may_cancel(ticket: Ticket, now: float, grace_seconds: float) -> bool:
    """Whether a request can be cancelled: it is open, and still in its grace window or held."""
    return ticket.state in OPEN and now < due_at(ticket, grace_seconds)


def oldest_age(tickets: Iterable[Ticket], now: float) -> float:
    """The seconds since the oldest of these was accepted for the first time; 0 for none."""
    return max((now - t.accepted_at for t in tickets), default=0.0)


def overdue(tickets: Iterable[Ticket], now: float, deadline_seconds: float) -> list[Ticket]:
    """Those of these tickets that were accepted for the first time longer ago than `deadline_seconds`."""
    return [ticket for ticket in tickets if now - ticket.accepted_at > deadline_seconds]


def due_by(ticket: Ticket, deadline_seconds: float) -> str | None:
    """When a request becomes overdue, in ISO-8601; None where its state is final.

    The commands call this value `due_by`. HTTP calls it `expected_completion_time`, as OpenDSR does.
    """
    return None if ticket.final else iso(ticket.accepted_at + deadline_seconds)


def retry_after(
    tickets: Collection[Ticket], now: float, grace_seconds: float, limit: int, arriving: int = 0
) -> int | None:
    """None if one more request may be accepted; else the number of seconds after which the client should try again.

    tickets: the open requests. limit: how many may be open. arriving: the number of requests that are being accepted at
    this moment and have no ticket yet.
    """
    if len(tickets) + arriving < limit:
        return None
    due = seconds_until_due(tickets, now, grace_seconds) if tickets else 0.0
    return max(MIN_RETRY_SECONDS, math.ceil(min(MAX_RETRY_SECONDS, due)))


def due_at(ticket: Ticket, grace_seconds: float) -> float:
    """When the grace window of a request ends; infinity for one that is held.

    Minus infinity where there are no windows: the clock of the machine that accepted it may be ahead of the one that asks.
    """
    if ticket.state is State.HELD:
        return math.inf
    return ticket.waits_from + grace_seconds if grace_seconds else -math.inf


class OwnClock:
    """Times of records by the clock of this process: those that a clock ahead of it wrote count from when they were first
    seen here. Else a request that one machine accepted would wait on another for as long as their clocks differ."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, float], float] = {}

    def times(self, times: Mapping[str, float], now: float) -> dict[str, float]:
        """The times, by id, of which none is later than `now`. Ids that are left out are forgotten."""
        ahead = {(name, at) for name, at in times.items() if at > now}
        known = {(name, at) for name, at in times.items() if (name, at) in self._seen}
        self._seen = {key: min(now, self._seen.get(key, now)) for key in ahead | known}
        return {name: self._seen.get((name, at), at) for name, at in times.items()}


# ---- how much at once ------------------------------------------------------------------------------------------------


def within_limit(
    shares: Mapping[str, float], max_share: float, approved: Collection[str]
) -> tuple[list[str], list[str]]:
    """(the requests of the next version, the requests to hold until somebody approves them), by id.

    shares: the share of the graph that each request removes, oldest request first. A request that alone removes more than
    `max_share` is held unless it is approved. The version takes the other requests in order, up to the first with which it
    would remove more than `max_share`; the rest are left for the next version. An approved request that is larger has a
    version of its own.
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

    AGAIN = "again"  # another process wrote to the log: decide anew on what is there now
    WAIT = "wait"  # the requests are not the reason, but storage, machines, or a version that cannot forget: try later
    LAST = "last"  # the request loses workers by itself: try it after all others, so that it does not block them
    ALONE = "alone"  # one request of the batch may be the reason: try its halves, and in the end each by itself
    QUARANTINE = "quarantine"  # the request failed by itself: close it as failed, so that it does not block the others


SMALLEST_PART = 8
"""The requests of a failed batch of more than so many are not tried one at a time, but in halves."""


def halves(batch: Sequence[str]) -> list[Sequence[str]]:
    """The parts in which a batch is tried after it failed and one of its requests may be the reason; empty if each is to be
    tried by itself. So a request that fails keeps a thousand others for some twenty versions, and not for a thousand."""
    middle = len(batch) // 2
    return [batch[:middle], batch[middle:]] if len(batch) > SMALLEST_PART else []


def loses_workers(error: BaseException) -> bool:
    """Whether the error says that workers were lost, whether their machine or the batch was the reason."""
    return isinstance(error, WorkerFailure) and any(cause.kind in LOST for cause in error.causes.values())


def judge(error: BaseException, alone: bool, losses: int = 0) -> Verdict:
    """What to do after a batch failed with this error.

    alone: whether the batch was one request that had been in a failed batch before. losses: the number of attempts in a row
    that have lost workers, this one included.
    """
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
    """The name of the exception's class, which holds no ids. It is that of the exception in a worker, where there is one."""
    if isinstance(error, WorkerFailure):
        for cause in error.causes.values():
            if cause.kind is Kind.ERROR and cause.exception is not None:
                return type(cause.exception).__name__
    return type(error).__name__
