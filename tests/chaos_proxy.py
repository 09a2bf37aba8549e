"""A TCP proxy before an S3 server that loses answers, is slow, and answers with errors of its own."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from typing import Any
from urllib.parse import urlsplit


class Proxy:
    """`url` instead of the server's. One request a connection, so that each is treated by itself."""

    def __init__(self, target: str) -> None:
        self._target = (urlsplit(target).hostname, urlsplit(target).port)
        self.slow_seconds, self.lost = 0.0, 0
        self._lose, self._errors, self._code = 0, 0, 503
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

    def lose(self, count: int) -> None:
        """The next PUTs are carried out, and their answers are dropped."""
        self._lose = count

    def answer(self, code: int, count: int) -> None:
        """The next requests are not passed on: they get this status."""
        self._code, self._errors = code, count

    def _handle(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            request = _message(client)
            if not request:
                return
            time.sleep(self.slow_seconds)
            if self._errors:
                self._errors -= 1
                client.sendall(
                    f"HTTP/1.1 {self._code} Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                )
                return
            head, _, body = request.partition(b"\r\n\r\n")
            lines = [x for x in head.split(b"\r\n") if not x.lower().startswith((b"connection:", b"expect:"))]
            with socket.create_connection(self._target) as server:
                server.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)
                answer = b"".join(iter(lambda: server.recv(65536), b""))
            if self._lose and request.startswith(b"PUT"):
                self._lose -= 1
                self.lost += 1
                return
            head, _, body = answer.partition(b"\r\n\r\n")
            lines = [x for x in head.split(b"\r\n") if not x.lower().startswith(b"connection:")]
            client.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)


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
