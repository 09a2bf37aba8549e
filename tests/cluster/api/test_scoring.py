"""Recommendations and scores of a session against the dot products of its embeddings. No processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import opened_in_process
from small_output import commit_forget, copied, item_name, scored_output, user_name

import unlearnrec
from unlearnrec.cluster.api import scoring
from unlearnrec.cluster.config.schema import Config
from unlearnrec.partitioning.errors import InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return scored_output(tmp_path_factory.mktemp("scoring"))


@pytest.fixture(scope="module")
def session(made: Config) -> Iterator[unlearnrec.Session]:
    with opened_in_process(made) as session:
        yield session


def expected(session: unlearnrec.Session, user: str, exclude_seen: bool = True) -> list[tuple[Any, float]]:
    """All items of a user, best first, from embeddings and the table."""
    rows = session.embeddings()
    seen = {
        i for u, i in zip(*pq.read_table(session.config.interactions).to_pydict().values(), strict=True) if u == user
    }
    scores = rows.items @ rows.users[rows.user_ids.tolist().index(user)]
    kept = [(i, s) for i, s in zip(rows.item_ids.tolist(), scores.tolist(), strict=True)]
    return sorted([(i, s) for i, s in kept if not (exclude_seen and i in seen)], key=lambda pair: -pair[1])


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("cells", [1, 40, scoring.CELLS])
def test_the_best_items_are_those_of_the_dot_products(
    session: unlearnrec.Session, monkeypatch: pytest.MonkeyPatch, exclude_seen: bool, cells: int
):
    monkeypatch.setattr(scoring, "CELLS", cells)
    users = [user_name(n) for n in (5, 2, 5, 11, 0)]
    for k in (1, 3, 100):
        found = session.recommend(users, k=k, exclude_seen=exclude_seen)
        for user, line in zip(users, found, strict=True):
            wanted = expected(session, user, exclude_seen)[:k]
            assert [item for item, _ in line] == [item for item, _ in wanted]
            assert np.allclose([score for _, score in line], [score for _, score in wanted], atol=1e-5)
    assert len(session.recommend(users, k=100)[0]) == 4, "an item that was seen is none to recommend"
    # The table has the same, and all users where none are named.
    table = session.recommend_table(users, k=3, exclude_seen=exclude_seen)
    assert table.schema.names == ["user_id", "item_id", "score", "rank"]
    lines = zip(users, session.recommend(users, k=3, exclude_seen=exclude_seen), strict=True)
    pairs = [(user, *pair) for user, line in lines for pair in line]
    assert list(zip(*table.select([0, 1, 2]).to_pydict().values(), strict=True)) == pairs
    assert table["rank"].to_pylist() == [1, 2, 3] * 5
    every = session.recommend_table(k=2)
    assert sorted(every["user_id"].to_pylist()) == sorted(user_name(n) for n in range(12) for _ in range(2))


def test_scores_of_pairs(session: unlearnrec.Session):
    users, items = [user_name(1), user_name(1), user_name(3)], [item_name(0), item_name(1), item_name(1)]
    found = session.scores(pa.array(users), np.array(items))
    wanted = [dict(expected(session, user, False))[item] for user, item in zip(users, items, strict=True)]
    assert found.dtype == np.float32 and np.allclose(found, wanted, atol=1e-5)
    assert session.scores([], []).shape == (0,)
    with pytest.raises(InputError, match="scores: got 3 users and 1 items, expected one item for each user"):
        session.scores(users, items[:1])


def test_who_is_not_there_is_empty_or_an_error_that_does_not_say_who(made: Config, tmp_path: Path):
    config = copied(made, tmp_path)
    commit_forget(config, user_name(4), "r")
    with opened_in_process(config) as session:
        users = [user_name(1), user_name(4), "never there"]
        assert [len(line) for line in session.recommend(users, k=2)] == [2, 0, 0]
        assert set(session.recommend_table(users, k=2)["user_id"].to_pylist()) == {user_name(1)}
        assert session.recommend_table([], k=2).schema == session.recommend_table(k=2).schema
        text = (
            r"2 of 3 users are not in version 2 \(at positions 1, 2, counted from 0\): the table did not have them, or "
        )
        calls: list[Any] = [
            lambda: session.recommend(users, unknown="error"),
            lambda: session.recommend_table(users, unknown="error"),
            lambda: session.scores(users, [item_name(0)] * 3),
        ]
        for call in calls:
            with pytest.raises(InputError, match=text) as caught:
                call()
            assert user_name(4) not in str(caught.value)
        with pytest.raises(InputError, match="1 of 1 items are not in version 2"):
            session.scores(users[:1], ["never there"])


def test_ids_are_found_as_integers_and_as_texts():
    assert [scoring._place({17: 0, -3: 1}, name) for name in (17, "17", "-3", "017", "x", 18)] == [0, 0, 1, -1, -1, -1]
    assert [scoring._place({"17": 0, "017": 1}, name) for name in (17, "017", "-")] == [0, 1, -1]


def test_a_mistake_comes_without_the_frames_below(session: unlearnrec.Session):
    calls: list[Any] = [
        lambda: session.scores(["x"], ["y"]),
        lambda: unlearnrec.Session(interactions="a", output="b", train={"epochs": 0}),
        lambda: session.status("no such request"),
    ]
    for call in calls:
        with pytest.raises(InputError) as caught:
            call()
        assert len(caught.traceback) <= 5
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("unknown", ["ignore", None])
def test_a_bad_way_for_the_unknown_is_refused(session: unlearnrec.Session, unknown: Any):
    with pytest.raises(InputError, match=r"unknown: got .*, expected 'empty' or 'error'"):
        session.recommend([user_name(1)], unknown=unknown)


@pytest.mark.parametrize("k", [0, -1, 2.5, True, None])
def test_a_bad_k_is_refused(session: unlearnrec.Session, k: Any):
    with pytest.raises(InputError, match=r"k: got .*, expected an integer >= 1"):
        session.recommend([user_name(1)], k=k)


def test_one_id_is_a_mistake(session: unlearnrec.Session):
    calls: list[Any] = [session.recommend, session.recommend_table, lambda one: session.scores(one, [1])]
    for call in calls:
        with pytest.raises(InputError, match=r"got one id, expected a list of ids: \['a'\]"):
            call("a")
