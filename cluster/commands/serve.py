"""`serve`: run the service on one machine.

The loop runs in the main thread, because signals and Ray need that thread. HTTP runs in a thread of its own. The module
`serve_detached` runs the service on a cluster.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

from ...partitioning.errors import InputError
from ..config.request_sections import Serve as Settings
from ..config.schema import Config
from ..http.tokens import SHORTEST_TOKEN, load_tokens
from ..output.session import Session
from ..reporting.progress import SILENT, Progress
from ..serving.measured import Measured
from ..serving.service import run_loop
from ..serving.signals import stop_signals
from ..serving.start import WorkerEngine, callback_pattern, check_servable, open_service, retry_while_storage_is_away
from ..tracking.run import open_run

if TYPE_CHECKING:
    from ..http.admission import AdmissionRules


def serve(
    config: Config, *, host: str | None = None, port: int | None = None, progress: Progress = SILENT
) -> dict[str, Any]:
    """Serve until SIGTERM or SIGINT. Then the batch under way is finished, and the workers end.

    At a second signal the batch is not finished; its requests stay accepted. While the storage cannot be reached, the start
    waits for it, as the loop does.

    Raises:
        InputError: a package of the extra `serve` is missing, a token is needed or too short, the port is taken, the key
            of the callbacks is not set, or the output has no version.
    """
    try:
        import uvicorn

        from ..desk.app import make_site
    except ModuleNotFoundError as error:
        raise InputError(f"serve: {error.name} is not installed. Run `pip install 'unlearnrec[serve]'`") from None
    host = config.serve.host if host is None else host
    rules = admission_rules(config.serve, host)
    session = Session(config)
    retry_while_storage_is_away(lambda: check_servable(session), progress.note)
    measured = Measured(config.cluster.partitions)
    with (
        open_run(config, progress) as run,
        listen(host, config.serve.port if port is None else port) as listener,
        session.workers() as group,
        stop_signals() as stopped,  # after Ray has set its own handlers, which would end the process during a batch
        open_service(session, WorkerEngine(session, group, progress, measured, run), measured) as service,
    ):
        app = make_site(service, rules, callback_pattern(config.serve))
        # No access log, and no tracebacks of requests: both may hold ids of users.
        settings = uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off")
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, args=([listener],), name="http", daemon=True)
        thread.start()
        address, bound = listener.getsockname()[:2]
        progress.note(f"listening on http://{f'[{address}]' if ':' in address else address}:{bound}")
        run_loop(service, stopped, config.serve.poll_seconds)
        progress.note("stopping")
        server.should_exit = True
        thread.join(timeout=5)
    return {"status": "stopped", "version": service.health()["version"]}


def admission_rules(settings: Settings, host: str) -> AdmissionRules:
    """The rules that say who may call the service and how often. The tokens come from the environment and from the file.

    Raises:
        InputError: other machines could reach `host` and there is no token, or as `tokens.load_tokens`.
    """
    from ..http.admission import AdmissionRules, is_loopback

    tokens = load_tokens(settings.token_variable, settings.tokens_file)
    if not tokens and not is_loopback(host):
        raise InputError(
            f"serve.host {host}: others could reach it, and {settings.token_variable} is not set. Set it to a secret of "
            f"at least {SHORTEST_TOKEN} characters (`openssl rand -hex 32`), or listen on 127.0.0.1"
        )
    return AdmissionRules(tokens, settings.max_body_bytes, settings.rate_per_second, settings.burst)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens for HTTP. With port 0, the system chooses a free port.

    Raises:
        InputError: it is not possible to listen there.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
        # The socket's connections inherit this option. asyncio sets it only on sockets that name their protocol, and these
        # do not. Without it, the body of an answer waits 40 ms until the client has acknowledged its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise InputError(
            f"serve.host {host}, serve.port {port}: cannot listen there ({error.strerror or error}). Choose another "
            "port, or 0 for a free one"
        ) from None
