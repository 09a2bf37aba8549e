"""Purge: what it removes, what it keeps, and that it can be interrupted anywhere. On a local disk and on S3."""

import json
import shutil
import uuid
from collections import Counter

import pytest
from small_output import (
    accept,
    commit_forget,
    commit_train,
    item_name,
    places_of,
    row_of,
    small_config,
    user_name,
    write_interactions,
)

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands import purge as purging
from unlearnrec.cluster.commands.purge import purge
from unlearnrec.cluster.commands.residue import residue
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.cluster.evidence.report import add_evidence
from unlearnrec.cluster.lifecycle import acceptance as accepting
from unlearnrec.cluster.lifecycle.acceptance import final_answer
from unlearnrec.cluster.log import log
from unlearnrec.cluster.log.log import LogConflict
from unlearnrec.cluster.output.ingests import graph_key, lake_graph
from unlearnrec.cluster.output.leftovers import CHECKPOINT, NOTE, OLDER, REQUEST, SUPERSEDED, UNNAMED, leftovers
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.requests.request import Request, parse_request
from unlearnrec.cluster.serving.callbacks import Outbox
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_ids, load_shard
from unlearnrec.partitioning.storage import Store

FORGOTTEN = user_name(3)
HOUR = 3600.0


class Crash(Exception):
    """The process ends here."""


@pytest.fixture(params=["local", "s3"])
def config(request, tmp_path):
    """An output with a graph, not trained yet."""
    interactions = write_interactions(tmp_path / "events.parquet")
    if request.param == "local":
        config = small_config(interactions, str(tmp_path / "output"))
    else:
        options = request.getfixturevalue("s3_server")
        storage = {"endpoint_url": options.endpoint_url, "region": options.region}
        config = small_config(interactions, f"s3://lake/{uuid.uuid4().hex}", storage=storage)
    pipeline.ingest(config)
    return config


@pytest.fixture
def local(tmp_path):
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    return config


def store_of(config):
    return Session(config).store


def found(config):
    """{place: kind} of what a purge would remove."""
    session = Session(config)
    return {x.place: x.kind for x in leftovers(session)}


def content(config):
    store = store_of(config)
    return {name: store.read(name) for name in store.list()}


def kinds_of_records(config):
    return [record.kind for record in Session(config).log.records()]


def at(monkeypatch, seconds):
    """The clock of purge shows this many seconds later."""
    clock = purging.time.time
    monkeypatch.setattr(purging.time, "time", lambda: clock() + seconds)


def check_readable(config):
    """Every file of the current version is what its manifest says, and the graph to train on is whole."""
    session = Session(config)
    version = session.version()
    for name, entry in version.files.items():
        assert session.store.sha256(session.store.read(name)) == entry.sha256, name
    for graph in (version.graph, lake_graph(session)):
        for k in range(graph.partitions):
            load_shard(session.store, graph, k)
        for side in ("user", "item"):
            load_ids(session.store, graph, side)
    return version


# ---- what goes and what stays -----------------------------------------------------------------------------------------


def test_what_was_forgotten_is_in_no_file_after_a_purge(config):
    session = Session(config)
    store = session.store
    first = commit_train(config, seed=1)
    second = commit_train(config, seed=2)
    commit_forget(config, FORGOTTEN, "r1")
    rows = [row_of(store, version, "user", FORGOTTEN) for version in (first, second)]
    rows.append(row_of(store, second, "item", item_name(4)))  # stays, with another row
    for wanted in (FORGOTTEN.encode(), *rows):
        assert places_of(store, wanted)
    key, log = store.read("requests/key"), store.list("log")

    answer = purge(config, now=True)

    for wanted in (FORGOTTEN.encode(), *rows):
        assert places_of(store, wanted) == []
    assert places_of(store, user_name(4).encode())
    version = check_readable(config)
    assert version.version == answer["version"] == 3
    assert answer["removed_files"] > 0 and answer["removed_bytes"] > 0 and answer["purged_requests"] == 1
    assert answer["kept_files"] == 0
    assert all(store.exists(f"versions/{n:06d}/manifest.json") for n in (1, 2, 3))
    assert store.read("requests/key") == key and json.loads(store.read("requests/r1.json"))["purged"]
    assert set(log) < set(store.list("log")) and kinds_of_records(config)[-2:] == ["purging", "purged"]
    assert session.log.records()[-1].body == answer | {"ends": [session.log.head() - 1]}

    files = content(config)
    again = purge(config, now=True)
    assert (again["removed_files"], again["removed_bytes"], again["purged_requests"]) == (0, 0, 0)
    assert content(config) == files


