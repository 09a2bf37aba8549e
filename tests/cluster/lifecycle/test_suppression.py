"""The suppression list: what was forgotten stays out of the next ingest, and nobody can read the list."""

import json
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_output import accept, commit_forget, commit_train, small_config, user_name, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands import residue as residues
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.cluster.lifecycle import acceptance
from unlearnrec.cluster.lifecycle.acceptance import under_current_id
from unlearnrec.cluster.lifecycle.finding import find_stored
from unlearnrec.cluster.lifecycle.outcomes import note_outcomes
from unlearnrec.cluster.lifecycle.suppression import ENVIRONMENT, FORGOTTEN, LIFTED, SuppressionList
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.cluster.requests import digests, row_filter
from unlearnrec.cluster.requests.digests import digests_of
from unlearnrec.cluster.requests.request import Request, make_request
from unlearnrec.cluster.requests.row_filter import RowFilter
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_ids, load_shard
from unlearnrec.partitioning.manifest import load_manifest
from unlearnrec.partitioning.storage import Store

KEY = "0123456789abcdef"
OTHER = "another key, also long enough"
TEXTS = {"user": "string", "item": "string"}
INTEGERS = {"user": "int64", "item": "int64"}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, KEY)
    return KEY.encode()


def request(users=(), items=(), pairs=()):
    return Request("r", tuple(users), tuple(items), tuple(pairs))


def forget(config, id_types, **named):
    """What `forget` does for the list."""
    found = SuppressionList(Session(config).store, KEY.encode())
    found.append(FORGOTTEN, digests_of(found.key, request(**named), id_types))


def events(config):
    """All interactions of the graph that was ingested last, by external id."""
    store = Session(config).store
    manifest = load_manifest(store)
    names = {side: load_ids(store, manifest, side)[0].to_pylist() for side in ("user", "item")}
    found = set()
    for k in range(manifest.partitions):
        users, items, _ = load_shard(store, manifest, k).interactions()
        found |= {(names["user"][u], names["item"][i]) for u, i in zip(users, items, strict=True)}
    assert {u for u, _ in found} == set(names["user"]) and {i for _, i in found} == set(names["item"])
    return found


@pytest.fixture(params=["texts", "integers"])
def made(request, tmp_path):
    """(config, all events, id types, how the ids are written in a request)."""
    path = tmp_path / "events.parquet"
    if request.param == "texts":
        write_interactions(path)
        id_types, written = TEXTS, str
    else:
        pairs = [(u * 10, i) for u in range(-2, 10) for i in range(8) if (u + i) % 2]
        pq.write_table(pa.table({"user_id": [u for u, _ in pairs], "item_id": [i for _, i in pairs]}), path)
        id_types = INTEGERS

        def written(x):  # as somebody may write an integer
            return f"{x:04d}"

    table = pq.read_table(path)
    # Some rows twice: rows are counted, not pairs.
    pq.write_table(pa.concat_tables([table, table.slice(0, 5)]), path)
    config = small_config(str(path), str(tmp_path / "output"))
    pipeline.ingest(config)
    return config, events(config), id_types, written


def test_what_is_listed_is_not_ingested_and_a_lift_lets_it_in(made, tmp_path):
    config, before, id_types, written = made
    user, other = sorted({u for u, _ in before})[::4][:2]
    item = sorted({i for _, i in before})[3]
    pair = next((u, i) for u, i in sorted(before) if u == other and i != item)
    forget(config, id_types, users=[written(user)], items=[written(item)], pairs=[tuple(map(written, pair))])

    left = {(u, i) for u, i in before if u != user and i != item and (u, i) != pair}
    answer = pipeline.ingest(config)
    assert events(config) == left and len(left) == len(before) - 10
    rows = [(e["user_id"], e["item_id"]) for e in pq.read_table(config.interactions).to_pylist()]
    assert answer["suppressed"] == sum(row not in left for row in rows) > len(before) - len(left)
    assert load_manifest(Session(config).store).suppressed == answer["suppressed"] and answer["skipped"] == 0

    assert pipeline.lift(config, users=written(user)) == {"lifted": 1, "not_listed": 0}
    pipeline.ingest(config)
    assert events(config) == left | {(u, i) for u, i in before if u == user and i != item}
    (tmp_path / "pairs.csv").write_text(f"user_id,item_id\n{written(pair[0])},{written(pair[1])}\n")
    lifted = pipeline.lift(config, items=f"{written(item)},nobody", interactions=str(tmp_path / "pairs.csv"))
    assert lifted == {"lifted": 2, "not_listed": 1}
    files = Session(config).store.list("suppression")
    assert pipeline.lift(config, items="nobody") == {"lifted": 0, "not_listed": 1}
    assert Session(config).store.list("suppression") == files
    assert pipeline.ingest(config)["suppressed"] == 0 and events(config) == before
    # Later entries win again.
    forget(config, id_types, users=[written(user)])
    pipeline.ingest(config)
    assert events(config) == {(u, i) for u, i in before if u != user}


