"""`watch` over real tables: what is deleted there becomes a request, once, and nothing else does."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from small_output import commit_encoder, commit_train, small_config

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config
from unlearnrec.cluster.lifecycle.acceptance import append_step, read_accepted
from unlearnrec.cluster.log.records import FAILED
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.tickets import State
from unlearnrec.cluster.serving import intake
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.lake.following import changes
from unlearnrec.partitioning.lake.following.history import MissedChanges

FEED = {"delta.enableChangeDataFeed": "true"}
USERS, ITEMS = 6, 4


def events(users: range | list[int] = range(USERS), **columns: list[Any]) -> pa.Table:
    """Each user with each item."""
    return pa.table(
        {"user_id": [u for u in users for _ in range(ITEMS)], "item_id": [k for _ in users for k in range(ITEMS)]}
        | columns
    )


def at(table: Path, version: int | None = None) -> DeltaTable:
    return DeltaTable(str(table), version=version)


@pytest.fixture(params=["feed", "difference"])
def followed(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Config]:
    """(a Delta table, an output on its version 0); with and without a change data feed."""
    return made(tmp_path, events(), FEED if request.param == "feed" else None)


def made(tmp_path: Path, rows: pa.Table, configuration: Any = None, **more: Any) -> tuple[Path, Config]:
    table = tmp_path / "lake" / "t"
    write_deltalake(str(table), rows, configuration=configuration)
    config = small_config(str(table), str(tmp_path / "output"), **more)
    pipeline.ingest(config)
    commit_train(config)
    return table, config


def again(config: Config, **watch: Any) -> Config:
    """The same with other settings of `watch`."""
    return config.model_copy(update={"watch": config.watch.model_copy(update=watch)})


def look(config: Config, **options: Any) -> dict[str, Any]:
    return pipeline.watch(config, once=True, **options)


def asked(config: Config) -> list[dict[str, Any]]:
    """The content of each accepted request, in order; kinds without entries left out."""
    session, found = Session(config), []
    for ticket in session.ledger().tickets.values():
        request = read_accepted(session, ticket)
        content = {kind: getattr(request, kind) for kind in ("users", "items", "interactions", "ranges")}
        found.append({kind: sorted(value) for kind, value in content.items() if value})
    return found


# ---- what is a deletion ----------------------------------------------------------------------------------------------


def test_a_user_without_a_row_is_one_request_for_the_user_and_other_rows_one_for_the_interactions(
    followed: Any,
) -> None:
    table, config = followed
    assert look(config) == {"cursor": 0, "requests": 0, "repeated": 0, "skipped": 0, "invalid": 0, "behind": 0}
    at(table).delete("user_id = 5 or (user_id < 2 and item_id = 3)")
    answer = look(config)
    assert (answer["requests"], answer["cursor"]) == (2, 1)
    assert asked(config) == [{"users": ["5"]}, {"interactions": [("0", "3"), ("1", "3")]}]
    assert look(config)["requests"] == look(config)["repeated"] == 0
    tickets = Session(config).ledger().tickets.values()
    assert {ticket.requester for ticket in tickets} == {"watch"}
    assert all(ticket.request_id.startswith("watch-1-") for ticket in tickets)


def test_rows_that_move_to_another_file_are_no_deletions(followed: Any) -> None:
    table, config = followed
    write_deltalake(str(table), events([7]), mode="append")
    at(table).optimize.compact()
    source = events([1])
    merge = at(table).merge(source, "s.user_id = t.user_id and s.item_id = t.item_id", "s", "t")
    merge.when_matched_update({"item_id": "s.item_id"}).execute()  # rewrites rows as they were
    write_deltalake(str(table), events([7, *range(USERS)]), mode="overwrite")
    answer = look(config)
    assert answer["cursor"] == at(table).version() == 4 and asked(config) == []


def test_an_update_that_moves_a_row_to_another_user_takes_it_from_the_first(followed: Any) -> None:
    table, config = followed
    at(table).update(updates={"user_id": "9"}, predicate="user_id = 3 and item_id = 2")
    at(table).update(updates={"user_id": "8"}, predicate="user_id = 4")
    look(config)
    assert asked(config) == [{"interactions": [("3", "2")]}, {"users": ["4"]}]


def test_a_merge_that_deletes_and_inserts_and_an_overwrite(followed: Any) -> None:
    table, config = followed
    source = events([2, 6])
    merge = at(table).merge(source, "s.user_id = t.user_id and s.item_id = t.item_id", "s", "t")
    merge.when_matched_delete("t.item_id = 0").when_not_matched_insert_all().execute()
    write_deltalake(str(table), events([0, 6]), mode="overwrite")
    assert look(config)["cursor"] == 2
    assert asked(config) == [{"users": ["2"]}, {"users": ["1", "2", "3", "4", "5"]}]


def test_a_table_that_is_emptied(followed: Any) -> None:
    table, config = followed
    at(table).delete()
    assert look(config)["requests"] == 1
    assert asked(config) == [{"users": [str(u) for u in range(USERS)]}]


def test_what_is_there_again_when_it_is_looked_at_is_not_forgotten(followed: Any) -> None:
    """A table that is emptied and loaded again has deleted only what did not come back."""
    table, config = followed
    at(table).delete()
    write_deltalake(str(table), events([0, 1, 2, 3, 4]).slice(1), mode="append")
    answer = look(config)
    assert asked(config) == [{"users": ["5"]}, {"interactions": [("0", "0")]}]
    assert answer["skipped"] == 19


def test_a_row_of_which_another_like_it_is_left_is_skipped(tmp_path: Path) -> None:
    twice = pa.concat_tables([events(), events([1])]).append_column("n", pa.array(range(28)))
    table, config = made(tmp_path, twice, FEED)
    at(table).delete("n >= 26")
    answer = look(config)
    assert (answer["skipped"], answer["requests"], asked(config)) == (2, 0, [])


def test_an_event_is_a_time_range_where_the_pair_has_others(tmp_path: Path) -> None:
    def when(hour: int) -> dt.datetime:
        return dt.datetime(2026, 1, 1, hour, tzinfo=dt.UTC)

    rows = pa.table({"user_id": [1, 1, 1, 2], "item_id": [0, 0, 1, 0], "at": [when(k) for k in range(4)]})
    table, config = made(tmp_path, rows, FEED, columns={"time": "at"}, cluster={"partitions": 1})
    at(table).delete("at = '2026-01-01T01:00:00Z' or at = '2026-01-01T02:00:00Z'")
    look(config)
    exact = ("1", "0", "2026-01-01T01:00:00Z", "2026-01-01T01:00:00.000001Z")
    assert asked(config) == [{"interactions": [("1", "1")]}, {"ranges": [exact]}]
    commit_encoder(config)
    dry = pipeline.forget(config, requests=ranges_file(tmp_path, exact), dry_run=True)
    assert (dry["removed_events"], dry["removed_interactions"]) == (1, 0)


def ranges_file(folder: Path, entry: tuple[str, str, str, str]) -> str:
    path = folder / "ranges.jsonl"
    path.write_text(json.dumps(dict(zip(("user_id", "item_id", "since", "until"), entry, strict=True))))
    return str(path)


def test_rows_that_are_no_interactions_by_their_value_count_for_the_user_only(tmp_path: Path) -> None:
    rows = pa.table({"user_id": [1, 1, 2, 2, 3], "item_id": [0, 1, 0, 1, 0], "stars": [5.0, 0.0, 4.0, 3.0, 0.0]})
    table, config = made(tmp_path, rows, FEED, columns={"value": "stars"}, cluster={"partitions": 1})
    at(table).delete("user_id = 3 or (user_id = 1 and item_id = 0)")
    at(table).update(updates={"stars": "0.0"}, predicate="user_id = 2 and item_id = 1")
    look(config)
    assert asked(config) == [{"interactions": [("1", "0")]}, {"interactions": [("2", "1")]}]


def test_ids_of_text_stay_as_they_are(tmp_path: Path) -> None:
    rows = pa.table({"user_id": ["007", "7", "7 ", "ü"], "item_id": ["a", "a", "a", "b"]})
    table, config = made(tmp_path, rows, FEED, cluster={"partitions": 1})
    at(table).delete("user_id in ('007', '7 ')")
    look(config)
    assert asked(config) == [{"users": ["007", "7 "]}]


@pytest.mark.parametrize("feed", [FEED, None])
def test_memory_is_bounded_by_buckets_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feed: Any) -> None:
    table, config = made(tmp_path, events(range(200)), feed)
    at(table).delete("user_id % 3 = 0 or item_id = 1")
    held: list[int] = []
    real = changes._net
    monkeypatch.setattr(changes, "ROWS_AT_ONCE", 200)
    monkeypatch.setattr(changes, "_net", lambda parts: held.append(sum(p.num_rows for p in parts)) or real(parts))
    look(again(config, max_rows=1000))
    assert len(held) >= 4 and max(held) <= 200
    whole = Counter(user for request in asked(config) for user in request.get("users", ()))
    pairs = Counter(pair for request in asked(config) for pair in request.get("interactions", ()))
    assert whole == Counter(str(u) for u in range(0, 200, 3))
    assert pairs == Counter((str(u), "1") for u in range(200) if u % 3)


def test_a_large_deletion_is_cut_into_requests(followed: Any) -> None:
    table, config = followed
    at(table).delete("user_id > 0")
    assert look(again(config, max_rows=2))["requests"] == 3
    assert asked(config) == [{"users": ["1", "2"]}, {"users": ["3", "4"]}, {"users": ["5"]}]


def test_whole_users_can_be_left_out(followed: Any) -> None:
    table, config = followed
    at(table).delete("user_id = 1")
    look(again(config, whole_users=False))
    assert asked(config) == [{"interactions": [("1", str(k)) for k in range(ITEMS)]}]


# ---- where it begins, and how far it is ------------------------------------------------------------------------------


def test_it_begins_behind_the_version_that_was_ingested(tmp_path: Path) -> None:
    table, config = made(tmp_path, events(), FEED)
    at(table).delete("user_id = 1")
    assert look(config)["requests"] == 1


def test_a_table_that_was_not_ingested_is_followed_from_now_on(tmp_path: Path) -> None:
    _, config = made(tmp_path, events(), FEED)
    other = tmp_path / "other"
    write_deltalake(str(other), events())
    at(other).delete("user_id = 1")
    config = again(config, table=str(other))
    assert look(config) == look(config)
    assert look(config)["cursor"] == 1 and asked(config) == []
    at(other).delete("user_id = 2")
    look(config)
    assert asked(config) == [{"users": ["2"]}]
    with pytest.raises(InputError, match=r"is not what was followed before: .*other.*--from-version N"):
        look(again(config, table=None))
    assert look(again(config, table=None), from_now=True)["cursor"] == 0


def test_back_pressure_leaves_the_cursor_and_goes_on_later(tmp_path: Path) -> None:
    table, config = made(
        tmp_path, events(), FEED, serve={"max_open_requests": 2, "max_batch": 1}, watch={"max_rows": 1}
    )
    at(table).delete("user_id = 0")
    at(table).delete("user_id in (1, 2, 3)")
    answer = look(config)
    assert (answer["requests"], answer["behind"], answer["cursor"]) == (2, 1, 1)
    assert look(config) == answer | {"requests": 0, "repeated": 1}
    session = Session(config)
    for request_id in list(session.ledger().open):
        append_step(session, request_id, FAILED, {"error": "KeyError"})
    answer = look(config)
    assert (answer["requests"], answer["repeated"], answer["behind"], answer["cursor"]) == (2, 1, 0, 2)
    assert asked(config) == [{"users": [str(u)]} for u in range(4)]
    assert Session(config).ledger().counts[State.FAILED] == 2  # only who asks again opens them again


def test_a_vacuumed_version_is_an_error_until_somebody_says_where_to_go_on(followed: Any) -> None:
    table, config = followed
    look(config)
    at(table).delete("user_id = 1 and item_id = 1")
    at(table).delete("user_id = 2")
    at(table).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    for file in (table / "_change_data").glob("*"):
        os.remove(file)
    for _ in range(2):
        with pytest.raises(MissedChanges, match=r"version 1 \(DELETE.*, version 2 \(DELETE.*gone.*--from-version N"):
            look(config)
    assert asked(config) == []
    at(table).delete("user_id = 4")
    with pytest.raises(InputError, match="from-version 9"):
        look(config, from_version=9)
    assert look(config, from_version=2)["requests"] == 1
    assert asked(config) == [{"users": ["4"]}]


def test_a_log_that_was_cleaned_up_names_the_versions_that_were_missed(followed: Any) -> None:
    table, config = followed
    look(config)
    for k in range(1, 5):
        at(table).delete(f"user_id = {k}")
    at(table).create_checkpoint()
    for version in (1, 2, 4):
        os.remove(table / "_delta_log" / f"{version:020}.json")
    with pytest.raises(MissedChanges, match="versions 1 to 2, 4 cannot be read any more"):
        look(config)
    with pytest.raises(InputError, match="exclude each other"):
        look(config, from_version=2, from_now=True)
    assert look(config, from_now=True)["cursor"] == 4 and asked(config) == []


def test_an_interrupted_look_is_repeated_with_the_same_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the table went on meanwhile."""
    table, config = made(tmp_path, events(), FEED, watch={"max_rows": 2})
    at(table).delete("user_id in (1, 2, 3)")
    with monkeypatch.context() as patch:
        real, calls = intake.accept, []

        def accept_one(*arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) > 1:
                raise KeyboardInterrupt
            real(*arguments)

        patch.setattr(intake, "accept", accept_one)
        with pytest.raises(KeyboardInterrupt):
            look(config)
    write_deltalake(str(table), events([2]), mode="append")
    answer = look(config)
    assert (answer["repeated"], answer["requests"], answer["cursor"]) == (1, 1, 2)
    assert asked(config) == [{"users": ["1", "2"]}, {"users": ["3"]}]


