"""The file of `--requests`: four formats, rows that mean nothing, and times with and without zones."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnrec.cluster.requests.request import make_request, parse_request, read_request
from unlearnrec.cluster.requests.rows import COLUMNS, INTERACTIONS, ITEMS, RANGES, USERS, parse_row, read_rows
from unlearnrec.cluster.requests.times import NANOSECONDS, in_unit, is_empty_range, moment, parse_bound, portable
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import AWS

MIXED = [
    ("ann", None, None, None),
    (None, "i1", None, None),
    ("ann", "i2", None, None),
    ("bob", None, "2024-05-01T12:00:00+02:00", None),
    ("bob", "i3", None, 1714557600),
    ("bob", None, 5, "2024-05-02"),
    (None, None, 1, 2),
    (None, "i9", 1, 2),
    ("bob", None, "soon", None),
    ("bob", None, "2024-05-02", "2024-05-01T23:59:59Z"),
    ("ann", None, None, None),
]
EXPECTED = [
    (USERS, "ann"),
    (ITEMS, "i1"),
    (INTERACTIONS, ("ann", "i2")),
    (RANGES, ("bob", None, "2024-05-01T10:00:00Z", None)),
    (RANGES, ("bob", "i3", None, 1714557600)),
    (RANGES, ("bob", None, 5, "2024-05-02T00:00:00Z")),
    "it has neither user_id nor item_id",
    "a time range needs a user_id",
    "since is no time: write ISO-8601 (2024-05-01T12:00:00+02:00) or a number",
    "since is not before until",
    (USERS, "ann"),
]


def write(path: Path, rows: list[tuple[Any, ...]]) -> str:
    """The rows in the format of the path's ending."""
    objects = [{k: v for k, v in zip(COLUMNS, row, strict=True) if v is not None} for row in rows]
    if path.suffix == ".json":
        path.write_text(json.dumps(objects))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(x) + "\n\n" for x in objects))
    elif path.suffix == ".csv":
        lines = [",".join("" if v is None else str(v) for v in row) for row in rows]
        path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    else:
        texts = [[None if v is None else str(v) for v in column] for column in zip(*rows, strict=True)]
        pq.write_table(pa.table({name: pa.array(v, pa.string()) for name, v in zip(COLUMNS, texts, strict=True)}), path)
    return str(path)


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_every_format_means_the_same(tmp_path, ending):
    path = write(tmp_path / f"rows.{ending}", MIXED)
    assert read_rows(path, AWS) == EXPECTED
    request = parse_request(None, None, None, path, None, AWS, b"key")
    other = parse_request(None, None, None, write(tmp_path / "other.json", MIXED), None, AWS, b"key")
    assert request == other and request.body() == other.body()
    assert request.tally.invalid == 4 and list(request.tally.repeats.values()) == [2]
    assert len(list(request.entries())) == 6 and len(request.rows) == len(MIXED)
    assert read_request(request.request_id, request.body()) == request


def test_one_object_and_what_json_can_hold_besides(tmp_path):
    path = tmp_path / "one.json"
    path.write_text('{"user_id": 17}')
    assert read_rows(str(path), AWS) == [(USERS, "17")]
    path.write_text('[{"user_id": 17}, 3, {"user_id": true}, {"user_id": 1.5}, {"item_id": [1]}, {"user_id": ""}]')
    rows = read_rows(str(path), AWS)
    assert rows[0] == (USERS, "17") and all(isinstance(row, str) for row in rows[1:])
    assert "no object" in rows[1] and "user_id is neither" in rows[2] and "item_id is neither" in rows[4]


