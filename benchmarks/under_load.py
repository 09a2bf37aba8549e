"""A service under load, workers warm: requests one after the other, and many at once. Part of `bench latency`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from ..cluster.output.session import Session
from ..cluster.reporting.progress import SILENT
from ..cluster.serving.intake import Intake
from ..cluster.serving.interface import NewRequest
from ..cluster.serving.service import Service, run_loop
from ..cluster.serving.start import WorkerEngine
from ..partitioning.ingest import load_ids
from ..workers import WorkerGroup

POSTING = 8
"""The threads that post requests, as clients do."""
LOOK_SECONDS = 0.005

NOTES = """Each request names one user, and comes through the intake of a service, which answers for the version that it
committed last, gate and readouts included. One after the other: the next request is posted when the one before is committed.
At once: all are posted by 8 clients as fast as they are acknowledged; what waits together shares a version, of
`serve.max_batch` requests at most. Evidence: until the report, page, receipt and lineage of the last request are written,
which is done while no request waits."""


@contextmanager
def running(session: Session, group: WorkerGroup) -> Iterator[Service]:
    """A service whose loop runs, and which answers for the current version already."""
    service = Service(session, Intake(session), WorkerEngine(session, group, SILENT))
    service.tick()
    stopped = threading.Event()
    poll_seconds = session.config.serve.poll_seconds
    loop = threading.Thread(target=run_loop, args=(service, stopped.is_set, poll_seconds), name="loop")
    loop.start()
    try:
        yield service
    finally:
        stopped.set()
        loop.join()


def one_after_the_other(session: Session, group: WorkerGroup, count: int, seed: int) -> dict[str, Any]:
    """A client that posts its next request when the one before is committed; returns a row of a table."""
    seconds = []
    with running(session, group) as service:
        begun = time.perf_counter()
        for user in _users(session, count, seed):
            posted = time.perf_counter()
            request_id = service.intake.accept(_request(user))["request_id"]
            told = time.perf_counter()
            while request_id in session.ledger(look=False).open:
                time.sleep(LOOK_SECONDS)
            seconds.append((told - posted, time.perf_counter() - told))
        whole = time.perf_counter() - begun
    acknowledged = np.array([one for one, _ in seconds])
    committed = np.array([one for _, one in seconds])
    return {
        "requests": f"{count:,}, one after the other",
        "acknowledged, p50": float(np.median(acknowledged)),
        "committed, p50": float(np.median(committed)),
        "committed, p95": float(np.quantile(committed, 0.95)),
        "committed, p99": float(np.quantile(committed, 0.99)),
        "requests a minute": 60 * count / whole,
    }


def at_once(session: Session, group: WorkerGroup, count: int, seed: int) -> dict[str, Any]:
    """So many requests that are posted as fast as they are acknowledged; returns a row of a table."""
    users = _users(session, count, seed)
    with running(session, group) as service:
        first, begun = session.ledger().versions, time.perf_counter()
        with ThreadPoolExecutor(POSTING) as clients:
            list(clients.map(lambda user: service.intake.accept(_request(user)), users))
        acknowledged = time.perf_counter() - begun
        _until(lambda: not session.ledger(look=False).open)
        committed = time.perf_counter() - begun
        versions = session.ledger().versions - first
        _until(lambda: not session.ledger(look=False).unreported)
        reported = time.perf_counter() - begun
    return {
        "requests": f"{count:,}, at once",
        "all acknowledged, s": acknowledged,
        "all committed, s": committed,
        "all with evidence, s": reported,
        "versions": versions,
        "requests a minute": 60 * count / committed,
    }


def _request(user: Any) -> NewRequest:
    return NewRequest([str(user)], request_id=f"load-{time.time_ns()}-{user}")


def _users(session: Session, count: int, seed: int) -> Sequence[Any]:
    ids, _, _ = load_ids(session.store, session.version().graph, "user")
    draw = np.random.default_rng([seed, count])
    chosen: Sequence[Any] = ids.take(pa.array(draw.choice(len(ids), count, replace=False))).to_pylist()
    return chosen


def _until(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(LOOK_SECONDS)
