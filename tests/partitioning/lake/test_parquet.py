"""Tables of the lake: what is read, in which types, with how much memory; files of ids; errors that name the file."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearnrec.partitioning import graph, stored
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.graph import dense_ids, read_interactions
from unlearnrec.partitioning.lake import Columns, Table, list_table, parquet, read_ids, read_table
from unlearnrec.partitioning.storage import AWS, StorageOptions


def write(path: Path, **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def write_text(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def pairs(uri: str, columns: Columns | None = None) -> dict[tuple[Any, Any], int]:
    """Events of each pair of external ids."""
    g = read_interactions(uri, columns or Columns(), AWS)
    users, items = g.user_ids.take(pa.array(g.users)).to_pylist(), g.item_ids.take(pa.array(g.items)).to_pylist()
    assert g.user_ids.to_pylist() == sorted(set(users)) and g.item_ids.to_pylist() == sorted(set(items))
    assert {a.dtype for a in (g.users, g.items, g.counts)} == {np.dtype(np.int32)}
    assert g.events == sum(g.counts)
    return dict(zip(zip(users, items, strict=True), g.counts.tolist(), strict=True))


def test_any_integer_and_string_type_will_do(tmp_path: Path) -> None:
    expected = {(3, "a"): 1, (5, "b"): 2}
    users, items = [5, 3, 5], ["b", "a", "b"]
    for user_type in (pa.int8(), pa.uint16(), pa.int32(), pa.uint64()):
        assert pairs(write(tmp_path / "t.parquet", user_id=pa.array(users, user_type), item_id=items)) == expected
    for ids in (pa.array(items, pa.large_string()), pa.array(items).dictionary_encode()):
        assert pairs(write(tmp_path / "t.parquet", user_id=users, item_id=ids)) == expected


def test_files_of_one_folder_may_differ_in_width(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.parquet", user_id=pa.array([4, 5], pa.int32()), item_id=[1, 2])
    write(tmp_path / "t" / "b.parquet", item_id=[1], user_id=pa.array([4], pa.int64()), extra=["x"])
    assert pairs(str(tmp_path / "t")) == {(4, 1): 2, (5, 2): 1}


def test_rows_without_a_positive_value_are_no_interactions(tmp_path: Path) -> None:
    values = [1.0, float("nan"), None, 0.0, -1.0, 5.0]
    uri = write(tmp_path / "t.parquet", user_id=[1, 1, 2, 2, 3, 1], item_id=[7, 8, 7, 8, 7, 7], stars=values)
    assert pairs(uri, Columns(value="stars")) == {(1, 7): 2}
    assert read_interactions(uri, Columns(value="stars"), AWS).skipped == 4
    assert len(pairs(uri)) == 5


@pytest.mark.parametrize(
    ("times", "unit", "stored"),
    [
        (pa.array([3, 1, 2], pa.timestamp("ms")), "ms", [1, 3, 2]),
        (pa.array([3, 1, 2], pa.timestamp("us", tz="Asia/Tokyo")), "us", [1, 3, 2]),  # stored in UTC whatever the zone
        (pa.array([3, 1, 2], pa.date32()), "s", [86400, 3 * 86400, 2 * 86400]),
        (pa.array([3, 1, 2], pa.int32()), None, [1, 3, 2]),
        (pa.array([3.0, 1.0, 2.0]), None, [1, 3, 2]),
    ],
)
def test_times_are_kept_in_order_of_the_pair(
    tmp_path: Path, times: pa.Array, unit: str | None, stored: list[int]
) -> None:
    uri = write(tmp_path / "t.parquet", user_id=[1, 1, 1], item_id=["b", "a", "b"], when=times, stars=[1.0, 1.0, 1.0])
    for columns in (Columns(time="when"), Columns(time="when", value="stars")):
        g = read_interactions(uri, columns, AWS)
        assert g.counts.tolist() == [1, 2] and g.time_unit == unit and g.times is not None
        assert g.times.tolist() == [stored[0], *sorted(stored[1:])]
    assert read_interactions(uri, Columns(time="when", time_unit="ms"), AWS).time_unit == (unit or "ms")
    assert read_interactions(uri, Columns(), AWS).times is None


def test_files_may_differ_in_the_unit_of_times(tmp_path: Path) -> None:
    """All are read in the finest unit that holds every value exactly."""
    for name, unit, value in (("a", "ms", 1), ("b", "us", 3), ("c", "s", 2)):
        write(tmp_path / "t" / f"{name}.parquet", user_id=[1], item_id=[2], when=pa.array([value], pa.timestamp(unit)))
    write(tmp_path / "t" / "d.parquet", user_id=[1], item_id=[2], when=pa.array([1], pa.date32()))
    g = read_interactions(str(tmp_path / "t"), Columns(time="when"), AWS)
    assert g.time_unit == "us" and g.times is not None and g.times.tolist() == [3, 1000, 2_000_000, 86_400_000_000]


YEAR_3000 = 32503680000


@pytest.mark.parametrize(
    ("coarse", "fine", "unit"),
    [
        (YEAR_3000 * 10**3, 5_000, "us"),  # nanoseconds cannot hold the year 3000, microseconds hold these nanoseconds
        (YEAR_3000 * 10**3, 5_000_000_000, "us"),
        (5, 7, "ns"),
        (YEAR_3000 * 10**3, 7, None),
    ],
)
def test_the_unit_is_one_that_holds_all_times(tmp_path: Path, coarse: int, fine: int, unit: str | None) -> None:
    for name, values in (("a", pa.array([coarse], pa.timestamp("ms"))), ("b", pa.array([fine], pa.timestamp("ns")))):
        write(tmp_path / "t" / f"{name}.parquet", user_id=[1], item_id=[2], when=values)
    if unit is None:
        words = r"a\.parquet: column 'when' has times that timestamp\[ns\] cannot hold.*b\.parquet"
        with pytest.raises(InputError, match=words):
            read_interactions(str(tmp_path / "t"), Columns(time="when"), AWS)
        return
    g = read_interactions(str(tmp_path / "t"), Columns(time="when"), AWS)
    per_second = {"us": 10**6, "ns": 10**9}[unit]
    assert g.time_unit == unit and g.times is not None
    assert g.times.tolist() == sorted([coarse * per_second // 10**3, fine * per_second // 10**9])


def test_marker_files_and_hidden_folders_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.parquet", user_id=[1], item_id=[2])
    for name in ("_SUCCESS", ".a.crc", "_temporary/0.json", "_metadata", "b.parquet._COPYING_"):
        (tmp_path / "t" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "t" / name).write_text("not Parquet")
    assert pairs(str(tmp_path / "t")) == {(1, 2): 1}
    assert [Path(file.uri).name for file in list_table(str(tmp_path / "t"), AWS)] == ["a.parquet"]


@pytest.mark.parametrize(
    ("folders", "users"),
    [
        (("user_id=10", "user_id=7"), {10, 7}),
        (("user_id=010", "user_id=7"), {"010", "7"}),  # 010 is not how 10 is written, so the ids are text
        (("user_id=a%2Fb", "user_id=c"), {"a/b", "c"}),
        (("user_id=9223372036854775808", "user_id=7"), {"9223372036854775808", "7"}),
    ],
)
def test_ids_in_hive_folders(tmp_path: Path, folders: tuple[str, ...], users: set[Any]) -> None:
    for folder in folders:
        write(tmp_path / "t" / folder / "part.parquet", item_id=[1, 2, 1])
    assert pairs(str(tmp_path / "t")) == {(u, i): n for u in users for i, n in ((1, 2), (2, 1))}


def test_all_columns_may_be_hive_folders(tmp_path: Path) -> None:
    write(tmp_path / "t" / "user_id=1" / "item_id=x" / "part.parquet", price=[1.0, 2.0, 3.0])
    assert pairs(str(tmp_path / "t")) == {(1, "x"): 3}


def test_reading_holds_a_batch_not_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 400_000
    ids = np.random.default_rng(0).integers(0, 1000, (2, rows))
    table = pa.table({"user_id": ids[0], "item_id": ids[1]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=20_000)
    monkeypatch.setattr(parquet, "BATCH_ROWS", 4_000)
    monkeypatch.setattr(parquet, "BUFFER_BYTES", 1 << 16)
    before, peak, seen = pa.total_allocated_bytes(), 0, 0
    for batch in read_table(str(tmp_path / "t.parquet"), ("user_id", "item_id"), AWS):
        assert batch.num_rows <= 4_000
        seen += batch.num_rows
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert seen == rows
    assert peak < table.nbytes / 10


def test_ingest_takes_batches_as_it_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read and not yet stored is bounded."""
    produced = 0
    pending = []

    def endless(*_: object) -> Iterator[pa.RecordBatch]:
        nonlocal produced
        for _batch in range(300):
            produced += 100
            yield pa.RecordBatch.from_pydict({"user_id": np.arange(100) % 7, "item_id": np.arange(100) % 3})

    def watch(rows: int) -> None:
        pending.append(produced - rows)

    monkeypatch.setattr(graph, "open_table", lambda *_: Table("endless", [], {}))
    monkeypatch.setattr(graph, "read_table", endless)
    monkeypatch.setattr(graph, "CHUNK_ROWS", 500)
    g = read_interactions("endless", Columns(), AWS, watch)
    assert g.events == produced == 30_000 and len(g.users) == 21
    assert len(pending) == 60 and max(pending) == 0


