"""`watch` over other tables than Delta on a local disk without deletion vectors: those, Iceberg, and S3."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deletion_vectors import delete_by_vector
from deltalake import DeltaTable, write_deltalake
from iceberg_tables import add_deletes, create, position_deletes, root
from small_output import commit_train, small_config

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config
from unlearnrec.cluster.lifecycle.acceptance import read_accepted
from unlearnrec.cluster.output.session import Session
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.lake.following.history import MissedChanges
from unlearnrec.partitioning.storage import StorageOptions

ITEMS = 3


def events(*users: int) -> dict[str, list[int]]:
    return {"user_id": [u for u in users for _ in range(ITEMS)], "item_id": [k for _ in users for k in range(ITEMS)]}


def trained(table: str, tmp_path: Path, **more: Any) -> Config:
    config = small_config(table, str(tmp_path / "output"), **more)
    pipeline.ingest(config)
    commit_train(config)
    return config


def look(config: Config, **options: Any) -> dict[str, Any]:
    return pipeline.watch(config, once=True, **options)


def asked(config: Config) -> list[dict[str, Any]]:
    session, found = Session(config), []
    for ticket in session.ledger().tickets.values():
        request = read_accepted(session, ticket)
        content = {kind: getattr(request, kind) for kind in ("users", "items", "interactions", "ranges")}
        found.append({kind: sorted(value) for kind, value in content.items() if value})
    return found


def test_rows_that_a_deletion_vector_takes_out(tmp_path: Path) -> None:
    table = tmp_path / "t"
    write_deltalake(str(table), pa.table(events(1, 2, 3)))
    config = trained(str(table), tmp_path)
    delete_by_vector(table, 0, [0])
    delete_by_vector(table, 1, [0, 3, 4, 5])
    assert look(config)["cursor"] == 2
    assert asked(config) == [{"interactions": [("1", "0")]}, {"users": ["2"]}]


def test_an_iceberg_table_by_the_difference_of_its_snapshots(tmp_path: Path) -> None:
    table = create(tmp_path, events(1, 2, 3, 4))
    config = trained(str(root(table)), tmp_path)
    first = look(config)
    assert first["requests"] == 0 and first["cursor"] == table.current_snapshot().snapshot_id
    table.append(pa.table(events(5)))
    table.delete("user_id = 2 and item_id = 0")
    table.delete("user_id = 3")
    table.overwrite(pa.table(events(1, 2, 5)))
    answer = look(config)
    assert answer["cursor"] == table.current_snapshot().snapshot_id and answer["invalid"] == 0
    assert asked(config) == [{"users": ["3"]}, {"users": ["4"]}]  # (2, 0) is there again
    assert answer["skipped"] == 1 + 8  # pyiceberg overwrites in two snapshots: the first one deletes all rows
    assert look(config)["requests"] == 0


def test_position_deletes_of_an_iceberg_table(tmp_path: Path) -> None:
    table = create(tmp_path, events(1, 2))
    config = trained(str(root(table)), tmp_path)
    (file,) = (task.file.file_path for task in table.scan().plan_files())
    add_deletes(table, [position_deletes(table, "d.parquet", [(file, 0), (file, 3), (file, 4), (file, 5)])])
    look(config)
    assert asked(config) == [{"users": ["2"]}, {"interactions": [("1", "0")]}]


def test_an_expired_snapshot_is_an_error_that_names_it(tmp_path: Path) -> None:
    table = create(tmp_path, events(1, 2, 3))
    config = trained(str(root(table)), tmp_path)
    look(config)
    table.delete("user_id = 1")
    gone = table.current_snapshot().snapshot_id
    table.delete("user_id = 2")
    lost = table.current_snapshot().snapshot_id
    table.maintenance.expire_snapshots().by_id(gone).commit()
    with pytest.raises(
        MissedChanges, match=rf"what snapshot {lost} came from cannot be read.*has expired.*--from-version"
    ):
        look(config)
    assert look(config, from_now=True)["requests"] == 0
    table.delete("user_id = 3")
    assert look(config)["requests"] == 1 and asked(config) == [{"users": ["3"]}]


def test_a_table_that_was_replaced_is_not_taken_for_the_one_that_was_followed(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_deltalake(str(path), pa.table(events(1, 2)))
    config = trained(str(path), tmp_path)
    look(config)
    shutil.rmtree(path)
    write_deltalake(str(path), pa.table(events(1)))
    write_deltalake(str(path), pa.table(events(4)), mode="append")
    with pytest.raises(InputError, match="is not what was followed before"):
        look(config)


def test_on_s3(tmp_path: Path, s3_server: StorageOptions) -> None:
    storage = {"AWS_ENDPOINT_URL": str(s3_server.endpoint_url), "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    storage["AWS_S3_ALLOW_UNSAFE_RENAME"] = "true"
    uri = "s3://lake/watched/a b/t"
    feed = {"delta.enableChangeDataFeed": "true"}
    write_deltalake(uri, pa.table(events(1, 2)), storage_options=storage, configuration=feed)
    there = {"endpoint_url": s3_server.endpoint_url, "region": s3_server.region}
    config = trained(f"delta://{uri}", tmp_path, storage=there)
    DeltaTable(uri, storage_options=storage).delete("user_id = 1")
    assert look(config)["requests"] == 1 and asked(config) == [{"users": ["1"]}]
    assert os.path.exists(tmp_path / "output" / "watch" / "cursor.json")
