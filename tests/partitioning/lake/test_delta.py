"""Delta tables: exactly the rows that are alive in the version that was asked for, and what is refused by name."""

import base64
import datetime as dt
import json
import os
import shutil
import struct
import sys
import uuid
import zlib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from lake_tables import read, rows, text, users, write
from pyroaring import BitMap

from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import InteractionTable, PartitioningSettings, ingest
from unlearnrec.partitioning.lake import Columns, columns_of, open_table, read_columns, read_ids, read_table
from unlearnrec.partitioning.storage import AWS, StorageOptions, Store


def deleted_once(path: Path | str, **options: Any) -> str:
    """A table of users 1..4 in two files, from which user 2 was deleted: version 2."""
    write_deltalake(str(path), pa.table(rows(1, 2)), **options)
    write_deltalake(str(path), pa.table(rows(3, 4)), mode="append", **options)
    DeltaTable(str(path), storage_options=options.get("storage_options")).delete("user_id = 2")
    return str(path)


ALIVE = {1: 2, 3: 2, 4: 2}


def commit(table: Path, actions: Sequence[dict[str, Any]]) -> None:
    """Append a version by hand."""
    log = table / "_delta_log"
    version = max(int(entry.stem) for entry in log.glob("*.json")) + 1
    text(log / f"{version:020}.json", "".join(json.dumps(action) + "\n" for action in actions))


def actions(table: Path, version: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (table / "_delta_log" / f"{version:020}.json").read_text().splitlines()]


def test_a_deleted_row_is_not_read_however_the_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = deleted_once(tmp_path / "a b" / "t")
    monkeypatch.chdir(tmp_path)
    for uri in (path, f"{path}/", f"delta://{path}", "a b/t", "delta://a b/t", f"file://{tmp_path}/a%20b/t"):
        assert users(uri) == ALIVE
    os.symlink(path, tmp_path / "link")
    assert users(str(tmp_path / "link")) == users(f"delta://{tmp_path}/link") == ALIVE


@pytest.mark.parametrize("name", ["a#b", "a?b", "ä b", "a+b", "a=b&c"])
def test_folders_of_any_name(tmp_path: Path, name: str) -> None:
    shutil.move(deleted_once(tmp_path / "t"), tmp_path / name)
    assert users(str(tmp_path / name)) == ALIVE
    delete_by_vector(tmp_path / name, 1, [0, 1], "i")  # of user 3
    assert users(str(tmp_path / name)) == {1: 2, 4: 2}


def test_a_percent_sign_could_lead_to_another_table(tmp_path: Path) -> None:
    deleted_once(tmp_path / "a b")
    shutil.copytree(tmp_path / "a b", tmp_path / "a%20b")
    with pytest.raises(InputError, match="whose path has a % cannot be read"):
        users(str(tmp_path / "a%20b"))


@pytest.mark.parametrize("mark", ["%", "#", "?"])
def test_on_s3_other_marks_as_well(tmp_path: Path, s3_server: StorageOptions, mark: str) -> None:
    import s3fs

    store = s3fs.S3FileSystem(endpoint_url=s3_server.endpoint_url)
    store.put(deleted_once(tmp_path / "t"), f"lake/marks/x{mark}y/t", recursive=True)
    with pytest.raises(InputError, match=rf"whose path has a \{mark} cannot be read"):
        users(f"s3://lake/marks/x{mark}y/t", s3_server)


def test_no_part_of_it_is_read_as_parquet(tmp_path: Path) -> None:
    path = deleted_once(tmp_path / "db" / "t", partition_by=["user_id"])
    single = next(Path(path).rglob("*.parquet"))
    for part in (f"{path}/user_id=2", str(single), f"{path}/_delta_log", f"delta://{path}/user_id=1"):
        with pytest.raises(InputError, match=f"{path}.*(Name the table|name that one)"):
            users(part)
    with pytest.raises(InputError, match=f"{path} in it is a Delta table"):
        users(str(tmp_path / "db"))


