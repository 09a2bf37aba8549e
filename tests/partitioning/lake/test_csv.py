"""CSV as a table: the same graph as from Parquet, encodings, delimiters, what is text and what is a number."""

import datetime as dt
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from lake_tables import read, text, users, write

from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.graph import read_interactions
from unlearnrec.partitioning.lake import Columns, csv, list_table, read_csv, read_ids, read_table
from unlearnrec.partitioning.storage import AWS

HEAD = "user_id,item_id\n"


def test_a_csv_gives_the_graph_of_the_same_parquet(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    table = {
        "user_id": rng.integers(-5, 90, 500).tolist(),
        "item_id": [f"0{k}" for k in rng.integers(0, 40, 500)],
        "stars": rng.integers(-1, 5, 500).astype(float).tolist(),
        "when": [dt.datetime(2024, 1, 1) + dt.timedelta(seconds=int(k)) for k in rng.integers(0, 10**6, 500)],
    }
    parquet = write(tmp_path / "a.parquet", {**table, "when": pa.array(table["when"], pa.timestamp("us"))})
    lines = ["user_id,item_id,stars,when", *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    for k, part in enumerate((lines[:200], [lines[0], *lines[200:]])):
        text(tmp_path / "t" / f"{k}.csv", "\r\n".join(part))
    columns = Columns(time="when", value="stars")
    one, other = (read_interactions(uri, columns, AWS) for uri in (parquet, str(tmp_path / "t")))
    assert (
        one.user_ids.type == other.user_ids.type == pa.int64()
        and one.item_ids.type == other.item_ids.type == pa.string()
    )
    assert one.user_ids.equals(other.user_ids) and one.item_ids.equals(other.item_ids)
    assert one.times is not None and other.times is not None and one.time_unit == other.time_unit == "us"
    for name in ("users", "items", "counts", "times"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert one.skipped == other.skipped and other.table == {"format": "csv", "files": 2, "bytes": other.table["bytes"]}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["17", "-3", "0"], [-3, 0, 17]),
        (["17", "0017"], ["0017", "17"]),
        (["1", "1.0"], ["1", "1.0"]),
        (["1", "-0"], ["-0", "1"]),
        (["1", " 1"], [" 1", "1"]),
        (["1", str(2**63 - 1)], [1, 2**63 - 1]),
        (["1", str(2**63)], ["1", str(2**63)]),
        (["1", "10000000000000000000"], ["1", "10000000000000000000"]),
    ],
)
def test_ids_are_integers_if_all_are_written_as_such(tmp_path: Path, ids: list[str], expected: list[Any]) -> None:
    """Over all files: the last one decides as much as the first."""
    for k, value in enumerate(ids):
        text(tmp_path / "t" / f"{k}.csv", f"{HEAD}{value},5\n")
    assert [user for user, _ in read(str(tmp_path / "t"))] == expected


