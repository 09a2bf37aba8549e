"""Where rows of a table still lie: older states, files that left it, the change feed, versions on S3; and until when."""

import datetime as dt
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from delta_tables import delete_by_vector, deleted_once
from deltalake import DeltaTable, write_deltalake
from iceberg_tables import add_deletes, create, position_deletes, root
from lake_tables import rows, write

from unlearnrec.partitioning.lake.copies import delta as delta_history
from unlearnrec.partitioning.lake.copies import objects
from unlearnrec.partitioning.lake.copies.delta import duration
from unlearnrec.partitioning.lake.copies.history import CURRENT, FEED, NONCURRENT, OLDER, OTHER, History, Limits
from unlearnrec.partitioning.lake.copies.look_back import look_back
from unlearnrec.partitioning.lake.copies.objects import list_objects
from unlearnrec.partitioning.lake.copies.search import alive, matching_rows
from unlearnrec.partitioning.lake.copies.shown import shown_place
from unlearnrec.partitioning.storage import AWS, StorageOptions

WEEK = dt.timedelta(days=7)


def is_user(user: Any) -> Any:
    def matches(users: pa.Array, items: pa.Array, times: pa.Array | None) -> Any:
        return pc.equal(users, pa.scalar(user, users.type)).to_numpy(zero_copy_only=False)

    return matches


def found(history: History, user: Any = 2, wanted: Any = None) -> tuple[int, dict[int, int], Counter[str]]:
    """(live rows of a user, {older state: rows}, {kind of file: rows}) as a search of a history finds them."""
    live, states, kinds = 0, Counter[int](), Counter[str]()
    for copy in history.copies:
        positions = matching_rows(copy.data, ("user_id", "item_id"), None, is_user(user), wanted)
        if positions is None or not len(positions):
            continue
        kinds[copy.kind] += len(positions)
        live += alive(positions, copy.live) if copy.kind == CURRENT else 0
        for span in copy.spans:
            for number in span.states:
                states[number] += alive(positions, span.deleted)
    return live, {number: count for number, count in states.items() if count}, kinds


# ---- Delta -----------------------------------------------------------------------------------------------------------


def test_a_deleted_row_is_found_in_the_versions_and_the_file_that_have_it(tmp_path: Path) -> None:
    path = deleted_once(tmp_path / "t")
    history = look_back(path, AWS, Limits())
    assert found(history) == (0, {0: 2, 1: 2}, {OLDER: 2})
    # A selected version does not hide what is current.
    assert found(look_back(f"{path}?version=0", AWS, Limits())) == (0, {0: 2, 1: 2}, {OLDER: 2})
    removed = next(copy for copy in history.copies if copy.kind == OLDER)
    log = tmp_path / "t" / "_delta_log" / f"{2:020}.json"
    assert removed.until is not None and abs(removed.until.timestamp() - log.stat().st_mtime - WEEK.total_seconds()) < 5
    assert history.states[1].uri == f"{path}?version=1" and not history.missing_states
    # User 3 is alive, and was in version 1 already.
    assert found(history, 3) == (2, {1: 2}, {CURRENT: 2})


def test_a_vacuumed_file_is_gone_and_so_are_the_versions(tmp_path: Path) -> None:
    path = deleted_once(tmp_path / "t", configuration={"delta.deletedFileRetentionDuration": "interval 0 hours"})
    DeltaTable(path).vacuum(0, dry_run=False, enforce_retention_duration=False)
    history = look_back(path, AWS, Limits())
    assert found(history) == (0, {}, {}) and history.listing.whole


def test_the_change_feed_and_files_of_writers_that_failed(tmp_path: Path) -> None:
    settings = {"delta.enableChangeDataFeed": "true", "delta.deletedFileRetentionDuration": "interval 2 days"}
    path = deleted_once(tmp_path / "t", configuration=settings)
    write(tmp_path / "t" / "part-00000-lost.parquet", rows(2))
    history = look_back(path, AWS, Limits())
    assert found(history) == (0, {0: 2, 1: 2}, {OLDER: 2, FEED: 2, OTHER: 2})
    feed = next(copy for copy in history.copies if copy.kind == FEED)
    assert feed.until is not None
    left = feed.until - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=1, hours=23) < left < dt.timedelta(days=2, seconds=60)


def test_rows_that_only_a_deletion_vector_hides(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "t"), pa.table(rows(1, 2, 3)))
    delete_by_vector(tmp_path / "t", 0, [2, 3], "i")
    history = look_back(str(tmp_path / "t"), AWS, Limits())
    assert found(history) == (0, {0: 2}, {CURRENT: 2})
    # The file stays as long as it is a part of the table, whatever the retention says.
    assert [copy.until for copy in history.copies] == [None]


