"""The connection to Ray: to the cluster that is named, or to a Ray of this machine's own."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from queue import Empty, Queue

import ray
from ray.exceptions import RayError
from ray.util.client import ray as ray_client

from ..partitioning.errors import InputError
from .network import machine_addresses

REACH_SECONDS = 5.0
LOOK_UP_SECONDS, SLOW_LOOK_UP_SECONDS = 5.0, 1.0
ANSWER_SECONDS = 10.0
"""How long Ray's head may take for one answer. Ray itself tries 20 times for 40 s each."""
IMPORT_SECONDS = 60.0  # of Ray in the process that asks; measured .6 s, 6 s on a machine with much to do
ASK = """
import sys
import ray
from ray._private.services import canonicalize_bootstrap_address
print("imported", flush=True)
address = canonicalize_bootstrap_address(sys.argv[1])
if address is not None:  # None: "auto" found nothing, which ray.init says itself
    print("asks", address, flush=True)
    ray._raylet.GcsClient(address=address).internal_kv_get(b"session_name", b"session", timeout=8)
print("answers", flush=True)
"""
"""Asks the head of a cluster for anything. In a process of its own, because a call of Ray that waits cannot be ended."""
UV_VARIABLE = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
REFUSALS = ("Unauthenticated", "InvalidAuthToken")
"""What Ray prints where the head refuses the token; it tries again for long."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How an HTTP/2 connection begins, with an empty SETTINGS frame. A server that lives answers with its own."""
SETTINGS = 4

log = logging.getLogger(__name__)