def test_many_chunks_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    uri = write(
        tmp_path / "t.parquet",
        user_id=pa.array(rng.integers(0, 60, 3000)).cast(pa.string()),
        item_id=rng.integers(0, 40, 3000),
    )
    whole = pairs(uri)
    for module, name, value in ((parquet, "BATCH_ROWS", 70), (graph, "CHUNK_ROWS", 100), (stored, "BLOCK_ROWS", 90)):
        monkeypatch.setattr(module, name, value)
    assert pairs(uri) == whole and sum(whole.values()) == 3000


OK = {"user_id": [1, 2], "item_id": [3, 4]}


@pytest.mark.parametrize(
    ("columns", "mapping", "words"),
    [
        ({"user": [1], "item_id": [2]}, Columns(), ["no column 'user_id'", "user, item_id", "columns.user"]),
        (OK, Columns(item="product"), ["no column 'product'"]),
        (OK, Columns(time="when"), ["no column 'when'"]),
        (OK, Columns(value="stars"), ["no column 'stars'"]),
        (OK | {"user_id": [1.0, 2.0]}, Columns(), ["'user_id' is double", "Cast"]),
        (OK | {"item_id": pa.nulls(2)}, Columns(), ["'item_id' is null in row 1"]),
        (OK | {"item_id": [True, False]}, Columns(), ["'item_id' is bool", "integers or strings"]),
        (OK | {"item_id": [b"a", b"b"]}, Columns(), ["'item_id' is binary", "16 bytes"]),
        (OK | {"item_id": [Decimal("1.0"), Decimal("1.5")]}, Columns(), ["'item_id' has a fraction in row 2"]),
        (OK | {"item_id": [[1], [2]]}, Columns(), ["'item_id' is list", "Cast"]),
        (OK | {"stars": ["5", "4"]}, Columns(value="stars"), ["'stars'", "must be numeric", "Cast"]),
        (OK | {"when": ["now", "then"]}, Columns(time="when"), ["'when'", "must be a time", "Cast"]),
        (OK | {"stars": [b"5", b"4"]}, Columns(value="stars"), ["'stars'", "must be numeric"]),
        (OK | {"when": [1.5, 2.0]}, Columns(time="when"), ["'when' does not fit int64", "timestamps"]),
        (OK | {"when": pa.array([1, None], pa.timestamp("s"))}, Columns(time="when"), ["'when' is null in row 2"]),
        (OK | {"user_id": [1, None]}, Columns(), ["'user_id' is null in row 2", "drop"]),
        (OK | {"item_id": ["a", None]}, Columns(), ["'item_id' is null in row 2"]),
        ({"user_id": pa.array([], pa.int64()), "item_id": pa.array([], pa.int64())}, Columns(), ["no rows"]),
        (OK | {"stars": [0, -1]}, Columns(value="stars"), ["all 2 rows", "'stars'"]),
    ],
)
def test_a_bad_table_is_named_with_its_column_and_the_remedy(
    tmp_path: Path, columns: dict[str, Any], mapping: Columns, words: list[str]
) -> None:
    uri = write(tmp_path / "bad.parquet", **columns)
    with pytest.raises(InputError) as error:
        read_interactions(uri, mapping, AWS)
    assert all(word in str(error.value) for word in [uri, *words])