def test_a_version_or_a_moment_is_selected_and_pinned(tmp_path: Path) -> None:
    path = deleted_once(tmp_path / "t")
    assert users(f"{path}?version=0") == {1: 2, 2: 2}
    assert users(f"delta://{path}?version=1") == {1: 2, 2: 2, 3: 2, 4: 2}
    for version in range(3):
        os.utime(tmp_path / "t" / "_delta_log" / f"{version:020}.json", (1.7e9 + version * 100,) * 2)
    for seconds, version in ((0, 0), (50, 0), (100, 1), (999, 2)):
        when = dt.datetime.fromtimestamp(1.7e9 + seconds, dt.UTC).isoformat()
        assert open_table(f"{path}?timestamp={when}", AWS).pinned["version"] == version
    pinned = open_table(path, AWS).pinned
    assert pinned["format"] == "delta" and pinned["version"] == 2 and pinned["rows"] == 6 and pinned["files"] == 2
    assert pinned["timestamp"] == "2023-11-14T22:16:40+00:00"
    assert [field["name"] for field in json.loads(pinned["schema"])["fields"]] == ["user_id", "item_id"]
    with pytest.raises(InputError, match="no version as old as that; the oldest that is left is 0, of 2023-11-14"):
        open_table(f"{path}?timestamp=2001-01-01T00:00:00Z", AWS)
    with pytest.raises(InputError, match="there is no such version, not yet or no more"):
        open_table(f"{path}?version=9", AWS)
    with pytest.raises(InputError, match=r"has versions, not snapshots"):
        open_table(f"{path}?snapshot=9", AWS)


def test_the_manifest_of_an_ingest_has_what_was_pinned(tmp_path: Path) -> None:
    path = deleted_once(tmp_path / "t")
    table = InteractionTable(f"{path}?version=1", Columns(), AWS)
    manifest = ingest(table, PartitioningSettings(2, "hash", 0, "pull"), Store(str(tmp_path / "out")))
    assert manifest.source == f"{path}?version=1" and (manifest.table or {})["version"] == 1
    assert manifest.table == json.loads((tmp_path / "out" / "graph" / "manifest.json").read_text())["table"]


