"""Tables in memory as input, and how deletion reaches the copies that are made of them."""

import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_workers import FakeWorkers
from small_output import commit_encoder, commit_train, places_of, user_name, write_interactions

import unlearnrec
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.lifecycle.suppression import ENVIRONMENT
from unlearnrec.cluster.output import handed
from unlearnrec.cluster.output.session import Session as OpenOutput
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import Store

KEY = "k" * 32


def frame(tmp_path: Path, name: str = "t") -> pd.DataFrame:
    table = pd.read_parquet(write_interactions(tmp_path / f"{name}.parquet"))
    return table.assign(mail=table["user_id"] + ".mail")


def opened(tmp_path: Path, table: Any, **sections: Any) -> unlearnrec.Session:
    values = {"partitioning": {"strategy": "hash"}, **sections}
    session = unlearnrec.Session(interactions=table, output=str(tmp_path / "output"), progress=False, **values)
    fake = FakeWorkers(Store(str(tmp_path / "output")))
    session._workers = lambda: nullcontext(fake)  # type: ignore[method-assign]
    return session


def parts(tmp_path: Path) -> list[str]:
    return [name for name in Store(str(tmp_path / "output")).list("tables") if name.endswith(".parquet")]


def made(session: unlearnrec.Session) -> unlearnrec.Session:
    """With a model that can forget."""
    session.ingest()
    commit_train(session.config)
    commit_encoder(session.config)
    return session


def test_every_kind_of_table_gives_the_same_graph(tmp_path: Path):
    table = frame(tmp_path)
    expected = opened(tmp_path / "path", write_interactions(tmp_path / "t.parquet")).ingest()
    arrow = pa.table(table)

    class Stream:
        """As Polars and DuckDB are read."""

        columns = arrow.column_names

        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return arrow.__arrow_c_stream__(requested_schema)

    forms = {
        "pandas": table,
        "arrow": arrow,
        "batch": arrow.combine_chunks().to_batches()[0],
        "reader": arrow.to_reader(),
        "stream": Stream(),
        "category": table.astype({"user_id": "category"}),
    }
    for name, form in forms.items():
        assert opened(tmp_path / name, form).ingest() == expected, name


def test_a_table_is_written_once_and_without_other_columns(tmp_path: Path):
    session = opened(tmp_path, frame(tmp_path))
    assert not (tmp_path / "output").exists(), "the constructor writes nothing"
    session.ingest()
    (name,) = parts(tmp_path)
    written = tmp_path / "output" / name
    assert pq.read_schema(written).names == ["user_id", "item_id"]
    stamp = written.stat().st_mtime_ns
    again = opened(tmp_path, pa.table(frame(tmp_path)))
    assert again.config.interactions == session.config.interactions
    assert written.stat().st_mtime_ns == stamp
    other = opened(tmp_path / "b", frame(tmp_path))
    assert other.config.interactions.rpartition("/")[2] != name.split("/")[1], "the name is keyed by the output"
    # A table without its mark is not whole.
    (written.parent / "_SUCCESS").unlink()
    written.write_bytes(b"torn")
    assert opened(tmp_path, frame(tmp_path)).config and pq.read_table(written).num_rows == 48


