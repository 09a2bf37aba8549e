"""The intake under many threads: each request once, nobody's id for two, and no more than the limit."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.lifecycle.acceptance import accept, append_step, final_answer, read_accepted
from unlearnrec.cluster.lifecycle.refusals import TakenId, TooMany
from unlearnrec.cluster.log import log as log_module
from unlearnrec.cluster.log.log import Log
from unlearnrec.cluster.log.records import ACCEPTED, FAILED, PURGED, PURGING
from unlearnrec.cluster.output.ledger import Ledger
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.requests.request import make_request
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.interface import NewRequest
from unlearnrec.partitioning.storage import Store

THREADS = 8


@pytest.fixture
def open_intake(tmp_path: Path) -> Callable[..., Intake]:
    def opened(**serve: Any) -> Intake:
        return Intake(Session(parse_config({"interactions": "x", "output": str(tmp_path), "serve": serve})))

    return opened


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """What it returns or raises in each of the threads, which start together."""
    start = threading.Barrier(THREADS)

    def run(me: int) -> Any:
        start.wait()
        try:
            return work(me)
        except Exception as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def accepted(tmp_path: Path) -> list[str]:
    return [r.body["request_id"] for r in Log(Store(str(tmp_path))).records() if r.kind == "accepted"]


@pytest.mark.parametrize("intakes", [1, 2])
def test_one_request_made_at_once_is_accepted_once(open_intake: Any, tmp_path: Path, intakes: int) -> None:
    """Under a new id and, later, under one that failed."""
    there = [open_intake() for _ in range(intakes)]
    for round_ in (1, 2):
        answers = at_once(lambda me: there[me % intakes].accept(NewRequest(["ann"], request_id="r")))
        assert [answer["status"] for answer in answers] == ["accepted"] * THREADS
        assert accepted(tmp_path) == ["r"] * round_
        append_step(there[0]._session, "r", FAILED, {"error": "KeyError"})


def test_an_id_is_for_one_content(open_intake: Any, tmp_path: Path) -> None:
    intake = open_intake()
    answers = at_once(lambda me: intake.accept(NewRequest([f"user-{me}"], request_id="r")))
    assert sum(isinstance(answer, TakenId) for answer in answers) == THREADS - 1
    (winner,) = [n for n, answer in enumerate(answers) if not isinstance(answer, TakenId)]
    assert accepted(tmp_path) == ["r"]
    assert intake.accept(NewRequest([f"user-{winner}"], request_id="r"))["status"] == "accepted"


def test_the_limit_holds_for_requests_that_come_at_once(open_intake: Any, tmp_path: Path) -> None:
    intake = open_intake(max_open_requests=3, max_batch=1)
    answers = at_once(lambda me: intake.accept(NewRequest([f"user-{me}"], request_id=f"r{me}")))
    assert sum(isinstance(answer, TooMany) for answer in answers) == THREADS - 3
    assert len(accepted(tmp_path)) == intake.gauges()["open_requests"] == 3
    append_step(intake._session, accepted(tmp_path)[0], FAILED, {"error": "KeyError"})
    assert (
        sum(
            not isinstance(x, TooMany)
            for x in at_once(lambda me: intake.accept(NewRequest([f"u-{me}"], request_id=f"s{me}")))
        )
        == 1
    )


def test_a_request_that_could_not_be_written_leaves_its_place(
    open_intake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = open_intake(max_open_requests=2, max_batch=1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "create", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        intake._session.store.write("requests/key", b"k" * 32)
        refused = {type(x) for x in at_once(lambda me: intake.accept(NewRequest(["ann"], request_id=f"r{me}")))}
        assert OSError in refused and refused <= {OSError, TooMany}
    assert [intake.accept(NewRequest(["ann"], request_id=name))["status"] for name in "ab"] == ["accepted"] * 2
    with pytest.raises(TooMany):
        intake.accept(NewRequest(["ann"], request_id="c"))
    assert accepted(tmp_path) == ["a", "b"]


def test_each_of_many_is_in_the_log_and_seen_by_all(open_intake: Any, tmp_path: Path) -> None:
    intake, other, each = open_intake(), open_intake(), 5

    def work(me: int) -> None:
        for n in range(each):
            assert (intake, other)[n % 2].accept(NewRequest([f"user-{me}"], request_id=f"r{me}-{n}"))[
                "status"
            ] == "accepted"
            assert intake.status(f"r{me}-{n}")["status"] == "accepted"
            intake.gauges()

    assert at_once(work) == [None] * THREADS
    assert sorted(accepted(tmp_path)) == sorted(f"r{me}-{n}" for me in range(THREADS) for n in range(each))
    assert intake.gauges()["open_requests"] == other.gauges()["open_requests"] == THREADS * each


def test_an_acceptance_looks_at_the_store_once(open_intake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is a round trip to S3; within a second nobody asks twice whether the log was cut off."""
    monkeypatch.setattr(log_module, "CUT_SECONDS", math.inf)
    intake, asked = open_intake(), []
    intake.accept(NewRequest(["ann"], request_id="first"))
    for method in ("read", "create", "list", "exists"):
        real = getattr(Store, method)
        monkeypatch.setattr(Store, method, lambda *a, _m=method, _r=real: asked.append((_m, a[1])) or _r(*a))
    intake.accept(NewRequest(["ann"], request_id="second"))
    log = "log/000000002.json"
    written = [("create", "requests/second.json"), ("create", log), ("read", "log/cut-000001.json")]
    assert asked == [("read", log), *written]


