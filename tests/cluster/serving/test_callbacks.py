"""Callbacks step by step without threads: what is sent when, what a crash leaves, and how a receiver checks a message."""

import base64
import json
import re
import threading
import time
import types
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from memory_store import Crash, MemoryStore
from small_output import commit_train, small_config, user_name, write_interactions

import unlearnrec
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.lifecycle.acceptance import append_step
from unlearnrec.cluster.lifecycle.refusals import TakenId
from unlearnrec.cluster.log.records import COMPLETED, FAILED, HELD
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.serving.callback_sender import LONGEST_BACKOFF_SECONDS, Effects, Sender, SendingRules, backoff
from unlearnrec.cluster.serving.callbacks import KEY_VARIABLE, News, Outbox, load_key, signature_headers, url_pattern
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.interface import NewRequest
from unlearnrec.cluster.serving.service import run_loop
from unlearnrec.cluster.serving.start import open_service
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import Store

KEY = bytes(range(32))
URL, OTHER = "https://desk.example/callbacks", "https://other.example:8443/"
PATTERN = url_pattern(["desk.example", "https://other.example:8443"])


class Receivers:
    """Takes what it is sent, except at URLs that are `down`; at those that are `mute` nobody hears that it did."""

    def __init__(self):
        self.sent, self.down, self.mute = [], set(), set()

    def __call__(self, url, body, headers):
        if url in self.down:
            return False
        self.sent.append((url, json.loads(body), headers["webhook-id"]))
        return url not in self.mute

    def statuses(self, url=URL):
        return [body["status"] for to, body, _ in self.sent if to == url]


class World:
    """One output's outbox and what is new about its requests; `restart` forgets what is not durable."""

    def __init__(self, max_attempts=3):
        self.store, self.receivers, self.now = MemoryStore(), Receivers(), 0.0
        self.states, self.max_attempts = {}, max_attempts
        self.restart()

    def restart(self, pattern=PATTERN):
        self.outbox = Outbox(self.store)
        self.sender = Sender(
            self.outbox,
            lambda ids: {i: self.states[i] for i in ids if i in self.states},
            SendingRules(KEY, pattern, self.max_attempts, poll_seconds=1.0),
            Effects(lambda work, *arguments: work(*arguments), self.receivers, clock=lambda: self.now),
        )

    def say(self, request_id, status, request_status="pending", final=False):
        state = {"subject_request_id": request_id, "request_status": request_status, "status": status}
        state |= {"received_time": "2026-01-01T00:00:00.000+00:00", "removed_interactions": 7, "users": ["ann"]}
        self.states[request_id] = News(status, final, state)

    def pass_time(self, seconds):
        self.now += seconds
        return self.sender.step()


def test_each_state_is_told_once_and_the_last_one_ends_it():
    world = World()
    world.outbox.add("r", [URL, OTHER, URL])
    world.say("r", "accepted")
    for _ in range(3):
        world.sender.step()
    world.say("r", "in_progress", "in_progress")
    world.sender.step()
    world.say("r", "committed", "completed", final=True)
    for _ in range(3):
        world.sender.step()
    assert world.receivers.statuses(URL) == world.receivers.statuses(OTHER) == ["accepted", "in_progress", "committed"]
    assert not world.store.files and not world.outbox.entries()
    _, body, _ = world.receivers.sent[-1]
    assert body["status_callback_url"] == OTHER and body["subject_request_id"] == "r"
    assert body["request_status"] == "completed" and body["results_count"] == 7
    assert "ann" not in json.dumps([body for _, body, _ in world.receivers.sent])
    assert len({message_id for _, _, message_id in world.receivers.sent}) == 6


def test_a_receiver_that_is_down_is_tried_again_and_others_do_not_wait():
    world = World()
    world.outbox.add("r", [URL, OTHER])
    world.say("r", "accepted")
    world.receivers.down = {URL}
    wait = world.sender.step()
    assert world.receivers.statuses(OTHER) == ["accepted"] and 0 < world.sender.step() <= wait
    world.say("r", "committed", "completed", final=True)
    world.sender.step()
    world.receivers.down = set()
    assert world.receivers.statuses() == [] and world.store.files
    world.pass_time(1.0)
    assert world.receivers.statuses() == ["committed"]  # the newest state; what was missed is skipped
    world.sender.step()
    assert not world.store.files
    assert world.sender.gauges() == {
        "callbacks_waiting": 0,
        "callbacks_delivered_total": 3,
        "callbacks_retried_total": 2,
        "callbacks_given_up_total": 0,
    }