def test_a_key_that_stands_twice_is_refused(tmp_path):
    for name, text in (("r.json", '[{"user_id": "a", "user_id": "b"}]'), ("r.jsonl", '{"item_id": 1, "item_id": 1}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name} is not readable as JSON.*a key stands twice in one object"):
            read_rows(str(tmp_path / name), AWS)


def test_half_of_a_character_makes_one_row_invalid(tmp_path):
    (tmp_path / "r.json").write_text(r'[{"user_id": "\ud800"}, {"user_id": "\ud83d\ude00"}]')
    rows = read_rows(str(tmp_path / "r.json"), AWS)
    assert rows == ["user_id has half of a character (a lone surrogate)", (USERS, "\U0001f600")]


def test_a_file_without_rows_has_none(tmp_path):
    pq.write_table(pa.table({"user_id": pa.array([], pa.int64())}), tmp_path / "r.parquet")
    for name, text in (("r.csv", "user_id,item_id\n"), ("r.json", "[]"), ("r.jsonl", "")):
        (tmp_path / name).write_text(text)
    for name in ("r.csv", "r.json", "r.jsonl", "r.parquet"):
        request = parse_request(None, None, None, str(tmp_path / name), None, AWS)
        assert request.empty and not request.rows


def test_integers_with_nulls_as_pandas_writes_them(tmp_path):
    nan = float("nan")
    table = {"user_id": [1.0, nan, 3.0], "item_id": [nan, 2.0, 4.5]}
    pq.write_table(pa.table(table), tmp_path / "r.parquet")
    rows = read_rows(str(tmp_path / "r.parquet"), AWS)
    assert rows[:2] == [(USERS, "1"), (ITEMS, "2")] and rows[2] == "item_id is neither a whole number nor text"


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_an_id_that_a_float_may_have_rounded_is_invalid(tmp_path, ending):
    path = tmp_path / f"r.{ending}"
    pq.write_table(pa.table({"user_id": [2.0**53, -(2.0**60), 2.0**53 - 1]}), path)
    if ending == "json":
        path.write_text('[{"user_id": 9007199254740993.0}, {"user_id": -1e18}, {"user_id": 9007199254740991}]')
    rows = read_rows(str(path), AWS)
    assert rows[2] == (USERS, "9007199254740991")
    assert all(row == "user_id is a float too large to be exact: write it as an integer or as text" for row in rows[:2])
    pq.write_table(pa.table({"item_id": pa.array([16777216.0], pa.float32())}), tmp_path / "f.parquet")
    with pytest.raises(InputError, match="'item_id' is float, which rounds ids"):
        read_rows(str(tmp_path / "f.parquet"), AWS)


def test_times_of_a_parquet_file_keep_their_nanoseconds(tmp_path):
    since = pa.array([1_714_557_600_123_456_789, None], pa.timestamp("ns", tz="Europe/Berlin"))
    until = pa.array([date(2024, 5, 3), date(2024, 5, 4)])
    pq.write_table(pa.table({"user_id": ["a", "b"], "since": since, "until": until}), tmp_path / "r.parquet")
    assert read_rows(str(tmp_path / "r.parquet"), AWS) == [
        (RANGES, ("a", None, "2024-05-01T10:00:00.123456789Z", "2024-05-03T00:00:00Z")),
        (RANGES, ("b", None, None, "2024-05-04T00:00:00Z")),
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.json", "{", "JSON"),
        ("r.json", "[" * 100_000, "JSON"),
        ("r.json", '[{"since": 1}]', "no column 'user_id' or 'item_id'"),
        ("r.json", '[{"user_id": 1, "untill": 2}]', "column 'untill' is not known"),
        ("r.jsonl", '{"user_id": 1}\nx\n', "JSON in line 2"),
        ("r.csv", "user_id,until,unitl\n1,,\n", "column 'unitl' is not known"),
        ("r.csv", "user_id,user_id\n1,2\n", "more than one column 'user_id'"),
        (
            "r.csv",
            "user_id,item_id\n1,2\nann@x: a, got 5: b,c\n",
            r"CSV file: .*Row #3: Expected 2 columns, got 3\. Its first",
        ),
        ("r.parquet", "user_id\n1\n", "not a readable Parquet file"),
        ("r.txt", "user_id\n1\n", "made of Parquet or of CSV files, and this is neither by its name"),
    ],
)
def test_a_file_that_is_bad_as_a_whole(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words) as error:
        read_rows(str(tmp_path / name), AWS)
    assert str(tmp_path / name) in str(error.value)


def test_other_columns_where_they_are_allowed(tmp_path):
    (tmp_path / "r.csv").write_text("user_id,day\n1,2\n")
    assert read_rows(str(tmp_path / "r.csv"), AWS, other_columns=True) == [(USERS, "1")]


# ---- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("2024-05-01", "2024-05-01T00:00:00Z"),
        ("2024-05-01T12:00:00", "2024-05-01T12:00:00Z"),  # no zone: UTC
        ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00Z"),
        ("2024-05-01 14:00:00+02:00", "2024-05-01T12:00:00Z"),
        ("2024-05-01T12:00:00.5-00:30", "2024-05-01T12:30:00.5Z"),
        ("2024-05-01T12:00:00,000000001Z", "2024-05-01T12:00:00.000000001Z"),
        ("0001-01-01", "0001-01-01T00:00:00Z"),
        (datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))), "2024-05-01T12:00:00Z"),
        (" 17 ", 17),
        ("-3", -3),
        (1.5, 2),
        ("", None),
        (float("nan"), None),
    ],
)
def test_what_a_time_means(written, means):
    assert parse_bound(written) == means