def test_what_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    table, config = made(tmp_path, events(), FEED)
    plain = tmp_path / "plain"
    plain.mkdir()
    pq.write_table(events(), plain / "t.parquet")
    with pytest.raises(InputError, match="plain table of parquet files"):
        look(again(config, table=str(plain)))
    with pytest.raises(InputError, match="selects one state"):
        look(again(config, table=f"{table}?version=0"))
    other = tmp_path / "other"
    write_deltalake(str(other), pa.table({"customer": [1, 2]}), configuration=FEED)
    look(again(config, table=str(other)))
    at(other).delete("customer = 1")
    with pytest.raises(InputError, match="no column 'user_id'"):
        look(again(config, table=str(other)))


# ---- a table of requests ---------------------------------------------------------------------------------------------


def test_rows_of_a_table_of_requests(tmp_path: Path) -> None:
    _, config = made(tmp_path, events(), cluster={"partitions": 1})
    path = tmp_path / "requests"
    none = [None] * 3
    columns = {"user_id": [1, 2, None], "item_id": [None, 3, None], "request_id": pa.array(none, pa.string())}
    write_deltalake(str(path), pa.table(columns))
    config = again(config, table=f"delta://{path}", kind="requests")
    answer = look(config)
    assert (answer["requests"], answer["invalid"], answer["ok"], answer["cursor"]) == (2, 1, False, 0)
    more = {"user_id": [4, 4, 5], "item_id": [1, 2, None], "request_id": ["case-7", "case-7", "case-8"]}
    who = {"requester": ["Ann", "Ann", "Bob"], "since": pa.array([None, None, None], pa.timestamp("us", "UTC"))}
    write_deltalake(str(path), pa.table(more | who), mode="append", schema_mode="merge")
    at(path).optimize.compact()
    at(path).delete("request_id = 'case-8'")  # the rows of the others are written again
    answer = look(config)
    assert (answer["requests"], answer["repeated"], answer["cursor"]) == (2, 0, 3)
    wanted = [{"users": ["1"]}, {"interactions": [("2", "3")]}, {"interactions": [("4", "1"), ("4", "2")]}]
    assert asked(config) == [*wanted, {"users": ["5"]}]
    tickets = Session(config).ledger().tickets
    assert (tickets["case-7"].requester, tickets["case-8"].requester) == ("Ann", "Bob")


def test_an_id_that_somebody_else_has_loses_no_request(tmp_path: Path) -> None:
    _, config = made(tmp_path, events(), cluster={"partitions": 1})
    path = tmp_path / "requests"
    config = again(config, table=str(path), kind="requests")
    for user, name in ((1, "a"), (2, "a"), (3, "not an id")):
        row = {"user_id": [user], "request_id": [name], "since": ["2026-01-01" if user == 3 else None]}
        write_deltalake(str(path), pa.table(row, schema=ROWS), mode="append")
        look(config)
    assert asked(config)[:2] == [{"users": ["1"]}, {"users": ["2"]}]
    assert asked(config)[2] == {"ranges": [("3", None, "2026-01-01T00:00:00Z", None)]}
    assert look(config, from_version=-1)["repeated"] == 3


ROWS = pa.schema({"user_id": pa.int64(), "request_id": pa.string(), "since": pa.string()})