def test_a_state_that_comes_back_is_another_message_and_a_retry_is_not():
    """A receiver that drops the ids that it knows follows the request all the same, also across restarts."""
    world = World()
    world.outbox.add("r", [URL])
    phases = ["accepted", "in_progress"] * 2
    for phase in phases:
        world.say("r", phase)
        world.receivers.mute = {URL}
        world.sender.step()
        world.restart()
        world.receivers.mute = set()
        world.sender.step()
    ids = [message_id for _, _, message_id in world.receivers.sent]
    assert world.receivers.statuses() == [phase for phase in phases for _ in range(2)]
    assert ids[::2] == ids[1::2] and len(set(ids)) == len(phases)


def test_attempts_are_bounded_and_spread():
    world = World(max_attempts=3)
    world.outbox.add("r", [URL])
    world.say("r", "committed", "completed", final=True)
    world.receivers.down = {URL}
    for _ in range(5):
        world.pass_time(LONGEST_BACKOFF_SECONDS)
    gauges = world.sender.gauges()
    assert gauges["callbacks_retried_total"] == 2 and gauges["callbacks_given_up_total"] == 1
    assert not world.store.files
    assert [backoff(n, 0.0) for n in (1, 2, 3)] == [0.5, 1, 2] and backoff(3, 1.0) == 4
    assert backoff(50, 1.0) == LONGEST_BACKOFF_SECONDS


def test_after_a_restart_only_what_was_not_delivered_is_sent():
    world = World()
    world.outbox.add("r", [URL, OTHER])
    world.say("r", "accepted")
    world.receivers.down = {OTHER}
    world.sender.step()
    world.restart()
    world.receivers.down = set()
    for _ in range(2):
        world.sender.step()
    assert world.receivers.statuses(URL) == world.receivers.statuses(OTHER) == ["accepted"]
    world.restart()
    world.sender.step()
    assert len(world.receivers.sent) == 2


def test_a_host_that_left_the_list_is_not_called():
    world = World()
    world.outbox.add("r", [URL])
    world.say("r", "committed", "completed", final=True)
    world.restart(url_pattern(["other.example"]))
    for _ in range(2):
        world.sender.step()
    assert not world.receivers.sent and not world.store.files


def test_an_outbox_is_read_when_its_store_answers(monkeypatch):
    world = World()
    world.outbox.add("r", [URL])
    world.say("r", "accepted")
    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "list", raising(OSError("the service is away")))
        world.restart()
        with pytest.raises(OSError, match="away"):
            world.pass_time(0)
    with monkeypatch.context() as patch:  # told by another service between the list and the look
        patch.setattr(MemoryStore, "read", raising(FileNotFoundError()))
        assert Outbox(world.store).entries() == {}
    world.outbox.add("new", [URL])
    assert world.outbox.entries().keys() == {"r", "new"}
    world.pass_time(0)
    assert world.receivers.statuses() == ["accepted"]


def raising(error):
    def act(*_):
        raise error

    return act


def test_what_was_not_accepted_is_not_told():
    world = World()
    world.outbox.add("nobody", [URL])
    assert world.sender.step() == 1.0 and not world.receivers.sent


def test_a_dead_host_keeps_few_threads():
    world = World()
    begun = []
    world.sender._effects = replace(world.sender._effects, submit=lambda work, key, *rest: begun.append(key))
    for n in range(9):
        world.outbox.add(f"r{n}", [URL, OTHER])
        world.say(f"r{n}", "accepted")
    world.sender.step()
    world.sender.step()
    assert sorted(url for _, url in begun) == sorted([URL, URL, OTHER, OTHER])


