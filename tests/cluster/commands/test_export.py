"""Exported files: complete or absent, on a local disk and on an S3 server."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_output import commit_train, small_config, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.commands.purge import purge
from unlearnrec.cluster.commands.residue import residue
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.output.export_folder import CURRENT, FolderTarget
from unlearnrec.cluster.output.exports import FILES, About, ExportWriter, about
from unlearnrec.cluster.output.session import Session
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import AWS, StorageOptions, Store, filesystem_for

Place = tuple[str, StorageOptions]
K = 3


@pytest.fixture(params=["local", "file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    target = tmp_path / "deep" / "export"
    if request.param == "s3":
        return f"s3://lake/{tmp_path.name}/export", request.getfixturevalue("s3_server")
    return (f"file://{target}" if request.param == "file" else str(target)), AWS


def nothing_left_behind(tmp_path: Path) -> bool:
    return not list((tmp_path / "scratch").iterdir())


def table(place: Place, name: str) -> pa.Table:
    filesystem, path = filesystem_for(place[0], place[1])
    return pq.read_table(f"{path}/{name}", filesystem=filesystem)


def writer_at(place: Place, version: int = 1) -> ExportWriter:
    return ExportWriter(FolderTarget(*place), pa.string(), pa.int64(), About("0", 0, version, {"uri": "t"}))


def current(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Store(*place).read(CURRENT))
    return found


def fill(writer: ExportWriter, users: list[str], items: list[int], first: float = 0.0) -> dict[str, Any]:
    """Two partitions' worth: returns the embeddings that were written."""
    rows = {"user": np.zeros((0, 4), np.float32), "item": np.zeros((0, 4), np.float32)}
    for part in (slice(0, 2), slice(2, None)):
        for side, ids in (("user", pa.array(users[part], pa.string())), ("item", pa.array(items[part], pa.int64()))):
            new = (first + np.arange(len(ids) * 4, dtype=np.float32)).reshape(-1, 4)
            writer.embeddings(side, ids, new)
            rows[side] = np.concatenate([rows[side], new])
        scores = np.array([[3.5, 2.0, -np.inf]] * len(users[part]), dtype=np.float32)
        best = np.array([items[:K]] * len(users[part]), dtype=np.int64).reshape(-1)
        writer.recommendations(
            pa.array(np.repeat(users[part], K).tolist(), pa.string()), pa.array(best), scores.reshape(-1), K
        )
    return rows


def test_what_is_written_can_be_read(place: Place, tmp_path: Path) -> None:
    users, items = ["ana", "ben", "üm"], [17, 3, 250, -1]
    with writer_at(place) as writer:
        rows = fill(writer, users, items)
        # Nothing has appeared under the names that readers look for.
        assert not set(FILES) & set(Store(*place).list())
        told = writer.close()
    assert told == {"users": 3, "items": 4, "to": place[0], "folder": current(place)["folder"]}
    for side, ids, id_type in (("user", users, pa.string()), ("item", items, pa.int64())):
        found = table(place, f"{side}s.parquet")
        assert found.schema.types == [id_type, pa.list_(pa.float32())]
        assert found[f"{side}_id"].to_pylist() == ids
        assert np.array_equal(np.array(found["embedding"].to_pylist(), np.float32), rows[side])
    found = table(place, "recommendations.parquet")
    assert found.column_names == ["user_id", "item_id", "score", "rank"]
    # A score of -inf is no recommendation.
    assert found.to_pylist() == [
        {"user_id": u, "item_id": i, "score": s, "rank": r} for u in users for i, s, r in ((17, 3.5, 1), (3, 2.0, 2))
    ]
    folder = current(place)["folder"]
    both = [f"{folder}/{name}" for name in FILES]
    assert Store(*place).list() == sorted([CURRENT, *FILES, *both]) and nothing_left_behind(tmp_path)
    for name in FILES:
        assert table(place, name).equals(table(place, f"{folder}/{name}"))


