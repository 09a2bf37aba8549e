"""Batches on real workers, the readouts that the service answers from, and the service itself as a process that dies."""

import errno
import signal
import time
import types

import numpy as np
import pyarrow.parquet as pq
import pytest
import requests
from small_output import commit_train, copied, small_config, write_interactions
from trained_output import trained_output

pytest.importorskip("fastapi")

from server_process import Server

from unlearnrec.benchmarks.chaos_checker import pairs_of
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands.serve import serve
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.cluster.lifecycle.acceptance import accept
from unlearnrec.cluster.lifecycle.refusals import Held
from unlearnrec.cluster.log.log import LogConflict
from unlearnrec.cluster.models import reduced_graph
from unlearnrec.cluster.models.carry_out import carry_out
from unlearnrec.cluster.output.ledger import Ledger
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.cluster.requests.request import make_request
from unlearnrec.cluster.serving import start
from unlearnrec.cluster.serving.readouts import living_ids
from unlearnrec.cluster.serving.start import WorkerEngine
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory, group):
    """A small output with an encoder, and its interactions. Not to be changed."""
    config, events = trained_output(tmp_path_factory.mktemp("finished"), group, train={"epochs": 4})
    pairs = sorted(set(events))
    return types.SimpleNamespace(config=config, pairs=pairs, users=sorted({u for u, _ in pairs}))


@pytest.fixture
def config(finished, tmp_path):
    return copied(finished.config, tmp_path)


def accepted(session, *named):
    found = []
    for number, content in enumerate(named):
        request = make_request(*content, f"r{number}", b"")
        accept(session, request)
        found.append(request)
    return found


def test_a_batch_is_one_version_and_each_request_has_its_own_answer(finished, config, group):
    session = Session(config)
    before = session.version()
    user = finished.users[0]
    items = [i for u, i in finished.pairs if u == user]
    batch = accepted(session, ([user], [], []), ([], [], [(user, items[0]), (-1, -2)]), ([-5], [], []))
    announced = []

    def before_commit(manifest):
        announced.append(manifest.graph)
        assert Session(config).version() == before  # nothing is committed yet

    answers = carry_out(session, batch, group, Progress(), before_commit=before_commit)
    after = Session(config).version()
    assert announced == [after.graph] and after.version == before.version + 1
    assert after.graph.interactions == before.graph.interactions - len(items)
    assert set(after.answers) == {"r0", "r1"}
    assert [answers[f"r{n}"]["status"] for n in range(3)] == ["committed", "committed", "nothing_to_forget"]
    assert [answers[f"r{n}"]["removed_interactions"] for n in range(3)] == [len(items), 1, 0]
    assert [answers[f"r{n}"]["unknown_ids"] for n in range(3)] == [0, 1, 1]
    assert answers["r0"]["touched_nodes"] == len(items) + 1 and answers["r1"]["touched_nodes"] == 2
    assert answers["r0"]["deleted_users"] == 1 and answers["r0"]["batch_requests"] == 2
    assert set(answers["r1"]["affected_partitions"]) <= set(answers["r0"]["affected_partitions"])
    for n, phase in enumerate(["committed", "committed", "completed"]):
        assert pipeline.status(config, f"r{n}")["phase"] == phase
    with pytest.raises(LogConflict):  # it has its answer: not a second time
        carry_out(session, batch[:1], group, Progress())
    assert pipeline.forget(config, users=str(user), request_id="r0", group=group)["version"] == after.version


def limited(config, max_share):
    return config.model_copy(update={"forget": config.forget.model_copy(update={"max_share": max_share})})


def test_a_batch_stays_below_the_limit_and_what_is_above_it_alone_is_held(finished, config, group):
    total = len(finished.pairs)
    counts = {user: sum(u == user for u, _ in finished.pairs) for user in finished.users}
    small, middle, large = (sorted(finished.users, key=counts.get)[place] for place in (0, 1, -1))
    session = Session(limited(config, (counts[small] + counts[middle] - 1) / total))
    assert counts[large] > counts[small] + counts[middle] - 1
    batch = accepted(session, ([large], [], []), ([small], [], []), ([middle], [], []), ([-5], [], []))
    answers = carry_out(session, batch, group, Progress())
    assert set(answers) == {"r1"} and answers["r1"]["removed_interactions"] == counts[small]
    tickets = Ledger(session.log.records()).tickets
    assert [tickets[f"r{n}"].state.value for n in range(4)] == ["held", "committed", "accepted", "accepted"]
    assert tickets["r0"].share == pytest.approx(counts[large] / total)
    with pytest.raises(LogConflict):  # it is held
        carry_out(session, batch[:1], group, Progress())
    assert set(carry_out(session, batch[2:], group, Progress())) == {"r2", "r3"}