@pytest.mark.parametrize(
    "written", ["tomorrow", "2024-13-01", True, [1], float("inf"), "1.7e9", "2024-05-01T25:00:00Z"]
)
def test_what_is_no_time(written):
    with pytest.raises(ValueError, match="is n") as error:
        parse_bound(written)
    assert str(written) not in str(error.value)


HIVE = [
    ("user_id=5", {"item_id": [7, 8]}, [(INTERACTIONS, ("5", "7")), (INTERACTIONS, ("5", "8"))]),
    ("until=2024-01-01", {"user_id": ["ann"]}, [(RANGES, ("ann", None, None, "2024-01-01T00:00:00Z"))]),
    ("user_id=5/since=3", {"item_id": [7, None]}, [(RANGES, ("5", "7", 3, None)), (RANGES, ("5", None, 3, None))]),
    ("user_id=a%3Db", {"since": [3]}, [(RANGES, ("a=b", None, 3, None))]),
    ("item_id=__HIVE_DEFAULT_PARTITION__", {"user_id": [1]}, [(USERS, "1")]),
]


@pytest.mark.parametrize(("folder", "columns", "expected"), HIVE)
def test_folders_of_a_hive_table_are_columns(tmp_path, folder, columns, expected):
    place = tmp_path / "t" / folder
    place.mkdir(parents=True)
    pq.write_table(pa.table(columns), place / "p.parquet")
    assert read_rows(str(tmp_path / "t"), AWS) == expected
    for inside in (place, place / "p.parquet"):
        with pytest.raises(InputError, match=f"{folder.split('/')[0]} is a column"):
            read_rows(str(inside), AWS)


def test_another_folder_of_a_hive_table_is_another_column(tmp_path):
    place = tmp_path / "untill=2024-01-01" / "user_id=5"
    place.mkdir(parents=True)
    pq.write_table(pa.table({"day": [1, 2]}), place / "p.parquet")
    with pytest.raises(InputError, match="'day' is not known"):
        read_rows(str(tmp_path), AWS)
    assert read_rows(str(tmp_path), AWS, other_columns=True) == [(USERS, "5")] * 2
    pq.write_table(pa.table({"item_id": [1, 2]}), place / "p.parquet")
    with pytest.raises(InputError, match="'untill' is not known"):
        read_rows(str(tmp_path), AWS)
    pq.write_table(pa.table({"user_id": [6]}), place / "p.parquet")
    with pytest.raises(InputError, match="more than one column 'user_id'"):
        read_rows(str(tmp_path), AWS, other_columns=True)


def test_folders_that_are_like_no_column_are_ignored(tmp_path):
    place = tmp_path / "dt=2026-01-01" / "year=2026"
    place.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": [1, 2]}), place / "a.parquet")
    for path in (tmp_path, place, place / "a.parquet"):
        assert read_rows(str(path), AWS) == [(USERS, "1"), (USERS, "2")]


@pytest.mark.parametrize("name", ["untill", "USER_ID", "userId", "item", "uid", "Since"])
def test_a_folder_that_is_like_a_column_is_refused(tmp_path, name):
    (tmp_path / f"{name}=5").mkdir()
    pq.write_table(pa.table({"user_id": [1]}), tmp_path / f"{name}=5" / "a.parquet")
    with pytest.raises(InputError, match=f"'{name}' is not known"):
        read_rows(str(tmp_path), AWS)


def test_the_name_of_a_file_is_no_folder(tmp_path):
    file = tmp_path / "user_id=5.csv"
    file.write_text("user_id\nann\n")
    assert read_rows(str(file), AWS) == [(USERS, "ann")]
    folder = tmp_path / "t" / file.name
    folder.mkdir(parents=True)
    (folder / "part-1").write_text("item_id\n7\n")
    with pytest.raises(InputError, match="is a column"):
        read_rows(str(folder), AWS)


def test_a_folder_of_csv_files_is_read_whole(tmp_path):
    folder = tmp_path / "r.csv"
    folder.mkdir()
    for n in (1, 2):
        (folder / f"part-{n}").write_text(f"user_id\n{n}\n")
    assert read_rows(str(folder), AWS) == [(USERS, "1"), (USERS, "2")]