def test_a_null_is_counted_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 10)
    uri = write(tmp_path / "t.parquet", user_id=[*range(34), None], item_id=[0] * 35)
    with pytest.raises(InputError, match="null in row 35"):
        read_interactions(uri, Columns(), AWS)


def test_one_column_cannot_be_both_ids() -> None:
    with pytest.raises(InputError, match=r"columns\.user and columns\.item are both 'id'"):
        read_interactions("anywhere", Columns("id", "id"), AWS)


def test_files_that_disagree_are_both_named(tmp_path: Path) -> None:
    first = write(tmp_path / "t" / "a.parquet", user_id=[4], item_id=[1])
    second = write(tmp_path / "t" / "b.parquet", user_id=["4"], item_id=[1])
    with pytest.raises(InputError, match=f"{second}: column 'user_id' holds string, but {first} holds int64"):
        pairs(str(tmp_path / "t"))


def test_a_null_hive_folder_and_a_file_outside_are_named(tmp_path: Path) -> None:
    null = write(tmp_path / "n" / "user_id=__HIVE_DEFAULT_PARTITION__" / "a.parquet", item_id=[1])
    with pytest.raises(InputError, match=f"{null}: column 'user_id' is null"):
        pairs(str(tmp_path / "n"))
    write(tmp_path / "o" / "user_id=1" / "a.parquet", item_id=[1])
    outside = write(tmp_path / "o" / "z.parquet", item_id=[1])
    with pytest.raises(InputError, match=f"{outside}: no column 'user_id'"):
        pairs(str(tmp_path / "o"))