def test_a_large_table_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(handed, "PART_ROWS", 20)
    result = opened(tmp_path, frame(tmp_path)).ingest()
    assert (len(parts(tmp_path)), result.events) == (3, 48)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"user_id": [1], "item": [2]}), "no column 'item_id'; it has user_id, item. Map your names"),
        (pd.DataFrame({"item_id": [1]}, index=pd.Index([1], name="user_id")), r"reset_index\(\)"),
        (pa.table([[1], [2], [3]], names=["user_id", "item_id", "item_id"]), "more than one column 'item_id'"),
        ([(1, 2)], "interactions: got list, expected a path, or a table"),
        (3, "interactions: got int, expected a path"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_refused_at_once(tmp_path: Path, table: Any, message: str):
    with pytest.raises(InputError, match=message):
        opened(tmp_path, table)


def test_bad_values_are_told_as_those_of_a_file(tmp_path: Path):
    mixed = pd.DataFrame({"user_id": [1, "a"], "item_id": [1, 2]})
    with pytest.raises(InputError, match=r"interactions: Arrow cannot read it: .*Give each column one type"):
        opened(tmp_path, mixed).ingest()
    with pytest.raises(InputError, match="column 'user_id' is double"):
        opened(tmp_path, pd.DataFrame({"user_id": [1.0, None], "item_id": [1, 2]})).ingest()


def test_purge_takes_deleted_rows_out_of_the_copies(tmp_path: Path):
    table, gone = frame(tmp_path), user_name(1)
    session = made(opened(tmp_path, table, test_interactions=table.iloc[:20]))
    store = Store(str(tmp_path / "output"))
    without_test = opened(tmp_path, table)  # the workers of this test cannot measure a gate
    assert without_test.forget(users=[gone], interactions=[(user_name(2), "item-001x")]).wait().status == "committed"
    found = {one["place"]: one["rows"] for one in session.residue().residues if one["kind"] == "rows of a handed table"}
    assert found == dict.fromkeys(parts(tmp_path), 5)
    purged = session.purge()
    assert (purged.removed_rows, purged.purged_requests) == (10, 1)
    assert places_of(store, gone.encode()) == []
    assert not session.residue().residues
    left = pq.read_table(io.BytesIO(store.read(parts(tmp_path)[0])))
    assert left.num_rows == 43
    # The same table again is not written again, so what was taken out stays out: also of the next ingest.
    again = opened(tmp_path, table, test_interactions=table.iloc[:20])
    assert again.ingest().users == 11
    assert session.purge().removed_rows == 0


def test_a_purge_by_the_command_line_cleans_them_too(tmp_path: Path):
    session = made(opened(tmp_path, frame(tmp_path)))
    session.forget(users=[user_name(1)]).wait()
    from unlearnrec.cluster.config.schema import load_config

    config = load_config(tmp_path / "output" / "config.yaml")
    assert pipeline.purge(config)["removed_rows"] == 4
    # With another configuration the columns are known all the same.
    session.forget(users=[user_name(2)]).wait()
    other = config.model_copy(
        update={"interactions": "elsewhere.parquet", "columns": config.columns.model_copy(update={"user": "u"})}
    )
    assert pipeline.purge(other)["removed_rows"] == 4


def test_retention_holds_for_the_rows_too(tmp_path: Path):
    session = made(opened(tmp_path, frame(tmp_path), forget={"retention_hours": 5}))
    session.forget(users=[user_name(1)]).wait()
    assert session.purge().removed_rows == 0
    assert session.purge(now=True).removed_rows == 4


def test_a_table_that_replaces_another_takes_its_place(tmp_path: Path):
    old = made(opened(tmp_path, frame(tmp_path)))
    new = opened(tmp_path, frame(tmp_path).iloc[:40])
    assert new.config != old.config
    assert len(parts(tmp_path)) == 2
    assert {one["place"] for one in new.residue().residues} == set(), "the last ingest read the old one"
    new.ingest()
    assert {one["kind"] for one in new.residue().residues} >= {"unnamed file"}
    new.purge()
    assert len(parts(tmp_path)) == 2, "it may belong to a command that is under way"
    new.purge(now=True)
    assert len(parts(tmp_path)) == 1
    assert new.config.interactions.rpartition("/")[2] in parts(tmp_path)[0]


def test_a_purge_that_dies_behind_the_rows_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    session = made(opened(tmp_path, frame(tmp_path)))
    session.forget(users=[user_name(1)]).wait()
    from unlearnrec.cluster.commands import purge as command

    def dies(*_: Any) -> None:
        raise OSError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(command, "_empty", dies)
        with pytest.raises(OSError, match="no more"):
            session.purge()
    assert any(one["kind"] == "request content" for one in session.residue().residues)
    assert (session.purge().purged_requests, session.residue().residues) == (1, ())


def test_the_suppression_list_cleans_what_was_handed_over_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ENVIRONMENT, KEY)
    session = made(opened(tmp_path, frame(tmp_path)))
    session.forget(users=[user_name(1)]).wait()
    session.purge()
    # Another table, in which the user still is: his content is purged, and the list knows him.
    again = opened(tmp_path, frame(tmp_path).iloc[:40])
    assert again.ingest().suppressed == 4
    assert any(one["kind"] == "rows of a handed table" for one in again.residue().residues)
    assert again.purge(now=True).removed_rows == 4
    assert not places_of(Store(str(tmp_path / "output")), user_name(1).encode())


def test_times_go_with_the_table(tmp_path: Path):
    table = pd.DataFrame(
        {
            "u": [f"user-{n % 6}" for n in range(24)],
            "i": [f"item-{n % 4}" for n in range(24)],
            "at": pd.date_range("2026-01-01", periods=24, freq="D", tz="UTC"),
        }
    )
    session = made(opened(tmp_path, table, columns={"user": "u", "item": "i", "time": "at"}))
    found = session.preview(requests=[{"user_id": "user-1", "since": "2026-01-10"}])
    assert found.removed_events == 2
    output = OpenOutput(session.config)
    said = pq.read_schema(io.BytesIO(output.store.read(parts(tmp_path)[0]))).metadata[handed.COLUMNS]
    assert said == b'["u", "i", "at"]'
    session.forget(requests=[{"user_id": "user-1", "since": "2026-01-01"}]).wait()
    assert session.purge().removed_rows == 4


def test_a_foreign_file_among_the_copies_stops_a_purge(tmp_path: Path):
    session = made(opened(tmp_path, frame(tmp_path)))
    session.forget(users=[user_name(1)]).wait()
    folder = (tmp_path / "output" / parts(tmp_path)[0]).parent
    pq.write_table(pa.table({"user_id": [user_name(1)], "item_id": ["x"]}), folder / "more.parquet")
    with pytest.raises(InputError, match=r"more\.parquet: was not written by unlearnrec"):
        session.purge()
    assert any("request content" in one["kind"] for one in session.residue().residues), "nothing was emptied"
    assert {"place": "tables", "why": session.residue().not_read[0]["why"]} in session.residue().not_read


def test_an_endpoint_with_a_path_takes_no_tables(tmp_path: Path):
    session = opened(tmp_path, frame(tmp_path), storage={"endpoint_url": "http://localhost:9000/prefix"})
    with pytest.raises(InputError, match="has a path, and a table cannot be read there"):
        session.ingest()


def test_an_export_may_not_go_among_the_copies(tmp_path: Path):
    session = made(opened(tmp_path, frame(tmp_path)))
    with pytest.raises(InputError, match="is `tables` under `output`"):
        session.export(str(tmp_path / "output" / "tables" / "out"))