def test_partition_columns_are_not_in_the_files(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    days = [dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(2024, 1, 2)]
    table = pa.table({"user_id": ["0017", "a b%/ü", "17"], "item_id": pa.array([1, 2, 3], pa.int32()), "day": days})
    write_deltalake(path, table, partition_by=["user_id", "day"])
    expected = [("0017", 1, days[0]), ("17", 3, days[1]), ("a b%/ü", 2, days[1])]
    assert [(user, item, when.date()) for user, item, when in read(path, time="day")] == expected
    # Text by the schema, though all that is left looks like numbers.
    DeltaTable(path).delete("item_id < 3")
    assert read(path) == [("17", 3)]


def test_a_column_that_older_files_lack(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    write_deltalake(path, pa.table(rows(1)))
    write_deltalake(path, pa.table({**rows(2), "stars": [5.0, 4.0]}), mode="append", schema_mode="merge")
    found = {
        (user, item): value
        for batch in read_table(path, ("user_id", "item_id"), AWS, "stars")
        for user, item, value in zip(*batch.to_pydict().values(), strict=True)
    }
    assert found == {(1, 0): None, (1, 1): None, (2, 0): 5.0, (2, 1): 4.0}
    names = columns_of(open_table(path, AWS))
    assert "stars" in names and "when" not in names
    with pytest.raises(InputError, match=r"column 'stars' is null in row 1"):
        read(path, time="stars")


def test_types_are_those_of_the_schema(tmp_path: Path) -> None:
    """Decimals beyond 64 bits as text; times that Spark wrote as INT96, of any year."""
    path = tmp_path / "t"
    moment = dt.datetime(2300, 1, 1, 0, 0, 0, 1)
    schema = pa.schema([("user_id", pa.decimal128(38, 0)), ("item_id", pa.int64()), ("ts", pa.timestamp("us", "UTC"))])
    for user in (5, 2**70):
        part = pa.Table.from_arrays([pa.array([Decimal(user)], schema.field(0).type), [1], [moment]], schema=schema)
        write_deltalake(str(path), part, mode="append")
        file = path / next(action["add"]["path"] for action in actions(path, int(user > 5)) if "add" in action)
        pq.write_table(part, file, use_deprecated_int96_timestamps=True, store_schema=False)
    assert read(str(path), time="ts") == [(str(2**70), 1, moment), ("5", 1, moment)]
    assert read(f"{path}?version=0", time="ts") == [(5, 1, moment)]


def test_a_table_without_files_has_no_rows(tmp_path: Path) -> None:
    path = deleted_once(tmp_path / "t")
    DeltaTable(path).delete()
    assert read(path) == [] and open_table(path, AWS).pinned["rows"] == 0
    DeltaTable.create(str(tmp_path / "u"), pa.schema([("user_id", pa.int64()), ("item_id", pa.int64())]))
    assert read(str(tmp_path / "u")) == []
    with pytest.raises(InputError, match="it has no rows"):
        users(str(tmp_path / "u"))
    with pytest.raises(InputError, match="no column 'when'"):
        read(path, time="when")


def test_requests_may_be_read_from_it(tmp_path: Path) -> None:
    path = deleted_once(tmp_path / "t")
    assert sorted(read_ids(path, "user_id", AWS)["user_id"].to_pylist()) == [1, 1, 3, 3, 4, 4]
    write_deltalake(str(tmp_path / "r"), pa.table({"user_id": ["x", None], "since": ["2024-01-01", None]}))
    (batch,) = read_columns(str(tmp_path / "r"), ["user_id", "item_id"], ["since", "until"], AWS)
    assert batch.to_pydict() == {
        "user_id": ["x", None],
        "item_id": [None, None],
        "since": ["2024-01-01", None],
        "until": [None, None],
    }


# ---- the log ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3])
def test_a_checkpoint_stands_for_a_log_that_was_cleaned_up(tmp_path: Path, parts: int) -> None:
    path, log = deleted_once(tmp_path / "t"), tmp_path / "t" / "_delta_log"
    DeltaTable(path).create_checkpoint()
    if parts > 1:
        whole = log / f"{2:020}.checkpoint.parquet"
        content = pq.read_table(whole)
        for k in range(parts):
            pq.write_table(
                content.slice(k * 2, 2 if k + 1 < parts else None),
                log / f"{2:020}.checkpoint.{k + 1:010}.{parts:010}.parquet",
            )
        whole.unlink()
        text(log / "_last_checkpoint", json.dumps({"version": 2, "size": content.num_rows, "parts": parts}))
    for version in range(2):
        (log / f"{version:020}.json").unlink()
    assert users(path) == ALIVE
    write_deltalake(path, pa.table(rows(9)), mode="append")
    assert users(path) == {**ALIVE, 9: 2}
    assert users(f"{path}?version=2") == ALIVE
    for version in (2, 3):
        (log / f"{version:020}.json").unlink()
    assert users(path) == ALIVE and open_table(path, AWS).pinned["timestamp"] is None
    with pytest.raises(InputError, match="there is no such version, not yet or no more"):
        users(f"{path}?version=1")


def test_a_checkpoint_of_version_2_with_a_sidecar(tmp_path: Path) -> None:
    path, log = deleted_once(tmp_path / "t"), tmp_path / "t" / "_delta_log"
    features = ["v2Checkpoint"]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}
    commit(tmp_path / "t", [{"protocol": protocol}])
    DeltaTable(path).create_checkpoint()
    single = next(log.glob("*.checkpoint*.parquet"))
    content = pq.read_table(single)
    is_add = pa.compute.is_valid(content["add"])
    sidecar = f"{uuid.UUID(int=7)}.parquet"
    (log / "_sidecars").mkdir(exist_ok=True)
    pq.write_table(content.select(["add", "remove"]).filter(is_add), log / "_sidecars" / sidecar)
    meta = next(action for action in actions(tmp_path / "t", 0) if "metaData" in action)
    size = (log / "_sidecars" / sidecar).stat().st_size
    lines = [
        {"checkpointMetadata": {"version": 3}},
        {"protocol": protocol},
        meta,
        {"sidecar": {"path": sidecar, "sizeInBytes": size, "modificationTime": 1}},
    ]
    text(log / f"{3:020}.checkpoint.{uuid.UUID(int=9)}.json", "".join(json.dumps(line) + "\n" for line in lines))
    for old in (*log.glob("*.checkpoint*.parquet"), *(log / f"{version:020}.json" for version in range(4))):
        old.unlink()
    (log / "_last_checkpoint").unlink(missing_ok=True)
    assert users(path) == ALIVE


@pytest.mark.parametrize("content", [None, "00000000000000000003.json", "x.crc"])
def test_a_folder_with_an_empty_or_broken_log_is_refused(tmp_path: Path, content: str | None) -> None:
    write(tmp_path / "t" / "a.parquet", rows(1))
    (tmp_path / "t" / "_delta_log").mkdir()
    if content:
        text(tmp_path / "t" / "_delta_log" / content, '{"commitInfo":{}}\n')
    with pytest.raises(InputError, match="Delta table"):
        users(str(tmp_path / "t"))


def test_what_is_no_delta_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no Delta table in .*write delta://s3://bucket/path"):
        users(f"delta://{tmp_path}")
    write(tmp_path / "plain" / "a.parquet", rows(1))
    with pytest.raises(InputError, match="there is no Delta table"):
        users(f"delta://{tmp_path}/plain")


def test_an_unknown_demand_is_named(tmp_path: Path) -> None:
    path = deleted_once(tmp_path / "t")
    features = ["deletionVectors", "readerOfTheFuture"]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}
    commit(tmp_path / "t", [{"protocol": protocol}])
    with pytest.raises(InputError, match="readerOfTheFuture"):
        users(path)


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    path = deleted_once(tmp_path / "t")
    gone = Path(open_table(path, AWS).files[0].uri)
    gone.unlink()
    with pytest.raises(InputError, match=f"{gone}.*mend the table"):
        users(path)


