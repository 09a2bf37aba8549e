"""The service's loop: one thread that carries out what is due, one batch after the other (docs/serving.md)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ...partitioning.errors import InputError
from ...partitioning.manifest import Graph
from ..lifecycle.acceptance import append_step, read_accepted
from ..lifecycle.decisions import (
    OwnClock,
    Verdict,
    error_class,
    halves,
    judge,
    loses_workers,
    next_batch,
    seconds_until_due,
)
from ..lifecycle.refusals import UnreadableRequest
from ..log.records import FAILED
from ..output.manifest import Manifest
from ..output.session import Session
from ..output.tickets import Ticket
from ..requests.request import Request
from .callback_sender import Sender
from .intake import Intake, View
from .interface import Answer, Arguments, ForwardsRequests, Method, ServiceInterface
from .measured import Measured
from .readouts import Readouts, gone_since, living_ids
from .watcher import Watcher

LONGEST_WAIT_SECONDS = 60.0
LONGEST_SWITCH_SECONDS = 600.0
"""After a `switching` record nothing is carried out for so long at most: it says that a retrain is about to commit."""
REPORT_AFTER_SECONDS = 60.0
"""Evidence of this service's own batches waits while requests wait, but not longer than this after its commit. That of other
processes is written here when it is still missing then: whoever should have written it died or failed."""
LATE_REPORTS = 100
"""The reports that have waited too long and are written between two batches: so many, or as many as the last batch had
requests if that was more, so that evidence does not fall behind for ever. Never more than `serve.max_batch`."""
REPORTS_AT_ONCE = 16
"""The reports that are written before another look whether a request is due."""
FINISH_SECONDS = 10.0
"""The longest time for which evidence is written after the loop was stopped. The next service writes the rest."""

log = logging.getLogger(__name__)


def retry_waits() -> Iterator[float]:
    """The seconds before another attempt at what something keeps from succeeding: 1, 2 and so on, up to a minute."""
    seconds = 1.0
    while True:
        yield seconds
        seconds = min(2 * seconds, LONGEST_WAIT_SECONDS)


class Engine(Protocol):
    """What needs the workers."""

    def carry_out(self, requests: Sequence[Request], before_commit: Callable[[Manifest], None]) -> None:
        """Carry out these requests as one version, as `models.carry_out.carry_out` does. `write_reports` is called for them
        later, when no request is due."""

    def readouts(self, version: Manifest) -> Readouts:
        """The readouts of a version, which the workers load first if they hold another."""

    def write_reports(self, request_ids: Sequence[str]) -> None:
        """Write the evidence of committed requests, which were carried out here, or which a crash or a full disk has kept
        from being written."""


class Service(ForwardsRequests, ServiceInterface):
    """The loop's step, and what is asked from outside. `tick` is called by one thread, everything else by any."""

    def __init__(
        self,
        session: Session,
        intake: Intake,
        engine: Engine,
        clock: Callable[[], float] = time.time,
        sender: Sender | None = None,
        watcher: Watcher | None = None,
        measured: Measured | None = None,
    ) -> None:
        self._session, self.intake, self._engine, self._clock, self._sender = session, intake, engine, clock, sender
        self._watcher, self._measured = watcher, measured
        self._alone: dict[str, int] = {}
        """Requests that are tried by themselves, as `next_batch` takes them."""
        self._parts: list[Sequence[str]] = []
        """Parts of batches that failed, as `next_batch` takes them."""
        self._losses = 0
        """How many attempts in a row have lost workers."""
        self._late: set[str] = set()
        self._waits, self._not_before, self._paused_at = retry_waits(), 0.0, 0
        self._switching: tuple[tuple[float, float] | None, float] = None, 0.0
        """What a retrain asked for, by its own clock (`Ledger.switching`), and when that was seen, by this one."""
        self._own: frozenset[str] = frozenset()
        """The requests that were carried out here, and whose evidence was not tried yet."""
        self._accepted, self._committed = OwnClock(), OwnClock()
        self._last_batch = 0
        """How many requests the last batch had."""
        self._next_report = 0.0
        self._report_attempts: dict[str, int] = {}
        self._shown: Graph | None = None
        """The graph to whose users and items `published` is cut down; None where it is not known."""
        self.published: Readouts | None = None
        self.blocked: str | None = None
        """The class of the error that keeps requests waiting; None where nothing does."""

    def forward(
        self, method: Method[Arguments, Answer], *arguments: Arguments.args, **keywords: Arguments.kwargs
    ) -> Answer:
        """What is asked about requests, the intake answers."""
        answer: Answer = getattr(self.intake, method.__name__)(*arguments, **keywords)
        return answer

    def tick(self) -> float:
        """One step: follow the log, then carry out one batch if any is due. Returns the seconds until the next step has
        something to do, as far as is known. Nothing is raised."""
        try:
            view = self.intake.view()
        except Exception as error:
            left = self._not_before - self._clock()
            return left if left > 0 else self._pause(error)  # a look while it waits makes the wait no longer
        try:
            return self._tick(view)
        except Exception as error:
            return self._pause(error)

    def recommendations(self, user: str, k: int) -> dict[str, Any] | None:
        """As `ServiceInterface.recommendations`."""
        readouts = self.published  # one read: the loop may replace it
        if readouts is None:
            raise LookupError
        found = readouts.recommend(user, k)
        return None if found is None else {"version": readouts.version, "recommendations": found}

    def health(self) -> dict[str, Any]:
        """As `ServiceInterface.health`."""
        version = self.published.version if self.published else None
        watched = {} if self._watcher is None else {"watch_blocked": self._watcher.blocked}
        status = "ok" if version is not None else "starting"
        return {"status": status, "version": version, "blocked": self.blocked, **watched}

    def gauges(self) -> dict[str, float]:
        """As `ServiceInterface.gauges`: those of the intake, and the loop's own."""
        version = self.published.version if self.published else 0
        told = self._sender.gauges() if self._sender else {}
        watched = {} if self._watcher is None else self._watcher.gauges()
        blocked, measured = self.blocked, {} if self._measured is None else self._measured.gauges()
        own: dict[str, float] = {"served_version": version, "blocked": int(blocked is not None)}
        if blocked is not None:
            own[f'blocked_reason{{reason="{blocked}"}}'] = 1
        return self.intake.gauges() | told | watched | own | measured

    def _tick(self, view: View) -> float:
        settings, now = self._session.config, self._clock()
        number = view.current.version if view.current else 0
        self._warn_of_overdue(view.overdue, now)
        # Never longer than the longest wait: the clock may have been set back.
        if 0 < self._not_before - now <= LONGEST_WAIT_SECONDS and number == self._paused_at:
            return self._not_before - now
        self._paused_at = number
        self._load_readouts(view.current)
        self._session.checkpoint_if_due()
        unreported = self._committed.times(view.unreported, now)
        self._write_missing_reports(unreported, now)
        self._write_own_reports(unreported, now)
        grace = settings.forget.grace_seconds
        tickets = {ticket.request_id: ticket for ticket in view.open}
        waiting = self._by_own_clock(view.open, now)
        self._alone = {request_id: losses for request_id, losses in self._alone.items() if request_id in tickets}
        self._parts = [left for part in self._parts if (left := [one for one in part if one in tickets])]
        chosen = next_batch(waiting, now, grace, settings.serve.max_batch, self._alone, self._parts)
        if not chosen:
            self._unblock()
            if self._write_own_reports(unreported, None):
                return 0.0
            return min(settings.serve.poll_seconds, seconds_until_due(waiting, now, grace))
        if (wait := self._seconds_until_switch(view.switching, now)) > 0:
            return min(settings.serve.poll_seconds, wait)
        requests = self._read_requests([tickets[request_id] for request_id in chosen])
        if not requests:
            return 0.0
        self.intake.running = frozenset(chosen)
        whole = self.published
        try:
            # From just before the commit on, whoever is gone in the new version is not served any more.
            self._engine.carry_out(requests, self._drop_removed)
        except Exception as error:
            hidden, self.published = self.published, None  # should the log be unreadable now, it is loaded again later
            after = self.intake.view().current
            committed = after is not None and after.version != number
            # Where nothing was committed, whoever was hidden for it is still there.
            self.published, self._shown = (hidden, self._shown) if committed else (whole, None)
            return self._handle_failure(error, [request.request_id for request in requests])
        finally:
            self.intake.running = frozenset()
        self._set_own(self._own | set(chosen))
        self._last_batch = len(chosen)
        self._unblock()
        return 0.0

    def _by_own_clock(self, tickets: Sequence[Ticket], now: float) -> list[Ticket]:
        """The tickets, none of which waits from a moment that is still to come."""
        waits_from = self._accepted.times({ticket.request_id: ticket.waits_from for ticket in tickets}, now)
        return [
            ticket
            if (at := waits_from[ticket.request_id]) == ticket.waits_from
            else replace(ticket, accepted_again_at=at)
            for ticket in tickets
        ]

    def _seconds_until_switch(self, asked: tuple[float, float] | None, now: float) -> float:
        """How long to wait for a retrain's version.

        Where the clock of its record is ahead of this one, the wait is counted from when the record was first seen.
        """
        if asked != self._switching[0]:
            self._switching = asked, now
        if asked is None:
            return 0.0
        at, seconds = asked
        return min(at, self._switching[1]) + min(seconds, LONGEST_SWITCH_SECONDS) - now

    def _write_missing_reports(self, unreported: Mapping[str, float], now: float) -> None:
        """Write evidence that is missing: once a minute, also where a batch is always due."""
        late = [
            request_id
            for request_id, at in unreported.items()
            if now >= at + REPORT_AFTER_SECONDS and request_id not in self._own
        ]
        if late and not 0 < self._next_report - now <= REPORT_AFTER_SECONDS:
            self._next_report = now + REPORT_AFTER_SECONDS
            # Reports that cannot be written do not keep the others waiting.
            attempts = {request_id: self._report_attempts.get(request_id, 0) for request_id in late}
            chosen = sorted(late, key=attempts.__getitem__)[: self._late_limit]
            self._report_attempts = attempts | {request_id: attempts[request_id] + 1 for request_id in chosen}
            self._engine.write_reports(chosen)

    def _write_own_reports(self, unreported: Mapping[str, float], now: float | None) -> bool:
        """Write evidence of requests that were carried out here, the oldest first; returns whether there was any.

        now: the time, where requests may be due: then only evidence that has waited long enough is written, and not all of
        it at once. None where no request is due.
        """
        own = sorted(self._own & unreported.keys(), key=unreported.__getitem__)
        if now is None:
            chosen = own[:REPORTS_AT_ONCE]
        else:
            late = [request_id for request_id in own if now >= unreported[request_id] + REPORT_AFTER_SECONDS]
            chosen = late[: self._late_limit]
        if not chosen:
            self._set_own(frozenset(own))
            return False
        try:
            self._engine.write_reports(chosen)
        finally:
            # Tried once: what could not be written is tried again with what others have left.
            self._set_own(frozenset(own) - set(chosen))
        return True

    @property
    def _late_limit(self) -> int:
        return min(self._session.config.serve.max_batch, max(LATE_REPORTS, self._last_batch))

    def _set_own(self, own: frozenset[str]) -> None:
        if own != self._own:
            self._own = self.intake.reporting = own

    def finish(self) -> None:
        """Write the evidence that waits, as far as there is time. Nothing is raised."""
        end = time.monotonic() + FINISH_SECONDS
        try:
            while self._own and time.monotonic() < end:
                self._write_own_reports(self.intake.view().unreported, None)
        except Exception as error:
            log.warning("evidence was left to the next service: %s", error_class(error))

    def _warn_of_overdue(self, late: Sequence[Ticket], now: float) -> None:
        """Write to the log, once for each request, that it has become overdue."""
        names = {ticket.request_id for ticket in late}
        if names - self._late:
            hours = (now - late[0].accepted_at) / 3600
            log.warning(
                "%d requests are overdue (forget.deadline_hours); the oldest waits %.0f hours", len(late), hours
            )
        self._late = names

    def _read_requests(self, tickets: Sequence[Ticket]) -> list[Request]:
        """The contents of these requests. A request whose content is damaged is closed as failed, and left out."""
        found = []
        for ticket in tickets:
            try:
                found.append(read_accepted(self._session, ticket))
            except UnreadableRequest as error:
                self._quarantine(ticket.request_id, error)
        return found

    def _load_readouts(self, version: Manifest | None) -> None:
        if version is not None and (self.published is None or self.published.version != version.version):
            # Somebody else may have committed it, and the workers may not be able to load it.
            self._drop_removed(version)
            self.published, self._shown = self._engine.readouts(version), version.graph

    def _drop_removed(self, version: Manifest) -> None:
        """Serve no user and no item any more that this version does not have."""
        graph, shown = version.graph, self._shown
        if self.published is None or (shown is not None and _nodes(shown) == _nodes(graph)):
            return
        gone = None if shown is None else gone_since(self._session, shown, graph)
        if gone is not None:
            self.published = self.published.less(*gone)
        else:
            self.published = self.published.without(*living_ids(self._session, version))
        self._shown = graph

    def _handle_failure(self, error: Exception, batch: Sequence[str]) -> float:
        self._losses = self._losses + 1 if loses_workers(error) else 0
        verdict = judge(error, len(batch) == 1 and batch[0] in self._alone, self._losses)
        still_open = {ticket.request_id for ticket in self.intake.view().open}
        batch = [request_id for request_id in batch if request_id in still_open]
        if verdict is Verdict.LAST:
            for request_id in batch:
                self._alone[request_id] += 1
                log.warning("request %s loses workers by itself: it is tried again after all others", request_id)
        if verdict in (Verdict.WAIT, Verdict.LAST):
            return self._pause(error)
        log.warning("a batch of %d requests failed: %s (%s)", len(batch), error_class(error), verdict.value)
        log.debug("it failed", exc_info=error)
        if verdict is Verdict.ALONE:
            self._parts = [part for part in self._parts if set(part).isdisjoint(batch)]
            if parts := halves(batch):
                self._parts = [*parts, *self._parts]
            else:
                self._alone.update(dict.fromkeys(batch, 0))
        elif verdict is Verdict.QUARANTINE:
            for request_id in batch:
                self._quarantine(request_id, error)
        return 0.0

    def _quarantine(self, request_id: str, error: Exception) -> None:
        append_step(self._session, request_id, FAILED, {"error": error_class(error)})
        self._alone.pop(request_id, None)
        log.error(
            "request %s failed with %s: not tried again until it is asked for again", request_id, error_class(error)
        )

    def _unblock(self) -> None:
        self.blocked, self._waits, self._not_before, self._losses = None, retry_waits(), 0.0, 0

    def _pause(self, error: Exception) -> float:
        self.blocked = error_class(error)
        seconds = next(self._waits)
        self._not_before = self._clock() + seconds
        # Messages for the user name settings and files; those of other exceptions may name anybody.
        log.warning("waiting %g s: %s", seconds, error if isinstance(error, InputError) else self.blocked)
        log.debug("this failed", exc_info=error)
        return seconds


def _nodes(graph: Graph) -> tuple[str, str, str | None]:
    """The files that say which users and items a graph has."""
    return graph.user_file, graph.item_file, graph.gone_file


SLICE_SECONDS = 0.1
"""The longest time that a signal waits for an idle loop."""


def run_loop(service: Service, stopped: Callable[[], bool], poll_seconds: float) -> None:
    """Call `tick` again and again until `stopped`, at once where a request arrives. Then write the evidence that waits."""
    arrived = service.intake.arrived
    while not stopped():
        arrived.clear()
        _wait_for_arrivals(min(service.tick(), poll_seconds), stopped, arrived)
    service.finish()


def _wait_for_arrivals(seconds: float, stopped: Callable[[], bool], arrived: threading.Event) -> None:
    end = time.monotonic() + seconds
    while not stopped() and (left := end - time.monotonic()) > 0 and not arrived.wait(min(left, SLICE_SECONDS)):
        pass