def test_a_request_above_the_limit_needs_somebody_elses_approval(
    finished, config, group, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("UNLEARNREC_SUPPRESSION_KEY", "a-key-of-enough-letters")
    file, user = tmp_path / "run.yaml", str(finished.users[0])
    strict = limited(config, 0.001)
    file.write_text(to_yaml(strict), encoding="utf-8")
    before = Session(config).version()
    dry = pipeline.forget(strict, users=user, dry_run=True)
    assert dry["needs_approval"] and dry["share"] == dry["removed_interactions"] / len(finished.pairs)
    for _ in range(2):  # held by the first, found held by the second
        with pytest.raises(Held, match=r"more than forget\.max_share=0\.001.*unlearnrec approve r --by"):
            pipeline.forget(strict, users=user, request_id="r", requester="Ann", group=group)
    assert Session(config).version() == before and not Session(config).store.list("suppression")
    assert [r.kind for r in Session(config).log.records()][-2:] == ["accepted", "held"]
    assert run(["approve", "r", "--by", "ann", "--config", str(file)]) == 2
    assert "somebody else" in capsys.readouterr().err
    assert run(["approve", "other", "--by", "Bob", "--config", str(file)]) == 2
    assert run(["approve", "r", "--by", "Bob", "--config", str(file)]) == 0
    answer = pipeline.forget(strict, users=user, request_id="r", group=group)
    assert answer["status"] == "committed" and pipeline.status(strict, "r")["approved_by"] == "Bob"

    with pytest.raises(Held):
        pipeline.forget(strict, users=str(finished.users[1]), request_id="s", group=group)
    assert run(["cancel", "s", "--config", str(file)]) == 0
    assert pipeline.status(strict, "s")["phase"] == "cancelled"
    assert run(["cancel", "r", "--config", str(file)]) == 2


def test_with_a_grace_window_the_command_accepts_and_carries_out_later(finished, config, group):
    slow = config.model_copy(update={"forget": config.forget.model_copy(update={"grace_seconds": 3600.0})})
    user = str(finished.users[1])
    for _ in range(2):
        answer = pipeline.forget(slow, users=user, request_id="r", group=group)
        assert answer["status"] == "accepted" and answer["version"] is None and answer["due"]
    assert pipeline.status(slow, "r")["phase"] == "accepted"
    assert len(Ledger(Session(config).log.records()).open) == 1
    assert pipeline.forget(config, users=user, request_id="r", group=group)["status"] == "committed"


def test_the_copy_of_the_readouts_recommends_what_the_workers_do(finished, config, group, tmp_path):
    session = Session(config)
    readouts = WorkerEngine(session, group, Progress()).readouts(session.version())
    pipeline.export(config, to=str(tmp_path / "export"), top_k=5, group=group)
    exported = {}
    for row in pq.read_table(tmp_path / "export" / "recommendations.parquet").to_pylist():
        exported.setdefault(row["user_id"], []).append((row["rank"], row["item_id"], row["score"]))
    assert set(exported) == set(finished.users) == set(readouts.users)
    for user, expected in exported.items():
        found = readouts.recommend(str(user), 5)
        np.testing.assert_allclose(
            [r["score"] for r in found], [s for _, _, s in sorted(expected)], rtol=1e-4, atol=1e-6
        )
        assert {r["item_id"] for r in found} == {i for _, i, _ in expected}
        assert not {(user, r["item_id"]) for r in readouts.recommend(str(user), 1000)} & set(finished.pairs)
    assert readouts.recommend("nobody", 5) is None and readouts.recommend("-17", 5) is None

    users, items = living_ids(session, session.version())
    user, item = finished.users[0], exported[finished.users[2]][0][1]
    masked = readouts.without(users - {user}, items - {item})
    assert masked.recommend(str(user), 5) is None and masked.recommend(str(finished.users[2]), 5)
    assert item not in {r["item_id"] for u in finished.users[1:] for r in masked.recommend(str(u), 1000)}
    assert readouts.recommend(str(user), 5) is not None


def test_readouts_that_follow_are_those_that_are_made_anew(finished, config, group, monkeypatch):
    monkeypatch.setattr(reduced_graph, "SMALL_MAP_BYTES", 0)
    session = Session(config)
    engine = WorkerEngine(session, group, Progress())
    engine.readouts(session.version())
    gone = [str(user) for user in finished.users[:3]]
    pipeline.forget(config, users=",".join(gone), group=group)
    version = session.version()
    made = []
    monkeypatch.setattr(start, "make_readouts", lambda *_: made.append(1))
    followed = engine.readouts(version)
    monkeypatch.undo()
    assert not made and followed.version == version.version
    anew = WorkerEngine(session, group, Progress()).readouts(version)
    for user in map(str, finished.users):
        found = followed.recommend(user, 1000)
        assert found == anew.recommend(user, 1000) and (found is None) == (user in gone)


class Started(Exception):
    """The start came to the workers."""


def test_the_start_waits_for_a_storage_that_is_away_and_for_nothing_else(tmp_path, monkeypatch):
    small = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(small)
    commit_train(small)
    away, waited, said = [OSError(errno.EBUSY, "Slow Down")] * 3 + [ConnectionError("S3: no route")] * 5, [], []
    real = Store.exists

    def exists(store, name):
        if away:
            raise away.pop()
        return real(store, name)

    def workers(session):
        raise Started

    progress = Progress()
    monkeypatch.setattr(progress, "note", said.append)
    monkeypatch.setattr(Store, "exists", exists)
    monkeypatch.setattr(Session, "workers", workers)
    monkeypatch.setattr(time, "sleep", waited.append)

    def start(config):
        with pytest.raises(Exception) as error:
            serve(config, port=0, progress=progress)
        return error.value

    assert isinstance(start(small), Started)
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60] and "waiting 1 s" in said[0] and "ConnectionError: S3" in said[0]
    away += [PermissionError("Access Denied")]
    assert isinstance(start(small), PermissionError)
    assert isinstance(start(small.model_copy(update={"output": str(tmp_path / "empty")})), InputError)
    lost = next(iter(Session(small).version().files))
    Session(small).store.remove(lost)
    assert lost in str(start(small)) and len(waited) == 8


