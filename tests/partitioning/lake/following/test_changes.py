"""What a commit removed: by the change data feed and by the difference of two states it is the same, and is right."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from lake_tables import read

from unlearnrec.partitioning.lake import Columns
from unlearnrec.partitioning.lake.following.changes import fate_of, removed_rows
from unlearnrec.partitioning.lake.following.delta import DeltaHistory
from unlearnrec.partitioning.lake.following.follow import open_history
from unlearnrec.partitioning.storage import AWS

USERS, ITEMS = ["a", "b b", "ü/=%", "7", ""], range(3)


def batch(draw: random.Random, count: int) -> pa.Table:
    return pa.table(
        {
            "user_id": [draw.choice(USERS[:4]) for _ in range(count)],
            "item_id": [draw.choice(ITEMS) for _ in range(count)],
            "at": pa.array([draw.randrange(3) * 10**6 for _ in range(count)], pa.timestamp("us", "UTC")),
        }
    )


def changed(path: str, draw: random.Random) -> Iterator[None]:
    """A table with a feed, one commit after the other."""
    for k in range(12):
        table, item = DeltaTable(path), draw.choice(ITEMS)
        user = draw.choice(USERS[:4])
        action = draw.randrange(6)
        if action == 0:
            write_deltalake(path, batch(draw, 6), mode="append")
        elif action == 1:
            table.delete(f"user_id = '{user}' and item_id = {item}")
        elif action == 2:
            table.update(updates={"user_id": f"'{draw.choice(USERS[:4])}'"}, predicate=f"item_id = {item}")
        elif action == 3:
            table.optimize.compact()
        elif action == 4:
            merge = table.merge(batch(draw, 1), "s.user_id = t.user_id and s.item_id = t.item_id", "s", "t")
            merge.when_matched_delete().when_not_matched_insert_all().execute()
        else:
            write_deltalake(path, batch(draw, 8), mode="overwrite" if k % 2 else "append")
        yield


@pytest.mark.parametrize("partitioned", [None, ["user_id"]])
@pytest.mark.parametrize("seed", range(3))
def test_feed_and_difference_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, partitioned: Any
) -> None:
    draw, path = random.Random(seed), str(tmp_path / "t")
    feed = {"delta.enableChangeDataFeed": "true"}
    write_deltalake(path, batch(draw, 20), configuration=feed, partition_by=partitioned)
    for _ in changed(path, draw):
        pass
    columns = Columns(time="at")
    history = open_history(path, AWS)
    fed = 0
    for commit in history.commits(0, history.newest):
        before, after = (Counter(read(f"{path}?version={v}", time="at")) for v in (commit.parent, commit.position))
        expected = sorted(before - after)
        fed += commit.removes and history.feed(commit, ["user_id"]) is not None
        with monkeypatch.context() as patch:
            for _ in ("feed", "difference"):
                rows = [tuple(r.values()) for t in removed_rows(history, commit, columns) for r in t.to_pylist()]
                assert [(u, i, at) for u, i, at in rows] == expected, commit
                patch.setattr(DeltaHistory, "feed", lambda *_: None)
        if rows:
            check_fate(path, history, columns, commit)
    assert fed


def check_fate(path: str, history: Any, columns: Columns, commit: Any) -> None:
    """Against the newest state, by hand."""
    left = read(path, time="at")
    for table in removed_rows(history, commit, columns):
        fate = fate_of(table, history.at(history.newest), columns)
        rows = [tuple(row.values()) for row in table.to_pylist()]
        assert fate.user.tolist() == [u in {x[0] for x in left} for u, _, _ in rows]
        assert fate.pair.tolist() == [(u, i) in {x[:2] for x in left} for u, i, _ in rows]
        assert fate.event.tolist() == [row in set(left) for row in rows]


def test_a_feed_that_deltalake_may_misread_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "t")
    write_deltalake(path, batch(random.Random(0), 9), configuration={"delta.enableChangeDataFeed": "true"})
    DeltaTable(path).delete("item_id = 1")
    history = open_history(path, AWS)
    (commit,) = history.commits(0, 1)
    assert history.feed(commit, ["user_id"]) is not None
    real = DeltaTable.metadata

    def mapped(table: DeltaTable) -> Any:
        found = real(table)
        return type("Metadata", (), {"configuration": found.configuration | {"delta.columnMapping.mode": "name"}})()

    monkeypatch.setattr(DeltaTable, "metadata", mapped)
    assert history.feed(commit, ["user_id"]) is None
