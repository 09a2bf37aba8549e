"""A service whose output lies on S3, behind a connection that loses answers, is refused, slow, and gone for a while; it
dies, and goes on elsewhere from the output alone."""

import os
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from chaos_proxy import Proxy
from trained_output import trained_output

pytest.importorskip("fastapi")

from server_process import Server

from unlearnrec.benchmarks.chaos_checker import History, check, pairs_of
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.serving.start import check_servable
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import Store

ALL = os.environ.get("UNLEARNREC_TEST_ALL_ARROWS") == "1"
"""What an outage kept from being reported, the service reports a minute later: too long for each time."""
ENVIRONMENT = {
    "UNLEARNREC_SUPPRESSION_KEY": "0123456789abcdef",
    "AWS_MAX_ATTEMPTS": "1",  # else boto repeats a call five times wherever s3fs does once, and waits long in between
}
# Every write of a request, from its content to its evidence: what its path fits, and what is in it.
WRITES = [
    ("PUT */requests/r*", b""),
    ("PUT */log/*", b'"kind":"accepted"'),
    ("PUT */suppression/*", b""),
    ("PUT */versions/*/shard-*", b""),
    ("PUT */versions/*/embeddings-*", b""),
    ("PUT */versions/*/users*", b""),
    ("PUT */log/*", b'"kind":"committed"'),
    ("PUT */versions/*/manifest.json", b""),
    ("PUT */reports/*.json", b""),
    ("PUT */reports/*.html", b""),
    ("PUT */log/*", b'"kind":"evidence"'),
]
ACCEPTED, COMMITTED, REPORT, EVIDENCE = (WRITES[n] for n in (1, 6, 8, 10))
ROUNDS = [
    [(write, "lose", 1) for write in WRITES],
    [(write, "refuse", 2) for write in WRITES] + [(("GET */log/*", b""), "refuse", 2)],
    [(write, "slow", 1) for write in WRITES],
    [(ACCEPTED, "outage", 1)],
    [(COMMITTED, "outage", 1)],
    [(REPORT, "outage", 1), (EVIDENCE, "outage", 1)],
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, group):
    """A small output with an encoder, on a local disk. Not to be changed."""
    more = {"cluster": {"collective_timeout_seconds": 20.0}, "serve": {"poll_seconds": 0.2}}
    config, events = trained_output(tmp_path_factory.mktemp("finished"), group, **more)
    start = pairs_of(Session(config).store, Session(config).version().graph)
    return types.SimpleNamespace(config=config, start=start, users=sorted({u for u, _ in events}))


@pytest.fixture
def lake(finished, s3_server, tmp_path):
    """The output on S3, reached without and through a proxy."""
    place = f"s3://lake/{tmp_path.name}"
    store = Store(place, s3_server)
    copy(Store(finished.config.output), store)
    with Proxy(s3_server.endpoint_url) as proxy:
        storage = finished.config.storage.model_copy(update={"endpoint_url": s3_server.endpoint_url})
        config = finished.config.model_copy(update={"output": place, "storage": storage})
        yield types.SimpleNamespace(config=config, store=store, proxy=proxy, place=place)


def copy(source, target, *folders, without=()):
    """Files of one store into another, one by one."""
    for name in [name for folder in folders or ("",) for name in source.list(folder)]:
        if not name.startswith(tuple(without)):
            target.write(name, source.read(name))


def elsewhere(lake, folder):
    """A server in an empty folder, which has the output's address and the configuration that lies there, no more."""
    folder.mkdir()
    (folder / "run.yaml").write_bytes(lake.store.read("config.yaml"))
    overrides = (f"output={lake.place}", f"storage.endpoint_url={lake.proxy.url}", "storage.region=us-east-1")
    return Server(folder / "run.yaml", folder, *overrides, **ENVIRONMENT)


