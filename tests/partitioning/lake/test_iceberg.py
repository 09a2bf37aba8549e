"""Iceberg tables: exactly the rows that are alive in the snapshot that was asked for, and what is refused by name."""

import datetime as dt
import json
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from iceberg_tables import add_deletes, catalog, create, delete_file, deletion_vectors, position_deletes, root
from lake_tables import read, rows, users, write
from pyiceberg.manifest import DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import LongType

from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.lake import open_table, parquet, read_ids, read_table
from unlearnrec.partitioning.storage import AWS, StorageOptions

ALIVE = {1: 2, 3: 2, 4: 2}


def deleted_once(folder: Path) -> Table:
    """Users 1..4 in two snapshots, then user 2 deleted, which rewrites a file."""
    table = create(folder, rows(1, 2), rows(3, 4))
    table.delete("user_id = 2")
    return table


def data_files(table: Table) -> list[str]:
    """Paths of the current data files, in order of their snapshots."""
    entries = sorted(table.inspect.entries().to_pylist(), key=lambda entry: entry["sequence_number"])
    return [entry["data_file"]["file_path"] for entry in entries]


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose catalog is configured as `lake` in the environment, as users do."""
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", f"file://{tmp_path}/warehouse")
    # pyiceberg reads its configuration when it is imported.
    import pyiceberg.catalog
    from pyiceberg.utils.config import Config

    monkeypatch.setattr(pyiceberg.catalog, "_ENV_CONFIG", Config())
    return tmp_path


def test_a_deleted_row_is_not_read_however_the_table_is_named(
    configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root(deleted_once(configured))
    os.symlink(folder, configured / "link")
    monkeypatch.chdir(folder.parent)
    newest = max((folder / "metadata").glob("*.metadata.json"))
    for uri in (
        "iceberg://lake/shop.events",
        str(folder),
        f"file://{folder}",
        f"iceberg://{folder}",
        f"iceberg://{newest}",
        "iceberg://./events",
        "events",
        str(configured / "link"),
    ):
        assert users(uri) == ALIVE, uri
    assert sorted(set(read_ids(str(folder), "user_id", AWS)["user_id"].to_pylist())) == [1, 3, 4]


def test_no_part_of_it_is_read_as_parquet(tmp_path: Path) -> None:
    folder = root(deleted_once(tmp_path))
    single = next((folder / "data").glob("*.parquet"))
    for part in (folder / "data", single, folder / "metadata"):
        with pytest.raises(InputError, match=f"lies in {folder}, which is an Iceberg table.*Name the table"):
            users(str(part))
    with pytest.raises(InputError, match=f"{folder} in it is an Iceberg table"):
        users(str(tmp_path / "warehouse"))
    with pytest.raises(InputError, match=f"It lies in the Iceberg table {folder}: name that one"):
        users(f"iceberg://{folder}/data")
    with pytest.raises(InputError, match="there is no Iceberg table in"):
        users(f"iceberg://{tmp_path}/nowhere")


def test_a_snapshot_or_a_moment_is_selected_and_pinned(tmp_path: Path) -> None:
    table = deleted_once(tmp_path)
    folder, (first, second, *_) = root(table), table.snapshots()
    assert users(f"{folder}?snapshot={first.snapshot_id}") == {1: 2, 2: 2}
    assert users(f"iceberg://{folder}?snapshot={second.snapshot_id}") == {1: 2, 2: 2, 3: 2, 4: 2}
    when = dt.datetime.fromtimestamp(second.timestamp_ms / 1000, dt.UTC).isoformat()
    assert open_table(f"{folder}?timestamp={when}", AWS).pinned["snapshot"] == second.snapshot_id
    pinned = open_table(str(folder), AWS).pinned
    current = table.current_snapshot()
    assert current is not None and pinned["snapshot"] == current.snapshot_id and pinned["format"] == "iceberg"
    assert (
        pinned["rows"] == 6 and pinned["id"] == str(table.metadata.table_uuid) and pinned["timestamp"].startswith("20")
    )
    assert [field["name"] for field in json.loads(pinned["schema"])["fields"]] == ["user_id", "item_id"]
    for query in ("snapshot=7", "timestamp=2001-01-01T00:00:00Z"):
        with pytest.raises(InputError, match=f"there is no such snapshot.*{current.snapshot_id}"):
            open_table(f"{folder}?{query}", AWS)
    with pytest.raises(InputError, match="has snapshots, not versions"):
        open_table(f"{folder}?version=1", AWS)


@pytest.mark.parametrize("together", [False, True])
def test_position_deletes_are_applied(tmp_path: Path, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One delete file for both data files, or one for each; they reach over batches."""
    monkeypatch.setattr(parquet, "BATCH_ROWS", 30)
    parts = [{"user_id": list(range(k, k + 100)), "item_id": [0] * 100} for k in (0, 100)]
    table = create(tmp_path, *parts, properties={"format-version": "2"})
    first, second = data_files(table)
    gone = [(first, row) for row in (0, 29, 30, 99)] + [(second, row) for row in range(20, 80)]
    groups = [gone] if together else [gone[:4], gone[4:]]
    add_deletes(table, [position_deletes(table, f"d{k}.parquet", group) for k, group in enumerate(groups)])
    alive = sorted((user, 0) for user in range(200) if user not in (0, 29, 30, 99) and not 120 <= user < 180)
    assert read(str(root(table))) == alive
    assert open_table(str(root(table)), AWS).pinned["rows"] == len(alive)
    before = table.current_snapshot()
    assert before is not None and len(read(f"{root(table)}?snapshot={before.snapshot_id}")) == 200