def test_what_serve_needs_before_it_starts(config, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("UNLEARNREC_TOKEN", raising=False)
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert run(["serve", "--config", str(file), "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "UNLEARNREC_TOKEN is not set" in capsys.readouterr().err
    assert run(["serve", "--config", str(file), f"output={tmp_path / 'empty'}"]) == 2
    assert "unlearnrec train" in capsys.readouterr().err


# ---- the process ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_service_dies_and_no_acknowledged_request_is_lost(finished, config, group, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    first, second, third, fourth, kept = finished.users[:5]
    with Server(file, tmp_path) as server:
        server.ready()
        assert requests.get(server.url + "/metrics", timeout=30).status_code == 401
        assert server.get(f"/v1/recommendations/{first}?k=3").json()["recommendations"]
        assert server.post("one", users=[first]).status_code == server.post("two", users=[second]).status_code == 202
        server.answered("one", "two")
        for user in (first, second):
            assert server.get(f"/v1/recommendations/{user}").status_code == 404
        assert 3 <= server.get("/v1/requests/two").json()["version"] <= 4
        assert server.get(f"/v1/recommendations/{kept}").status_code == 200

        for number, user in enumerate((third, fourth)):
            assert server.post(f"late{number}", users=[user]).status_code == 202

    with Server(file, tmp_path) as server:
        server.ready()
        server.answered("one", "two", "late0", "late1")
        for user in (first, second, third, fourth):
            assert server.get(f"/v1/recommendations/{user}").status_code == 404
        again = server.post("late0", users=[third])
        assert again.status_code == 202 and again.json()["status"] == "committed"
        # Another command commits meanwhile: the service follows.
        pipeline.forget(config, users=str(kept), group=group)
        server.wait(lambda: server.get(f"/v1/recommendations/{kept}").status_code == 404)
        metrics = server.get("/metrics").text
        assert "unlearnrec_open_requests 0" in metrics and 'requests_total{state="committed"} 5' in metrics
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0, server.log.read_text()
    records = Session(config).log.records()
    answers = [n for r in records if r.kind == "committed" for n in r.body["manifest"].get("answers", {})]
    assert len(answers) == len(set(answers)) == 5


@pytest.mark.slow
def test_two_services_on_one_output_carry_out_each_request_once(finished, config, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    users, both = finished.users[:8], [tmp_path / "one", tmp_path / "two"]
    for folder in both:
        folder.mkdir()
    with Server(file, both[0]) as one, Server(file, both[1]) as two:
        for server in (one, two):
            server.ready()
        for number, user in enumerate(users):
            for server in (one, two):  # the same request to both
                assert server.post(f"r{number}", users=[user]).status_code == 202
        for server in (one, two):
            server.answered(*(f"r{number}" for number in range(len(users))))
            server.wait(lambda server=server: server.get(f"/v1/recommendations/{users[-1]}").status_code == 404)
    session = Session(config)
    answers = [n for r in session.log.records() for n in r.body.get("manifest", {}).get("answers", {})]
    assert sorted(answers) == [f"r{number}" for number in range(len(users))]
    left = {pair for pair in finished.pairs if pair[0] not in users}
    assert pairs_of(session.store, session.version().graph) == left