def test_what_the_list_keeps_out_is_not_asked_anew(tmp_path):
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    named = make_request([user_name(1)], [], [], None, Session(config).request_key())
    again = []
    for step in (lambda: None, lambda: forget(config, TEXTS, users=[user_name(1)]), lambda: None):
        step()
        if not again:
            session = Session(config)
            session.log.append("completed", {"request_id": named.request_id, "answer": {}})
        pipeline.ingest(config)
        again.append(under_current_id(Session(config), named).request_id != named.request_id)
    pipeline.lift(config, users=user_name(1))
    assert [*again, under_current_id(Session(config), named).request_id != named.request_id] == [
        True,
        False,
        False,
        True,
    ]


def test_a_list_with_a_gap_takes_no_more(tmp_path):
    """The next number by count is taken, and would be for ever."""
    store = Store(str(tmp_path))
    found, named = SuppressionList(store, KEY.encode()), digests_of(KEY.encode(), request(users=["ann"]), TEXTS)
    for _ in range(3):
        found.append(FORGOTTEN, named)
    store.remove("suppression/000000002.json")
    with pytest.raises(InputError, match=r"suppression/000000003\.json is there.* Restore"):
        found.append(FORGOTTEN, named)
    assert store.list() == ["suppression/000000001.json", "suppression/000000003.json"]


def test_without_its_key_a_list_stops_ingest(made, tmp_path, monkeypatch, capsys):
    config, before, id_types, written = made
    manifest = load_manifest(Session(config).store)
    forget(config, id_types, users=[written(next(iter(before))[0])])
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    for value, words in ((None, "is not set"), (OTHER, "made with another key"), ("short", "at least 16")):
        if value is None:
            monkeypatch.delenv(ENVIRONMENT)
        else:
            monkeypatch.setenv(ENVIRONMENT, value)
        for command in (["ingest"], ["lift", "--users", "1"]):
            assert run([*command, "--config", str(file)]) == 2
            message = capsys.readouterr().err
            assert words in message and ENVIRONMENT in message
    assert load_manifest(Session(config).store) == manifest
    monkeypatch.setenv(ENVIRONMENT, KEY)
    assert run(["ingest", "--config", str(file)]) == 0
    assert capsys.readouterr()


def test_without_a_list_no_key_is_needed(made, monkeypatch):
    config, before, *_ = made
    assert pipeline.ingest(config)["suppressed"] == 0 and events(config) == before
    monkeypatch.delenv(ENVIRONMENT)
    assert pipeline.ingest(config)["suppressed"] == 0 and events(config) == before
    assert Session(config).store.list("suppression") == []


def test_a_table_of_which_nothing_is_left_says_why(tmp_path):
    config = small_config(write_interactions(tmp_path / "events.parquet", users=2), str(tmp_path / "output"))
    forget(config, TEXTS, users=[user_name(0), user_name(1)])
    with pytest.raises(InputError, match="8 of 8 rows are on the suppression list"):
        pipeline.ingest(config)


def test_the_list_tells_no_id_without_the_key(tmp_path, key):
    store = Store(str(tmp_path))
    SuppressionList(store, key).append(FORGOTTEN, digests_of(key, request(["ann"], ["i1"], [("ann", "i1")]), TEXTS))
    (name,) = store.list("suppression")
    data = store.read(name)
    assert b"ann" not in data and b"i1" not in data and key not in data
    content = json.loads(data)
    assert all(len(bytes.fromhex(x)) == 32 for kind in digests.KINDS for x in content[kind])
    other = digests_of(OTHER.encode(), request(["ann"], ["i1"], [("ann", "i1")]), TEXTS)
    same = digests_of(key, request(["ann"], ["ann"], [("ann", "ann"), ("an", "nann"), ("anna", "nn")]), TEXTS)
    listed, _ = SuppressionList(store, key).state()
    assert all(listed[kind].isdisjoint(other[kind]) for kind in digests.KINDS)
    # User, item and pair of one text, and pairs that are written alike, are all different.
    assert len(set().union(*same.values())) == 5