def test_partition_values_and_nulls_of_files_that_left(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    users = pa.array(["a", "b", "b"])
    write_deltalake(path, pa.table({"user_id": users, "item_id": [1, 2, None]}), partition_by=["user_id"])
    DeltaTable(path).delete("user_id = 'b'")
    assert found(look_back(path, AWS, Limits()), "b") == (0, {0: 1}, {OLDER: 1})


def test_versions_before_the_oldest_checkpoint_are_not_told_of(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    for user in (1, 2, 3):
        write_deltalake(path, pa.table(rows(user)), mode="append")
    DeltaTable(path).create_checkpoint()
    DeltaTable(path).delete("user_id = 2")
    for version in (0, 1):
        (tmp_path / "t" / "_delta_log" / f"{version:020}.json").unlink()
    history = look_back(path, AWS, Limits())
    assert found(history) == (0, {2: 2}, {OLDER: 2}) and sorted(history.states) == [2]
    # No entry that is left adds user 1's file: it was in the table before all of them.
    assert found(history, 1) == (2, {2: 2}, {CURRENT: 2})


def test_few_versions_are_opened_and_the_rest_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "t")
    for user in range(1, 7):
        write_deltalake(path, pa.table(rows(user)), mode="append")
    DeltaTable(path).delete("user_id = 2")
    write_deltalake(path, pa.table(rows(9)), mode="append")
    DeltaTable(path).delete("user_id = 9")
    opened = []
    real = delta_history.delta.open_delta
    monkeypatch.setattr(delta_history.delta, "open_delta", lambda *a: opened.append(a[0].selection.version) or real(*a))
    history = look_back(path, AWS, Limits())
    assert opened == [None, 7, 5] and found(history)[1] == {1: 2, 2: 2, 3: 2, 4: 2, 5: 2}
    history = look_back(path, AWS, Limits(states=1))
    assert [(one.what, one.count) for one in history.missing_states] == [("older versions", 1)]
    # The file is found all the same, since it lies there.
    assert found(history) == (0, {}, {OLDER: 2})
    monkeypatch.setattr(delta_history, "ENTRIES", 3)
    assert ("older versions", 6) in [(one.what, one.count) for one in look_back(path, AWS, Limits()).missing_states]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("interval 1 week", 604800), ("interval 7 days 12 hours", 648000), ("INTERVAL 30 minutes", 1800)],
)
def test_durations_of_settings(text: str, seconds: int) -> None:
    assert duration(text).total_seconds() == seconds


# ---- Iceberg ---------------------------------------------------------------------------------------------------------


def test_older_snapshots_and_when_they_expire(tmp_path: Path) -> None:
    table = create(tmp_path, rows(1, 2), rows(3, 4))
    table.delete("user_id = 2")
    path = str(root(table))
    history = look_back(path, AWS, Limits())
    first, second = (one.snapshot_id for one in table.snapshots()[:2])
    assert found(history) == (0, {first: 2, second: 2}, {OLDER: 2})
    copy = next(one for one in history.copies if one.kind == OLDER)
    last = dt.datetime.fromtimestamp(table.snapshots()[1].timestamp_ms / 1000, dt.UTC)
    assert copy.until == last + dt.timedelta(days=5)
    # A tag keeps its snapshot, whatever its age.
    table.manage_snapshots().create_tag(first, "kept").commit()
    copy = next(one for one in look_back(path, AWS, Limits()).copies if one.kind == OLDER)
    assert copy.until is None
    history = look_back(path, AWS, Limits(states=1))
    assert len(history.states) == 1
    assert [(one.what, one.count) for one in history.missing_states] == [
        ("older snapshots", len(table.snapshots()) - 2)
    ]


def test_rows_that_position_deletes_hide_and_orphans(tmp_path: Path) -> None:
    table = create(tmp_path, rows(1, 2, 3))
    file = table.inspect.files().to_pylist()[0]["file_path"]
    before = table.current_snapshot()
    add_deletes(table, [position_deletes(table, "deletes.parquet", [(file, 2), (file, 3)])])
    write(root(table) / "data" / "lost.parquet", rows(2))
    history = look_back(str(root(table)), AWS, Limits())
    assert before is not None
    assert found(history) == (0, {before.snapshot_id: 2}, {CURRENT: 2, OTHER: 2})
    assert matching_rows(only_deletes(history), ("user_id", "item_id"), None, is_user(2), None) is None