def test_without_the_package_the_extra_is_named_and_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deleted_once(tmp_path / "t")
    monkeypatch.setitem(sys.modules, "deltalake", None)
    for uri in (path, f"delta://{path}"):
        with pytest.raises(InputError, match=r"pip install 'unlearnrec\[delta\]'"):
            users(uri)


def test_a_shallow_clone_names_files_elsewhere(tmp_path: Path) -> None:
    origin = Path(deleted_once(tmp_path / "origin"))
    clone = tmp_path / "clone"
    shutil.copytree(origin / "_delta_log", clone / "_delta_log")
    for entry in (clone / "_delta_log").glob("*.json"):
        lines = [json.loads(line) for line in entry.read_text().splitlines()]
        for line in lines:
            for kind in ("add", "remove"):
                if kind in line:
                    line[kind]["path"] = f"file://{origin}/{line[kind]['path']}"
        text(entry, "".join(json.dumps(line) + "\n" for line in lines))
    assert users(str(clone)) == ALIVE


@pytest.mark.parametrize("mode", ["name", "id"])
def test_columns_are_found_by_the_mapping(tmp_path: Path, mode: str) -> None:
    """Their names in the files mean nothing: here they are each other's."""
    ids = [
        pa.field(name, pa.int64(), metadata={"PARQUET:field_id": str(k)}) for k, name in ((2, "col-a"), (1, "col-b"))
    ]
    file = write(tmp_path / "t" / "x.parquet", pa.table([[10, 11], [1, 2]], schema=pa.schema(ids)))
    physical = {"user_id": ("col-b", 1), "item_id": ("col-a", 2)}
    fields = [
        {
            "name": name,
            "type": "long",
            "nullable": True,
            "metadata": {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": there},
        }
        for name, (there, number) in physical.items()
    ]
    meta = {
        "id": str(uuid.UUID(int=1)),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "partitionColumns": [],
        "configuration": {"delta.columnMapping.mode": mode, "delta.columnMapping.maxColumnId": "2"},
    }
    lines = [
        {"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}},
        {"metaData": meta},
        {
            "add": {
                "path": "x.parquet",
                "partitionValues": {},
                "size": os.path.getsize(file),
                "modificationTime": 1,
                "dataChange": True,
            }
        },
    ]
    text(tmp_path / "t" / "_delta_log" / f"{0:020}.json", "".join(json.dumps(line) + "\n" for line in lines))
    assert read(str(tmp_path / "t")) == [(1, 10), (2, 11)]
    assert open_table(str(tmp_path / "t"), AWS).schema.names == ["user_id", "item_id"]


# ---- deletion vectors, after the protocol: delta-rs does not write them ------------------------------------------------

_FROM = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_TO = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def z85(data: bytes) -> str:
    return base64.b85encode(data + bytes(-len(data) % 4)).decode().translate(str.maketrans(_FROM, _TO))


def vector(positions: Sequence[int]) -> bytes:
    """A RoaringBitmapArray in the portable form: magic, number of bitmaps, then key and bitmap of each."""
    return struct.pack("<IQI", 1681511377, 1, 0) + BitMap(positions).serialize()


def delete_by_vector(table: Path, version: int, positions: Sequence[int], storage: str) -> None:
    """Rows of the file that a version added, deleted by a vector: inline, beside the table, or at an absolute path."""
    add = next(action["add"] for action in actions(table, version) if "add" in action)
    data = vector(positions)
    name = uuid.UUID(int=0x1234)
    descriptor: dict[str, Any] = {"storageType": storage, "sizeInBytes": len(data), "cardinality": len(positions)}
    if storage == "i":
        descriptor["pathOrInlineDv"] = z85(data)
    else:
        file = table / "ab" / f"deletion_vector_{name}.bin" if storage == "u" else table / "deletes.bin"
        text(file, b"\1" + struct.pack(">i", len(data)) + data + struct.pack(">I", zlib.crc32(data)))
        descriptor["pathOrInlineDv"] = "ab" + z85(name.bytes) if storage == "u" else f"file://{file}"
        descriptor["offset"] = 1
    features = ["deletionVectors"]
    commit(
        table,
        [
            {
                "protocol": {
                    "minReaderVersion": 3,
                    "minWriterVersion": 7,
                    "readerFeatures": features,
                    "writerFeatures": features,
                }
            },
            {
                "remove": {
                    **{k: add[k] for k in ("path", "partitionValues", "size")},
                    "deletionTimestamp": 1,
                    "dataChange": True,
                    "extendedFileMetadata": True,
                }
            },
            {"add": {**add, "deletionVector": descriptor}},
        ],
    )


@pytest.mark.parametrize("storage", ["i", "u", "p"])
def test_deletion_vectors_are_applied(tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from unlearnrec.partitioning.lake import parquet

    monkeypatch.setattr(parquet, "BATCH_ROWS", 300)  # a vector reaches over batches
    path = tmp_path / "a b"
    table = pa.table({"user_id": list(range(1000)), "item_id": [0] * 1000})
    write_deltalake(str(path), table)
    write_deltalake(str(path), pa.table({"user_id": [5], "item_id": [7]}), mode="append")
    gone = [0, *range(250, 650), 999]
    delete_by_vector(path, 0, gone, storage)
    expected = sorted([(user, 0) for user in range(1000) if user not in gone] + [(5, 7)])
    assert read(str(path)) == expected
    pinned = open_table(str(path), AWS).pinned
    assert pinned["rows"] == len(expected) and pinned["version"] == 2
    assert len(read(f"{path}?version=1")) == 1001


def test_a_null_in_a_deleted_row_is_nobodys_concern(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "t"), pa.table({"user_id": [1, None, 3, None], "item_id": [0, 0, 0, 0]}))
    delete_by_vector(tmp_path / "t", 0, [1], "i")
    with pytest.raises(InputError, match="column 'user_id' is null in row 4"):
        read(str(tmp_path / "t"))
    write_deltalake(str(tmp_path / "u"), pa.table({"user_id": [1, None, 3], "item_id": [0, 0, 0]}))
    delete_by_vector(tmp_path / "u", 0, [1], "i")
    assert read(str(tmp_path / "u")) == [(1, 0), (3, 0)]


def test_all_rows_deleted_by_a_vector(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "t"), pa.table(rows(1)))
    delete_by_vector(tmp_path / "t", 0, [0, 1], "i")
    assert read(str(tmp_path / "t")) == []
    with pytest.raises(InputError, match="no interactions, it has no rows"):
        users(str(tmp_path / "t"))


# ---- S3 ---------------------------------------------------------------------------------------------------------------


def test_on_s3(tmp_path: Path, s3_server: StorageOptions) -> None:
    storage = {"AWS_ENDPOINT_URL": s3_server.endpoint_url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    storage["AWS_S3_ALLOW_UNSAFE_RENAME"] = "true"
    uri = "s3://lake/delta/a b/t"
    deleted_once(uri, storage_options=storage, partition_by=["user_id"])
    for name in (uri, f"{uri}/", f"delta://{uri}"):
        assert users(name, s3_server) == ALIVE
    assert users(f"{uri}?version=0", s3_server) == {1: 2, 2: 2}
    assert open_table(uri, s3_server).pinned["version"] == 2
    for part in (f"{uri}/user_id=2", open_table(uri, s3_server).files[0].uri):
        with pytest.raises(InputError, match=f"lies in {uri}, which is a Delta table"):
            users(part, s3_server)
    with pytest.raises(InputError, match=f"{uri} in it is a Delta table"):
        users("s3://lake/delta", s3_server)


def test_deletion_vectors_on_s3(tmp_path: Path, s3_server: StorageOptions) -> None:
    import s3fs

    write_deltalake(str(tmp_path / "t"), pa.table(rows(1, 2, 3)))
    delete_by_vector(tmp_path / "t", 0, [2, 3], "u")
    store = s3fs.S3FileSystem(endpoint_url=s3_server.endpoint_url)
    for place in ("vectors/t", "vectors/u=1/t"):
        store.put(f"{tmp_path}/t", f"lake/{place}", recursive=True)
        assert users(f"s3://lake/{place}", s3_server) == {1: 2, 3: 2}