def test_a_delete_does_not_reach_files_that_are_newer(tmp_path: Path) -> None:
    table = create(tmp_path, rows(1), rows(2), properties={"format-version": "2"})
    first, second = data_files(table)
    add_deletes(table, [position_deletes(table, "d.parquet", [(first, 0), (second, 0)])], sequence=1)
    assert users(str(root(table))) == {1: 1, 2: 2}


def test_position_deletes_of_a_partition(tmp_path: Path) -> None:
    spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "user_id"))
    table = catalog(tmp_path).create_table("shop.events", pa.schema([("user_id", pa.int64()), ("item_id", pa.int64())]))
    with table.update_spec() as update:
        update.add_identity("user_id")
    table = catalog(tmp_path).load_table("shop.events")
    assert spec.fields[0].name == table.spec().fields[0].name
    table.append(pa.table(rows(1, 2)))
    table.append(pa.table(rows(1)))
    targets = [file for file in data_files(table) if "user_id=1" in file]
    deletes = [position_deletes(table, "d.parquet", [(file, 1) for file in targets], partition=Record(1))]
    add_deletes(table, deletes)
    assert users(str(root(table))) == {1: 2, 2: 2}


@pytest.mark.parametrize("version", [2, 3])
def test_deletion_vectors_are_applied(tmp_path: Path, version: int) -> None:
    table = create(
        tmp_path, {"user_id": list(range(1000)), "item_id": [0] * 1000}, rows(2000), properties={"format-version": "2"}
    )
    first, second = data_files(table)
    gone = [0, *range(300, 700), 999]
    add_deletes(table, [deletion_vectors(table, "d.puffin", {first: gone, second: [1]})], version=version)
    expected = sorted([(user, 0) for user in range(1000) if user not in gone] + [(2000, 0)])
    assert read(str(root(table))) == expected
    assert open_table(str(root(table)), AWS).pinned["rows"] == len(expected)


def test_equality_deletes_are_refused_by_name(tmp_path: Path) -> None:
    table = create(tmp_path, rows(1, 2), properties={"format-version": "2"})
    path = write(root(table) / "data" / "eq.parquet", {"user_id": [2]})
    file = delete_file(f"file://{path}", FileFormat.PARQUET, 1, 1, DataFileContent.EQUALITY_DELETES, equality_ids=[1])
    add_deletes(table, [file])
    with pytest.raises(InputError, match=r"has equality deletes \(.*eq\.parquet\).*rewrite_data_files"):
        users(str(root(table)))
    before = table.current_snapshot()
    assert before is not None and users(f"{root(table)}?snapshot={before.snapshot_id}") == {1: 2, 2: 2}


