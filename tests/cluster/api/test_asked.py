"""What Python names in a request is what the command line would name."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from unlearnrec.cluster.api.asked import Asked, ids_of, left_out_of
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.requests.request import Request
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import AWS


def asked(**named: Any) -> Request:
    return Asked(**named).request("r", AWS, b"key")


@pytest.mark.parametrize(
    "users",
    [
        [17, 23],
        ("17", "23"),
        {23: 1, 17: 2}.keys(),
        np.array([17, 23]),
        np.array([17, 23], dtype=np.uint8),
        [np.int64(17), np.int32(23)],
        pd.Series([23, 17, 17]),
        pd.Series(["17", "23"]),
        pd.Index([17, 23]),
        pa.array([17, 23]),
        pa.chunked_array([["17"], ["23"]]),
        (user for user in (17, 23)),
        "17,23",
    ],
    ids=lambda value: type(value).__name__,
)
def test_ids_may_come_in_anything(users: Any):
    assert asked(users=users) == asked(users="17,23")


def test_one_id_and_a_comma_in_an_id():
    assert asked(items=17).items == ("17",)
    assert asked(items=["a,b"]).items == ("a,b",)


@pytest.mark.parametrize("users", [[1.5], [None], [17.0], [True], [float("nan")], [("a", "b")], {"a": 1}, 3.5, [b"a"]])
def test_what_is_no_id_is_refused(users: Any):
    with pytest.raises(InputError, match=r"users: got .*, expected"):
        asked(users=users)


def test_a_frame_of_floats_names_the_value():
    with pytest.raises(InputError, match=r"users: got 17.0 \(float\), expected integers or texts"):
        asked(users=pd.Series([17, None]))


def test_interactions_are_pairs_or_a_table(tmp_path: Path):
    pairs = [(1, "a"), (2, "b")]
    frame = pd.DataFrame({"item_id": ["a", "b"], "user_id": [1, 2], "more": [0, 0]})
    path = tmp_path / "pairs.csv"
    frame.to_csv(path, index=False)
    expected = (("1", "a"), ("2", "b"))
    for given in (pairs, frame, pa.table(frame), [np.array(["1", "a"]), np.array(["2", "b"])], path, str(path)):
        assert asked(interactions=given).interactions == expected
    with pytest.raises(InputError, match="no column 'user_id'; it has a, b"):
        asked(interactions=pd.DataFrame({"a": [1], "b": [2]}))
    for bad in ([(1, 2, 3)], ["ab"], [3]):
        with pytest.raises(InputError, match="expected pairs"):
            asked(interactions=bad)


def test_rows_of_requests_mean_what_those_of_a_file_mean(tmp_path: Path):
    rows = [
        {"user_id": 1},
        {"item_id": "x"},
        {"user_id": 2, "item_id": "y"},
        {"user_id": 3, "since": "2026-01-01"},
        {"user_id": 4, "since": "2026-02-01", "until": "2026-01-01"},
    ]
    frame = pd.DataFrame(rows)
    path = tmp_path / "rows.csv"
    frame.astype({"user_id": "Int64"}).to_csv(path, index=False)
    from_file = asked(requests=path)
    for given in (rows, frame, pa.table(frame)):
        found = asked(requests=given)
        assert found == from_file
        assert found.tally.invalid == 1, "the range that ends before it begins"
    with pytest.raises(InputError, match="got a row of user, expected some of user_id"):
        asked(requests=[{"user": 1}])


def test_times_of_pandas_are_times():
    frame = pd.DataFrame({"user_id": [3], "since": pd.to_datetime(["2026-01-01T00:00:00Z"])})
    assert asked(requests=frame) == asked(requests=[{"user_id": 3, "since": "2026-01-01T00:00:00Z"}])


def test_nothing_named_is_refused():
    for given in ({}, {"users": []}, {"requests": []}):
        with pytest.raises(InputError, match="forget: "):
            asked(**given)
    with pytest.raises(InputError, match="not a part of it as a file"):
        asked(users="1,2", items=[3])
    with pytest.raises(InputError, match="--request-id"):
        Asked(users=[1]).request("no/id", AWS, b"")


def test_ids_keep_their_order_for_recommendations():
    assert ids_of("recommend", pd.Series([3, 1, 2])) == [3, 1, 2]


def test_what_a_training_leaves_out():
    config = parse_config({"interactions": "a", "output": "b"})
    assert left_out_of("x", "a.csv", config) == ["a.csv"]
    assert left_out_of("x", ("a.csv", "b.csv"), config) == ["a.csv", "b.csv"]
    assert left_out_of("x", (), config) == []
    (request,) = left_out_of("x", {"users": np.array([3, 1]), "interactions": [(1, 2)]}, config)
    assert isinstance(request, Request)
    assert (request.users, request.interactions) == (("1", "3"), (("1", "2"),))


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ({"user": [1]}, "x: user: unknown; expected some of users, items, interactions, requests"),
        ({}, "x: nothing is named"),
        ({"users": [1.5]}, "users: got 1.5"),
        ({"requests": [{"user_id": 1, "since": 5, "until": 1}]}, "x: requests: row 1: "),
        ([1], 'x: got list, expected a file, or what to leave out: {"users": '),
        (5, "x: got int, expected a file"),
    ],
)
def test_what_a_training_cannot_leave_out(without: Any, message: str):
    with pytest.raises(InputError, match=message):
        left_out_of("x", without, parse_config({"interactions": "a", "output": "b"}))
