"""`retrain`: beside requests it comes to what `train`, `pretrain` and `forget` come to one after the other."""

import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_workers import OneWorker
from small_output import copied
from trained_output import rows_by_partition, trained_output

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.commands import purge
from unlearnrec.cluster.commands import retrain as command
from unlearnrec.cluster.evidence import run_report
from unlearnrec.cluster.log import log
from unlearnrec.cluster.log.records import PURGING, SWITCHING
from unlearnrec.cluster.models import training
from unlearnrec.cluster.output.leases import Lease, read_leases
from unlearnrec.cluster.output.ledger import Ledger
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.versions import Versions
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.cluster.serving.start import WorkerEngine
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_ids, load_shard


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return trained_output(tmp_path_factory.mktemp("retrain"), OneWorker(), cluster={"partitions": 1})


@pytest.fixture
def config(made, tmp_path):
    """A copy of the trained output, to be retrained as another model."""
    config = copied(made[0], tmp_path)
    return config.model_copy(update={"seed": 5})


@pytest.fixture
def worker():
    return OneWorker()


@pytest.fixture
def users(made):
    return sorted({user for user, _ in made[1]})


@pytest.fixture
def beside(monkeypatch):
    """Let things happen while a retrain runs: before its encoder is fitted, or at its first attempts to commit."""

    def arrange(fitting=None, committing=()):
        fit, commit, todo = command.fit_encoder, Versions.commit, list(committing)

        def fitted(*arguments):
            if fitting is not None:
                fitting()
            return fit(*arguments)

        def committed(self, manifest, **decided):
            if manifest.reason == "train" and manifest.replayed is not None and todo:
                todo.pop(0)()
            return commit(self, manifest, **decided)

        monkeypatch.setattr(command, "fit_encoder", fitted)
        monkeypatch.setattr(Versions, "commit", committed)

    return arrange


def pairs_of(config):
    session = Session(config)
    graph = session.version().graph
    maps = []
    for side in ("user", "item"):
        ids, node, _ = load_ids(session.store, graph, side)
        maps.append(dict(zip(node.tolist(), ids.to_pylist(), strict=True)))
    users, items = load_shard(session.store, graph, 0).interactions()[:2]
    return {(maps[0][int(u)], maps[1][int(i)]) for u, i in zip(users, items, strict=True)}


def encoder_bytes(config):
    session = Session(config)
    return session.store.read(session.version().model.encoder.file)


def forget(config, users, request_id):
    return pipeline.forget(config, users=",".join(map(str, users)), request_id=request_id, group=OneWorker())


def same_model(one, other):
    first, second = (rows_by_partition(Session(c), Session(c).version()) for c in (one, other))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert encoder_bytes(one) == encoder_bytes(other)
    assert pairs_of(one) == pairs_of(other)


def test_without_requests_it_is_train_and_pretrain_in_one_version(config, worker, tmp_path):
    other = copied(config, tmp_path / "other")
    answer = pipeline.retrain(config, group=worker)
    pipeline.train(other, group=worker)
    pipeline.pretrain(other, group=worker)
    same_model(config, other)
    now, before = Session(config).version(), Session(other).version()
    assert now.version == answer["version"] == before.version - 1 == 3 and now.reason == "train"
    assert answer["replayed_requests"] == answer["replayed_interactions"] == 0 and answer["pretrain"]["epochs"] == 1
    assert not read_leases(Session(config))
    # The runs on which the encoder was fitted stay, for other settings of the fit.
    assert len([name for name in Session(config).store.list("pretrain") if name.endswith("/done.json")]) == 1
    assert not Session(config).store.list("checkpoints")


def test_the_report_has_the_curve_and_the_seconds_of_the_encoder(config, worker, users, beside):
    """Also where a request was carried out on the result; a measurement of the same version keeps them."""
    beside(fitting=lambda: forget(config, [users[0]], "a"))
    answer = pipeline.retrain(config, group=worker)
    store = Session(config).store
    told = json.loads(store.read("reports/report.json"))
    assert told["version"] == answer["version"] and told["training"]["curve"] == answer["curve"]
    assert told["training"]["seconds"] == answer["curve"][-1]["seconds"] < answer["seconds"]
    assert told["encoder"]["seconds"] == answer["pretrain"]["seconds"]
    assert [request["request_id"] for request in told["requests"]] == ["a"]
    assert "was trained for 1 epoch" in store.read("reports/report.html").decode()
    run_report.update_run_report(Session(config), Session(config).version(), quality={"recall@20": 0.5})
    again = json.loads(store.read("reports/report.json"))
    assert (again["training"], again["encoder"]) == (told["training"], told["encoder"])