def connect_to_ray(address: str | None) -> bool:
    """Connect to Ray, unless this process is connected. Returns whether it connected: the caller must then disconnect.

    The cluster is the one at `address`, else at the environment variable RAY_ADDRESS (set inside `ray job submit` and
    on KubeRay), else a new local one. A cluster that happens to run on this machine is never taken.

    Raises:
        InputError: no cluster answers at the address within about 20 s.
        RuntimeError: a new Ray did not start on this machine, twice.
    """
    if ray.is_initialized():
        return False
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    _keep_environment()
    _log_with_this_package()
    if target == "local":
        _start_here()
        return True
    _check_reachable(target)
    try:
        ray.init(address=target, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise InputError(_no_cluster(target, str(error) or type(error).__name__)) from None
    try:
        _check_own_node(target)
    except BaseException:
        ray.shutdown()
        raise
    return True


def _keep_environment() -> None:
    """Let the workers run in the Python environment of their machine also where this process was started by `uv run`.

    There Ray would send the whole working directory to the cluster, with all data that lies in it, and start each worker
    by a `uv run` of its own. The variable switches that on.
    """
    if UV_VARIABLE not in os.environ:  # Ray has read it, perhaps long ago: when it was imported
        setattr(ray._private.ray_constants, UV_VARIABLE, False)


class _Handed(logging.Handler):
    """Hands records to the handlers of this package, whatever format Ray gives this one."""

    def emit(self, record: logging.LogRecord) -> None:
        _package().callHandlers(record)


def _package() -> logging.Logger:
    return logging.getLogger(__name__.partition(".")[0])


def _log_with_this_package() -> None:
    """Let Ray's own warnings go where this package's lines go, if somebody has said where (`--log-format`), so that a log of
    JSON has no other lines."""
    if _package().handlers:
        logging.getLogger("ray").handlers[:] = [_Handed()]


def _check_own_node(target: str) -> None:
    """Raise InputError unless this machine is a node of the connected cluster. Ray attaches a driver to the node of another
    machine too, but the workers then never reach it."""
    node, addresses = ray.util.get_node_ip_address(), [address for _, address in machine_addresses()]
    if not ray_client.is_connected() and node not in addresses:
        raise InputError(
            f"cluster.address: the Ray cluster at {target!r} answers, but this machine ({', '.join(addresses)}) is no node "
            "of it. Run the command on one of its nodes, make this machine one (`ray start --address=HOST:PORT "
            "--num-cpus=0`), or send the command there with `unlearnrec submit`"
        )


def is_own_ray() -> bool:
    """Whether the connected Ray was started by this process, on this machine alone: then no node ever joins it."""
    node = getattr(ray._private.worker, "_global_node", None)
    return node is not None and node.is_head()


def _start_here() -> None:
    """Start a Ray on this machine. What a busy machine delayed is mostly there at the second try."""
    for attempt in (1, 2):
        try:
            ray.init(address="local", log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
            return
        except ValueError:  # a setting of Ray in the environment
            raise
        except Exception as error:  # ray.init raises the class Exception itself where a process was too slow
            ray.shutdown()
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if attempt == 2:
                raise RuntimeError(
                    f"Ray did not start on this machine, also not at a second try ({reason}). Mostly the machine has too "
                    "much else to do, or too little free memory or space in /tmp: end other programs and try again, or "
                    "start Ray by hand (`ray start --head`), where its own messages are shown, and set cluster.address=auto"
                ) from error
            log.warning("Ray did not start (%s); trying once more", reason)


def _no_cluster(target: str, reason: str) -> str:
    return (
        f"cluster.address: no Ray cluster answers at {target!r} ({reason}; also RAY_ADDRESS in the environment). Start "
        "it, name another one, or leave both out for Ray on this machine"
    )


def _check_reachable(target: str) -> None:
    """Raise InputError where no Ray answers at "auto", HOST:PORT or ray://HOST:PORT: Ray itself would wait for more than
    ten minutes."""
    scheme, there, rest = target.rpartition("://")
    if scheme not in ("", "ray"):
        raise InputError(
            f"cluster.address: got {target!r}, expected HOST:PORT (the head's port, mostly 6379), ray://HOST:PORT or auto "
            "(also RAY_ADDRESS in the environment); an address of the dashboard is for `unlearnrec submit --address`"
        )
    host, colon, port = rest.rpartition(":")
    if target != "auto":
        if not colon or not port.isdecimal():
            raise InputError(
                f"cluster.address: got {target!r} (also RAY_ADDRESS), expected HOST:PORT, such as head:6379"
            )
        with _connected(target, host.strip("[]"), int(port)) as connection:
            if there and not _speaks_http2(connection, host):
                raise InputError(_no_cluster(target, "no answer of a Ray Client server"))
    if not there and (reason := _silent(target)):
        raise InputError(_no_cluster(target, reason))


def _connected(target: str, host: str, port: int) -> socket.socket:
    """A connection to the target; raises InputError where nothing listens."""
    hosts = _looked_up(target, host, port)
    if host == "localhost" or host.startswith("127."):  # Ray looks for its head at another address of this machine, too
        hosts += [address for name, address in machine_addresses() if address != host and ":" not in address]
    end, reason = time.monotonic() + REACH_SECONDS, "no answer"
    for place in hosts:
        try:
            return socket.create_connection((place, port), timeout=max(1.0, end - time.monotonic()))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
    raise InputError(_no_cluster(target, reason))


def _looked_up(target: str, host: str, port: int) -> list[str]:
    """The addresses of a host. A name server that does not answer is given up: Ray itself would wait for it again and again.

    Raises:
        InputError: the name has no address, or the name server does not answer."""
    found: Queue[list[str] | str] = Queue()

    def look_up() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.put(list(dict.fromkeys(str(entry[4][0]) for entry in entries)))
        except (OSError, OverflowError, UnicodeError) as error:
            found.put(getattr(error, "strerror", None) or str(error))

    began = time.monotonic()
    # A daemon: nobody can end a look-up, and a program does not wait for it at its end.
    threading.Thread(target=look_up, name="look up", daemon=True).start()
    with contextlib.suppress(Empty):
        answer = found.get(timeout=LOOK_UP_SECONDS)
        if isinstance(answer, str):
            raise InputError(_no_cluster(target, answer))
        if (seconds := time.monotonic() - began) > SLOW_LOOK_UP_SECONDS:
            log.warning("looking up the name %s took %.0f s: see the name servers of this machine", host, seconds)
        return answer
    raise InputError(
        _no_cluster(
            target,
            f"the name {host} could not be looked up within {LOOK_UP_SECONDS:g} s: the name servers of this machine "
            "do not answer; an address such as 10.0.0.1 needs none",
        )
    )


def _speaks_http2(connection: socket.socket, host: str) -> bool:
    """Whether a server that speaks HTTP/2, as all of Ray's do, answers on this connection."""
    try:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # Ray's own connection verifies
            context.set_alpn_protocols(["h2"])
            connection = context.wrap_socket(connection, server_hostname=host)
        connection.settimeout(ANSWER_SECONDS)
        connection.sendall(PREFACE)
        frame = b""
        while len(frame) < 4 and (part := connection.recv(9)):
            frame += part
    except OSError:
        return False
    return frame[3:4] == bytes([SETTINGS])


def _silent(target: str) -> str | None:
    """Why nothing answers at this address of a cluster's head; None if it answers."""
    # -P: a folder of the working directory that is called ray is not Ray.
    command = [sys.executable, "-P", "-c", ASK, target]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    said, end, imported = "", time.monotonic() + IMPORT_SECONDS, False
    with process, process.stdout as pipe:
        try:
            while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                part = os.read(pipe.fileno(), 4096).decode(errors="replace")
                said += part
                if not part or any(word in said for word in REFUSALS):
                    break
                if not imported and "imported\n" in said:
                    imported, end = True, time.monotonic() + ANSWER_SECONDS
        finally:
            process.kill()
    if re.search("^answers$", said, re.MULTILINE):
        return None
    if any(word in said for word in REFUSALS):
        return (
            f"it wants a token, and the one of this machine is not it or was not sent: set RAY_AUTH_MODE=token, and the "
            f"cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token; RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE')!r}"
        )
    asked = re.search(r"^asks (\S+)$", said, re.MULTILINE)
    return f"no answer from a head of Ray{f' at {asked[1]}' if asked else ''}"
