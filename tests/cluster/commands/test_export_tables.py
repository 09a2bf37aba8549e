"""Exports to Delta and Iceberg tables, made by the libraries: one version for whoever reads, and what the commits say."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from small_output import SIZE, commit_train, small_config, user_name, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.commands import export as command
from unlearnrec.cluster.output.export_tables import ROWS, TablesTarget
from unlearnrec.cluster.output.session import Session
from unlearnrec.distributed.partition.partition import Partition
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import StorageOptions

PARTS = ("users", "items", "recommendations")


class Answers:
    """Workers that say the same of every version: rows of ones, and item 0 for everybody."""

    def run(self, call: Any, **_: Any) -> list[Any]:
        if call.method in ("holds", "held_fingerprint"):
            return ["" for _ in range(2)]
        if call.method == Partition.readouts.__name__:
            halves = [(np.arange(0, 6), np.arange(0, 4)), (np.arange(6, 12), np.arange(4, 8))]
            return [(u, np.ones((len(u), SIZE), np.float32), i, np.ones((len(i), SIZE), np.float32)) for u, i in halves]
        return [(np.arange(12), np.zeros((12, 1), np.int64), np.ones((12, 1), np.float32))]


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(Session, "call", lambda self, group, version, call, **_: group.run(call))
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    return config


class Delta:
    def __init__(self, place: str, storage: Any = None) -> None:
        self.uri, self.place, self._storage = f"delta://{place}", place, storage

    def read(self, name: str, state: int | None = None) -> list[dict[str, Any]]:
        import deltalake

        table = deltalake.DeltaTable(f"{self.place}/{name}", version=state, storage_options=self._storage)
        return table.to_pyarrow_table().to_pylist()

    def said(self, name: str) -> dict[str, Any]:
        import deltalake

        return deltalake.DeltaTable(f"{self.place}/{name}", storage_options=self._storage).history(1)[0]

    def foreign(self, name: str) -> None:
        import deltalake

        deltalake.write_deltalake(f"{self.place}/{name}", pa.table({"mine": [1]}))


class Iceberg:
    uri = "iceberg://shop/serving"

    def _table(self, name: str) -> Any:
        from pyiceberg.catalog import load_catalog

        return load_catalog("shop").load_table(f"serving.{name}")

    def read(self, name: str, state: int | None = None) -> list[dict[str, Any]]:
        return self._table(name).scan(snapshot_id=state).to_arrow().to_pylist()

    def said(self, name: str) -> dict[str, Any]:
        return self._table(name).current_snapshot().summary.additional_properties

    def foreign(self, name: str) -> None:
        from pyiceberg.catalog import load_catalog

        load_catalog("shop").create_namespace_if_not_exists("serving")
        load_catalog("shop").create_table(f"serving.{name}", schema=pa.schema([("mine", pa.int64())]))


@pytest.fixture(params=["delta", "iceberg"])
def lake(request, tmp_path, monkeypatch):
    if request.param == "delta":
        pytest.importorskip("deltalake")
        return Delta(str(tmp_path / "lake" / "serving"))
    pytest.importorskip("pyiceberg")
    (tmp_path / "warehouse").mkdir()
    monkeypatch.setenv("PYICEBERG_CATALOG__SHOP__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__SHOP__WAREHOUSE", f"file://{tmp_path}/warehouse")
    from pyiceberg.utils.config import Config

    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # read once, when it is imported
    return Iceberg()


def export(config: Any, lake: Any, **more: Any) -> dict[str, Any]:
    return pipeline.export(config, to=lake.uri, top_k=1, group=Answers(), **more)


def whole_version(lake: Any) -> int:
    """What a reader gets that follows `current`: all three tables of its version."""
    (row,) = lake.read("current")
    versions = {one["version"] for part in PARTS for one in lake.read(part, row[f"{part}_state"])}
    assert versions == {row["version"]}
    return row["version"]


def test_tables_say_version_log_head_and_source(config, lake):
    answer = export(config, lake)
    assert {k: answer[k] for k in ("version", "users", "items", "to")} == {
        "version": 1,
        "users": 12,
        "items": 8,
        "to": lake.uri,
    }
    users = lake.read("users")
    assert sorted(row["user_id"] for row in users) == [user_name(n) for n in range(12)]
    assert users[0]["embedding"] == [1.0] * SIZE and {row["version"] for row in users} == {1}
    assert {(row["score"], row["rank"]) for row in lake.read("recommendations")} == {(1.0, 1)}
    head = Session(config).log.head()
    for name in (*PARTS, "current"):
        said = lake.said(name)
        assert (said["unlearnrec.version"], said["unlearnrec.log_head"]) == ("1", str(head))
        source = json.loads(said["unlearnrec.source"])
        assert source["uri"] == config.interactions and source["format"] == "parquet"
    (row,) = lake.read("current")
    assert (row["version"], row["log_head"], json.loads(row["source"])) == (1, head, source)
    assert {part: row[f"{part}_state"] for part in PARTS} == {part: answer["tables"][part] for part in PARTS}


def test_a_reader_sees_one_whole_version_whatever_dies(config, lake, monkeypatch):
    export(config, lake)
    real = {kind: kind._overwrite for kind in TablesTarget.__subclasses__()}
    for after in range(5):
        commit_train(config, seed=after)
        left = [after]

        before = whole_version(lake)

        def dying(self, name, reader, about, left=left, before=before):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            state = real[type(self)](self, name, reader, about)
            assert whole_version(lake) in (about.version, before)
            return state

        for kind in real:
            monkeypatch.setattr(kind, "_overwrite", dying)
        if after < 4:
            with pytest.raises(KeyboardInterrupt):
                export(config, lake)
            assert whole_version(lake) == before == 1
        else:
            export(config, lake)
            assert whole_version(lake) == 6
    assert len(lake.read("users")) == 12, "a table of its own is one version too"


def test_a_table_that_no_export_made_is_not_overwritten(config, lake):
    lake.foreign("items")
    with pytest.raises(InputError, match="there is a table 'items', and no export made it"):
        export(config, lake)
    assert lake.read("items") in ([{"mine": 1}], [])


def test_batches_are_written_one_by_one(config, lake, monkeypatch):
    """More rows than a batch: the tables' files come from a stream."""
    many = ROWS + 5

    class Many(Answers):
        def run(self, call: Any, **more: Any) -> list[Any]:
            if call.method == Partition.recommend.__name__:
                users = np.resize(np.arange(12), many)
                return [(users, np.zeros((many, 1), np.int64), np.ones((many, 1), np.float32))]
            return super().run(call, **more)

    pipeline.export(config, to=lake.uri, top_k=1, group=Many())
    assert len(lake.read("recommendations")) == many