@pytest.mark.parametrize("damage", ["text", "empty", "cut short", "bytes changed"])
def test_an_unreadable_file_among_good_ones_is_named(tmp_path: Path, damage: str) -> None:
    good = Path(write(tmp_path / "t" / "a.parquet", user_id=[1, 2, 3], item_id=[4, 5, 6])).read_bytes()
    changed = good[:4] + bytes(255 - b for b in good[4:60]) + good[60:]
    content = {"text": b"user,item\n1,2\n", "empty": b"", "cut short": good[:-20], "bytes changed": changed}[damage]
    bad = tmp_path / "t" / "b.parquet"
    bad.write_bytes(content)
    with pytest.raises(InputError, match=f"{bad} is not a readable Parquet file") as error:
        pairs(str(tmp_path / "t"))
    assert ("It is a text" if damage == "text" else "Write it again") in str(error.value)


def test_places_without_a_table(tmp_path: Path, s3_server: StorageOptions) -> None:
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match="void: the folder holds no Parquet file"):
        list_table(str(tmp_path / "void"), AWS)
    for uri in (str(tmp_path / "nowhere"), "s3://lake/nowhere", "s3://no-such-bucket/x"):
        with pytest.raises(InputError, match=f"{uri}: no such file or folder"):
            list_table(uri, s3_server)
    dead = StorageOptions(endpoint_url="http://127.0.0.1:9", region="us-east-1")
    with pytest.raises(InputError, match=r"s3://lake/x cannot be reached.*storage\.endpoint_url"):
        list_table("s3://lake/x", dead)


def test_a_row_of_a_csv_that_cannot_be_read_is_told_by_its_number(tmp_path: Path) -> None:
    """And not by what it says: messages go to logs."""
    uri = write_text(tmp_path / "ids.csv", "user_id,item_id\n1,2\nann@x: a, got 5: b,c\n")
    with pytest.raises(
        InputError, match=r"not a readable CSV file: .*Row #3: Expected 2 columns, got 3\. Its first"
    ) as error:
        read_ids(uri, None, AWS)
    assert "@x" not in str(error.value)