def test_the_answer_outlives_the_content(local):
    commit_train(local)
    commit_forget(local, FORGOTTEN, "r1")
    session = Session(local)
    request = parse_request(FORGOTTEN, None, None, None, "r1", session.options)
    other = parse_request("somebody", None, None, None, "r1", session.options)
    before = final_answer(session, request)
    with pytest.raises(InputError, match="another request has this id"):
        final_answer(session, other)
    purge(local)
    status = pipeline.status(local, "r1")
    assert status["phase"] == "committed" and status["version"] == 2
    # The content can no longer be compared, and the answer says so.
    told = before | {"content_purged": True, "evidence_failed": []}
    assert final_answer(session, request) == told
    for ask in (
        lambda: final_answer(session, other),
        lambda: pipeline.forget(local, users="somebody", request_id="r1"),
    ):
        with pytest.raises(InputError, match="content was purged, and this one is not the same"):
            ask()
    again = pipeline.forget(local, users=FORGOTTEN, request_id="r1")
    assert again == told | {"evidence": "reports/evidence-r1.json", "repeated": True}


def test_a_request_that_is_only_accepted_keeps_its_content(local):
    commit_train(local)
    accept(local, FORGOTTEN, "waiting")
    body = store_of(local).read("requests/waiting.json")
    session = Session(local)
    session.log.append("completed", {"request_id": "nothing", "answer": {"request_id": "nothing"}})
    session.store.write("requests/nothing.json", b'{"salt": "s", "body": "strangers"}')
    session.store.write("requests/dead.json", b'{"salt": "s", "body": "never accepted"}')
    outbox = Outbox(session.store)
    outbox.add("waiting", ["https://desk.example/"])
    outbox.add("dead", ["https://desk.example/"])
    dead = {"requests/dead.json": UNNAMED, "callbacks/dead.json": UNNAMED}
    assert found(local) == {"requests/nothing.json": REQUEST, **dead}
    answer = purge(local)
    assert (answer["removed_files"], answer["purged_requests"], answer["kept_files"]) == (0, 1, 2)
    assert session.store.read("requests/waiting.json") == body and session.store.exists("requests/dead.json")
    assert purge(local, now=True)["removed_files"] == 2 and set(Outbox(session.store).entries()) == {"waiting"}
    assert session.store.read("requests/waiting.json") == body and not session.store.exists("requests/dead.json")


def test_callbacks_of_requests_with_their_answer_go_where_nobody_tells_them(local):
    commit_train(local)
    commit_forget(local, FORGOTTEN, "done")
    accept(local, user_name(4), "waiting")
    accept(local, user_name(5), "failed")
    Session(local).log.append("failed", {"request_id": "failed", "error": "InputError"})
    purge(local)
    outbox = Outbox(store_of(local))
    for request_id in ("done", "waiting", "failed"):
        outbox.add(request_id, ["https://desk.example/"])
    told = {"callback_hosts": ("desk.example",)}
    told = local.model_copy(update={"serve": local.serve.model_copy(update=told)})
    assert not found(told) and found(local) == {"callbacks/done.json": NOTE}
    purge(local)
    assert set(Outbox(store_of(local)).entries()) == {"waiting", "failed"}


@pytest.mark.parametrize("trained", [False, True])
def test_with_nothing_to_do_nothing_happens(local, trained):
    if trained:
        commit_train(local)
    files, records = content(local), kinds_of_records(local)
    answer = purge(local, now=True)
    assert answer["removed_files"] == answer["removed_bytes"] == 0
    assert content(local) == files and kinds_of_records(local) == records


def test_an_output_that_is_empty_is_no_error(tmp_path):
    config = small_config("nowhere.parquet", str(tmp_path / "output"))
    assert purge(config, now=True)["version"] is None and not (tmp_path / "output").exists()


def test_nothing_is_removed_from_a_damaged_output(local):
    commit_train(local)
    version = commit_forget(local, FORGOTTEN, "r1")
    store_of(local).remove(version.model.embeddings[1])
    files = content(local)
    with pytest.raises(InputError, match=r"embeddings-001.* is missing, and version 2 names it"):
        purge(local, now=True)
    assert content(local) == files
    commit_train(local)
    purge(local, now=True)
    check_readable(local)


def test_what_another_purge_has_taken_of_an_older_version_is_no_damage(local, monkeypatch):
    """The version was replaced, and the other purge came and went, while this one looked."""
    commit_train(local)
    real, looks = purging.leftovers, []

    def meanwhile(session):
        looks.append(real(session))
        if len(looks) == 1:
            commit_forget(local, FORGOTTEN, "r1")
            purge(local, now=True)
        return looks[-1]

    monkeypatch.setattr(purging, "leftovers", meanwhile)
    store_of(local).write("requests/dead.json", b"{}")
    assert purge(local, now=True)["removed_files"] == 0
    check_readable(local)


