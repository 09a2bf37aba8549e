"""Measure how many deletion requests are acknowledged in a second: at the intake, and over HTTP on a loopback address.

A request is durable before it is acknowledged. Every request names another user. The output lies in a folder of `--work`,
whose disk is measured too: how often in a second it makes 4 KiB durable.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np

from ..cluster.config.schema import Config, parse_config
from ..cluster.layout import content_name
from ..cluster.log.records import ACCEPTED, COMPLETED, FIRST, encode
from ..cluster.log.segments import Chain
from ..cluster.output.session import Session
from ..cluster.serving.intake import Intake
from ..cluster.serving.interface import NewRequest, ServiceInterface
from ..partitioning.storage import Store
from . import results_file

RECORDS_OF_A_SEGMENT = 1000
"""The number of records in each segment of the log with which a measurement begins."""


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench requests", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8, 32], help="at the intake")
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32], help="over HTTP, each with one connection")
    parser.add_argument(
        "--earlier", type=int, nargs="+", default=[0, 20_000], help="requests that are in the log before"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument(
        "--work", type=Path, help="folder on the disk to be measured; the system's temporary one by default"
    )
    parser.add_argument("--results", type=Path, help="benchmarks/results/requests.md by default")
    arguments = parser.parse_args(argv)
    load = os.getloadavg()[0]
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        disk = [fsync_rate(Path(work), threads, arguments.seconds) for threads in sorted({1, *arguments.threads})]
        rows = []
        for face, counts in ((at_the_intake, arguments.threads), (over_http, arguments.clients)):
            for earlier in arguments.earlier:
                for count in counts:
                    with tempfile.TemporaryDirectory(dir=work) as output:
                        rows.append(face(prepared(output, earlier), earlier, count, arguments.seconds))
    path = arguments.results or results_file.FOLDER / "requests.md"
    parts = [
        f"Load average of the machine when it began: {load:.2f}. {arguments.seconds:g} s for each row.",
        results_file.table(rows),
        "The disk by itself, each thread with a file of its own:",
        results_file.table(disk),
        NOTES,
    ]
    results_file.write(path, "Acknowledged requests", parts)
    print(path.read_text(encoding="utf-8"))


NOTES = """Earlier: requests that were accepted and completed before, two records each, without a checkpoint; open: the
seconds that the log of these takes to read, once. Latency is what a caller waits, in milliseconds; over HTTP with the
client's own time, in one process with all clients, the server in another. Records: of a segment of the log, in the mean.
Fsyncs and bytes are those of one request: its content and its share of the log; the fsyncs of a server are not counted."""


@dataclass(frozen=True)
class Load:
    """What some threads did: how long they ran, and the latency of each call, both in seconds."""

    seconds: float
    latencies: np.ndarray[Any, np.dtype[np.float64]]

    def row(self) -> dict[str, Any]:
        """The columns of the table that the load gives."""
        p50, p99 = np.quantile(self.latencies, [0.5, 0.99]) * 1000
        return {"requests/s": len(self.latencies) / self.seconds, "p50, ms": float(p50), "p99, ms": float(p99)}


@dataclass(frozen=True)
class Trial:
    """What is measured."""

    face: str
    """Where requests come in: the intake or HTTP."""
    earlier: int
    """The number of requests that were completed before."""
    callers: int
    opened: float
    """The seconds that it took to open the output."""


def run(threads: int, seconds: float, worker: Callable[[int], Callable[[int], None]]) -> Load:
    """Let each thread call the function that `worker(thread)` returns, with 0, 1, 2 and so on, until the time is over."""
    start = threading.Barrier(threads + 1)

    def work(me: int) -> list[float]:
        act, latencies = worker(me), list[float]()
        start.wait()
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            act(len(latencies))
            latencies.append(time.perf_counter() - begin)
        return latencies

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, me) for me in range(threads)]
        start.wait()
        begin = time.perf_counter()
        found = [future.result() for future in futures]
        return Load(time.perf_counter() - begin, np.concatenate([np.array(x) for x in found]))


def at_the_intake(config: Config, earlier: int, threads: int, seconds: float) -> dict[str, Any]:
    """A row of the table for calls of `Intake.accept` in this process."""
    begin = time.perf_counter()
    intake = Intake(Session(config))
    intake.status("nobody")
    opened = time.perf_counter() - begin
    before = _size(config)

    def worker(me: int) -> Callable[[int], None]:
        def act(n: int) -> None:
            intake.accept(NewRequest([f"user-{me}-{n}"]))

        return act

    with _counted_fsyncs() as fsyncs:
        load = run(threads, seconds, worker)
    return _row(Trial("intake", earlier, threads, opened), load, config, before, len(fsyncs) / len(load.latencies))


def over_http(config: Config, earlier: int, clients: int, seconds: float) -> dict[str, Any]:
    """A row of the table for calls of POST /v1/requests to uvicorn in another process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(config.output, theirs), daemon=True)
    server.start()
    try:
        port, opened = ours.recv()
        before = _size(config)

        def worker(me: int) -> Callable[[int], None]:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.connect()

            def act(n: int) -> None:
                body = json.dumps({"users": [f"user-{me}-{n}"]})
                connection.request("POST", "/v1/requests", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                if response.status != 202:
                    raise RuntimeError(f"the server answered {response.status}")

            return act

        load = run(clients, seconds, worker)
        return _row(Trial("http", earlier, clients, opened), load, config, before, "")
    finally:
        server.terminate()
        server.join()


def _serve(output: str, pipe: Connection) -> None:
    """Serve the intake of this output over HTTP until the process is ended. (port, seconds to open) go into the pipe."""
    import uvicorn

    from ..cluster.commands.serve import listen
    from ..cluster.http.admission import AdmissionRules
    from ..cluster.http.app import make_app

    begin = time.perf_counter()
    intake = Intake(Session(configuration(output)))
    intake.status("nobody")
    opened = time.perf_counter() - begin
    listener = listen("127.0.0.1", 0)
    unlimited = AdmissionRules([], max_body_bytes=1 << 20, rate_per_second=1e9, burst=10**9)
    app = make_app(cast(ServiceInterface, intake), unlimited)
    pipe.send((listener.getsockname()[1], opened))
    settings = uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off")
    uvicorn.Server(settings).run([listener])


def configuration(output: str) -> Config:
    """The configuration of an output that accepts any number of requests."""
    return parse_config({"interactions": "none", "output": output, "serve": {"max_open_requests": 10_000_000}})


def prepared(output: str, earlier: int) -> Config:
    """Make an output whose log has this number of completed requests, without waiting for the disk; returns its
    configuration."""
    config = configuration(output)
    store = Store(output)
    chain, lines = Chain(store), list[bytes]()
    (Path(output) / "requests").mkdir(parents=True)
    (Path(output) / "log").mkdir()
    previous = FIRST
    for n in range(earlier):
        name = f"earlier-{n}"
        (Path(output) / content_name(name)).write_text('{"purged": true}', encoding="utf-8")
        answer = {"request_id": name, "status": "nothing_to_forget", "version": 1}
        for kind, body in ((ACCEPTED, {"commitment": "0" * 64}), (COMPLETED, {"answer": answer})):
            lines.append(encode(2 * n + 1 + (kind == COMPLETED), previous, kind, {"request_id": name, **body}))
            previous = store.sha256(lines[-1])
        if len(lines) >= RECORDS_OF_A_SEGMENT or n == earlier - 1:
            data, lines = b"".join(lines), []
            (Path(output) / chain.next_name).write_bytes(data)
            chain.take(data)
    return config


def fsync_rate(folder: Path, threads: int, seconds: float) -> dict[str, Any]:
    """A row of the table of the disk: how often in a second the threads make 4 KiB durable. Each thread appends to a file of
    its own."""

    def worker(me: int) -> Callable[[int], None]:
        file = open(folder / f"disk-{me}", "ab", buffering=0)  # noqa: SIM115 - closed with the process

        def act(n: int) -> None:
            file.write(bytes(4096))
            os.fsync(file.fileno())

        return act

    load = run(threads, seconds, worker).row()
    return {"threads": threads, "fsyncs/s": load.pop("requests/s"), **load}


@contextmanager
def _counted_fsyncs() -> Iterator[list[None]]:
    """A list that gets one entry for each `os.fsync` of this process in the block."""
    calls: list[None] = []
    real = os.fsync

    def counted(descriptor: int) -> None:
        calls.append(None)
        real(descriptor)

    with mock.patch.object(os, "fsync", counted):
        yield calls


def _size(config: Config) -> int:
    """The number of bytes in the files of the output."""
    files = Path(config.output).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _row(trial: Trial, load: Load, config: Config, before: int, fsyncs: float | str) -> dict[str, Any]:
    """A row of the table. before: the size of the output before the load, in bytes. fsyncs: the mean number for a request,
    or "" if they were not counted."""
    store = Store(config.output)
    records = Session(config).log.head() - 2 * trial.earlier
    segments = len(store.list("log")) - -(-2 * trial.earlier // RECORDS_OF_A_SEGMENT)
    return {
        "face": trial.face,
        "earlier": trial.earlier,
        "callers": trial.callers,
        **load.row(),
        "records": records / segments,
        "fsyncs": fsyncs,
        "bytes": round((_size(config) - before) / len(load.latencies)),
        "open, s": trial.opened,
    }


if __name__ == "__main__":
    main()