def test_ids_of_a_csv_are_text_as_it_stands(tmp_path: Path) -> None:
    """A number that was read and written again could be another customer's."""
    ids = ["0017", "1.0", "1e3", "NA", "null", "2024-01-02"]
    text = "customer,user_id,other\n" + "".join(f"{x},{x},9\n" for x in ids)
    uri = write_text(tmp_path / "ids.csv", text)
    assert read_ids(uri, "customer", AWS).to_pydict() == {"customer": ids}
    assert read_ids(uri, ["customer", "user_id"], AWS).to_pydict() == {"customer": ids, "user_id": ids}
    assert read_ids(uri, None, AWS).to_pydict() == {"user_id": ids}
    known = pa.array([1, 17, 1000])
    found = dense_ids(known, np.arange(3), read_ids(uri, "customer", AWS)["customer"])
    assert found.tolist() == [1, 0, -1, -1, -1, -1]


def test_an_id_of_a_csv_keeps_its_spaces_and_quotes(tmp_path: Path) -> None:
    uri = write_text(tmp_path / "ids.csv", 'user_id\nabc \n" x"\n"say ""hi"""\n"two\nlines"\n')
    assert read_ids(uri, None, AWS).to_pydict() == {"user_id": ["abc ", " x", 'say "hi"', "two\nlines"]}


def test_ids_of_parquet_keep_their_type(tmp_path: Path) -> None:
    uri = write(tmp_path / "t" / "a.parquet", user_id=pa.array([4, 5], pa.int32()), item_id=["x", "y"], more=[1, 2])
    write(tmp_path / "t" / "b.parquet", user_id=[6], item_id=["z"])
    assert read_ids(str(tmp_path / "t"), None, AWS).to_pydict() == {"user_id": [4, 5, 6], "item_id": ["x", "y", "z"]}
    assert read_ids(uri, "more", AWS).to_pydict() == {"more": [1, 2]}
    empty = write(tmp_path / "empty.parquet", user_id=pa.array([], pa.int64()))
    assert read_ids(empty, None, AWS).num_rows == 0
    assert read_ids(write_text(tmp_path / "empty.csv", "user_id\n"), None, AWS).num_rows == 0


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", None, "not a readable CSV file"),
        ("customer\n1\n", None, "no column 'user_id' and 'item_id'; it has customer"),
        ("customer\n1\n", ["customer", "product"], "no column 'product'; it has customer"),
        ("user_id,item_id\n1,2\n3,\n", None, "column 'item_id' is empty in row 2"),
        ("user_id,user_id\n1,2\n", None, "more than one column 'user_id'"),
        ("user_id\n1\n1,2\n", None, "not a readable CSV file"),
    ],
)
def test_bad_files_of_ids(tmp_path: Path, text: str, column: list[str] | None, words: str) -> None:
    uri = write_text(tmp_path / "ids.csv", text)
    with pytest.raises(InputError, match=words) as error:
        read_ids(uri, column, AWS)
    assert uri in str(error.value)


def test_dense_ids_of_either_spelling() -> None:
    node = np.array([10, 20, 30])
    integers, strings = pa.array([-4, 17, 2**63 - 1]), pa.array(["017", "17", "x"])
    assert dense_ids(integers, node, ["17", 17, " -4 ", "x", "1.0", "", str(2**63 - 1), str(2**63)]).tolist() == [
        *(20, 20, 10, -1, -1, -1, 30, -1)
    ]
    assert dense_ids(strings, node, [17, "017", "x", "y"]).tolist() == [20, 10, 30, -1]
    assert dense_ids(strings, node, pa.array([17])).tolist() == [20]
    assert dense_ids(integers, node, pa.chunked_array([["17"], [None]])).tolist() == [20, -1]
    assert dense_ids(integers, node, []).tolist() == []