def test_an_export_of_nobody_empties_the_tables(config, lake):
    class Nobody(Answers):
        def run(self, call: Any, **more: Any) -> list[Any]:
            return [] if call.method != "holds" else super().run(call, **more)

    for group, rows in ((Nobody(), 0), (Answers(), 12), (Nobody(), 0)):
        pipeline.export(config, to=lake.uri, top_k=1, group=group)
        (row,) = lake.read("current")
        assert len(lake.read("users", row["users_state"])) == len(lake.read("users")) == rows


def test_delta_on_s3(config, tmp_path, s3_server: StorageOptions):
    pytest.importorskip("deltalake")
    storage = {"endpoint_url": s3_server.endpoint_url, "region": s3_server.region}
    on_s3 = config.model_copy(update={"storage": config.storage.model_copy(update=storage)})
    options = {"AWS_ENDPOINT_URL": s3_server.endpoint_url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    lake = Delta(f"s3://lake/{tmp_path.name}/serving", options)
    export(on_s3, lake)
    commit_train(config, seed=1)
    export(on_s3, lake)
    assert whole_version(lake) == 2


@pytest.mark.parametrize(
    ("to", "format", "message"),
    [
        ("delta://{}/x", "iceberg", "is of the format delta, and --format says iceberg"),
        ("{}/x", "orc", "expected one of parquet, delta, iceberg"),
        ("{}/x", "iceberg", "iceberg://CATALOG/NAMESPACE"),
        ("iceberg://shop", None, "iceberg://CATALOG/NAMESPACE"),
        ("iceberg://no-such-catalog/serving", None, "the catalog 'no-such-catalog' cannot be opened"),
        ("delta://", None, "names no place"),
        ("delta://{}/50%/x", None, "cannot lie below a name with a %"),
        ("delta://{}/lake", None, "lake is a table of the format delta"),
        ("{}/lake/below", "delta", "lake is a table of the format delta"),
        ("file://{}/lake", None, "lake is a table of the format delta"),
        ("delta://{}/output/tables", None, "is under `output`"),
        ("{}/output/tables", "delta", "is under `output`"),
    ],
)
def test_a_bad_target_is_told_before_the_work(config, tmp_path, to, format, message):
    write_deltalake(str(tmp_path / "lake"), pa.table({"user_id": ["a"], "item_id": [1]}))
    with pytest.raises(InputError, match=message):
        pipeline.export(config, to=to.format(tmp_path), format=format, group=object())


def test_the_format_may_stand_beside_the_path(config, tmp_path):
    pytest.importorskip("deltalake")
    for folder in ("t", "a b#c?d"):
        pipeline.export(config, to=str(tmp_path / folder), format="delta", top_k=1, group=Answers())
        assert whole_version(Delta(str(tmp_path / folder))) == 1
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    assert command.PARQUET == "parquet" and Path(tmp_path / "t" / "users" / "_delta_log").is_dir()