def test_requests_that_are_carried_out_meanwhile_are_carried_out_on_the_result(
    config, worker, users, made, beside, tmp_path
):
    other = copied(config, tmp_path / "other")
    beside(fitting=lambda: forget(config, users[:2], "a"), committing=[lambda: forget(config, [users[5], 10**9], "b")])
    answer = pipeline.retrain(config, group=worker)
    left = {(u, i) for u, i in made[1] if u not in {users[0], users[1], users[5]}}
    assert pairs_of(config) == left
    assert answer["replayed_requests"] == 2 and answer["replayed_interactions"] == len(set(made[1])) - len(left)
    pipeline.train(other, group=worker)
    pipeline.pretrain(other, group=worker)
    forget(other, users[:2], "a")
    forget(other, [users[5], 10**9], "b")
    same_model(config, other)

    session = Session(config)
    records = session.log.records()
    kinds = [(r.kind, r.body.get("manifest", {}).get("reason")) for r in records]
    assert [kind for kind, _ in kinds].count(SWITCHING) == 1 and kinds[-1] == ("committed", "train")
    ledger = Ledger(records)
    assert session.version().replayed == ("a", "b") and ledger.switching is None
    # Debt counts what was forgotten since the training, not since the commit; and the answers stay.
    assert ledger.debt() == pytest.approx(1 - len(left) / len(set(made[1])))
    for request_id in ("a", "b"):
        assert pipeline.status(config, request_id)["status"] == "committed"
    assert pipeline.verify(config)["ok"]
    assert forget(config, [users[7]], "c")["status"] == "committed"
    assert forget(config, users[:2], "d")["removed_interactions"] == 0


def test_a_request_that_found_nothing_in_the_old_graph_is_carried_out_on_a_new_ingest(
    config, worker, users, made, beside, tmp_path
):
    table = pq.read_table(config.interactions)
    added = pa.table({"user_id": [-7, users[3]], "item_id": [made[1][0][1]] * 2}).cast(table.select([0, 1]).schema)
    pq.write_table(pa.concat_tables([table.select(["user_id", "item_id"]), added]), tmp_path / "more.parquet")
    larger = config.model_copy(update={"interactions": str(tmp_path / "more.parquet")})
    pipeline.ingest(larger)
    beside(committing=[lambda: forget(config, [-7], "new"), lambda: forget(config, [users[0]], "both")])
    answer = pipeline.retrain(larger, group=worker)
    expected = {(u, i) for u, i in [*made[1], (users[3], made[1][0][1])] if u != users[0]}
    assert pairs_of(larger) == expected and answer["replayed_requests"] == 2
    assert pipeline.status(larger, "new")["status"] == "nothing_to_forget"
    assert pipeline.forget(larger, users=str(users[1]), group=worker)["status"] == "committed"


def with_times(path, target, unit=None):
    """The table with a column of times 0, 1, 2, ... of all events: plain numbers, or timestamps of a unit."""
    table = pq.read_table(path, columns=["user_id", "item_id"])
    times = pa.array(range(table.num_rows))
    pq.write_table(table.append_column("at", times if unit is None else times.cast(pa.timestamp(unit))), target)
    return str(target)


@pytest.mark.parametrize("later", ["no times", "another unit"])
def test_a_time_range_is_not_carried_out_on_times_of_another_kind(config, worker, users, beside, tmp_path, later):
    def with_column(interactions, time_column):
        columns = config.columns.model_copy(update={"time": time_column})
        return config.model_copy(update={"interactions": interactions, "columns": columns})

    timed = with_column(with_times(config.interactions, tmp_path / "numbers.parquet"), "at")
    pipeline.ingest(timed)
    pipeline.train(timed, group=worker)
    pipeline.pretrain(timed, group=worker)
    (tmp_path / "r.jsonl").write_text(json.dumps({"user_id": users[0], "since": 0}))
    stamped = with_column(with_times(config.interactions, tmp_path / "stamped.parquet", "s"), "at")
    new = config if later == "no times" else stamped
    pipeline.ingest(new)

    def forget_range():
        answer = pipeline.forget(timed, requests=str(tmp_path / "r.jsonl"), request_id="r", group=OneWorker())
        assert answer["removed_interactions"]

    beside(committing=[forget_range])
    with pytest.raises(RuntimeError, match=r"request r .* names a time range"):
        pipeline.retrain(new, group=worker)
    assert users[0] not in {user for user, _ in pairs_of(config)}


def test_a_request_above_the_limit_is_not_carried_out_on_a_new_ingest_unasked(
    config, worker, users, beside, tmp_path, made
):
    """It found nothing before, and was not held."""
    more = [(user, made[1][0][1] + 10**6) for user in users]
    table = pq.read_table(config.interactions, columns=["user_id", "item_id"])
    added = pa.table({"user_id": [u for u, _ in more], "item_id": [i for _, i in more]}).cast(table.schema)
    pq.write_table(pa.concat_tables([table, added]), tmp_path / "more.parquet")
    limited = config.forget.model_copy(update={"max_share": 0.02})
    larger = config.model_copy(update={"interactions": str(tmp_path / "more.parquet"), "forget": limited})
    pipeline.ingest(larger)
    beside(committing=[lambda: pipeline.forget(larger, items=str(more[0][1]), request_id="big", group=OneWorker())])
    with pytest.raises(RuntimeError, match=r"request big .* forget\.max_share=0\.02"):
        pipeline.retrain(larger, group=worker)
    assert pipeline.status(larger, "big")["status"] == "nothing_to_forget"


