"""Kills, frozen workers, full disks and bad connections at the arrows of docs/protocol.md, on the real thing.

By default one arrow of `forget` and one of `retrain` (test_serve.py kills a service); all of them with
UNLEARNREC_TEST_ALL_ARROWS=1, about half an hour.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from contextlib import contextmanager

import pytest
import ray
import requests
from chaos_proxy import Proxy
from ray_fixture import two_workers
from s3 import CREDENTIALS, free_port
from trained_output import trained_output

from unlearnrec.benchmarks.chaos_checker import Model, pairs_of
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.commands.approve import approve
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.cluster.lifecycle.refusals import Held
from unlearnrec.cluster.log.records import PURGED
from unlearnrec.cluster.output.session import CHECKPOINT_RECORDS, Session
from unlearnrec.partitioning import failpoints
from unlearnrec.partitioning.failpoints import ENVIRONMENT, parse_failpoints
from unlearnrec.partitioning.storage import StorageOptions, Store, is_away
from unlearnrec.workers import WorkerFailure

ALL = os.environ.get("UNLEARNREC_TEST_ALL_ARROWS") == "1"
KEY = "0123456789abcdef"
# Writes of `forget`, in their order: (pattern, which of these in the process that makes it).
WRITES = {
    "W1 content": ("requests/r.json", 1),
    "W2 accepted": ("log/*", 1),
    "W3 suppression": ("suppression/*", 1),
    "W4 shard": ("versions/*/shard-000*", 1),
    "W4 rows": ("versions/*/embeddings-001*", 1),
    "W5 id map": ("versions/*/users*", 1),
    "W6 committed": ("log/*", 2),
    "W7 manifest": ("versions/*/manifest.json", 1),
    "W8 report": ("reports/*.json", 1),
    "W9 page": ("reports/*.html", 1),
    "W10 evidence": ("log/*", 3),
    "W11 receipt": ("reports/receipt-*.json", 1),
    "W11 page": ("reports/receipt-*.html", 1),
}
TELLING = ("kill", "W6 committed", "after")
"""The default: the answers are final, and everything after them is missing."""
ARROWS = [
    (action, write, moment)
    for action in ("kill", "stop")
    for write in WRITES
    for moment in ("before", "after")
    if (ALL or (action, write, moment) == TELLING) and (action != "stop" or write.startswith("W4"))
]
FULL = [(write, moment) for write in WRITES for moment in ("before", "after")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_session):
    """A small output with an encoder. Not to be changed."""
    more = {"cluster": {"collective_timeout_seconds": 8.0}, "serve": {"poll_seconds": 0.2}}
    more["train"] = {"epochs": 2, "checkpoint_every": 1}
    with two_workers() as group:
        config, events = trained_output(tmp_path_factory.mktemp("finished"), group, **more)
    start = pairs_of(Session(config).store, Session(config).version().graph)
    return types.SimpleNamespace(config=config, users=sorted({u for u, _ in events}), start=start)


@pytest.fixture
def moved(finished, tmp_path):
    """The output at another place, as on another machine: only the path in the configuration is new."""
    shutil.copytree(finished.config.output, tmp_path / "elsewhere")
    config = finished.config.model_copy(update={"output": str(tmp_path / "elsewhere"), "interactions": "gone.parquet"})
    (tmp_path / "run.yaml").write_text(to_yaml(config), encoding="utf-8")
    return config


def environment(points=""):
    kept = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", ENVIRONMENT)}
    return kept | {"UNLEARNREC_SUPPRESSION_KEY": KEY} | ({ENVIRONMENT: points} if points else {})


def run(folder, name, *arguments, points=""):
    """A command as a process of its own."""
    process = started(folder, name, *arguments, points=points)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def started(folder, name, *arguments, points=""):
    """The same, which runs."""
    command = [sys.executable, "-m", "unlearnrec", name, "--config", str(folder / "run.yaml"), "--json", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(points), cwd=folder, stdout=pipe, stderr=pipe, text=True)


def forget(folder, user, points=""):
    done = run(folder, "forget", "--users", str(user), "--request-id", "r", points=points)
    return done, json.loads(done.stdout.splitlines()[-1]) if done.stdout else None


def check(config, start, *users):
    """Graph, log, evidence and files, after these users' requests; each was answered once."""
    session = Session(config)
    model = Model(start)
    model.forget({"users": users})
    assert pairs_of(session.store, session.version().graph) == model.pairs
    kinds = [(r.kind, r.body.get("manifest", {}).get("answers", {})) for r in session.log.records()]
    answered = [name for _, answers in kinds for name in answers]
    assert len(answered) == len(set(answered)) == len(users)
    wrong = [c for c in pipeline.verify(config)["checks"] if not c["ok"]]
    assert not wrong, wrong