# ---- at the intake ---------------------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path):
    config = small_config(write_interactions(tmp_path / "interactions.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    return Session(config)


def test_the_intake_writes_urls_down_with_the_request_and_says_what_is_new(session):
    outbox = Outbox(session.store)
    intake = Intake(session, outbox=outbox)
    intake.accept(NewRequest([user_name(1)], request_id="r", callback_urls=[URL]))
    # The same request again: those of the first time count.
    intake.accept(NewRequest([user_name(1)], request_id="r", callback_urls=[OTHER]))
    intake.accept(NewRequest([user_name(2)], request_id="quiet"))
    with pytest.raises(TakenId):
        intake.accept(NewRequest([user_name(3)], request_id="r", callback_urls=[OTHER]))
    assert {name: entry.urls for name, entry in Outbox(session.store).entries().items()} == {"r": (URL,)}

    seen = [intake.news_of(["r", "nobody"])["r"]]
    outbox.wake.clear()
    intake.running = frozenset({"r"})
    assert outbox.wake.is_set()
    seen.append(intake.news_of(["r"])["r"])
    intake.running = frozenset()
    append_step(session, "r", FAILED, {"error": "KeyError"})
    seen.append(intake.news_of(["r"])["r"])
    intake.accept(
        NewRequest([user_name(1)], request_id="r", callback_urls=[OTHER])
    )  # it failed, and is asked for again
    seen.append(intake.news_of(["r"])["r"])
    append_step(session, "r", HELD, {"share": 0.3})
    seen.append(intake.news_of(["r"])["r"])
    outbox.wake.clear()
    intake.approve("r", "Bob")
    assert outbox.wake.is_set()
    seen.append(intake.news_of(["r"])["r"])
    events = ["accepted", "in_progress", "failed", "accepted", "held", "approved"]
    assert [news.event.split()[0] for news in seen] == events
    intake.running = frozenset({"r", "quiet"})
    append_step(session, "quiet", COMPLETED, {"answer": {"status": "nothing_to_forget"}})
    assert list(intake.news_of(["r", "quiet"])) == ["r"]  # the last word waits for what its batch says of the evidence
    intake.running = frozenset()
    assert intake.news_of(["quiet"])["quiet"].final
    assert len({news.event for news in seen}) == 6 and not any(news.final for news in seen)
    assert Outbox(session.store).entries()["r"].urls == (OTHER,)
    assert user_name(1) not in json.dumps([news.message("r", URL, 0)[1].decode() for news in seen])


def test_whom_to_tell_is_durable_before_the_request_is_accepted(session, monkeypatch):
    intake = Intake(session, outbox=Outbox(session.store))
    append = session.log.append

    def die(*arguments, **keywords):
        raise Crash

    monkeypatch.setattr(session.log, "append", die)
    with pytest.raises(Crash):
        intake.accept(NewRequest([user_name(1)], request_id="r", callback_urls=[URL]))
    with pytest.raises(TakenId):  # its content is there, and so is its owner's claim to the id
        intake.accept(NewRequest([user_name(2)], request_id="r", callback_urls=[OTHER]))
    monkeypatch.setattr(session.log, "append", append)
    outbox = Outbox(session.store)
    assert outbox.entries()["r"].urls == (URL,) and intake.news_of(["r"]) == {}
    intake.accept(NewRequest([user_name(1)], request_id="r", callback_urls=[URL]))
    assert intake.news_of(["r"])["r"].state["request_status"] == "pending"


def test_a_purge_does_not_take_whom_to_tell_of_a_request_that_is_accepted_meanwhile(session, monkeypatch):
    """What an attempt left under its id is taken, and the purge stands still before that."""
    outbox = Outbox(session.store)
    session.store.create("requests/r.json", b'{"salt": "s", "body": "another"}')
    outbox.add("r", [OTHER])
    intake, remove = Intake(Session(session.config), outbox=Outbox(session.store)), Store.remove

    def late(store, name):
        if name == "callbacks/r.json":
            intake.accept(NewRequest([user_name(1)], request_id="r", callback_urls=[URL]))
        remove(store, name)

    monkeypatch.setattr(Store, "remove", late)
    pipeline.purge(session.config, now=True)
    assert session.store.list("callbacks") == ["callbacks/r@2.json"]
    assert Outbox(session.store).entries()["r"].urls == (URL,)
    pipeline.purge(session.config, now=True)
    assert Outbox(session.store).entries()["r"].urls == (URL,)
    # Of two that are there, the one after the last purge counts.
    for number in ("", "@11"):
        session.store.write(f"callbacks/r{number}.json", json.dumps({"urls": [number], "told": {}}).encode())
    assert Outbox(session.store).entries()["r"].urls == ("@11",)


# ---- keys and signatures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "says"), [("", "is not set"), ("whsec_#", "base64"), ("whsec_c2hvcnQ=", "24 bytes")])
def test_a_key_is_needed(monkeypatch, key, says):
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(InputError, match=says):
        load_key()


def test_the_signature_is_the_one_of_standard_webhooks(monkeypatch):
    """The example of its documentation."""
    monkeypatch.setenv(KEY_VARIABLE, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signature_headers(load_key(), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def snippet():
    """The receiver's code in the documentation."""
    text = (Path(unlearnrec.__file__).parent / "docs" / "serving.md").read_text(encoding="utf-8")
    found = {}
    exec(re.search(r"```python\n(.*?def verify.*?)```", text, flags=re.S).group(1), found)
    return found["verify"]


def test_the_documented_receiver_accepts_what_is_sent_and_nothing_else():
    verify, secret = snippet(), "whsec_" + base64.b64encode(KEY).decode()
    body = b'{"request_status": "completed"}'
    headers = signature_headers(KEY, "msg_1", int(time.time()), body)
    assert verify(secret, headers, body)
    assert not verify(secret, headers, body + b" ")
    assert not verify(secret, {**headers, "webhook-id": "msg_2"}, body)
    assert not verify("whsec_" + base64.b64encode(KEY[1:]).decode(), headers, body)
    assert not verify(secret, signature_headers(KEY, "msg_1", int(time.time()) - 3600, body), body)


@pytest.fixture
def receiver():
    """(origin, what arrived: path, headers by small letters, body); `/moved` leads elsewhere."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            headers = {name.lower(): value for name, value in self.headers.items()}
            got.append((self.path, headers, self.rfile.read(int(headers["content-length"]))))
            self.send_response(302 if self.path == "/moved" else 204)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_message_arrives_signed_and_a_redirect_is_not_followed(receiver):
    origin, got = receiver
    outbox = Outbox(MemoryStore())
    outbox.add("r", [f"{origin}/here", f"{origin}/moved"])
    state = {"subject_request_id": "r", "request_status": "cancelled", "status": "cancelled", "received_time": "now"}
    news = {"r": News("cancelled", True, state)}
    sender = Sender(outbox, lambda _: news, SendingRules(KEY, url_pattern([origin]), 2, 0.05))
    sender.start()
    try:
        until(lambda: not outbox.entries())
    finally:
        sender.close()
    assert sorted(path for path, _, _ in got) == ["/here", "/moved", "/moved"]
    secret = "whsec_" + base64.b64encode(KEY).decode()
    assert all(snippet()(secret, headers, body) for _, headers, body in got)


class Engine:
    """Finds nothing to forget, which takes as long as `hold` is not set."""

    def __init__(self, session):
        self.session, self.hold = session, threading.Event()

    def carry_out(self, requests, before_commit):
        self.hold.wait(20)
        for request in requests:
            answer = {"request_id": request.request_id, "status": "nothing_to_forget", "version": 1}
            append_step(self.session, request.request_id, COMPLETED, {"answer": answer})

    def readouts(self, version):
        return types.SimpleNamespace(version=version.version)


def test_the_service_tells_every_state_and_what_was_left_by_the_one_before(session, receiver, monkeypatch):
    origin, got = receiver
    serve = session.config.serve.model_copy(update={"callback_hosts": (origin,), "poll_seconds": 0.05})
    session.config = session.config.model_copy(update={"serve": serve})
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    engine = Engine(session)
    with pytest.raises(InputError, match=KEY_VARIABLE), open_service(session, engine):
        pass
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(KEY).decode())
    Intake(session, outbox=Outbox(session.store)).accept(
        NewRequest(["nobody"], request_id="left", callback_urls=[origin])
    )

    def heard(request_id):
        told = [json.loads(body) for _, _, body in got]
        return [body["status"] for body in told if body["subject_request_id"] == request_id]

    stopped = threading.Event()
    with open_service(session, engine) as service:
        until(lambda: heard("left") == ["accepted"])
        loop = threading.Thread(target=run_loop, args=(service, stopped.is_set, 0.05))
        loop.start()
        until(lambda: len(heard("left")) == 2)
        service.intake.accept(
            NewRequest(["stranger"], request_id="new", callback_urls=[f"{origin}/new"])
        )  # during a batch
        until(lambda: heard("new") == ["accepted"])
        engine.hold.set()
        until(lambda: not session.store.list("callbacks"))
        assert service.gauges()["callbacks_waiting"] == 0 and service.gauges()["callbacks_delivered_total"] >= 5
        stopped.set()
        loop.join()
    assert heard("left") == ["accepted", "accepted", "nothing_to_forget"]
    assert heard("new")[0] == "accepted" and heard("new")[-1] == "nothing_to_forget"
