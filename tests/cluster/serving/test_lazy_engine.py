"""The engine of a detached service: one group of workers, and readouts that are kept from one version to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from fake_workers import OneWorker
from trained_output import trained_output

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import SILENT
from unlearnrec.cluster.serving import start
from unlearnrec.cluster.serving.actor import LazyEngine
from unlearnrec.cluster.serving.start import WorkerEngine


def test_readouts_of_a_version_follow_from_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, started, made = OneWorker(), [], []
    config, events = trained_output(tmp_path, worker, cluster={"partitions": 1})
    session = Session(config)

    @contextmanager
    def workers() -> Iterator[OneWorker]:
        started.append(True)
        yield worker

    make = start.make_readouts
    monkeypatch.setattr(session, "workers", workers)
    monkeypatch.setattr(start, "make_readouts", lambda *arguments: made.append(True) or make(*arguments))
    user, item = events[0]
    (tmp_path / "request.csv").write_text(f"user_id,item_id\n{user},{item}\n")
    with ExitStack() as stack:
        engine = LazyEngine(session, stack)
        assert not started  # not before they are needed
        first = engine.readouts(session.version())
        pipeline.forget(config, interactions=str(tmp_path / "request.csv"), request_id="r", group=worker)
        found = engine.readouts(session.version())
    assert (len(started), len(made)) == (1, 1)  # the second version was not read from its files
    assert (first.version, found.version) == (2, 3) and first.users is found.users
    anew = WorkerEngine(session, worker, SILENT).readouts(session.version())
    np.testing.assert_array_equal(found.user_rows, anew.user_rows)
    np.testing.assert_array_equal(found.seen, anew.seen)
    assert found.recommend(str(user), 5) == anew.recommend(str(user), 5) != first.recommend(str(user), 5)