@pytest.mark.slow
@pytest.mark.parametrize(("action", "write", "moment"), ARROWS)
def test_forget_at_an_arrow(finished, moved, tmp_path, action, write, moment):
    pattern, nth = WRITES[write]
    mark, user = tmp_path / "mark", finished.users[3]
    done, answer = forget(tmp_path, user, f"{action} {pattern} {moment} {nth} {mark}")
    assert mark.exists(), done.stderr
    if write.startswith("W4"):  # of a worker: the group is built anew, and the command goes on
        assert answer["status"] == "committed", done.stderr
    else:
        assert done.returncode == -signal.SIGKILL
    done, again = forget(tmp_path, user)
    assert again["status"] == "committed" and again["version"] == 3, done.stderr
    if answer:
        assert again["removed_interactions"] == answer["removed_interactions"]
    check(moved, finished.start, user)


@pytest.fixture
def everywhere(group, monkeypatch):
    """Sets the failpoints of the next stores that are opened, here and in the workers."""
    monkeypatch.setenv("UNLEARNREC_SUPPRESSION_KEY", KEY)

    def everywhere(points):
        def set_failpoints(_=None):
            os.environ.pop(ENVIRONMENT, None)
            failpoints._parsed = None
            if points:
                os.environ[ENVIRONMENT] = points

        set_failpoints()
        ray.get([actor.__ray_call__.remote(set_failpoints) for actor in group._actors])

    yield everywhere
    everywhere("")


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="UNLEARNREC_TEST_ALL_ARROWS is not 1")
@pytest.mark.parametrize(("write", "moment"), FULL)
def test_forget_on_a_full_disk_from_an_arrow_on(finished, moved, group, everywhere, tmp_path, write, moment):
    """An error and no death: in processes that live on, one arrow after the other."""
    config = moved.model_copy(update={"cluster": moved.cluster.model_copy(update={"max_rebuilds": 1})})
    pattern, nth = WRITES[write]
    mark, user = tmp_path / "mark", finished.users[3]
    mark.touch()

    def forget():
        return pipeline.forget(config, users=str(user), request_id="r", group=group)

    everywhere(f"full {pattern} {moment} {nth} {mark}")
    if write.startswith(("W8", "W9", "W10")):  # of the evidence: the request is committed all the same
        assert forget()["evidence"] is None
    elif write.startswith("W11"):
        assert forget()["evidence"]
    else:
        with pytest.raises((OSError, WorkerFailure), match="No space left on device"):
            forget()
    everywhere("")
    again = forget()
    assert again["status"] == "committed" and again["version"] == 3 and again["evidence"]
    check(moved, finished.start, user)
    assert Session(moved).store.exists("reports/receipt-r@1.json")


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="UNLEARNREC_TEST_ALL_ARROWS is not 1")
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("write", ["Wo", "Wn", "Wh"])
def test_a_request_that_makes_no_version_on_a_full_disk(finished, moved, group, everywhere, tmp_path, write, moment):
    share = 0.001 if write == "Wh" else 1.0
    config = moved.model_copy(update={"forget": moved.forget.model_copy(update={"max_share": share})})
    mark, user = tmp_path / "mark", finished.users[3] if write == "Wh" else -7
    mark.touch()

    def forget():
        return pipeline.forget(config, users=str(user), request_id="r", group=group)

    everywhere(f"full {'outcomes/* {} 1' if write == 'Wo' else 'log/* {} 2'} {mark}".format(moment))
    with pytest.raises(OSError, match="No space left on device"):
        forget()
    everywhere("")
    if write != "Wh":
        assert forget()["status"] == "nothing_to_forget" and Session(moved).version().version == 2
        return
    with pytest.raises(Held):
        forget()
    assert [record.kind for record in Session(moved).log.records()].count("held") == 1
    approve(config, "r", by="Bob")
    assert forget()["status"] == "committed"
    check(moved, finished.start, user)


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="UNLEARNREC_TEST_ALL_ARROWS is not 1")
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("write", ["Wo", "Wn", "Wh"])
def test_a_request_that_makes_no_version_is_killed(finished, moved, tmp_path, write, moment):
    mark, user = tmp_path / "mark", finished.users[3] if write == "Wh" else 10**6
    arguments = ["--users", str(user), "--request-id", "r", f"forget.max_share={0.001 if write == 'Wh' else 1.0}"]
    point = f"kill {'outcomes/* {} 1' if write == 'Wo' else 'log/* {} 2'} {mark}".format(moment)
    assert run(tmp_path, "forget", *arguments, points=point).returncode == -signal.SIGKILL and mark.exists()
    done = run(tmp_path, "forget", *arguments)
    kinds = [record.kind for record in Session(moved).log.records()]
    if write != "Wh":
        assert json.loads(done.stdout.splitlines()[-1])["status"] == "nothing_to_forget", done.stderr
        assert kinds.count("completed") == 1 and Session(moved).version().version == 2
        return
    assert done.returncode != 0 and kinds.count("held") == 1, done.stderr
    approve(moved, "r", by="Bob")
    done = run(tmp_path, "forget", *arguments)
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "committed", done.stderr
    check(moved, finished.start, user)