def test_files_of_another_format_are_refused_by_name(tmp_path: Path) -> None:
    table = create(tmp_path, rows(1), properties={"format-version": "2"})
    file = delete_file("file:///x.orc", FileFormat.ORC, 1, 1, DataFileContent.POSITION_DELETES)
    add_deletes(table, [file])
    with pytest.raises(InputError, match=r"x\.orc is ORC, and only Parquet"):
        users(str(root(table)))


@pytest.mark.parametrize("damage", ["gone", "broken"])
def test_a_delete_file_that_cannot_be_read_is_no_reason_to_read_without(tmp_path: Path, damage: str) -> None:
    table = create(tmp_path, rows(1), properties={"format-version": "2"})
    add_deletes(table, [position_deletes(table, "d.parquet", [(data_files(table)[0], 0)])])
    path = root(table) / "data" / "d.parquet"
    path.unlink() if damage == "gone" else path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"its delete file .*d\.parquet cannot be read"):
        users(str(root(table)))


def test_columns_are_found_by_their_ids(tmp_path: Path) -> None:
    """Renamed, swapped, widened and added since the first file was written."""
    schema = pa.schema([("a", pa.int32()), ("b", pa.int64()), ("old", pa.int64())])
    table = catalog(tmp_path).create_table("shop.events", schema)
    table.append(pa.table({"a": [1, 2], "b": [10, 20], "old": [7, 7]}, schema=schema))
    with table.update_schema(allow_incompatible_changes=True) as update:
        update.update_column("a", field_type=LongType())
        update.rename_column("a", "item_id")
        update.rename_column("b", "user_id")
        update.delete_column("old")
    with table.update_schema() as update:
        update.add_column("old", LongType())
    table.append(pa.table({"item_id": [2**40], "user_id": [30], "old": [8]}))
    assert read(str(root(table))) == [(10, 1), (20, 2), (30, 2**40)]
    values = [
        value
        for batch in read_table(str(root(table)), ("user_id",), AWS, "old")
        for value in batch.column(1).to_pylist()
    ]
    assert sorted(values, key=str) == [8.0, None, None]  # the new `old` is not the one that was dropped
    first = table.snapshots()[0]
    assert open_table(f"{root(table)}?snapshot={first.snapshot_id}", AWS).schema.names == ["a", "b", "old"]


def test_files_of_a_hive_table_that_was_taken_in(tmp_path: Path) -> None:
    """They have neither field ids nor the partition columns."""
    file = write(tmp_path / "hive" / "day=5" / "a.parquet", rows(1, 2))
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("day", pa.int64())])
    table = catalog(tmp_path).create_table("shop.events", schema)
    with table.update_spec() as update:
        update.add_identity("day")
    pq.write_table(pq.read_table(file, partitioning=None).append_column("day", pa.array([5] * 4)), file)
    table.add_files([f"file://{file}"])
    pq.write_table(pq.read_table(file, partitioning=None).drop_columns(["day"]), file)
    assert read(str(root(table)), time="day") == [(user, item, 5) for user in (1, 2) for item in (0, 1)]
    with table.transaction() as change:
        change.remove_properties("schema.name-mapping.default")
    with pytest.raises(InputError, match=r"a\.parquet: its columns have no ids"):
        read(str(root(table)))


def test_types_of_ids_and_times(tmp_path: Path) -> None:
    ids = [uuid.UUID(int=k) for k in range(20)]
    schema = pa.schema([("user_id", pa.uuid()), ("item_id", pa.string()), ("at", pa.timestamp("us", "UTC"))])
    table = catalog(tmp_path).create_table("shop.events", schema)
    moment = dt.datetime(2300, 1, 1)
    columns = [pa.array([x.bytes for x in ids], pa.uuid()), pa.array([f"i{k}" for k in range(20)])]
    table.append(pa.Table.from_arrays([*columns, pa.array([moment] * 20, pa.timestamp("us", "UTC"))], schema=schema))
    assert read(str(root(table)), time="at") == [(str(x), f"i{k}", moment) for k, x in enumerate(ids)]


# ---- which metadata counts --------------------------------------------------------------------------------------------


