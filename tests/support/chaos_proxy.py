"""A TCP proxy before an S3 server that loses answers, refuses, is slow, and goes away for a while: as its tests say."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

SLOW_SECONDS = 0.3
OUTAGE_SECONDS = 4.0
"""Longer than s3fs repeats a call (2 s), where AWS_MAX_ATTEMPTS is 1."""
UNAVAILABLE = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class Fault:
    """What happens to the next `times` requests whose `METHOD /PATH` fits the pattern (`fnmatch`) and that hold `text`."""

    pattern: str
    action: str | Callable[[], None]
    times: int
    text: bytes

    def fits(self, request: bytes) -> bool:
        line = b" ".join(request.split(b" ", 2)[:2]).partition(b"?")[0]
        return fnmatchcase(line.decode(), self.pattern) and self.text in request


class Proxy:
    """`url` instead of the server's. One request a connection, so that each is treated by itself."""

    def __init__(self, target: str) -> None:
        self._target = (urlsplit(target).hostname, urlsplit(target).port)
        self.faults: list[Fault] = []
        """Those that are still to come."""
        self._lock = threading.Lock()
        self._away_until = 0.0
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._handle(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, pattern: str, action: str | Callable[[], None], times: int = 1, text: bytes = b"") -> None:
        """A fault to come; of several that fit, the first.

        action: "lose": carried out, and the answer is dropped; "refuse": not passed on, 503; "slow"; "outage": as "lose",
        and then nobody reaches the server for some seconds; a function, called after it was carried out and before the
        answer.
        """
        with self._lock:
            self.faults.append(Fault(pattern, action, times, text))

    def _next(self, request: bytes) -> str | Callable[[], None] | None:
        with self._lock:
            if time.monotonic() < self._away_until:
                return "refuse"
            fault = next((one for one in self.faults if one.fits(request)), None)
            if fault is None:
                return None
            fault.times -= 1
            if not fault.times:
                self.faults.remove(fault)
            return fault.action

    def _handle(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            request = _message(client)
            if not request:
                return
            action = self._next(request)
            if action == "refuse":
                client.sendall(UNAVAILABLE)
                return
            if action == "slow":
                time.sleep(SLOW_SECONDS)
            answer = self._pass_on(request)
            if action == "outage":
                self._away_until = time.monotonic() + OUTAGE_SECONDS
            if action in ("lose", "outage"):
                return
            if callable(action):
                action()
            client.sendall(answer)

    def _pass_on(self, request: bytes) -> bytes:
        with socket.create_connection(self._target) as server:
            server.sendall(_closing(request, b"expect:"))
            return _closing(b"".join(iter(lambda: server.recv(65536), b"")))


def _closing(message: bytes, *unwanted: bytes) -> bytes:
    """The message as the only one of its connection, without these headers."""
    head, _, body = message.partition(b"\r\n\r\n")
    lines = [x for x in head.split(b"\r\n") if not x.lower().startswith((b"connection:", *unwanted))]
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body


def _message(client: socket.socket) -> bytes:
    """A whole request: head, and as much body as its Content-Length says."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [x.split(b":")[1] for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")]
    if any(x.startswith(b"expect:") for x in head.lower().split(b"\r\n")):
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while lengths and len(body) < int(lengths[0]):
        more = client.recv(65536)
        if not more:
            return b""
        body += more
    return head + b"\r\n\r\n" + body