# Of each run: its arguments, and where processes die, each once: those of workers, which are replaced, then the command's.
TRAIN = [
    ([], ["config.yaml before 1"]),
    (
        ["--resume"],
        [
            *(f"checkpoints/*/epoch-00001-001* {moment} 1" for moment in ("before", "after")),
            *(f"checkpoints/*/manifest.json {moment} 1" for moment in ("before", "after")),
            *(f"versions/*/embeddings-001* {moment} 1" for moment in ("before", "after")),
            "log/* before 1",
        ],
    ),
    (["--resume"], ["log/* after 1"]),
    (["--resume"], ["checkpoints/*/manifest.json before 1"]),  # the commit is made, and the checkpoints are to go
    ([], ["checkpoints/*/manifest.json after 1"]),  # those of the run before are to go
    (["--resume"], []),
]
PRETRAIN = [
    (
        [],
        [
            *(f"pretrain/*/embeddings-001* {moment} 1" for moment in ("before", "after")),
            "pretrain/*/done.json before 1",
        ],
    ),
    ([], ["pretrain/*/done.json after 1"]),
    ([], [*(f"versions/*/encoder* {moment} 1" for moment in ("before", "after")), "log/* before 1"]),
    ([], ["log/* after 1"]),
    ([], ["versions/*/manifest.json after 2"]),  # the one that the run before did not make, then its own
    ([], []),
]


def model_of(config):
    """The digests of a version's rows and of its encoder."""
    version = Session(config).version()
    encoder = version.model.encoder
    names = [*version.model.embeddings, *([encoder.file] if encoder else [])]
    return [version.files[name].sha256 for name in names]


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="UNLEARNREC_TEST_ALL_ARROWS is not 1")
@pytest.mark.parametrize(("name", "runs"), [("train", TRAIN), ("pretrain", PRETRAIN)], ids=["train", "pretrain"])
def test_train_and_pretrain_die_at_one_arrow_after_the_other(finished, moved, tmp_path, name, runs):
    for number, (arguments, points) in enumerate(runs):
        marks = [tmp_path / f"mark-{number}-{n}" for n in range(len(points))]
        deaths = ";".join(f"kill {point} {mark}" for point, mark in zip(points, marks, strict=True))
        done = run(tmp_path, name, *arguments, "cluster.max_rebuilds=20", points=deaths)
        assert done.returncode == (-signal.SIGKILL if points else 0), (number, done.stderr)
        assert [mark.name for mark in marks if not mark.exists()] == [], done.stderr
        check(moved, finished.start)
    expected = model_of(finished.config)
    assert model_of(moved) == (expected if name == "pretrain" else expected[:-1])


def around(pattern):
    return [f"{pattern} {moment} 1" for moment in ("before", "after")]