def test_an_id_keeps_its_spaces_quotes_and_lines(tmp_path: Path) -> None:
    uri = text(tmp_path / "a.csv", f'{HEAD}abc,1\nabc ,1\n"a,b",1\n"a""b",1\n"a\nb",1\n')
    assert set(users(uri)) == {"abc", "abc ", "a,b", 'a"b', "a\nb"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    uri = text(tmp_path / "a.csv", "user_id,item_id\nä,1\n€,2\n".encode(encoding))
    assert read(uri) == [("ä", 1), ("€", 2)]
    assert read_ids(uri, "user_id", AWS).to_pydict() == {"user_id": ["ä", "€"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("user_id,item_id\nä,1\n".encode("latin-1"), "is not in UTF-8, perhaps in Latin-1.*Save it as UTF-8"),
        ("user_id,größe,item_id\na,1,2\n".encode("latin-1"), "is not in UTF-8"),
        ("user_id,item_id\na,1\n".encode("utf-16-le"), "UTF-16 or UTF-32 without a byte order mark"),
        ("user_id,item_id\na,1\n".encode("utf-32"), "looks like UTF-32"),
        (b"user_id;item_id\n1;2\n", "separated by semicolons"),
        (b"user_id\titem_id\n1\t2\n", "separated by tabs"),
        (b"sep=;\nuser_id;item_id\n1;2\n", "its first line is 'sep=;', not a header"),
        (b"user_id,item_id\n1,2,3\n", r"Row #2: Expected 2 columns, got 3\. Its first"),
        (b"user_id,item_id\n1,2\n,3\n", "column 'user_id' is (null|empty) in row 2"),
        (b"", "is not a readable CSV file"),
        (b"1,2\n", "no column 'user_id'|'user_id' and 'item_id'"),
        (b"user_id,user_id,item_id\n1,2,3\n", "more than one column 'user_id'"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    uri = text(tmp_path / "a.csv", content)
    for attempt in (lambda: read(uri), lambda: read_ids(uri, None, AWS)):
        with pytest.raises(InputError, match=words) as error:
            attempt()
        assert uri in str(error.value)


def test_a_late_byte_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    uri = text(tmp_path / "a.csv", b"user_id,item_id\n" + b"abc,1\n" * 300_000 + b"\xe4,1\n")
    with pytest.raises(InputError, match="is not in UTF-8"):
        read(uri)


def test_other_columns_may_hold_what_they_like(tmp_path: Path) -> None:
    """A column that looks like numbers for a while is none of the reader's business."""
    uri = text(tmp_path / "a.csv", "user_id,note,item_id\n" + "1,2,3\n" * 300_000 + "1,secret,3\n")
    assert users(uri) == {1: 300_001}
    assert read_ids(uri, "user_id", AWS).num_rows == 300_001
    table = read_csv(list_table(uri, AWS)[0], ("user_id", "until"))
    assert table.column_names == ["user_id", "note", "item_id"] and table["note"].null_count == 300_001


def test_compressed_files(tmp_path: Path) -> None:
    text(tmp_path / "t" / "a.csv.gz", gzip.compress(f"{HEAD}1,2\n".encode()))
    text(tmp_path / "t" / "b.csv", f"{HEAD}3,4\n")
    assert read(str(tmp_path / "t")) == [(1, 2), (3, 4)]
    assert read_ids(str(tmp_path / "t"), "user_id", AWS).to_pydict() == {"user_id": ["1", "3"]}


def test_a_file_with_only_a_header_and_hive_folders(tmp_path: Path) -> None:
    text(tmp_path / "t" / "user_id=7" / "a.csv", "item_id\nx\n")
    text(tmp_path / "t" / "user_id=8" / "a.csv", "item_id\n")
    assert read(str(tmp_path / "t")) == [(7, "x")]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["2024-01-01", "2024-01-02"], [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2)]),
        (
            ["2024-01-01T02:00:00+02:00", "2024-01-01 00:00:01"],
            [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, 0, 0, 1)],
        ),
        (["1", "-5"], [1, -5]),
        (["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"], [dt.datetime.min, dt.datetime.max]),
    ],
)
def test_times(tmp_path: Path, times: list[str], expected: list[Any]) -> None:
    uri = text(
        tmp_path / "a.csv", "user_id,item_id,when\n" + "".join(f"{k},0,{when}\n" for k, when in enumerate(times))
    )
    assert [when for *_, when in read(uri, time="when")] == expected


def test_fields_that_are_no_times_or_numbers(tmp_path: Path) -> None:
    head = "user_id,item_id,when,stars\n"
    uri = text(tmp_path / "a.csv", f"{head}1,2,2024-01-01,4\n1,2,yesterday,\n")
    with pytest.raises(InputError, match=r"column 'when' .*is no time"):
        read(uri, time="when")
    assert [value for batch in _batches(uri, value="stars") for value in batch.column(2).to_pylist()] == [4.0, None]
    uri = text(tmp_path / "b.csv", f'{head}1,2,,4\n1,2,,"4,5"\n')
    with pytest.raises(InputError, match=r"'stars' .*is no number in row 2") as error:
        read(uri, value="stars")
    assert "4,5" not in str(error.value)
    with pytest.raises(InputError, match="'when' is null in row 1"):
        read(uri, time="when")


def test_reading_holds_a_block_not_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = text(tmp_path / "a.csv", HEAD + "".join(f"{k % 997},{k % 31}\n" for k in range(900_000)))
    monkeypatch.setattr(csv, "BLOCK_BYTES", 1 << 14)
    before, peak, seen = pa.total_allocated_bytes(), 0, 0
    for batch in _batches(uri):
        seen += batch.num_rows
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert seen == 900_000 and peak < Path(uri).stat().st_size / 5


def _batches(uri: str, **columns: str) -> Iterator[pa.RecordBatch]:
    return read_table(uri, ("user_id", "item_id"), AWS, **columns)
