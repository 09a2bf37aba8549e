"""Ids and times of every type that can be read exactly, and what is said about the others."""

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lake_tables import read, write

from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.lake import read_table
from unlearnrec.partitioning.storage import AWS

BIG = 2**63


def ids(tmp_path: Path, *columns: pa.Array) -> list[Any]:
    """The users of a table with one file for each column."""
    for k, column in enumerate(columns):
        write(tmp_path / "t" / f"{k}.parquet", {"user_id": column, "item_id": [0] * len(column)})
    return [user for user, _ in read(str(tmp_path / "t"))]


def decimals(values: list[Any], precision: int = 38, scale: int = 0) -> pa.Array:
    return pa.array([Decimal(value) for value in values], pa.decimal128(precision, scale))


def test_decimals_without_a_fraction_are_integers(tmp_path: Path) -> None:
    columns = (
        decimals([4, -1]),
        decimals([2**62]),
        decimals(["5.00"], 20, 2),
        pa.array([7], pa.uint64()),
        pa.array([8]),
    )
    assert ids(tmp_path, *columns) == [-1, 4, 5, 7, 8, 2**62]


@pytest.mark.parametrize(
    "columns",
    [
        (decimals([1, BIG]),),
        (pa.array([1, BIG], pa.uint64()),),
        (pa.array([1]), decimals([BIG])),
        (pa.array([1], pa.int8()), decimals([f"{BIG}.00"], 30, 2)),
        (pa.array([1]).dictionary_encode(), pa.array([Decimal(BIG)], pa.decimal256(60, 0))),
    ],
)
def test_integers_beyond_64_bits_make_all_of_the_column_text(tmp_path: Path, columns: tuple[pa.Array, ...]) -> None:
    assert ids(tmp_path, *columns) == ["1", str(BIG)]