def test_an_ingest_that_is_newer_than_the_version_stays(local):
    commit_train(local)
    commit_forget(local, FORGOTTEN, "r1")
    pipeline.ingest(local)
    newest = set(lake_graph(Session(local)).files)
    kinds = found(local)
    assert set(kinds.values()) == {OLDER, SUPERSEDED, REQUEST} and newest.isdisjoint(kinds)
    purge(local, now=True)
    check_readable(local)
    # A version on it makes the version before old, and an ingest that was never trained on is named by nobody.
    commit_train(local)
    pipeline.ingest(local)
    unused = set(lake_graph(Session(local)).files)
    pipeline.ingest(local)
    assert {name for name, kind in found(local).items() if kind == UNNAMED} == unused
    purge(local, now=True)
    check_readable(local)


@pytest.mark.parametrize("order", ["completed", "committed"])
def test_an_ingest_that_a_request_overtook_goes(config, order):
    """Nothing is trained on it any more, and it holds what was forgotten."""
    commit_train(config)
    pipeline.ingest(config)
    session = Session(config)
    files = set(lake_graph(session).files)
    checkpoint = f"checkpoints/{graph_key(lake_graph(session))}-0123/0.safetensors"
    session.store.write(checkpoint, b"x")
    if order == "committed":
        commit_forget(config, FORGOTTEN, "r1")
    else:
        session.log.append("completed", {"request_id": "r1", "answer": {"request_id": "r1"}})
    kinds = found(config)
    assert {kinds[name] for name in files} == {SUPERSEDED} and kinds[checkpoint] == CHECKPOINT
    purge(config, now=True)
    left = places_of(session.store, FORGOTTEN.encode())
    assert not found(config) and (order == "completed" or left == [])
    with pytest.raises(InputError, match="Run `unlearnrec ingest` again"):
        lake_graph(session)
    pipeline.ingest(config)
    assert set(lake_graph(session).files).isdisjoint(found(config))
    commit_train(config)
    check_readable(config)


def test_a_counterfactual_keeps_both_its_graphs(local):
    commit_train(local)
    version = commit_train(local, without=FORGOTTEN)
    assert version.graph.shard_files != version.lake_graph.shard_files
    assert set(found(local).values()) == {OLDER, UNNAMED}  # UNNAMED: the rows before it was reduced
    purge(local, now=True)
    assert check_readable(local) == version and not found(local)
    assert all(store_of(local).exists(name) for name in version.lake_graph.files)


def test_checkpoints_stay_with_their_graph(local):
    commit_train(local)
    store = store_of(local)
    key = graph_key(lake_graph(Session(local)))
    names = [f"{folder}/{key}-0123/{n}.safetensors" for folder in ("checkpoints", "pretrain") for n in range(2)]
    for name in [*names, f"checkpoints/{key}-0123/manifest.json"]:
        store.write(name, b"x")
    assert not found(local)
    commit_forget(local, FORGOTTEN, "r1")
    assert {name for name, kind in found(local).items() if kind == CHECKPOINT} > set(names)
    assert next(iter(found(local))) == f"checkpoints/{key}-0123/manifest.json"  # nothing counts on the others then
    running = f"checkpoints/{graph_key(lake_graph(Session(local)))}-0123/0.safetensors"
    store.write(running, b"x")
    purge(local)
    assert store.list("pretrain") == [] and store.list("checkpoints") == [running]


def asked(monkeypatch, act, *arguments):
    """Counter of what is asked of stores meanwhile: calls of their methods, and requests to S3."""
    from aiobotocore.client import AioBaseClient

    found = Counter()

    def count(patch, owner, name, what):
        real = getattr(owner, name)

        def counted(self, *arguments, **keywords):
            found[what or arguments[0]] += 1
            return real(self, *arguments, **keywords)

        patch.setattr(owner, name, counted)

    with monkeypatch.context() as patch:
        for name in vars(Store):
            if not name.startswith("_"):
                count(patch, Store, name, name)
        count(patch, AioBaseClient, "_make_api_call", None)
        act(*arguments)
    return found


