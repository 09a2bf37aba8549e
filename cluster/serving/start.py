"""What both ways to start the service need: workers behind the loop, checks, callbacks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ...distributed.partition.partition import Partition
from ...partitioning.storage import is_away
from ...workers import WorkerGroup, calling
from ..config.request_sections import Serve as Settings
from ..evidence.waiting import Waiting
from ..lifecycle.suppression import open_list
from ..models.carry_out import carry_out
from ..output.manifest import Manifest
from ..output.session import Session
from ..reporting.logs import fields
from ..reporting.progress import Progress
from ..requests.request import Request
from ..tracking.run import Run, trackers_of
from .callback_sender import Sender, SendingRules
from .callbacks import Outbox, load_key, url_pattern
from .intake import Intake
from .measured import Measured
from .readouts import Readouts, followed, make_readouts
from .service import Engine, Service, retry_waits
from .watcher import Watcher

IN_PROGRESS = "in_progress"
"""The state of requests whose batch is under way. It stands in no record of the log."""

log = logging.getLogger(__name__)


class WorkerEngine:
    """The `Engine` of workers that run."""

    def __init__(
        self,
        session: Session,
        group: WorkerGroup,
        progress: Progress,
        measured: Measured | None = None,
        run: Run | None = None,
    ) -> None:
        """measured: is told of what is carried out. run: sends it to trackers; None where there are none."""
        self._session, self._group, self._progress, self._run = session, group, progress, run
        self._measured = measured or Measured(session.config.cluster.partitions)
        self._measured.group = group
        self._waiting = Waiting(session, progress)
        self._last: tuple[Manifest, Readouts] | None = None
        """The readouts that were made last, and their version."""

    def carry_out(self, requests: Sequence[Request], before_commit: Callable[[Manifest], None]) -> None:
        """As `Engine.carry_out`."""
        for request in requests:
            more = fields(request=request.request_id, state=IN_PROGRESS)
            log.info("request %s: %s", request.request_id, IN_PROGRESS.replace("_", " "), extra=more)
        # Before the workers go on to another version: they hold that of the last batch, whose forgotten pairs they score.
        self._waiting.look(self._group)
        begun = time.time()
        answers = carry_out(self._session, requests, self._group, self._progress, before_commit=before_commit)
        if self._run is not None:
            self._run.requests(list(answers.values()))
        tickets = self._session.ledger(look=False).tickets
        self._measured.carried_out(answers, map(tickets.__getitem__, answers), begun, time.time())
        self._waiting.committed(list(answers.values()))

    def readouts(self, version: Manifest) -> Readouts:
        """As `Engine.readouts`: a copy of what the workers computed.

        Raises:
            InputError: the version is of another number of partitions than there are workers.
        """
        self._session.check_partitions(version.graph)
        embeddings = self._session.call(self._group, version, calling(Partition.readouts))
        known = None
        if self._last is not None:
            known = followed(self._session, *self._last, version, embeddings)
        self._last = version, known or make_readouts(self._session, version, embeddings)
        return self._last[1]

    def write_reports(self, request_ids: Sequence[str]) -> None:
        """As `Engine.write_reports`. Those of requests that another process carried out are without scores: the workers hold
        the current version, not that of the requests."""
        start = time.perf_counter()
        self._waiting.write(request_ids, self._group)
        self._measured.evidence_written(len(request_ids), time.perf_counter() - start)


def check_servable(session: Session) -> None:
    """Raise InputError unless there is something to serve, the key of the suppression list where there is one, and the
    packages of the section `tracking`."""
    trackers_of(session.config)
    session.whole_version()
    open_list(session.store)


def retry_while_storage_is_away(work: Callable[[], None], say: Callable[[str], None]) -> None:
    """Do `work`, and try it again for as long as the storage does not answer.

    say: is called with one line before each wait. The waits are those of the loop.
    """
    for seconds in retry_waits():
        try:
            return work()
        except OSError as error:
            if not is_away(error):
                raise
            say(f"waiting {seconds:g} s, the storage does not answer: {type(error).__name__}: {error}")
            time.sleep(seconds)


def callback_pattern(settings: Settings) -> str | None:
    """The pattern of the URLs that may be called; None where none may."""
    return url_pattern(settings.callback_hosts) if settings.callback_hosts else None


@contextmanager
def open_service(session: Session, engine: Engine, measured: Measured | None = None) -> Iterator[Service]:
    """The service on an output, with its callbacks where any are allowed. The caller runs its loop (`run_loop`).

    measured: what the engine tells, for `/metrics`.

    Raises:
        InputError: as `callbacks.load_key`.
    """
    settings = session.config.serve
    pattern = callback_pattern(settings)
    if pattern is None:
        intake = Intake(session)
        with _watching(session, intake) as watcher:
            yield Service(session, intake, engine, watcher=watcher, measured=measured)
        return
    key, outbox = load_key(), Outbox(session.store)
    intake = Intake(session, outbox=outbox)
    rules = SendingRules(key, pattern, settings.callback_attempts, settings.poll_seconds)
    sender = Sender(outbox, intake.news_of, rules)
    sender.start()
    try:
        with _watching(session, intake) as watcher:
            yield Service(session, intake, engine, sender=sender, watcher=watcher, measured=measured)
    finally:
        sender.close()


@contextmanager
def _watching(session: Session, intake: Intake) -> Iterator[Watcher | None]:
    """The follower of `watch.table` in a thread of its own; None where there is no such table."""
    if session.config.watch.table is None:
        yield None
        return
    watcher, stopped = Watcher(session, intake), threading.Event()
    # A daemon: what it does is repeated without harm, and a reading of the lake that hangs keeps nobody from ending.
    thread = threading.Thread(target=watcher.follow, args=(stopped.is_set,), name="watch", daemon=True)
    thread.start()
    try:
        yield watcher
    finally:
        stopped.set()
        thread.join(timeout=5)