# Of each run of `retrain`: where it stands still while a request is carried out, and where processes die, as above. It
# writes its lease five times: at first, with the graph, the rows, the encoder, and the files of what was carried out.
LOSES = "log/* before 1"
"""Just before its commit."""
CARRIED_OUT = ("leases/* after 4", ["log/* before 1"])
RETRAIN = [
    ("", ["leases/* before 1"]),
    ("", ["leases/* after 2"]),
    ("", ["config.yaml before 1"]),
    ("", [*around("checkpoints/*/epoch-00001-001*"), *around("versions/*/embeddings-001*"), "leases/* before 3"]),
    ("", [*around("pretrain/*/embeddings-001*"), "pretrain/*/done.json before 1"]),
    ("", ["pretrain/*/done.json after 1"]),
    ("", [*around("versions/*/encoder*"), "leases/* before 4"]),
    ("leases/* after 4", [*around("versions/*/shard-001*"), "versions/*/users* before 1"]),
    ("config.yaml after 1", ["versions/*/users* after 1"]),
    CARRIED_OUT,
    (LOSES, ["log/* before 2"]),  # the record that makes services wait
    (LOSES, ["log/* after 1"]),
    (LOSES, ["log/* after 2"]),
    ("", ["versions/*/manifest.json after 2"]),  # the one that the run before did not make, then its own
    ("leases/* after 4", ["leases/* before 5"]),
    ("", ["leases/* before 6"]),  # it is to go
    ("", ["checkpoints/*/manifest.json before 2"]),  # so are those of its training; the first were of a counterfactual
]


@pytest.mark.slow
def test_retrain_dies_at_one_arrow_after_the_other(finished, moved, group, tmp_path, monkeypatch):
    """While requests are carried out by another process: each stays forgotten, and in the end it is as if it had been there
    before one retrain."""
    monkeypatch.setenv("UNLEARNREC_SUPPRESSION_KEY", KEY)
    gone = []

    def forget(config, user):
        pipeline.forget(config, users=str(user), request_id=f"r{user}", group=group)

    for number, (stop, deaths) in enumerate([*(RETRAIN if ALL else [CARRIED_OUT]), ("", [])]):
        marks = [tmp_path / f"mark-{number}-{n}" for n in range(len(deaths))]
        points = [f"kill {point} {mark}" for point, mark in zip(deaths, marks, strict=True)]
        points += [f"stop {stop} {tmp_path / f'stop-{number}'}"] if stop else []
        more = [*["--resume"][: number > 0], "cluster.max_rebuilds=20", "forget.lease_seconds=86400"]
        process = started(tmp_path, "retrain", *more, points=";".join(points))
        try:
            if stop:
                while not stopped(process):
                    time.sleep(0.1)
                gone.append(finished.users[3 + len(gone)])
                forget(moved, gone[-1])
                process.send_signal(signal.SIGCONT)
            _, errors = process.communicate()
        finally:
            process.kill()
        assert process.returncode == (-signal.SIGKILL if deaths else 0), (number, errors)
        assert [mark.name for mark in marks if not mark.exists()] == [], errors
        check(moved, finished.start, *gone)
    other = finished.config.model_copy(update={"output": str(tmp_path / "other")})
    shutil.copytree(finished.config.output, other.output)
    for user in gone:
        forget(other, user)
    pipeline.retrain(other, group=group)
    assert model_of(moved) == model_of(other)