def test_a_retrain_and_a_pretrain_leave_each_others_runs_alone(config, worker, beside):
    beside(fitting=lambda: pipeline.pretrain(config, group=OneWorker()))
    assert pipeline.retrain(config, group=worker)["version"] == 4


def test_a_service_with_another_number_of_workers_says_so_and_serves_no_part(config, worker):
    """A new ingest and a retrain beside it may have given the output another number of partitions."""
    two = config.model_copy(update={"cluster": config.cluster.model_copy(update={"partitions": 2})})
    with pytest.raises(InputError, match=r"cluster\.partitions is 2, but"):
        WorkerEngine(Session(two), worker, Progress()).readouts(Session(two).versions.current())


def test_where_there_is_no_graph_nothing_is_written(config, tmp_path):
    with pytest.raises(InputError, match="ingest"):
        pipeline.retrain(config.model_copy(update={"output": str(tmp_path / "typo")}), group=OneWorker())
    assert not (tmp_path / "typo").exists()


def test_a_retrain_ends_when_its_result_cannot_be_committed(config, users, monkeypatch):
    monkeypatch.setattr(training, "LOOK_SECONDS", 0.0)
    ended = []

    class Watched(OneWorker):
        def run(self, call, *, on_progress=None, **rest):
            if call.method == "fit_encoder":
                on_progress([{}])
                pipeline.purge(config, now=True)
                on_progress([{}])
                ended.append("not")
            return super().run(call, **rest)

    pipeline.train(config, group=OneWorker())
    with pytest.raises(RuntimeError, match=r"`purge --now`.* `unlearnrec retrain` again"):
        pipeline.retrain(config.model_copy(update={"seed": 6}), group=Watched())
    assert not ended


def test_another_training_or_a_rollback_is_not_overwritten(config, worker, beside):
    beside(committing=[lambda: pipeline.train(config, group=OneWorker())])
    with pytest.raises(RuntimeError, match=r"another version was committed .*\(train\)"):
        pipeline.retrain(config, group=worker)
    session = Session(config)
    assert session.version().version == 3 and not read_leases(session)
    assert not any(record.kind == SWITCHING for record in session.log.records())  # nobody waits for nothing


def test_a_purge_waits_for_a_retrain_but_not_purge_now(config, worker, users, made, beside):
    kept = []

    def purged(now):
        forget(config, [users[0]], f"r{now}")
        kept.append(pipeline.purge(config, now=now))

    beside(fitting=lambda: purged(False))
    pipeline.retrain(config, group=worker)
    assert kept[0]["kept_files"] and not kept[0]["purged_requests"]
    assert pairs_of(config) == {(u, i) for u, i in made[1] if u != users[0]}
    assert pipeline.purge(config)["purged_requests"] == 1
    version = Session(config).version().version

    beside(committing=[lambda: pipeline.purge(config, now=True)])
    with pytest.raises(RuntimeError, match="If a purge removed it, run this command again"):
        pipeline.retrain(config.model_copy(update={"seed": 6}), group=worker)
    # One that has not come to its removals yet, or that takes files which other versions name.
    beside(committing=[lambda: Session(config).log.append(PURGING, {"unnamed": [], "held": []})])
    with pytest.raises(RuntimeError, match=r"purge --now`.*retrain` again"):
        pipeline.retrain(config.model_copy(update={"seed": 6}), group=worker)
    assert Session(config).version().version == version


@pytest.mark.parametrize(
    ("command", "message"),
    [("retrain", r"`purge --now`.* `unlearnrec retrain` again"), ("train", "another version was committed while")],
)
def test_one_whose_graph_a_purge_took_says_so(command, message, config, users):
    """Not that the file should be restored: it was superseded."""

    class Late(OneWorker):
        def run(self, call, **rest):
            if call.method == "train":
                forget(config, [users[0]], "r0")
                pipeline.purge(config, now=True)
            return super().run(call, **rest)

    with pytest.raises(RuntimeError, match=message):
        getattr(pipeline, command)(config, group=Late())
    assert pipeline.verify(config)["ok"]