def test_tables_without_a_catalog_have_a_hint(tmp_path: Path) -> None:
    table = deleted_once(tmp_path)
    metadata = root(table) / "metadata"
    for k, file in enumerate(sorted(metadata.glob("*.metadata.json")), start=8):
        file.rename(metadata / f"v{k}.metadata.json")
    assert users(str(root(table))) == ALIVE
    (metadata / "version-hint.text").write_text("9")  # as Hadoop tables, whose hint may be old
    assert users(str(root(table))) == ALIVE
    (metadata / "version-hint.text").write_text("v9.metadata.json")
    assert users(str(root(table))) == {1: 2, 2: 2}


def test_two_newest_metadata_files_are_named(tmp_path: Path) -> None:
    table = deleted_once(tmp_path)
    newest = max((root(table) / "metadata").glob("*.metadata.json"))
    twin = newest.with_name(f"{newest.name.split('-')[0]}-twin.metadata.json")
    twin.write_bytes(newest.read_bytes())
    with pytest.raises(InputError, match=f"has two newest metadata files, .*{twin.name}"):
        users(str(root(table)))
    assert users(f"iceberg://{twin}") == ALIVE


def test_a_copy_names_the_files_of_the_original(tmp_path: Path) -> None:
    folder = root(deleted_once(tmp_path))
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(InputError, match=f"is a copy of the Iceberg table file://{folder}, or was moved"):
        users(str(tmp_path / "copy"))


def test_marks_of_urls_could_lead_to_another_table(tmp_path: Path) -> None:
    shutil.copytree(root(deleted_once(tmp_path)), tmp_path / "a#b")
    with pytest.raises(InputError, match="whose path has a # cannot be read"):
        users(str(tmp_path / "a#b"))


def test_a_table_without_a_snapshot_has_no_rows(tmp_path: Path) -> None:
    table = catalog(tmp_path).create_table("shop.events", pa.schema([("user_id", pa.int64()), ("item_id", pa.int64())]))
    assert read(str(root(table))) == [] and open_table(str(root(table)), AWS).pinned["snapshot"] is None
    with pytest.raises(InputError, match="it has no rows"):
        users(str(root(table)))


def test_catalogs_and_tables_that_are_not_there(configured: Path) -> None:
    catalog(configured)
    for uri in ("iceberg://lake/shop.nothing", "iceberg://lake/no.thing", "iceberg://unknown/shop.events"):
        with pytest.raises(InputError, match=f"{uri}: cannot be opened.*PYICEBERG_CATALOG__"):
            users(uri)


def test_delta_and_iceberg_marks_in_one_folder(tmp_path: Path) -> None:
    table = deleted_once(tmp_path)
    (root(table) / "_delta_log").mkdir()
    with pytest.raises(InputError, match=r"marks of a Delta and of an Iceberg table.*iceberg://"):
        users(str(root(table)))
    assert users(f"iceberg://{root(table)}") == ALIVE


def test_without_the_package_the_extra_is_named_and_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root(deleted_once(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "pyiceberg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyiceberg", None)
    with pytest.raises(InputError, match=r"pip install 'unlearnrec\[iceberg\]'"):
        users(str(folder))


def test_on_s3(tmp_path: Path, s3_server: StorageOptions) -> None:
    properties: dict[str, Any] = {"s3.endpoint": s3_server.endpoint_url, "s3.region": "us-east-1"}
    made = catalog(tmp_path, "s3://lake/iceberg", **properties)
    table = made.create_table("shop.events", pa.schema([("user_id", pa.int64()), ("item_id", pa.int64())]))
    for part in (rows(1, 2), rows(3, 4)):
        table.append(pa.table(part))
    table.delete("user_id = 2")
    uri = table.location()
    assert (
        uri.startswith("s3://lake/iceberg/") and users(uri, s3_server) == users(f"iceberg://{uri}", s3_server) == ALIVE
    )
    for part in (f"{uri}/data", open_table(uri, s3_server).files[0].uri):
        with pytest.raises(InputError, match=f"lies in {uri}, which is an Iceberg table"):
            users(part, s3_server)
    with pytest.raises(InputError, match=f"{uri} in it is an Iceberg table"):
        users("s3://lake/iceberg", s3_server)