@pytest.mark.parametrize("seen", [True, False])
def test_a_request_gets_no_name_that_a_purge_may_take(open_intake: Any, tmp_path: Path, seen: bool) -> None:
    """Of an attempt that was never accepted; whether or not the session has seen the purge begin, and after another has
    ended."""
    session, log = open_intake()._session, Log(Store(str(tmp_path)))
    request = make_request(["ann"], [], [], "r", b"")
    accept(session, make_request(["ann"], [], [], "before", b""))
    began = log.append(PURGING, {"unnamed": ["requests/r.json", "versions/000001/x"]})
    log.append(PURGED, {"ends": [began.number]})
    session.ledger(look=seen)
    names: list[str] = []
    accept(session, request, written=names.append)
    place = f"requests/r@{began.number}.json"
    assert names[-1] == place and session.log.records()[-1].body["content"] == place
    session.store.write("requests/r.json", b"removed")  # at last
    assert read_accepted(session, session.ledger().tickets["r"]) == request and final_answer(session, request) is None
    assert open_intake().accept(NewRequest(["ann"], request_id="r"))["status"] == "accepted"
    with pytest.raises(TakenId):
        open_intake().accept(NewRequest(["bob"], request_id="r"))
    # It failed, is asked for again, and no purge takes its content.
    append_step(session, "r", FAILED, {"error": "KeyError"})
    log.append(PURGING, {"unnamed": ["requests/r.json"]})
    accept(open_intake()._session, request)
    assert (
        read_accepted(session, session.ledger().tickets["r"]) == request and session.ledger().content_name("r") == place
    )


def test_a_log_of_an_earlier_release_is_read_as_it_was_meant(open_intake: Any, tmp_path: Path) -> None:
    """There, a purge ended all purges, and the names that it had taken were used again."""
    log = Log(Store(str(tmp_path)))
    for name in ("a", "b"):
        log.append(PURGING, {"unnamed": [f"requests/{name}.json"]})
    log.append(PURGED, {})
    log.append(ACCEPTED, {"request_id": "a", "commitment": ""})
    ledger = open_intake()._session.ledger()
    assert ledger.purging == {} and ledger.content_name("a") == "requests/a.json"
    assert Ledger(state=ledger.state() | {"purging": ["requests/a.json"]}).purging == {0: 0}
