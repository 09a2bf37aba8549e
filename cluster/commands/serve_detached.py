"""`serve --detached` and `serve --stop`: start the coordinator and its HTTP side on a Ray cluster, and end them.

The HTTP side is an application of Ray Serve. It has no state and no secrets: it gets only digests of the tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import remove_placement_group

from ...partitioning.errors import InputError
from ...workers.connection import connect_to_ray
from ...workers.placement import make_placement_group
from ..config.schema import Config, load_config
from ..output.session import Session, absolute, worker_settings
from ..reporting.logs import log_format, telling
from ..reporting.progress import SILENT, Progress
from ..serving.actor import MEMORY, Coordinator
from ..serving.interface import ServiceInterface
from ..serving.remote_service import RemoteService, call_actor
from ..serving.start import callback_pattern, check_servable, retry_while_storage_is_away
from .serve import admission_rules

NAMESPACE = "unlearnrec"
CALLS = 64
"""The number of calls that the coordinator answers at the same time, besides those that it answers from memory."""
HTTP_CALLS = 1000
"""The number of calls that may wait in the HTTP side for the coordinator. If there are more, `/healthz` waits too."""
QUIET = {"enable_access_log": False, "log_level": "CRITICAL"}
"""The settings of Ray Serve's own log. It has no paths and no tracebacks, because these may contain ids of users."""
READY_SECONDS = 300.0
"""How long the start waits for the coordinator."""
GONE_SECONDS = 30.0
"""How long Ray may take to forget a killed actor."""
STOP_SECONDS = 600.0
"""How long the stop waits for the batch under way."""

log = logging.getLogger(__name__)


def actor_name(output: str) -> str:
    """The name of this output's coordinator in the namespace `unlearnrec`. Its application of Ray Serve has it too."""
    return f"unlearnrec-{hashlib.sha256(output.encode()).hexdigest()[:12]}"


def start_detached(
    config: Config, *, host: str | None = None, port: int | None = None, progress: Progress = SILENT
) -> dict[str, Any]:
    """Start the service on the cluster at `cluster.address`. It returns when the service answers, or when a note has said
    why the service still waits.

    Raises:
        InputError: Ray Serve is not installed, there is no cluster, or the cluster has no room; an actor serves this output
            already, or another application answers under `serve.route_prefix`; a token is needed; or as `serve.serve`.
    """
    serve, make_site = _import_ray_serve()
    config = _with_absolute_output(config)
    host = config.serve.host if host is None else host
    rules = admission_rules(config.serve, host)
    retry_while_storage_is_away(lambda: check_servable(Session(config)), progress.note)
    name, owns_ray = actor_name(config.output), _connect(config)
    try:
        _refuse_second(config, name)
        _refuse_taken(config.serve.route_prefix, name)
        _refuse_without_room(config)
        running = bool(serve.status().proxies)
        if running and not rules.tokens:
            raise InputError(
                "Ray Serve runs on this cluster already, and others may reach the address that it listens on: set "
                f"{config.serve.token_variable} or serve.tokens_file"
            )
        actor = _start_actor(config, name)
        try:
            service: ServiceInterface = RemoteService(actor)
            _wait_until_ready(service, progress)
            pattern = callback_pattern(config.serve)
            if not running:
                port = _free_port(host) if (port := config.serve.port if port is None else port) == 0 else port
                serve.start("HeadOnly", {"host": host, "port": port}, logging_config=QUIET)
            side = _http_side(serve, lambda: make_site(service, rules, pattern))
            serve.run(side, name=name, route_prefix=config.serve.route_prefix)
        except BaseException:
            ray.kill(actor)
            raise
    finally:
        if owns_ray:
            ray.shutdown()
    path = config.serve.route_prefix.rstrip("/")
    where = f"where Ray Serve listens already, under {path}/" if running else f"on http://{host}:{port}{path}"
    progress.note(f"listening {where}; stop it with `unlearnrec serve --stop`")
    return {"status": "serving", "actor": name, "url": None if running else f"http://{host}:{port}{path}"}