def test_a_filter_hashes_each_id_once(key, monkeypatch):
    draw = np.random.default_rng(0)
    users, items = (pa.array([f"{side}{x}" for x in draw.integers(50, size=1000)]) for side in "ui")
    listed = digests_of(key, request(["u3", "u9", "x"], ["i7"]), TEXTS)
    hashed = []
    real = row_filter.id_digest
    monkeypatch.setattr(
        row_filter, "id_digest", lambda k, domain, text: hashed.append((domain, text)) or real(k, domain, text)
    )
    monkeypatch.setattr(row_filter, "pair_digest", None)  # no pairs on the list: none is hashed
    names = RowFilter(key, listed)
    for start in range(0, 1000, 100):
        part = [x.slice(start, 100) for x in (users, items)]
        wanted = [u in ("u3", "u9") or i == "i7" for u, i in zip(*(x.to_pylist() for x in part), strict=True)]
        assert names(*part).tolist() == wanted
    assert len(hashed) == len(set(hashed)) <= 100


def test_entries_are_numbered_and_a_gap_is_noticed(tmp_path, key):
    store = Store(str(tmp_path))
    found = SuppressionList(store, key)
    named = [digests_of(key, request([name]), TEXTS) for name in "abc"]
    for one in named:
        found.append(FORGOTTEN, one)
    found.append(LIFTED, named[0])
    listed, lifted = found.state()
    assert listed["users"] == named[1]["users"] | named[2]["users"] and lifted["users"] == named[0]["users"]
    store.remove("suppression/000000002.json")
    with pytest.raises(InputError, match=r"000000002\.json is missing"):
        found.state()
    store.write("suppression/000000004.json", b"no entry")
    with pytest.raises(InputError, match="no entry of the suppression list"):
        SuppressionList(store, key)


def test_another_writer_takes_the_number(tmp_path, key, monkeypatch):
    store, raced = Store(str(tmp_path)), Store(str(tmp_path))
    create = Store.create
    named = [digests_of(key, request([name]), TEXTS) for name in "ab"]

    def slow(self, path, data):
        if self is raced and not store.list("suppression"):
            SuppressionList(store, key).append(FORGOTTEN, named[0])
        create(self, path, data)

    monkeypatch.setattr(Store, "create", slow)
    SuppressionList(raced, key).append(FORGOTTEN, named[1])
    assert SuppressionList(store, key).state()[0]["users"] == named[0]["users"] | named[1]["users"]


def test_the_list_on_s3(s3_server, tmp_path):
    storage = {"endpoint_url": s3_server.endpoint_url, "region": s3_server.region}
    interactions = write_interactions(tmp_path / "events.parquet")
    config = small_config(interactions, f"s3://lake/{uuid.uuid4().hex}", storage=storage)
    total = pipeline.ingest(config)["users"]
    forget(config, TEXTS, users=[user_name(1)])
    assert pipeline.ingest(config)["users"] == total - 1
    pipeline.lift(config, users=user_name(1))
    assert pipeline.ingest(config)["users"] == total


# ---- residue ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def forgotten(tmp_path):
    """A user forgotten with the key, and one without."""
    interactions = write_interactions(tmp_path / "events.parquet")
    write_interactions(tmp_path / "test.parquet", users=6)
    config = small_config(interactions, str(tmp_path / "output"), test_interactions=str(tmp_path / "test.parquet"))
    pipeline.ingest(config)
    commit_train(config)
    commit_forget(config, user_name(1), "r1")
    commit_forget(config, user_name(7), "r2")
    forget(config, TEXTS, users=[user_name(1)])
    return config


def rows_by_place(answer):
    return {x["place"]: x["rows"] for x in answer["residues"] if "rows" in x}


def test_residue_names_what_purge_removes_and_rows_of_the_lake(forgotten, monkeypatch):
    config = forgotten
    files = {p: p.stat().st_mtime_ns for p in Path(config.output).rglob("*")}
    answer = pipeline.residue(config)
    assert {p: p.stat().st_mtime_ns for p in Path(config.output).rglob("*")} == files
    text = json.dumps(answer)
    assert user_name(1) not in text and user_name(7) not in text
    kinds = {x["kind"] for x in answer["residues"]}
    assert {"older version", "superseded graph", "request content", "lake rows"} <= kinds
    assert all({"place", "kind", "detail"} <= set(x) and ("bytes" in x) != ("rows" in x) for x in answer["residues"])
    assert rows_by_place(answer) == {config.interactions: 8, config.test_interactions: 4} and answer["not_read"] == []

    removed = pipeline.purge(config, now=True)
    assert removed["removed_files"] + removed["purged_requests"] == sum("bytes" in x for x in answer["residues"])
    # What remains known is what the list has.
    answer = pipeline.residue(config)
    assert rows_by_place(answer) == {config.interactions: 4, config.test_interactions: 4}
    assert len(answer["residues"]) == 2 and answer["not_read"] == []
    monkeypatch.delenv(ENVIRONMENT)
    answer = pipeline.residue(config)
    assert answer["residues"] == [] and [x["place"] for x in answer["not_read"]] == ["suppression", "requests"]
    monkeypatch.setenv(ENVIRONMENT, OTHER)
    with pytest.raises(InputError, match="another key"):
        pipeline.residue(config)