def only_deletes(history: History) -> Any:
    return next(copy.data for copy in history.copies if copy.data.file.path.endswith("deletes.parquet"))


# ---- plain tables and S3 ---------------------------------------------------------------------------------------------


def client(options: StorageOptions) -> Any:
    return objects._client(options)


@pytest.fixture
def bucket(s3_server: StorageOptions) -> str:
    """A bucket that keeps versions, with rules."""
    name = f"versions-{os.urandom(4).hex()}"
    s3 = client(StorageOptions(endpoint_url=s3_server.endpoint_url))
    s3.mkdir(name)
    s3.call_s3("put_bucket_versioning", Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    rules = [
        {
            "ID": "old",
            "Status": "Enabled",
            "Filter": {"Prefix": "t/"},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
        }
    ]
    del rules[0]["AbortIncompleteMultipartUpload"]
    more = {"ID": "parts", "Status": "Enabled", "Filter": {"Prefix": ""}}
    rules.append({**more, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}})
    s3.call_s3("put_bucket_lifecycle_configuration", Bucket=name, LifecycleConfiguration={"Rules": rules})
    return name


def put(options: StorageOptions, tmp_path: Path, key: str, *users: Any) -> None:
    local = write(tmp_path / "one.parquet", rows(*users))
    client(options).pipe_file(key, Path(local).read_bytes())


def test_noncurrent_versions_delete_markers_and_uploads(tmp_path: Path, s3_server: StorageOptions, bucket: str) -> None:
    put(s3_server, tmp_path, f"{bucket}/t/part-0.parquet", 1, 2)
    put(s3_server, tmp_path, f"{bucket}/t/part-0.parquet", 1)
    put(s3_server, tmp_path, f"{bucket}/t/part-1.parquet", 2, 3)
    put(s3_server, tmp_path, f"{bucket}/t/part-2.parquet", 4)
    put(s3_server, tmp_path, f"{bucket}/tx/part-0.parquet", 2)
    put(s3_server, tmp_path, f"{bucket}/tx/part-0.parquet", 3)
    s3 = client(s3_server)
    s3.call_s3("delete_object", Bucket=bucket, Key="t/part-1.parquet")
    s3.call_s3("create_multipart_upload", Bucket=bucket, Key="t/part-9.parquet")
    s3.call_s3("create_multipart_upload", Bucket=bucket, Key="tx/part-9.parquet")

    history = look_back(f"s3://{bucket}/t", s3_server, Limits())
    assert found(history) == (0, {}, {NONCURRENT: 4})
    assert history.listing.delete_markers == 1 and not history.missing_files
    assert [one.path for one in history.listing.uploads] == [f"{bucket}/t/part-9.parquet"]
    midnight = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    ends = {copy.until for copy in history.copies if copy.kind == NONCURRENT}
    assert ends == {midnight + dt.timedelta(days=31)}
    (upload,) = history.listing.uploads  # moto gives all of them the same old date
    assert upload.until is not None and upload.until.hour == 0
    assert dt.timedelta(days=7) <= upload.until - upload.modified < dt.timedelta(days=8)
    # Removed for good, nothing is found any more.
    for copy in history.copies:
        if copy.kind == NONCURRENT:
            key, _, version = copy.data.file.path.partition("?versionId=")
            s3.call_s3("delete_object", Bucket=bucket, Key=key.partition("/")[2], VersionId=version)
    assert found(look_back(f"s3://{bucket}/t", s3_server, Limits())) == (0, {}, {})


def test_a_table_of_one_object_has_its_versions(tmp_path: Path, s3_server: StorageOptions, bucket: str) -> None:
    put(s3_server, tmp_path, f"{bucket}/one.parquet", 1, 2)
    put(s3_server, tmp_path, f"{bucket}/one.parquet", 1)
    history = look_back(f"s3://{bucket}/one.parquet", s3_server, Limits())
    assert found(history) == (0, {}, {NONCURRENT: 2})
    assert found(history, 1) == (2, {}, {CURRENT: 2, NONCURRENT: 2})


def test_versions_of_a_delta_table_outlive_a_vacuum(tmp_path: Path, s3_server: StorageOptions, bucket: str) -> None:
    path = deleted_once(tmp_path / "t")
    s3 = client(s3_server)
    s3.put(path, f"{bucket}/delta/t", recursive=True)
    gone = next(copy for copy in look_back(path, AWS, Limits()).copies if copy.kind == OLDER)
    key = f"delta/t/{Path(gone.data.file.path).name}"
    s3.call_s3("delete_object", Bucket=bucket, Key=key)
    assert found(look_back(f"s3://{bucket}/delta/t", s3_server, Limits())) == (0, {}, {NONCURRENT: 2})