def application(args: Mapping[str, Any]) -> Any:
    """The service as an application of Ray Serve that a Serve config file names: what a RayService of KubeRay deploys.

        import_path: unlearnrec.cluster.commands.serve_detached:application
        args: {config: /etc/unlearnrec/run.yaml, overrides: [serve.max_batch=50]}

    It is built on a machine of the cluster: the file, tokens and credentials are read there, and address and path of HTTP
    are those of the Serve config. A coordinator of this output on the cluster is followed by a new one, which has the
    present configuration, as soon as its batch is finished.

    Raises:
        InputError: `args` are others; or as `start_detached`.
    """
    serve, make_site = _import_ray_serve()
    if "config" not in args or not set(args) <= {"config", "overrides", "log_format"}:
        raise InputError(f"args of the application: got {sorted(args)}, expected config, and overrides or log_format")
    with telling(args.get("log_format", log_format() or "text")):
        config = _with_absolute_output(load_config(Path(args["config"]), list(args.get("overrides") or ())))
        rules = admission_rules(config.serve, "0.0.0.0")  # whoever reaches the cluster's proxies reaches it
        pattern, name = callback_pattern(config.serve), actor_name(config.output)
        retry_while_storage_is_away(lambda: check_servable(Session(config)), log.warning)
        try:
            before = ray.get_actor(name, NAMESPACE)
        except ValueError:
            pass
        else:
            _stop_actor(before)
            _wait_until_gone(name)
        _refuse_without_room(config)
        service: ServiceInterface = RemoteService(_start_actor(config, name))
    return _http_side(serve, lambda: make_site(service, rules, pattern))


def _http_side(serve: Any, make: Callable[[], Any]) -> Any:
    """The HTTP side as an application of Ray Serve. make: gives its FastAPI application."""
    side = serve.ingress(make)(type("HttpSide", (), {}))
    options = {"ray_actor_options": {"num_cpus": 0}, "logging_config": QUIET}
    return serve.deployment(name="http", max_ongoing_requests=HTTP_CALLS, **options)(side).bind()


def _stop_actor(actor: Any) -> None:
    """End a coordinator, after the batch under way."""
    # On an error, the actor is being restarted and has no batch under way, or it hangs. It can be killed in both cases: like
    # every process, it may die at any moment without harm.
    with contextlib.suppress(RayActorError, GetTimeoutError):
        call_actor(actor, STOP_SECONDS, Coordinator.stop)
    ray.kill(actor)


def _wait_until_gone(name: str) -> None:
    """Wait until the name of a killed actor is free; the start of another one refuses it if it does not become so."""
    end = time.monotonic() + GONE_SECONDS
    with contextlib.suppress(ValueError):
        while ray.get_actor(name, NAMESPACE) and time.monotonic() < end:
            time.sleep(0.1)


def stop_detached(config: Config) -> dict[str, Any]:
    """End the service that `start_detached` started: first its HTTP side, then, after the batch under way, its workers.

    Raises:
        InputError: Ray Serve is not installed, there is no cluster, or nothing serves this output there.
    """
    serve, _ = _import_ray_serve()
    config = _with_absolute_output(config)
    name, owns_ray = actor_name(config.output), _connect(config)
    try:
        try:
            actor = ray.get_actor(name, NAMESPACE)
        except ValueError:
            raise InputError(
                f"serve --stop: no actor {name!r} in namespace {NAMESPACE!r} serves {config.output}"
            ) from None
        if name in (applications := serve.status().applications):
            serve.delete(name)
            if len(applications) == 1:
                serve.shutdown()
        _stop_actor(actor)
    finally:
        if owns_ray:
            ray.shutdown()
    return {"status": "stopped", "actor": name}


def _import_ray_serve() -> tuple[Any, Any]:
    """(the module `ray.serve`, the function `make_site`).

    Raises:
        InputError: Ray Serve is not installed.
    """
    try:
        from ray import serve

        from ..desk.app import make_site
    except ImportError:
        raise InputError("serve --detached needs Ray Serve: run `pip install 'unlearnrec[detached]'`") from None
    return serve, make_site