def test_the_store_is_not_asked_more_where_there_are_more_requests(config, monkeypatch):
    """Neither while their contents, here the smallest that there are, wait for a purge, nor after it."""
    monkeypatch.setattr(log, "CUT_SECONDS", 0.0)  # else looks ask for a cut when a second has passed
    commit_train(config)
    counts = []
    for requests in (range(2), range(2, 9)):
        for n in requests:
            accepting.accept(Session(config), Request(f"r{n}", (), (), ()))
            Session(config).log.append("completed", {"request_id": f"r{n}", "answer": {"request_id": f"r{n}"}})
        Session(config).checkpoint()
        assert found(config) == {f"requests/r{n}.json": REQUEST for n in requests}
        before = asked(monkeypatch, found, config)
        assert purge(config, now=True)["purged_requests"] == len(requests) and not found(config)
        Session(config).checkpoint()
        counts.append((before, *(asked(monkeypatch, act, config) for act in (found, purge, residue))))
    assert counts[0] == counts[1] and all(count["details"] for count in counts[0])


# ---- retention --------------------------------------------------------------------------------------------------------


def test_files_stay_for_the_time_of_retention(config, monkeypatch):
    kept = config.model_copy(update={"forget": config.forget.model_copy(update={"retention_hours": 24.0})})
    commit_train(config)
    commit_forget(config, FORGOTTEN, "r1")
    number = len(found(config))
    files = content(config)
    at(monkeypatch, 23 * HOUR)
    answer = purge(kept)
    assert answer["removed_files"] == 0 and answer["kept_files"] == number and content(config) == files
    at(monkeypatch, 2 * HOUR)
    answer = purge(kept)
    assert answer["removed_files"] + answer["purged_requests"] == number and not found(config)


def test_now_ignores_retention(local):
    kept = local.model_copy(update={"forget": local.forget.model_copy(update={"retention_hours": 87600.0})})
    commit_train(local)
    commit_forget(local, FORGOTTEN, "r1")
    assert purge(kept)["removed_files"] == 0
    assert purge(kept, now=True)["removed_files"] > 0 and not found(local)


def test_a_file_that_no_record_names_stays_for_an_hour(local, monkeypatch):
    commit_train(local)
    store = store_of(local)
    names = ["versions/000002/shard-000-dead001.safetensors", "graph/users-dead.parquet", "graph/.tmp-dead"]
    for name in names:
        store.write(name, b"of a dead attempt, or of one that works on it")
    assert found(local) == dict.fromkeys(names, UNNAMED)
    at(monkeypatch, 59 * 60)
    assert purge(local)["removed_files"] == 0
    at(monkeypatch, 2 * 60)
    assert purge(local)["removed_files"] == 3 and store.details().keys() == set(store.list())


@pytest.mark.parametrize("hours", ["-1", "87601", ".inf", ".nan"])
def test_retention_is_finite(hours, capsys, tmp_path):
    places = ["interactions=x.parquet", f"output={tmp_path}"]
    assert run(["purge", *places, f"forget.retention_hours={hours}"]) == 2
    assert "forget.retention_hours" in capsys.readouterr().err


# ---- crashes, and others at work ----------------------------------------------------------------------------------------


def test_a_purge_may_end_anywhere(local, tmp_path, monkeypatch):
    """Every removal, every write and every record in turn: before it, and after it."""
    commit_train(local, seed=1)
    commit_train(local, seed=2)
    commit_forget(local, FORGOTTEN, "r1")
    add_evidence(Session(local), [{"request_id": "r1", "status": "committed"}])
    store_of(local).write("versions/000004/shard-000-dead001.safetensors", FORGOTTEN.encode())
    todo = len(found(local))
    done = {"acts": 0, "crash_at": -1}

    def fragile(name):
        act = getattr(Store, name)

        def guarded(self, *arguments):
            if done["acts"] == done["crash_at"]:
                raise Crash(name)
            done["acts"] += 1
            return act(self, *arguments)

        return guarded

    for name in ("remove", "write", "create"):
        monkeypatch.setattr(Store, name, fragile(name))
    for crash_at in range(todo + 2):  # the record before, and the one after
        config = local.model_copy(update={"output": str(tmp_path / f"copy{crash_at}")})
        shutil.copytree(local.output, config.output)
        done.update(acts=0, crash_at=crash_at)
        with pytest.raises(Crash):
            purge(config, now=True)
        done["crash_at"] = -1
        assert check_readable(config).version == 3
        assert pipeline.status(config, "r1")["phase"] == "committed"
        answer = purge(config, now=True)
        assert answer["removed_files"] + answer["purged_requests"] == todo - max(0, crash_at - 1)
        assert places_of(store_of(config), FORGOTTEN.encode()) == [] and not found(config)
        assert kinds_of_records(config)[-1] == "purged" and check_readable(config).version == 3
        records = kinds_of_records(config)
        purge(config, now=True)
        assert kinds_of_records(config) == records
    done.update(acts=0)
    purge(local, now=True)
    assert done["acts"] == todo + 2


