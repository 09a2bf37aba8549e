"""`serve --detached` and `serve --stop`: put the coordinator and its HTTP side on a Ray cluster, and take them away.

The HTTP side is an application of Ray Serve. It holds no state and no secret: tokens go to it as digests.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from ...partitioning.errors import InputError
from ...workers.placement import connect_to_ray, placement_problem
from ..config.schema import Config
from ..output.session import Session, absolute, worker_settings
from ..reporting.progress import SILENT, Progress
from ..serving.actor import MEMORY, Coordinator
from ..serving.interface import ServiceInterface
from ..serving.remote_service import RemoteService, call_actor
from ..serving.start import callback_pattern, check_servable, retry_while_storage_is_away
from .serve import admission_rules

NAMESPACE = "unlearnrec"
CALLS = 64
"""Calls that the coordinator answers at once, besides those that it answers from memory."""
HTTP_CALLS = 1000
"""Calls that the HTTP side holds at once while they wait for the coordinator. Where there are more, `/healthz` waits too."""
QUIET = {"enable_access_log": False, "log_level": "CRITICAL"}
"""How Ray Serve logs: without paths and tracebacks, which may hold ids of users."""
READY_SECONDS = 300.0
STOP_SECONDS = 600.0


def actor_name(output: str) -> str:
    """The name of the coordinator of this output in the namespace `unlearnrec`, and of its application of Ray Serve."""
    return f"unlearnrec-{hashlib.sha256(output.encode()).hexdigest()[:12]}"


def start_detached(
    config: Config, *, host: str | None = None, port: int | None = None, progress: Progress = SILENT
) -> dict[str, Any]:
    """Start to serve on the cluster at `cluster.address`; returns when it answers, or when something keeps it waiting.

    Raises:
        InputError: Ray Serve is not installed, there is no cluster, or it has no room; an actor serves this output
            already, or another application answers under `serve.route_prefix`; a token is needed; or as `serve.serve`.
    """
    serve, make_app = _import_ray_serve()
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
            http_side = serve.ingress(lambda: make_app(service, rules, pattern))(type("HttpSide", (), {}))
            options = {"ray_actor_options": {"num_cpus": 0}, "logging_config": QUIET}
            application = serve.deployment(name="http", max_ongoing_requests=HTTP_CALLS, **options)(http_side).bind()
            serve.run(application, name=name, route_prefix=config.serve.route_prefix)
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


def stop_detached(config: Config) -> dict[str, Any]:
    """End the service that `start_detached` left: no new requests, the batch under way finished, then the workers.

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
        # It is being restarted, and has no batch under way; or it hangs, and may be cut off anywhere like any process.
        with contextlib.suppress(RayActorError, GetTimeoutError):
            call_actor(actor, STOP_SECONDS, Coordinator.stop)
        ray.kill(actor)
    finally:
        if owns_ray:
            ray.shutdown()
    return {"status": "stopped", "actor": name}


def _import_ray_serve() -> tuple[Any, Any]:
    try:
        from ray import serve

        from ..http.app import make_app
    except ImportError:
        raise InputError("serve --detached needs Ray Serve: run `pip install 'unlearnrec[detached]'`") from None
    return serve, make_app


def _with_absolute_output(config: Config) -> Config:
    """The actor has another working directory."""
    table = config.watch.table
    if table is not None and "://" not in table:
        table = os.path.abspath(table)
    watch = config.watch.model_copy(update={"table": table})
    return config.model_copy(update={"output": absolute(config.output), "watch": watch})


def _connect(config: Config) -> bool:
    if not (ray.is_initialized() or config.cluster.address or os.environ.get("RAY_ADDRESS")):
        raise InputError(
            "cluster.address: a Ray that this command starts would end with it. Name a running one ('auto' finds the "
            "one on this machine), or leave --detached out"
        )
    return connect_to_ray(config.cluster.address)


def _refuse_second(config: Config, name: str) -> None:
    try:
        ray.get_actor(name, NAMESPACE)
    except ValueError:
        return
    raise InputError(
        f"the actor {name!r} in namespace {NAMESPACE!r} of this Ray cluster serves {config.output} already. End it with "
        "`unlearnrec serve --stop` first"
    )


def _refuse_taken(prefix: str, name: str) -> None:
    """Raise InputError for a path that another application has.

    This is done before the actor starts: Ray Serve would refuse the path only when everything is loaded.
    """
    try:
        from ray.serve.context import _get_global_client  # no public call says which paths are taken

        client = _get_global_client(raise_if_no_controller_running=False)
        applications = client.get_serve_details()["applications"] if client is not None else {}
        prefixes = {other: details["route_prefix"] for other, details in applications.items()}
    except (ImportError, AttributeError, KeyError, TypeError):  # another Ray, which will refuse it later
        return
    for other, taken in prefixes.items():
        if taken == prefix and other != name:
            raise InputError(
                f"serve.route_prefix {prefix}: the application {other!r} of Ray Serve answers there. Choose another path"
            )


def _refuse_without_room(config: Config) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if problem := placement_problem(nodes, worker_settings(config.cluster)):
        raise InputError(problem)


def _start_actor(config: Config, name: str) -> Any:
    from ..http.read_routes import MEMORY_THREADS

    options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "max_restarts": -1, "num_cpus": 0}
    remote: Any = ray.remote  # its annotations do not know concurrency_groups
    actor_class = remote(concurrency_groups={MEMORY: MEMORY_THREADS})(Coordinator)
    try:
        actor = actor_class.options(**options, max_task_retries=0, max_concurrency=CALLS).remote(config)
    except ValueError:  # somebody else was faster
        _refuse_second(config, name)
        raise
    try:
        call_actor(actor, READY_SECONDS, Coordinator.start)
    except BaseException:
        ray.kill(actor)
        raise
    return actor


def _wait_until_ready(service: ServiceInterface, progress: Progress) -> None:
    """Wait until recommendations are answered, or something keeps the coordinator waiting; it then tries again by itself."""
    end = time.monotonic() + READY_SECONDS
    while (health := service.health())["status"] != "ok" and time.monotonic() < end:
        if health["blocked"]:
            progress.note(f"requests are accepted, and wait: {health['blocked']} (the actor's log says more)")
            return
        time.sleep(0.1)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