def _with_absolute_output(config: Config) -> Config:
    """The configuration with absolute paths of the output and of the watched table, because the actor has another working
    directory."""
    table = config.watch.table
    if table is not None and "://" not in table:
        table = os.path.abspath(table)
    watch = config.watch.model_copy(update={"table": table})
    return config.model_copy(update={"output": absolute(config.output), "watch": watch})


def _connect(config: Config) -> bool:
    """Connect to the Ray cluster; returns whether this command has to disconnect at its end.

    Raises:
        InputError: the configuration names no running Ray.
    """
    if not (ray.is_initialized() or config.cluster.address or os.environ.get("RAY_ADDRESS")):
        raise InputError(
            "cluster.address: a Ray that this command starts would end with it. Name a running one ('auto' finds the "
            "one on this machine), or leave --detached out"
        )
    return connect_to_ray(config.cluster.address)


def _refuse_second(config: Config, name: str) -> None:
    """Raise InputError if an actor on this cluster serves the output already."""
    try:
        ray.get_actor(name, NAMESPACE)
    except ValueError:
        return
    raise InputError(
        f"the actor {name!r} in namespace {NAMESPACE!r} of this Ray cluster serves {config.output} already. End it with "
        "`unlearnrec serve --stop` first"
    )


def _refuse_taken(prefix: str, name: str) -> None:
    """Raise InputError if another application of Ray Serve has this path.

    It is checked before the actor starts, because Ray Serve would refuse the path only after everything is loaded.
    """
    try:
        from ray.serve.context import _get_global_client  # no public call says which paths are taken

        client = _get_global_client(raise_if_no_controller_running=False)
        applications = client.get_serve_details()["applications"] if client is not None else {}
        prefixes = {other: details["route_prefix"] for other, details in applications.items()}
    except (ImportError, AttributeError, KeyError, TypeError):  # another version of Ray; it refuses the path later
        return
    for other, taken in prefixes.items():
        if taken == prefix and other != name:
            raise InputError(
                f"serve.route_prefix {prefix}: the application {other!r} of Ray Serve answers there. Choose another path"
            )


def _refuse_without_room(config: Config) -> None:
    """Raise InputError if the cluster has no room for the workers, also not after `cluster.start_seconds`."""
    remove_placement_group(make_placement_group(worker_settings(config.cluster)))


def _start_actor(config: Config, name: str) -> Any:
    """Start the coordinator as a detached actor, which Ray restarts if it dies. If its start fails, it is killed again."""
    from ..http.read_routes import MEMORY_THREADS

    options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "max_restarts": -1, "num_cpus": 0}
    remote: Any = ray.remote  # its annotations do not know concurrency_groups
    actor_class = remote(concurrency_groups={MEMORY: MEMORY_THREADS})(Coordinator)
    limits = {"max_task_retries": 0, "max_concurrency": CALLS}
    try:
        actor = actor_class.options(**options, **limits).remote(config, log_format() or "text")
    except ValueError:  # another command has just started an actor of this name
        _refuse_second(config, name)
        raise
    try:
        call_actor(actor, READY_SECONDS, Coordinator.start)
    except BaseException:
        ray.kill(actor)
        raise
    return actor


def _wait_until_ready(service: ServiceInterface, progress: Progress) -> None:
    """Wait until the coordinator answers recommendations. If something blocks it, a note says what; it goes on trying by
    itself."""
    end = time.monotonic() + READY_SECONDS
    while (health := service.health())["status"] != "ok" and time.monotonic() < end:
        if health["blocked"]:
            progress.note(f"requests are accepted, and wait: {health['blocked']} (the actor's log says more)")
            return
        time.sleep(0.1)


def _free_port(host: str) -> int:
    """A port that is free now. Ray Serve needs a number and cannot choose one."""
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