def test_residue_without_a_key_knows_the_requests(forgotten, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT)
    answer = pipeline.residue(forgotten)
    assert rows_by_place(answer) == {forgotten.interactions: 8, forgotten.test_interactions: 4}
    assert [x["place"] for x in answer["not_read"]] == ["suppression"]


def test_residue_beside_a_purge_knows_what_is_left(forgotten, monkeypatch):
    """The purge takes a content that has been listed, and not been read yet."""
    monkeypatch.delenv(ENVIRONMENT)
    listed = residues.leftovers

    def purged(session):
        found = listed(session)
        pipeline.purge(forgotten, now=True)
        return found

    monkeypatch.setattr(residues, "leftovers", purged)
    assert not [found for found in pipeline.residue(forgotten)["residues"] if found["kind"] == residues.LAKE]


def test_residue_does_not_count_who_withdrew_a_request(forgotten, monkeypatch):
    """Their content goes with the next purge all the same, and is not counted as one that is known to no one."""
    accept(forgotten, user_name(9), "r3")
    Session(forgotten).log.append("cancelled", {"request_id": "r3"})
    answer = pipeline.residue(forgotten)
    assert rows_by_place(answer) == {forgotten.interactions: 8, forgotten.test_interactions: 4}
    details = {x["place"]: x["detail"] for x in answer["residues"]}
    assert details["requests/r3.json"] == "of a request that was cancelled"
    assert details["requests/r2.json"] == "of a request that was carried out"
    monkeypatch.setenv(ENVIRONMENT, "")
    pipeline.purge(forgotten, now=True)
    assert json.loads(Session(forgotten).store.read("requests/r3.json"))["purged"]
    assert pipeline.residue(forgotten)["not_read"][1]["why"].startswith("2 purged")


@pytest.mark.parametrize("reason", ["no times", "times without a unit"])
def test_residue_does_not_look_for_rows_that_were_invalid(tmp_path, reason):
    """A range that a graph cannot compare was not forgotten, and must not keep the rest from being counted."""
    interactions = write_interactions(tmp_path / "events.parquet")
    more = {}
    if reason == "times without a unit":
        table = pq.read_table(interactions)
        pq.write_table(table.append_column("time", pa.array(range(len(table)))), interactions)
        more = {"columns": {"time": "time"}}
    config = small_config(interactions, str(tmp_path / "output"), **more)
    pipeline.ingest(config)
    commit_train(config)
    ranges = [(user_name(4), None, "2024-01-01T00:00:00Z", None)]
    session = Session(config)
    mixed = make_request([user_name(1)], [], [], "r1", b"", ranges)
    version = session.version()
    acceptance.accept(session, mixed)
    (resolved,), result = find_stored(session.store, version.graph, [mixed])
    note_outcomes(session, version, [mixed], {"r1": resolved}, result, Progress())
    answer = {"request_id": "r1", "status": "committed", "version": 2}
    session.versions.commit(version.replaced(reason="forget", answers={"r1": answer}), after=session.log.head())
    answer = pipeline.residue(config)
    assert answer["not_read"] == [] and rows_by_place(answer) == {interactions: 4}


def test_residue_does_not_count_who_consented_again(forgotten):
    pipeline.lift(forgotten, users=user_name(1))
    assert rows_by_place(pipeline.residue(forgotten)) == {forgotten.interactions: 4}


def test_residue_says_what_it_could_not_read(forgotten, tmp_path, capsys):
    (tmp_path / "test.parquet").unlink()
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(forgotten), encoding="utf-8")
    assert run(["residue", "--config", str(file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [x["place"] for x in answer["not_read"]] == [forgotten.test_interactions]
    assert forgotten.interactions in rows_by_place(answer)
    assert run(["residue", "--config", str(file)]) == 0
    assert f"lake rows: {forgotten.interactions}: " in capsys.readouterr().out