def test_a_file_without_statistics_is_looked_through(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.parquet", {"user_id": decimals([1, BIG]), "item_id": [0, 0]}, write_statistics=False)
    assert read(uri) == [("1", 0), (str(BIG), 0)]
    uri = write(tmp_path / "b.parquet", {"user_id": decimals([1, BIG - 1]), "item_id": [0, 0]}, write_statistics=False)
    assert read(uri) == [(1, 0), (BIG - 1, 0)]


def test_uuids_and_16_bytes_are_text_in_canonical_form(tmp_path: Path) -> None:
    values = [uuid.UUID(int=k * 10**37 + 5) for k in range(5)]
    stored = [value.bytes for value in values]
    columns = [pa.array(stored[:2], pa.binary(16)), pa.array(stored[2:4], pa.uuid())]
    columns.append(pa.array([bytes(16), *stored[4:]], pa.binary(16)).slice(1).dictionary_encode())
    assert ids(tmp_path, *columns) == sorted(map(str, values))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            (pa.array(["a"]), pa.array([uuid.uuid4().bytes], pa.binary(16))),
            "1.parquet: .* holds uuid, but .*0.parquet holds str",
        ),
        ((pa.array(["1"]), decimals([1])), "1.parquet: .* holds int64, but .*0.parquet holds string"),
        ((pa.array([b"x" * 8], pa.binary(8)),), "fixed_size_binary.*only those of 16 bytes"),
        ((pa.array([dt.date(2024, 1, 1)]),), "'user_id' is date32"),
        ((decimals(["1.5"], 5, 1),), "has a fraction in row 1"),
        ((pa.array([uuid.uuid4().bytes, None], pa.binary(16)),), "'user_id' is null in row 2"),
    ],
)
def test_ids_that_are_not_read(tmp_path: Path, columns: tuple[pa.Array, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ids(tmp_path, *columns)


@pytest.mark.parametrize("empty", [pa.null(), pa.string(), pa.float64(), pa.bool_()])
def test_a_file_without_rows_says_nothing_about_types(tmp_path: Path, empty: pa.DataType) -> None:
    write(tmp_path / "t" / "0.parquet", {"user_id": pa.array([], empty), "item_id": pa.array([], empty)})
    write(tmp_path / "t" / "1.parquet", {"user_id": [3], "item_id": [4]})
    write(tmp_path / "t" / "2.parquet", pa.table({}))
    assert read(str(tmp_path / "t")) == [(3, 4)]


def test_a_null_column_with_rows_is_named_with_the_row(tmp_path: Path) -> None:
    write(tmp_path / "t" / "0.parquet", {"user_id": [3], "item_id": [4], "stars": [1.0]})
    write(tmp_path / "t" / "1.parquet", {"user_id": [3], "item_id": [5], "stars": pa.nulls(1)})
    assert read(str(tmp_path / "t"), value="stars") == [(3, 4, 1.0), (3, 5, None)]
    write(tmp_path / "t" / "1.parquet", {"user_id": pa.nulls(1), "item_id": [4], "stars": [1.0]})
    with pytest.raises(InputError, match=r"1\.parquet: column 'user_id' is null in row 1"):
        read(str(tmp_path / "t"))


# ---- times ------------------------------------------------------------------------------------------------------------

MOMENTS = [
    dt.datetime(1, 1, 1),
    dt.datetime(1677, 9, 21),
    dt.datetime(1969, 12, 31, 23, 59, 59, 999_999),
    dt.datetime(2024, 1, 1, 0, 0, 0, 1),
    dt.datetime(2262, 4, 12),
    dt.datetime(2300, 1, 1),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999_999),
]


def events(times: pa.Array) -> dict[str, Any]:
    return {"user_id": list(range(len(times))), "item_id": [0] * len(times), "ts": times}


def int96(path: Path, times: pa.Array, **options: Any) -> str:
    return write(path, events(times), use_deprecated_int96_timestamps=True, store_schema=False, **options)


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("page", ["1.0", "2.0"])
def test_int96_times_of_any_year_are_exact(tmp_path: Path, dictionary: bool, page: str) -> None:
    many = MOMENTS * 50
    uri = int96(
        tmp_path / "a.parquet", pa.array(many, pa.timestamp("us")), use_dictionary=dictionary, data_page_version=page
    )
    assert read(uri, time="ts") == [(k, 0, when) for k, when in enumerate(many)]


def test_int96_times_keep_their_nanoseconds(tmp_path: Path) -> None:
    times = [1704067200000000123, -5, -(2**63), 2**63 - 1]
    int96(tmp_path / "t" / "a.parquet", pa.array(times, pa.timestamp("ns")))
    write(tmp_path / "t" / "b.parquet", events(pa.array([7], pa.timestamp("us"))))
    assert _numbers(str(tmp_path / "t")) == sorted([*times, 7_000])


def test_int96_times_that_no_unit_holds_are_refused(tmp_path: Path) -> None:
    int96(tmp_path / "t" / "a.parquet", pa.array([5], pa.timestamp("ns")))
    int96(tmp_path / "t" / "b.parquet", pa.array(MOMENTS, pa.timestamp("us")))
    with pytest.raises(
        InputError, match=r"b\.parquet: .* has times that timestamp\[ns\] cannot hold, and .*a\.parquet has"
    ):
        read(str(tmp_path / "t"), time="ts")


def _numbers(uri: str) -> list[int]:
    batches = list(read_table(uri, ("user_id",), AWS, time="ts"))
    return sorted(number for batch in batches for number in batch.column(1).cast(pa.int64()).to_pylist())


def test_a_time_with_a_zone_is_in_utc_beside_one_without(tmp_path: Path) -> None:
    noon = dt.datetime(2024, 6, 1, 12)
    for k, column in enumerate(
        (pa.array([noon], pa.timestamp("us")), pa.array([noon], pa.timestamp("ms", "Asia/Tokyo")))
    ):
        write(tmp_path / "t" / f"{k}.parquet", events(column))
    assert [when for *_, when in read(str(tmp_path / "t"), time="ts")] == [noon, noon]


def test_numbers_beside_timestamps_are_both_named(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.parquet", events(pa.array([1])))
    write(tmp_path / "t" / "b.parquet", events(pa.array([1], pa.timestamp("us"))))
    with pytest.raises(InputError, match=r"b\.parquet: .* holds timestamp\[us\], but .*a\.parquet holds int64"):
        read(str(tmp_path / "t"), time="ts")


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("ts=2024-01-01", "ts=2024-01-02"), [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2)]),
        (("ts=20240101", "ts=20240102"), [20240101, 20240102]),
        (("ts=2024-01-01 00%3A00%3A00", "ts=2024-01-02"), [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2)]),
    ],
)
def test_the_time_may_be_a_partition_column(tmp_path: Path, folders: tuple[str, ...], expected: list[Any]) -> None:
    for folder in folders:
        write(tmp_path / "t" / folder / "a.parquet", {"user_id": [1], "item_id": [2]})
    assert [when for *_, when in read(str(tmp_path / "t"), time="ts")] == expected
