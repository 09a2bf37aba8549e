"""`serve`: the command on one machine. The loop has the main thread, because signals and Ray belong there; HTTP has one
of its own. `detached` is the same on a cluster."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...partitioning.errors import InputError
from ...partitioning.storage import is_away
from ...workers import WorkerGroup
from ..config.schema import Config
from ..config.schema import Serve as Settings
from ..evidence.report import add_evidence
from ..http.tokens import SHORTEST_TOKEN, load_tokens
from ..lifecycle.suppression import open_list
from ..models.carry_out import carry_out
from ..output.session import Manifest, Session, silent
from ..reporting.progress import Progress
from ..requests.request import Request
from ..serving.callback_sender import Sender
from ..serving.callbacks import Outbox, load_key, url_pattern
from ..serving.intake import Desk
from ..serving.readouts import Readouts, make_readouts
from ..serving.service import Engine, Service, waits

if TYPE_CHECKING:
    from ..http.admission import Admission

SLICE_SECONDS = 0.1
"""The longest that a signal waits for an idle loop."""


class WorkerEngine:
    """What the loop asks of the workers."""

    def __init__(self, session: Session, group: WorkerGroup, progress: Progress) -> None:
        self._session, self._group, self._progress = session, group, progress

    def carry_out(self, requests: Sequence[Request], before_commit: Callable[[Manifest], None]) -> None:
        """One batch."""
        carry_out(self._session, requests, self._group, self._progress, before_commit=before_commit)

    def readouts(self, version: Manifest) -> Readouts:
        """A copy of what the workers computed.

        Raises:
            InputError: the version is of another number of partitions than there are workers.
        """
        self._session.check_partitions(version["graph"])
        embeddings = self._session.call(self._group, version, "embeddings")
        return make_readouts(self._session, version, embeddings)

    def report(self, request_ids: Sequence[str]) -> None:
        """Without workers, and so without scores: they hold the current version, not the one to report on."""
        tickets = self._session.ledger().tickets
        add_evidence(
            self._session, [tickets[request_id].describe() for request_id in request_ids], None, self._progress
        )


def serve(
    config: Config, *, host: str | None = None, port: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Serve until SIGTERM or SIGINT: the batch under way is finished, then the workers end. A second signal leaves the
    batch; its requests stay accepted. While the storage is away, the start waits for it, as the loop does.

    Raises:
        InputError: the packages of the extra are missing, a token is needed or too short, the port is taken, the key of
            the callbacks is not set, or the output has no version.
    """
    progress = progress or silent()
    try:
        import uvicorn

        from ..http.app import make_app
    except ModuleNotFoundError as error:
        raise InputError(f"serve: {error.name} is not installed. Run `pip install 'unlearnrec[serve]'`") from None
    host = config.serve.host if host is None else host
    admission = admit(config.serve, host)
    session = Session(config)
    outwait(lambda: check_output(session), progress.note)
    with (
        listen(host, config.serve.port if port is None else port) as listener,
        session.workers() as group,
        _signals() as stopped,  # after Ray's own, which would end the process in the middle of a batch
        coordinate(session, WorkerEngine(session, group, progress)) as service,
    ):
        app = make_app(service, admission, callback_pattern(config.serve))
        # No access log, and no tracebacks of requests: both may hold ids of users.
        settings = uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off")
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, args=([listener],), name="http", daemon=True)
        thread.start()
        address, bound = listener.getsockname()[:2]
        progress.note(f"listening on http://{f'[{address}]' if ':' in address else address}:{bound}")
        follow(service, stopped, config.serve.poll_seconds)
        progress.note("stopping")
        server.should_exit = True
        thread.join(timeout=5)
    return {"status": "stopped", "version": service.health()["version"]}


def admit(settings: Settings, host: str) -> Admission:
    """Who may call, with the tokens of the environment and of the file.

    Raises:
        InputError: others than this machine could reach `host` and there is no token, or as `tokens.load_tokens`.
    """
    from ..http.admission import Admission, is_loopback

    tokens = load_tokens(settings.token_variable, settings.tokens_file)
    if not tokens and not is_loopback(host):
        raise InputError(
            f"serve.host {host}: others could reach it, and {settings.token_variable} is not set. Set it to a secret of "
            f"at least {SHORTEST_TOKEN} characters (`openssl rand -hex 32`), or listen on 127.0.0.1"
        )
    return Admission(tokens, settings.max_body_bytes, settings.rate_per_second, settings.burst)


def check_output(session: Session) -> None:
    """Raise InputError unless there is something to serve, and the key of the suppression list where there is one."""
    session.whole_version()
    open_list(session.store)


def outwait(work: Callable[[], None], say: Callable[[str], None]) -> None:
    """Do `work`, again and again for as long as the storage is away, with the waits of the loop; `say` is told of each."""
    for seconds in waits():
        try:
            return work()
        except OSError as error:
            if not is_away(error):
                raise
            say(f"waiting {seconds:g} s, the storage does not answer: {type(error).__name__}: {error}")
            time.sleep(seconds)


def callback_pattern(settings: Settings) -> str | None:
    """Of the URLs that may be called; None: none may."""
    return url_pattern(settings.callback_hosts) if settings.callback_hosts else None


@contextmanager
def coordinate(session: Session, engine: Engine) -> Iterator[Service]:
    """The service on an output, with its callbacks where any are allowed. Its loop is `follow`.

    Raises:
        InputError: as `callbacks.load_key`.
    """
    settings = session.config.serve
    pattern = callback_pattern(settings)
    if pattern is None:
        yield Service(session, Desk(session), engine)
        return
    key, outbox = load_key(), Outbox(session.store)
    desk = Desk(session, outbox=outbox)
    sender = Sender(outbox, desk.latest, key, pattern, settings.callback_attempts, settings.poll_seconds)
    sender.start()
    try:
        yield Service(session, desk, engine, sender=sender)
    finally:
        sender.close()


def follow(service: Service, stopped: Callable[[], bool], poll_seconds: float) -> None:
    """The loop: one tick after the other, until `stopped`."""
    news = service.desk.news
    while not stopped():
        news.clear()
        _sleep(min(service.tick(), poll_seconds), stopped, news)


def _sleep(seconds: float, stopped: Callable[[], bool], news: threading.Event) -> None:
    end = time.monotonic() + seconds
    while not stopped() and (left := end - time.monotonic()) > 0 and not news.wait(min(left, SLICE_SECONDS)):
        pass


def listen(host: str, port: int) -> socket.socket:
    """A socket for the HTTP face; port 0 is a free one.

    Raises:
        InputError: nobody can listen there.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
        # Its connections inherit this. asyncio sets it only on sockets that name their protocol, which these do not; without
        # it the body of an answer waits for the client to acknowledge its head, 40 ms later.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise InputError(
            f"serve.host {host}, serve.port {port}: cannot listen there ({error.strerror or error}). Choose another "
            "port, or 0 for a free one"
        ) from None


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether to stop, from SIGTERM and SIGINT; the second one interrupts."""
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