def post(server, history, name, user):
    """As a client that goes on until it is told."""
    history.bodies[name] = {"users": [user]}
    while True:
        try:
            answer = server.post(name, users=[user])
        except requests.ConnectionError:
            return  # it died: asked again later
        if answer.status_code == 202:
            history.take_answer(name, answer.json())
            return
        assert answer.status_code == 503 and "Retry-After" in answer.headers, answer.text
        history.count("refused")
        time.sleep(0.2)


def reported(session, names):
    return lambda: names <= session.ledger().evidence.keys()


def assert_agree(history, finished, session):
    """What clients were told, the log, the interactions that are left, and the evidence."""
    left = pairs_of(session.store, session.version().graph)
    check(history, session.log.records(), session.ledger().tickets, finished.start, left)
    assert not history.violations
    assert [c for c in pipeline.verify(session.config)["checks"] if not c["ok"]] == []


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="UNLEARNREC_TEST_ALL_ARROWS is not 1")
def test_whatever_happens_to_the_connection_each_acknowledged_request_is_carried_out_once(finished, lake, tmp_path):
    history, session = History(), Session(lake.config)
    requested = {f"r{number}": user for number, user in enumerate(finished.users[: 2 * len(ROUNDS) + 1])}
    *names, last = requested
    with elsewhere(lake, tmp_path / "first") as server:
        server.ready()
        for faults, new in zip(ROUNDS, zip(names[::2], names[1::2], strict=True), strict=True):
            for (pattern, text), action, times in faults:
                lake.proxy.add(pattern, action, times, text)
            with ThreadPoolExecutor() as clients:
                list(clients.map(lambda name: post(server, history, name, requested[name]), new))
            server.wait(lambda new=new: all(session.ledger().tickets[name].final for name in new))
        died = threading.Event()
        lake.proxy.add(COMMITTED[0], lambda: (server.kill(), died.set()), text=COMMITTED[1])
        post(server, history, last, requested[last])
        assert died.wait(60)
    with elsewhere(lake, tmp_path / "second") as server:
        server.ready()
        for name, user in requested.items():  # who was not answered asks again; the others may
            post(server, history, name, user)
        server.wait(reported(session, requested.keys()), 200)
    assert history.acknowledged == requested.keys() and history.counts["refused"]
    left = [f"{fault.action} {fault.pattern} {fault.text}" for fault in lake.proxy.faults]
    assert not left, left
    assert_agree(history, finished, session)


@pytest.mark.slow
def test_a_backup_taken_meanwhile_is_whole_with_the_log_first_and_refused_with_the_log_last(
    finished, lake, group, tmp_path, monkeypatch
):
    monkeypatch.setenv("UNLEARNREC_SUPPRESSION_KEY", ENVIRONMENT["UNLEARNREC_SUPPRESSION_KEY"])
    history, session, names = History(), Session(lake.config), ["a", "b", "c", "d"]
    backups = {order: Store(str(tmp_path / order)) for order in ("log-first", "log-last")}
    with elsewhere(lake, tmp_path / "service") as server:
        server.ready()
        post(server, history, "a", finished.users[0])
        server.answered("a")
        post(server, history, "b", finished.users[1])  # open, or under way
        copy(lake.store, backups["log-first"], "log")
        copy(lake.store, backups["log-last"], without=["log/"])
        for name, user in zip(names[2:], finished.users[2:], strict=False):
            post(server, history, name, user)
        server.wait(reported(session, set(names)))
        copy(lake.store, backups["log-first"], without=["log/"])
        copy(lake.store, backups["log-last"], "log")
    restored = {
        order: finished.config.model_copy(update={"output": store.root_uri}) for order, store in backups.items()
    }
    with pytest.raises(InputError, match=r"log-last/.* is missing, and version \d+ names it.*Restore the file"):
        check_servable(Session(restored["log-last"]))
    config, kept = restored["log-first"], Session(restored["log-first"])
    check_servable(kept)
    assert 3 <= kept.version().version < session.version().version
    for name, user in zip(names, finished.users, strict=False):  # what was acknowledged later is unknown: asked again
        assert pipeline.forget(config, users=str(user), request_id=name, group=group)["status"] == "committed"
    assert_agree(history, finished, kept)