def stopped(process):
    """Whether it has got a SIGSTOP, or has ended."""
    with open(f"/proc/{process.pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] in "TZ"


@contextmanager
def serving(folder, points, *overrides):
    """(process, URL, file with its output) of a service; it is ended afterwards."""
    log = folder / f"log-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "unlearnrec", "serve", "--config", str(folder / "run.yaml"), "--port", "0"]
    with open(log, "wb") as stderr:
        process = subprocess.Popen([*command, *overrides], env=environment(points), cwd=folder, stderr=stderr)
    try:
        while process.poll() is None and "listening on" not in log.read_text():
            time.sleep(0.1)
        yield process, (log.read_text().partition("listening on ")[2].split() or [""])[0], log
    finally:
        process.kill()
        process.wait()


def call(method, url, body=None):
    """(status, answer) of a call; (None, {}) if the service died."""
    try:
        answer = requests.request(method, url, json=body, timeout=30)
        return answer.status_code, answer.json()
    except requests.RequestException:
        return None, {}


# Of each write that a service makes for a request that is not simply carried out: its pattern, which of these it is, and the
# record that ends the request.
OTHERWISE = {
    "Wu": ("callbacks/r.json", 1, "completed"),
    "Wn": ("log/*", 2, "completed"),
    "Wc": ("log/*", 2, "cancelled"),
    "Wh": ("log/*", 2, "committed"),
    "Wa": ("log/*", 3, "committed"),
    "Wf": ("log/*", 2, "failed"),
}


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="UNLEARNREC_TEST_ALL_ARROWS is not 1")
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("write", list(OTHERWISE))
def test_the_service_dies_where_a_request_ends_otherwise(finished, moved, tmp_path, write, moment, monkeypatch):
    """A client that was not answered asks again, of another service."""
    pattern, nth, ends = OTHERWISE[write]
    mark, user = tmp_path / "mark", finished.users[3] if ends == "committed" else 10**6
    overrides = ["serve.callback_hosts=[https://desk.example]"] if write == "Wu" else []
    overrides += ["forget.max_share=0.001"] if ends == "committed" else []
    overrides += [f"forget.grace_seconds={120 if write == 'Wc' else 3}"] if write in ("Wc", "Wf") else []
    monkeypatch.setenv("UNLEARNREC_CALLBACK_KEY", "whsec_" + "A" * 44)
    body = {"users": [user]} | ({"status_callback_urls": ["https://desk.example/news"]} if write == "Wu" else {})
    session = Session(moved)

    def kinds():
        mine = [r for r in session.log.records() if r.body.get("request_id") == "r" or "r" in answers(r)]
        return [record.kind for record in mine]

    def answers(record):
        return record.body.get("manifest", {}).get("answers", {})

    def ask(url, process):
        """All that the client does, until the service dies or the request has ended."""
        if ends not in kinds():
            call("POST", f"{url}/v1/requests/r", body)
        if write == "Wf" and "accepted" in kinds():
            (tmp_path / "elsewhere" / "requests" / "r.json").write_text("{}", encoding="utf-8")
        if write == "Wc":
            call("DELETE", f"{url}/v1/requests/r")
        deadline = time.monotonic() + 120
        while process.poll() is None and ends not in kinds():
            assert time.monotonic() < deadline, kinds()
            if ends == "committed" and "held" in kinds() and "approved" not in kinds():
                call("POST", f"{url}/v1/requests/r/approval", {"by": "Bob"})
            time.sleep(0.2)

    with serving(tmp_path, f"kill {pattern} {moment} {nth} {mark}", *overrides) as (process, url, log):
        ask(url, process)
        assert process.wait(60) == -signal.SIGKILL and mark.exists(), log.read_text()
    with serving(tmp_path, "", *overrides) as (process, url, log):
        ask(url, process)
        assert call("GET", f"{url}/v1/requests/r")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    found = kinds()
    assert found.count(ends) == 1 and all(found.count(kind) <= 1 for kind in ("accepted", "held", "approved")), found
    model = Model(finished.start)
    model.forget({"users": [user]})
    assert pairs_of(session.store, session.version().graph) == model.pairs


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="UNLEARNREC_TEST_ALL_ARROWS is not 1")
def test_the_service_dies_at_its_checkpoint(finished, moved, tmp_path):
    """C1 and C2, due as soon as it looks at the log. The second death leaves the file without its record."""
    session = Session(moved)
    for _ in range(CHECKPOINT_RECORDS + 1):
        session.log.append(PURGED, {"ends": []})
    for number, arrow in enumerate(("log/checkpoint-* before 1", "log/checkpoint-* after 1", "log/[0-9]* after 1")):
        mark = tmp_path / f"mark{number}"
        with serving(tmp_path, f"kill {arrow} {mark}") as (process, _, log):
            assert process.wait(60) == -signal.SIGKILL and mark.exists(), log.read_text()
        made = [r for r in Session(moved).log.records() if r.kind == "checkpoint"]
        assert len(made) == (number == 2)
    user = finished.users[3]
    with serving(tmp_path, "") as (process, url, log):
        assert call("POST", f"{url}/v1/requests/r", {"users": [user]})[0] == 202
        deadline = time.monotonic() + 120
        while not any(r.kind == "evidence" for r in session.log.records()):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    check(moved, finished.start, user)


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="UNLEARNREC_TEST_ALL_ARROWS is not 1")
def test_the_service_dies_at_one_arrow_after_the_other(finished, moved, tmp_path):
    arrows = ["log/* after 1", "log/* after 2", "versions/*/manifest.json before 1"]
    arrows += [f"{pattern} {m} {nth}" for pattern, nth in WRITES.values() for m in ("before", "after")]
    arrows = [a for a in arrows if not a.startswith(("versions/*/shard", "versions/*/embeddings"))]
    users = finished.users[: len(arrows) + 1]
    for number, user in enumerate(users):
        mark = tmp_path / f"mark{number}"
        point = f"kill {arrows[number].replace('r.json', f'r{number}.json')} {mark}" if number < len(arrows) else ""
        with serving(tmp_path, point) as (process, url, log):

            def post(name, one, url=url):
                return call("POST", f"{url}/v1/requests/{name}", {"users": [one]})[0]

            post(f"r{number}", user)
            if point:
                assert process.wait(120) == -signal.SIGKILL, log.read_text()
                continue
            for n, one in enumerate(users):  # a client that was not answered asks again
                assert post(f"r{n}", one) == 202
            session, deadline = Session(moved), time.monotonic() + 200
            while sum(r.kind == "evidence" for r in session.log.records()) < len(users):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
    check(moved, finished.start, *users)


