"""The coordinator as a detached actor of a Ray cluster: loop, workers and log. Ray starts it again whenever its process
ends, until it is stopped. `serve_detached` puts it there, and the HTTP side beside it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import ray

from ..config.schema import Config
from ..output.manifest import Manifest
from ..output.session import Session
from ..reporting.logs import LogFormat, log_format, telling
from ..reporting.progress import Progress
from ..reporting.spans import send_spans
from ..requests.request import Request
from ..tracking.run import open_run
from .interface import Answer, Arguments, ForwardsAll, Method, ServiceInterface, forwarded
from .measured import Measured
from .readouts import Readouts
from .service import Service, run_loop
from .start import WorkerEngine, check_servable, open_service, retry_while_storage_is_away

RETRY_SECONDS = 5.0
MEMORY = "memory"
"""The concurrency group of the calls that are answered from memory. All others may be waiting for the storage at once."""

log = logging.getLogger(__name__)


class LogProgress(Progress):
    """Notes go to the actor's log. Tasks are not shown, because nobody watches."""

    def note(self, text: str) -> None:
        """As `Progress.note`."""
        log.warning("%s", text)


class LazyEngine:
    """A `WorkerEngine` whose workers start when they are first needed.

    Requests are accepted before that; where the workers find no room, the loop waits and tries again.
    """

    def __init__(self, session: Session, stack: ExitStack, measured: Measured | None = None) -> None:
        self._session, self._stack, self._measured = session, stack, measured
        self._made: WorkerEngine | None = None
        """Kept from call to call: it knows what it made last, from which the next readouts and the evidence follow."""
        self._run = stack.enter_context(open_run(session.config, LogProgress()))

    def carry_out(self, requests: Sequence[Request], before_commit: Callable[[Manifest], None]) -> None:
        """As `WorkerEngine.carry_out`."""
        self._engine().carry_out(requests, before_commit)

    def readouts(self, version: Manifest) -> Readouts:
        """As `WorkerEngine.readouts`."""
        return self._engine().readouts(version)

    def write_reports(self, request_ids: Sequence[str]) -> None:
        """As `WorkerEngine.write_reports`."""
        self._engine().write_reports(request_ids)

    def _engine(self) -> WorkerEngine:
        if self._made is None:
            group = self._stack.enter_context(self._session.workers())
            self._made = WorkerEngine(self._session, group, LogProgress(), self._measured, self._run)
        return self._made


def _from_memory(method: Method[Arguments, Answer]) -> Method[Arguments, Answer]:
    """The method, forwarded, in the concurrency group of the calls that never wait for the storage."""
    grouped: Any = ray.method(concurrency_group=MEMORY)  # its annotations would make it no method of the class any more
    marked: Method[Arguments, Answer] = grouped(forwarded(method))
    return marked


class Coordinator(ForwardsAll):
    """The coordinator of one output: `start` once, then any call from any thread.

    Its constructor cannot fail, because Ray starts no other process for an actor whose constructor failed. A process that
    takes the place of another starts by itself, and tries until it succeeds.

    Raises (every call): ConnectionError before it has started.
    """

    def __init__(self, config: Config, log_format: LogFormat = "text") -> None:
        self._config, self._log_format = config, log_format
        self._stopped = threading.Event()
        self._ends = ExitStack()
        self._service: Service | None = None
        self._thread: threading.Thread | None = None
        if ray.get_runtime_context().was_current_actor_reconstructed:
            threading.Thread(target=self._start_until_it_succeeds, name="start", daemon=True).start()

    def start(self) -> None:
        """Start the loop, as soon as the storage answers.

        Raises:
            InputError: the output has no version, or a key is missing on this machine.
        """
        if log_format() is None:  # the start may be tried again
            self._ends.enter_context(telling(self._log_format))
        send_spans()
        session = Session(self._config)
        retry_while_storage_is_away(lambda: check_servable(session), log.warning)
        measured = Measured(self._config.cluster.partitions)
        engine = LazyEngine(session, self._ends, measured)
        service = self._ends.enter_context(open_service(session, engine, measured))
        poll_seconds = self._config.serve.poll_seconds
        self._thread = threading.Thread(
            target=run_loop, args=(service, self._stopped.is_set, poll_seconds), name="loop"
        )
        self._thread.start()
        self._service = service

    def stop(self) -> None:
        """Finish the batch under way and end the workers."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._ends.close()

    def forward(
        self, method: Method[Arguments, Answer], *arguments: Arguments.args, **keywords: Arguments.kwargs
    ) -> Answer:
        """Ask the service of this process."""
        answer: Answer = getattr(self._running_service(), method.__name__)(*arguments, **keywords)
        return answer

    recommendations = _from_memory(ServiceInterface.recommendations)
    health = _from_memory(ServiceInterface.health)

    def _running_service(self) -> Service:
        if self._service is None:
            raise ConnectionError("the coordinator has not started yet")
        return self._service

    def _start_until_it_succeeds(self) -> None:
        while self._service is None:
            try:
                self.start()
            except Exception as error:
                log.warning("waiting %g s to start: %s", RETRY_SECONDS, type(error).__name__)
                self._stopped.wait(RETRY_SECONDS)