def test_the_log_is_not_cut_off_behind_a_retrain(config, worker, users, beside, monkeypatch):
    monkeypatch.setattr(purge, "UNDER_WAY_SECONDS", 0.0)

    def cut():
        for number in range(3):
            forget(config, [users[number]], f"r{number}")
        pipeline.purge(config, truncate_log=True)

    beside(fitting=cut)
    answer = pipeline.retrain(config, group=worker)
    # The purge wrote the version of the three requests in whole files, as another version.
    assert answer["replayed_requests"] == 3 and Session(config).version().version == answer["version"] == 7
    assert pipeline.verify(config)["ok"] and Session(config).store.exists("log/000000001.json")
    pipeline.purge(config, truncate_log=True)
    assert pipeline.verify(config)["ok"] and not Session(config).store.exists("log/000000001.json")


def test_a_log_that_was_cut_off_with_now_behind_a_retrain_ends_it(config, monkeypatch):
    """It takes none of the files on which the result stands. Each look asks whether it was, else the commit does."""
    monkeypatch.setattr(log, "CUT_SECONDS", 0.0)
    left = [lambda: pipeline.pretrain(config, group=OneWorker())] * 2
    left += [lambda: pipeline.purge(config, now=True, truncate_log=True)]

    class Watched(OneWorker):
        def run(self, call, **rest):
            while call.method == "train" and left:
                left.pop(0)()
            return super().run(call, **rest)

    with pytest.raises(InputError, match=r"was removed by `purge --truncate-log`"):
        pipeline.retrain(config, group=Watched())
    assert pipeline.verify(config)["ok"] and Session(config).version().reason == "pretrain"


def test_a_purge_that_waits_for_it_may_name_a_file_from_before_its_lease(config, worker, beside):
    """One that is older than what a command under way may need: this process stood still, and its lease was renewed."""

    def taken():
        session = Session(config)
        unnamed = [name for name in session.store.list("versions/000003") if "/embeddings-" in name]
        session.log.append(PURGING, {"unnamed": unnamed, "held": list(read_leases(session))})

    beside(committing=[taken])
    with pytest.raises(RuntimeError, match=r"stood still .*retrain` again"):
        pipeline.retrain(config, group=worker)
    assert Session(config).version().version == 2


def test_a_purged_content_ends_it_with_the_way_out(config, worker, users, beside):
    def gone():
        forget(config, [users[0]], "r")
        Session(config).store.write("requests/r.json", b'{"purged": true}')

    beside(fitting=gone)
    with pytest.raises(RuntimeError, match=r"requests/r\.json .* a purge has removed .*retrain` again"):
        pipeline.retrain(config, group=worker)
    assert Session(config).version().reason == "forget"


def test_an_interrupted_retrain_goes_on(config, worker, beside, monkeypatch):
    config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 2, "checkpoint_every": 1})})

    def interrupted():
        raise KeyboardInterrupt

    beside(fitting=interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.retrain(config, group=worker)
    assert Session(config).store.list("checkpoints") and not read_leases(Session(config))
    monkeypatch.undo()
    before = Session(config).store.list("checkpoints")
    fitted = command.fit_encoder

    def same(*arguments):
        assert Session(config).store.list("checkpoints") == before  # the second epoch alone was trained again
        return fitted(*arguments)

    monkeypatch.setattr(command, "fit_encoder", same)
    assert pipeline.retrain(config, resume=True, group=worker)["version"] == 3


def test_a_lease_is_renewed_while_it_is_held(config):
    quick = config.model_copy(update={"forget": config.forget.model_copy(update={"lease_seconds": 0.3})})
    session = Session(quick)
    with Lease(session, 3, ["a"]) as lease:
        first = read_leases(session)[lease.name][0]
        lease.add(["b/*"])
        deadline = time.monotonic() + 30
        while read_leases(session)[lease.name][0] < first + 0.2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert read_leases(session)[lease.name][1] == {"a", "b/*"}
    assert not read_leases(session)


def test_that_services_are_to_wait_is_in_a_checkpoint_too(config):
    session = Session(config)
    session.log.append(SWITCHING, {"behind": 1, "seconds": 90.0})
    ledger = session.ledger()
    assert Ledger(state=json.loads(json.dumps(ledger.state()))).switching == ledger.switching is not None
    session.checkpoint()
    assert pipeline.verify(config)["ok"]


def test_a_training_ends_when_its_result_cannot_be_committed(config, users, monkeypatch):
    monkeypatch.setattr(training, "LOOK_SECONDS", 0.0)
    seen = []

    class Watched(OneWorker):
        def run(self, call, *, on_progress=None, **rest):
            if call.method == "train":
                on_progress([{}])
                forget(config, [users[0]], "r")
                seen.append("carried out")
                on_progress([{}])
                seen.append("went on")
            return super().run(call, **rest)

    with pytest.raises(RuntimeError, match=r"train` again; or `unlearnrec retrain`"):
        pipeline.train(config, group=Watched())
    assert seen == ["carried out"] and Session(config).version().reason == "forget"