# ---- the storage -----------------------------------------------------------------------------------------------------


def test_failpoints_are_met_as_they_say(tmp_path, monkeypatch):
    switch = tmp_path / "switch"
    monkeypatch.setenv(ENVIRONMENT, f"full a* before 2 {switch}; full b after 1 {switch}")
    monkeypatch.setattr(failpoints, "_parsed", None)
    store = Store(str(tmp_path / "store"))
    switch.touch()
    store.write("a1", b"first")
    with pytest.raises(OSError) as full:
        store.create("a2", b"second")
    assert full.value.errno == errno.ENOSPC and not store.exists("a2")
    with pytest.raises(OSError):
        store.write("b", b"written, and nobody is told")
    assert store.read("b")
    switch.unlink()
    store.create("a2", b"second")
    assert parse_failpoints("") == []
    monkeypatch.delenv(ENVIRONMENT)
    assert "Failing" not in type(Store(str(tmp_path))._files).__name__


@pytest.fixture
def proxied(s3_server):
    with Proxy(s3_server.endpoint_url) as proxy:
        yield proxy, StorageOptions(endpoint_url=proxy.url, region="us-east-1")


def test_a_lost_answer_of_s3_is_found_again(proxied, tmp_path):
    proxy, options = proxied
    store = Store(f"s3://lake/{tmp_path.name}", options)
    store.write("x", b"1")
    proxy.add("PUT *", "lose")
    store.create("log/1", b"mine")  # written, and asked again by the client: its own echo is no other writer
    assert not proxy.faults and store.read("log/1") == b"mine"
    proxy.add("PUT *", "lose")
    with pytest.raises(FileExistsError):
        store.create("log/1", b"another's")
    proxy.add("*", "refuse", 2)
    store.write("x", b"2")
    assert store.read("x") == b"2"
    proxy.add("*", "slow")
    assert store.exists("x") and not proxy.faults


def error_of(act, *arguments):
    with pytest.raises(OSError) as error:
        act(*arguments)
    return error.value


def test_an_s3_that_is_away_is_told_from_one_that_refuses(proxied, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    proxy, options = proxied
    store = Store("s3://lake/x", options)
    for act, arguments in ((store.list, ("log",)), (store.read, ("a",)), (store.exists, ("a",))):
        proxy.add("*", "refuse")
        assert is_away(error_of(act, *arguments)) and not proxy.faults
    assert not is_away(error_of(store.read, "a")) and not is_away(
        error_of(Store("s3://nowhere", options).write, "a", b"")
    )
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    stranger = StorageOptions(endpoint_url=f"{options.endpoint_url}/", region="us-east-1")  # s3fs keeps its clients
    error = error_of(Store("s3://lake/x", stranger).read, "a")
    assert not is_away(error) and "credentials" in str(error)


def test_an_s3_that_cannot_be_reached_is_an_oserror_and_not_an_empty_folder(s3_server, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the client's own repetitions take a quarter of a minute
    store = Store("s3://lake/x", StorageOptions(endpoint_url=f"http://127.0.0.1:{free_port()}", region="us-east-1"))
    for ask in (store.exists, lambda name: store.create(name, b"x")):
        error = error_of(ask, "log/1")
        assert is_away(error) and not isinstance(error, FileNotFoundError | FileExistsError)