@given(st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1)), st.sampled_from(list(NANOSECONDS)))
def test_a_bound_in_a_unit_is_the_first_whole_number_at_or_after_it(when, unit):
    exact = int((when - datetime(1970, 1, 1)) / timedelta(microseconds=1)) * 1000
    since, _ = in_unit(parse_bound(when.isoformat()), None, unit)
    assert since * NANOSECONDS[unit] >= exact > (since - 1) * NANOSECONDS[unit]
    assert in_unit(portable(since, unit), None, unit)[0] == since
    assert moment(exact) == parse_bound(when)


def test_open_ends_mixed_ends_and_units_that_are_not_known():
    assert in_unit(None, None, None) == (-(2**63), 2**63 - 1)
    assert in_unit(10**30, None, "s")[0] == 2**63 - 1
    assert in_unit(1_714_500_000, "2024-05-01", "s") == (1_714_500_000, 1_714_521_600)
    with pytest.raises(ValueError, match="since is not before until"):
        in_unit(1_714_600_000, "2024-05-01", "s")
    with pytest.raises(ValueError, match=r"columns\.time_unit"):
        in_unit(1, "2024-05-01", None)
    assert (
        is_empty_range("2024-05-01T00:00:00Z", "2024-05-01T00:00:00Z")
        and not is_empty_range(1, None)
        and not is_empty_range(5, "2024-01-01")
    )
    # Within one second: nothing of a column of whole seconds is in it, but it is a range.
    assert in_unit("2024-05-01T00:00:00.2Z", "2024-05-01T00:00:00.8Z", "s") == (1_714_521_601,) * 2


def test_a_request_without_ranges_is_written_as_before():
    body = make_request(["b", "a"], [1], [(2, 3)], "r", b"").body()
    assert body == b'{"interactions":[["2","3"]],"items":["1"],"users":["a","b"]}'
    assert parse_row("a", None, 1, None) == (RANGES, ("a", None, 1, None))


def test_a_delta_table_of_requests(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    since = datetime(2024, 5, 1, tzinfo=UTC)
    table = pa.table(
        {
            "user_id": pa.array([1, None, 2, 3]),
            "item_id": pa.array([None, 7, 8, None]),
            "since": pa.array([None, None, None, since], pa.timestamp("us", "UTC")),
        }
    )
    uri = str(tmp_path / "requests")
    deltalake.write_deltalake(uri, table)
    deltalake.DeltaTable(uri).delete("item_id = 8")
    rows = read_rows(uri, AWS)
    assert sorted(row[:2] for row in rows if row[0] != RANGES) == [(ITEMS, "7"), (USERS, "1")]
    assert [row[1][0] for row in rows if row[0] == RANGES] == ["3"] and len(rows) == 3
    assert read_rows(f"delta://{uri}", AWS) == rows and len(read_rows(f"{uri}?version=0", AWS)) == 4
    deltalake.write_deltalake(
        uri, table.append_column("unti", pa.array([0] * 4)), mode="overwrite", schema_mode="overwrite"
    )
    with pytest.raises(InputError, match="column 'unti' is not known here"):
        read_rows(uri, AWS)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_as_windows_writes_it(encoding: str, tmp_path: Path) -> None:
    for name, text in (("r.json", '[{"user_id": "ü"}]'), ("r.jsonl", '{"user_id": "ü"}\n')):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert read_rows(str(tmp_path / name), AWS) == [(USERS, "ü")]
    (tmp_path / "r.json").write_bytes('[{"user_id": "ü"}]'.encode("latin-1"))
    with pytest.raises(InputError, match=r"r\.json is not readable as text in UTF-8 or UTF-16.*Save it as UTF-8"):
        read_rows(str(tmp_path / "r.json"), AWS)


def test_ids_of_other_types_are_exact(tmp_path: Path) -> None:
    someone = uuid.UUID(int=5)
    pq.write_table(
        pa.table(
            {
                "user_id": pa.array([Decimal(2**62), None], pa.decimal128(38, 0)),
                "item_id": pa.array([None, someone.bytes], pa.binary(16)),
            }
        ),
        tmp_path / "r.parquet",
    )
    assert read_rows(str(tmp_path / "r.parquet"), AWS) == [(USERS, str(2**62)), (ITEMS, str(someone))]