def test_no_version_stands_on_files_that_a_purge_takes(local, monkeypatch):
    """A command that wrote its files before the purge looked, and commits while it removes."""
    commit_train(local)
    session = Session(local)
    head, number = session.log.head(), session.versions.next_number()
    name = session.versions.new_name(number, "embeddings-000", "safetensors")
    version = session.version()
    manifest = version.replaced(files=version.files | {name: session.versions.put(name, b"rows")})
    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove", lambda *_: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            purge(local, now=True)
    assert session.store.exists(name)
    with pytest.raises(LogConflict):
        session.versions.commit(manifest, after=head)
    # A file that the purge did not see is no conflict, nor is a purge of others.
    fresh = session.versions.new_name(number, "embeddings-000", "safetensors")
    manifest = version.replaced(files=version.files | {fresh: session.versions.put(fresh, b"rows")})
    assert session.versions.commit(manifest, after=head).version == number
    purge(local, now=True)
    assert session.store.exists(fresh) and not session.store.exists(name)


def test_a_commit_while_purge_looks_is_seen(local, monkeypatch):
    commit_train(local)
    session = Session(local)
    name = session.versions.new_name(2, "embeddings-000", "safetensors")
    version = session.version()
    manifest = version.replaced(files=version.files | {name: session.versions.put(name, b"rows")})
    real, calls = purging.leftovers, []

    def meanwhile(*arguments):
        listed = real(*arguments)
        if not calls:
            session.versions.commit(manifest, after=session.log.head())
        calls.append([x.place for x in listed])
        return listed

    monkeypatch.setattr(purging, "leftovers", meanwhile)
    purge(local, now=True)
    assert name in calls[0] and name not in calls[-1] and session.store.exists(name)


def test_a_busy_service_does_not_keep_a_purge_from_its_end(local, monkeypatch):
    """Whenever it looks, a request comes in, another is carried out, and there is no room for a report."""
    commit_train(local)
    commit_forget(local, FORGOTTEN, "r1")
    real, looks, tried = purging.leftovers, [], []

    def meanwhile(session):
        looks.append(real(session))
        assert len(looks) <= 5, "it looks again and again"
        accept(local, user_name(9), f"open{len(looks)}")
        commit_forget(local, user_name(3 + len(looks)), f"done{len(looks)}")
        return looks[-1]

    def no_room(_, answers, progress):
        tried.extend(answer["request_id"] for answer in answers)
        return [answer | {"evidence": None} for answer in answers]

    monkeypatch.setattr(purging, "leftovers", meanwhile)
    monkeypatch.setattr(purging, "add_evidence", no_room)
    answer = purge(local)
    assert len(looks) == 1 and answer["purged_requests"] == 1 and answer["reports_written"] == 0
    assert sorted(tried) == ["done1", "r1"]
    assert check_readable(local).version == 3 and Session(local).ledger().open.keys() == {"open1"}
    assert kinds_of_records(local)[-2:] == ["purging", "purged"]


@pytest.mark.parametrize("record", ["acceptance", "training", "purge"])
def test_a_purge_looks_again_when_something_comes_meanwhile_that_changes_what_goes(local, monkeypatch, record):
    """And does not try again to write evidence that could not be written."""
    commit_train(local)
    commit_forget(local, FORGOTTEN, "r1")
    Outbox(store_of(local)).add("r2", ["https://desk.example/"])  # on the way to its acceptance
    real, looks, tried = purging.leftovers, [], []

    def meanwhile(session):
        looks.append(real(session))
        if len(looks) == 1 and record == "acceptance":
            accept(local, user_name(5), "r2")
        elif len(looks) == 1 and record == "training":
            commit_train(local, seed=2)
        elif len(looks) == 1:
            Session(local).log.append("purging", {"unnamed": []})
        return looks[-1]

    monkeypatch.setattr(purging, "leftovers", meanwhile)
    monkeypatch.setattr(purging, "add_evidence", lambda _, answers, progress: tried.extend(answers))
    purge(local, now=True)
    assert len(looks) == 2 and len(tried) == 1 and check_readable(local)
    assert (Outbox(store_of(local)).entries().keys() == {"r2"}) == (record == "acceptance")


def test_the_command_line(local, tmp_path, capsys):
    commit_train(local)
    commit_forget(local, FORGOTTEN, "r1")
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(local), encoding="utf-8")
    assert run(["purge", "--config", str(file), "--now", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"removed_files", "removed_bytes"} <= set(answer) and answer["removed_files"] > 0