def test_the_number_of_calls_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        calls = 0

        def call_s3(self, method: str, **arguments: Any) -> Any:
            self.calls += 1
            if method != "list_object_versions":
                raise PermissionError(method)
            when = dt.datetime.now(dt.UTC)
            one = {"Key": f"t/{self.calls}", "VersionId": "v", "IsLatest": True, "Size": 1, "LastModified": when}
            assert arguments.get("KeyMarker") == (f"t/{self.calls - 1}" if self.calls > 2 else None)
            return {"Versions": [one], "IsTruncated": True, "NextKeyMarker": one["Key"], "NextVersionIdMarker": "v"}

    endless = Endless()
    monkeypatch.setattr(objects, "_client", lambda options: endless)
    listing = list_objects("s3://b/t", AWS, 3000)
    assert endless.calls == 3 + 2 and len(listing.files) == 3 and not listing.whole
    assert {one.what for one in listing.missing} == {"lifecycle rules", "objects and versions", "unfinished uploads"}
    for k in range(5):
        write(tmp_path / "t" / f"{k}.parquet", rows(k))
    listing = list_objects(str(tmp_path / "t"), AWS, 3)
    assert len(listing.files) == 3 and not listing.whole


# ---- searching and showing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "wanted", "read"),
    [
        ([1, 5], ["3"], True),
        ([1, 5], ["9", "x"], False),
        (["b", "f"], ["c"], True),
        (["b", "f"], ["a", "g"], False),
        (["é", "ü"], ["z"], False),
    ],
)
def test_statistics_leave_files_out(tmp_path: Path, stored: list[Any], wanted: list[str], read: bool) -> None:
    path = write(tmp_path / "t.parquet", {"user_id": stored, "item_id": [1, 2]})
    asked: list[int] = []

    def matches(users: pa.Array, items: pa.Array, times: pa.Array | None) -> Any:
        asked.append(len(users))
        return np.zeros(len(users), dtype=bool)

    (copy,) = look_back(path, AWS, Limits()).copies
    matching_rows(copy.data, ("user_id", "item_id"), None, matches, {"user_id": wanted, "item_id": []})
    assert bool(asked) == read


def test_without_statistics_a_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", rows(1, 2), write_statistics=False)
    wanted = {"user_id": ["9"], "item_id": []}
    assert found(look_back(path, AWS, Limits()), 2, wanted)[0] == 2


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/lake/t/user_id=ann/part-00000-0a00f294-fb3f-44be-8f3d-11ce077b62c8-c000.snappy.parquet", None),
        ("/lake/t/_change_data/cdc-00003-0a00f294-fb3f-44be-8f3d-11ce077b62c8.c000.snappy.parquet", None),
        ("/lake/t/data/00000-12-0a00f294-fb3f-44be-8f3d-11ce077b62c8-00001.parquet", None),
        ("/lake/t/part-0.parquet", "t/part-0.parquet"),
        ("/lake/t/ann@example.org.parquet", "t/*.parquet"),
        ("/lake/t/ann/0001.parquet", "t/*/0001.parquet"),
        ("/lake/t/4711-4712-4713.parquet", "t/*.parquet"),
        ("/lake/t/4711.parquet", "t/*.parquet"),
        ("/lake/t/0a00f294-fb3f-44be-8f3d-11ce077b62c8.parquet", "t/*.parquet"),
        ("/lake/t/ann=1/x.csv", "t/ann=*/*.csv"),
        ("/lake/t/ann@x=1/x", "t/*=*/*"),
        ("/elsewhere/ann/part-0.parquet", "t/*/*/part-0.parquet"),
        ("/lake/t", "t"),
    ],
)
def test_places_are_shown_without_ids(path: str, shown: str | None) -> None:
    kept = path.replace("/lake/t", "t").replace("user_id=ann", "user_id=*")
    assert shown_place("t", "/lake/t", path) == (kept if shown is None else shown)


def test_without_s3fs_the_rows_are_counted_and_the_rest_is_said(
    tmp_path: Path, s3_server: StorageOptions, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3_server, tmp_path, f"{bucket}/t/part-0.parquet", 2)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    history = look_back(f"s3://{bucket}/t", s3_server, Limits())
    assert found(history) == (2, {}, {CURRENT: 2})
    (missing,) = history.missing_files
    assert missing.rows and "unlearnrec[s3]" in missing.why
