"""The test interactions: which of their rows count."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_output import item_name, small_config, user_name, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config
from unlearnrec.cluster.models.held_out import held_out_pairs
from unlearnrec.cluster.output.ingests import lake_graph
from unlearnrec.cluster.output.session import Session
from unlearnrec.partitioning.errors import InputError

PAIRS = [(user, user % 8) for user in range(6)]


@pytest.fixture
def rated(tmp_path: Path) -> Config:
    """Ingested from a table in which every row has a rating; the table of test interactions is to be written yet."""
    interactions = write_interactions(tmp_path / "train.parquet")
    table = pq.read_table(interactions)
    pq.write_table(table.append_column("rating", pa.array([1.0] * table.num_rows)), interactions)
    more = {"test_interactions": str(tmp_path / "test"), "columns": {"value": "rating"}}
    config = small_config(interactions, str(tmp_path / "output"), **more)
    pipeline.ingest(config)
    return config


def write_test(config: Config, ratings: list[float | None] | None, name: str = "a.parquet") -> None:
    columns: dict[str, Any] = {
        "user_id": [user_name(u) for u, _ in PAIRS],
        "item_id": [item_name(i) for _, i in PAIRS],
    }
    folder = Path(str(config.test_interactions))
    folder.mkdir(exist_ok=True)
    table = pa.table(columns if ratings is None else columns | {"rating": pa.array(ratings, pa.float32())})
    pq.write_table(table, folder / name)


def found(config: Config) -> tuple[list[tuple[int, int]], int]:
    session = Session(config)
    users, items, unknown = held_out_pairs(session, lake_graph(session))
    return list(zip(users.tolist(), items.tolist(), strict=True)), unknown


def test_a_row_counts_by_its_value_as_in_the_table_of_interactions(rated: Config) -> None:
    write_test(rated, [1.0, 0.0, -1.0, None, float("nan"), 0.5])
    assert found(rated) == ([PAIRS[0], PAIRS[5]], 0)  # dense ids are in the order of the names
    write_test(rated, [0.0] * len(PAIRS))
    with pytest.raises(InputError, match=r"all 6 rows have a value \('rating'\) that is null or <= 0"):
        found(rated)


def test_without_the_column_of_values_every_row_counts(rated: Config) -> None:
    write_test(rated, None)
    assert found(rated) == (PAIRS, 0)


def test_a_table_of_which_only_some_files_have_values_is_refused(rated: Config) -> None:
    write_test(rated, None)
    write_test(rated, [1.0] * len(PAIRS), "b.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: no column 'rating'"):
        found(rated)