def test_who_reads_by_the_pointer_sees_one_whole_version_whatever_dies(place: Place, monkeypatch: Any) -> None:
    """An export dies at each of its writes and name changes in turn; then one ends, and nothing of the old ones is left."""

    class Died(BaseException):
        pass

    def export(version: int, steps: int) -> None:
        left = [steps]

        def counted(real: Any) -> Any:
            def step(*args: Any, **more: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Died
                return real(*args, **more)

            return step

        with monkeypatch.context() as patch:
            for owner, name in ((os, "link"), (os, "replace"), (Store, "write"), (Store, "remove")):
                patch.setattr(owner, name, counted(getattr(owner, name)))
            with writer_at(place, version) as writer:
                fill(writer, ["ana", "ben"], [1, 2, 3])
                writer.close()

    export(1, 99)
    ended, steps = 1, 0
    for version in range(2, 40):
        try:
            export(version, steps)
            ended = version
            break
        except Died:
            pointer = current(place)
            read = [table(place, f"{pointer['folder']}/{name}") for name in FILES]
            versions = {part.schema.metadata[b"unlearnrec.version"] for part in read}
            assert versions == {str(pointer["version"]).encode()} and pointer["version"] in (1, *range(2, version + 1))
            steps += 1
    assert ended > 8, "there are that many steps"
    # Whole folders that no pointer names are kept for an hour: somebody may be about to name them.
    monkeypatch.setattr("unlearnrec.cluster.output.export_folder.UNDER_WAY_SECONDS", -1)
    export(50, 99)
    folder = current(place)["folder"]
    assert folder.startswith("export-000050-")
    kept = {CURRENT, *FILES, *(f"{folder}/{name}" for name in FILES)}
    assert {name for name in Store(*place).list() if not name.endswith(".tmp")} == kept


def test_a_process_that_dies_leaves_no_ids_here(tmp_path: Path, s3_server: StorageOptions, monkeypatch: Any) -> None:
    """What is on its way to S3 lies in files without a name, which are gone with the process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with writer_at((f"s3://lake/{tmp_path.name}/export", s3_server)) as writer:
        fill(writer, ["ana", "ben"], [1, 2, 3])
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["output/graph", "other/../output/versions/x", "file://{}/output/log"])
def test_an_export_is_not_in_a_folder_of_the_outputs_own(tmp_path: Path, to: str) -> None:
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    before = Store(config.output).list()
    target = to.format(tmp_path) if "{}" in to else str(tmp_path / to)
    with pytest.raises(InputError, match=r"--to .* is `(graph|versions|log)` under `output`"):
        pipeline.export(config, to=target, group=object())
    assert Store(config.output).list() == before


@pytest.mark.parametrize("key", ["interactions", "test_interactions"])
def test_an_export_is_not_in_a_table_that_ingest_reads(tmp_path: Path, key: str) -> None:
    (tmp_path / "events").mkdir()
    other = "test_interactions" if key == "interactions" else "interactions"
    config = parse_config(
        {key: str(tmp_path / "events"), other: str(tmp_path / "other"), "output": str(tmp_path / "run")}
    )
    with pytest.raises(InputError, match=f"lies in `{key}`"):
        pipeline.export(config, to=f"{tmp_path}/events/../events/out")
    assert not any((tmp_path / "events").iterdir())


def test_purge_takes_exports_under_output_that_are_older_than_the_last_request(tmp_path: Path) -> None:
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    session, folder = Session(config), tmp_path / "output" / "export"

    def export(to: Path) -> None:
        made = about(session, session.log.head(), 1, session.version().graph)
        with ExportWriter(FolderTarget(str(to), AWS), pa.string(), pa.int64(), made) as writer:
            fill(writer, ["ana", "ben"], [1, 2, 3])
            writer.close()

    export(folder / "old")
    (folder / "old" / "users.parquet.0123abcd.tmp").write_bytes(b"ana")
    pq.write_table(pa.table({"user_id": ["ana"]}), folder / "users.parquet")  # somebody's own
    with writer_at((str(folder / "other"), AWS)) as writer:
        fill(writer, ["ana", "ben"], [1, 2, 3])
        writer.close()
    assert purge(config, now=True)["removed_files"] == 1  # of the export that died
    session.log.append("completed", {"request_id": "r", "answer": {"status": "nothing_to_forget"}})
    export(folder / "new")
    before = {name for name in session.store.list() if name.startswith("export/")}
    old = {name for name in before if name.startswith("export/old/") and name.endswith(FILES)}
    assert len(old) == 6, "under their own names and in the folder of the export"
    assert {x["place"] for x in residue(config)["residues"] if x["kind"] == "export"} == old
    purge(config)
    assert {name for name in session.store.list() if name.startswith("export/")} == before - old


def test_looking_for_exports_makes_no_key(tmp_path: Path) -> None:
    """Where an earlier release made none, no export is this output's."""
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    output = tmp_path / "output"
    (output / "requests" / "key").unlink()
    pq.write_table(pa.table({"user_id": ["ana"]}), output / "users.parquet")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert residue(config)["residues"] == [] and purge(config, now=True)["removed_files"] == 0
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_an_export_of_nobody(place: Place) -> None:
    with writer_at(place) as writer:
        writer.embeddings("user", pa.array([], pa.string()), np.zeros((0, 4), np.float32))
        writer.recommendations(pa.array([], pa.string()), pa.array([], pa.int64()), np.zeros(0, np.float32), 0)
        told = writer.close()
    assert (told["users"], told["items"]) == (0, 0)
    for name in FILES:
        assert table(place, name).num_rows == 0


def test_an_aborted_export_leaves_nothing(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writer_at(place) as writer:
        fill(writer, ["a"], [1, 2, 3])
        raise ZeroDivisionError
    # Left without an error, but before `close`.
    with writer_at(place) as writer:
        fill(writer, ["a"], [1, 2, 3])
    assert Store(*place).list() == [] and nothing_left_behind(tmp_path)


def test_an_aborted_export_leaves_the_one_before_it(place: Place, tmp_path: Path) -> None:
    with writer_at(place) as writer:
        fill(writer, ["a"], [1, 2, 3])
        writer.close()
    before = {name: Store(*place).read(name) for name in Store(*place).list()}
    assert len(before) == 7
    with pytest.raises(KeyboardInterrupt), writer_at(place) as writer:
        fill(writer, ["b"], [4, 5, 6], 9.0)
        raise KeyboardInterrupt
    assert {name: Store(*place).read(name) for name in Store(*place).list()} == before
    with writer_at(place) as writer:
        fill(writer, ["b"], [4, 5, 6], 9.0)
        writer.close()
    assert table(place, "users.parquet")["user_id"].to_pylist() == ["b"]
    folder = current(place)["folder"]
    both = [f"{folder}/{name}" for name in FILES]
    assert Store(*place).list() == sorted([CURRENT, *FILES, *both]) and nothing_left_behind(tmp_path)
    for name in FILES:
        assert table(place, name).equals(table(place, f"{folder}/{name}"))


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (str(tmp_path / "file"), str(tmp_path / "file" / "deep")):
        with pytest.raises(InputError, match=rf"--to {target}: cannot be written"):
            writer_at((target, AWS))


def test_a_bucket_that_is_not_there_is_named(s3_server: StorageOptions, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InputError, match="--to s3://no-such-bucket/x: cannot be written"):
        writer_at(("s3://no-such-bucket/x", s3_server))
    assert not list(tmp_path.iterdir())
