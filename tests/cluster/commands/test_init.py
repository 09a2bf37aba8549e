"""`init`: what it guesses of a table, what it writes, and that `ingest` takes it."""

import datetime as dt
import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from small_output import write_interactions

from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands.ingest import ingest
from unlearnrec.cluster.commands.init import init
from unlearnrec.cluster.config.recipe import fit_recipe
from unlearnrec.cluster.config.schema import load_config
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.lake import Columns, open_table
from unlearnrec.partitioning.lake.guess import count, guess_columns
from unlearnrec.partitioning.storage import StorageOptions

OPTIONS = StorageOptions()
DAY = dt.datetime(2024, 5, 1)


def table_of(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def guessed(uri, **given):
    found, unit = guess_columns(open_table(uri, OPTIONS), given)
    return {role: guess.name for role, guess in found.items()}, unit


def test_the_usual_names_in_any_spelling(tmp_path):
    uri = table_of(
        tmp_path / "t.parquet",
        movieId=[1, 2],
        rating=[4.5, 3.0],
        extra=["x", "y"],
        userId=[7, 8],
        timestamp=[964982703, 9],
    )
    assert guessed(uri) == ({"user": "userId", "item": "movieId", "time": "timestamp", "value": "rating"}, "s")


@pytest.mark.parametrize(
    ("number", "unit"), [(964982703, "s"), (964982703000, "ms"), (964982703 * 10**9, "ns"), (3, None)]
)
def test_the_unit_of_numbers(tmp_path, number, unit):
    assert guessed(table_of(tmp_path / "t.parquet", user=[1], item=[2], ts=[number]))[1] == unit


def test_a_time_without_a_known_name_is_found_by_its_type(tmp_path):
    uri = table_of(tmp_path / "t.parquet", customer_id=["a"], sku=["b"], bought=[DAY])
    assert guessed(uri) == ({"user": "customer_id", "item": "sku", "time": "bought"}, None)


def test_csv_has_no_types_and_is_guessed_from_its_values(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("when,who,what,stars\n2024-05-01T10:00:00Z,ann,x,4.5\n2024-05-02T10:00:00Z,bob,y,3\n")
    assert guessed(str(path)) == ({"user": "who", "item": "what", "time": "when", "value": "stars"}, None)


def test_what_is_given_is_not_guessed(tmp_path):
    uri = table_of(tmp_path / "t.parquet", user_id=[1], item_id=[2], account=[3], rating=[1.0])
    assert guessed(uri, user="account", value=None)[0] == {"user": "account", "item": "item_id"}


def test_without_columns_for_ids_the_columns_are_named(tmp_path):
    with pytest.raises(
        InputError, match=r"no column can be taken for items' ids; it has user_id, price.*columns.item=NAME"
    ):
        guessed(table_of(tmp_path / "t.parquet", user_id=[1], price=[2.5]))


def test_sizes_are_counted_and_bounded(tmp_path):
    uri = table_of(
        tmp_path / "t.parquet", user_id=["a", "b", "a", "c"], item_id=[1, 1, 1, 2], rating=[1.0, 2.0, 1.0, 0.0]
    )
    size = count(open_table(uri, OPTIONS), Columns(value="rating"), OPTIONS)
    assert (size.users, size.items, size.rows, size.skipped, size.exact) == (2, 1, 3, 1, True)
    size = count(open_table(uri, OPTIONS), Columns(), OPTIONS, max_ids=2)
    assert (size.items, size.rows) == (2, 4)
    size = count(open_table(uri, OPTIONS), Columns(), OPTIONS, max_rows=4)
    assert not size.exact


def test_more_ids_than_are_kept_are_told_as_at_least(tmp_path):
    n = 200_000
    uri = table_of(tmp_path / "t.parquet", user_id=list(range(n)), item_id=[0] * n)
    size = count(open_table(uri, OPTIONS), Columns(), OPTIONS, max_ids=1000)
    assert (size.users, size.items, size.rows, size.exact) == (1000, 1, n, False)
    assert count(open_table(uri, OPTIONS), Columns(), OPTIONS).users == n


def test_the_written_file_loads_and_ingest_takes_it(tmp_path):
    uri = table_of(tmp_path / "t: 1.parquet", uid=[1, 1, 2], product=["x", "y", "x"], rating=[5, 0, 3], at=[DAY] * 3)
    told = init(uri, tmp_path / "run.yaml", ["partitioning.strategy=hash", "cluster.partitions=1"])
    assert (told["users"], told["items"], told["interactions"], told["exact"]) == (2, 1, 2, True)
    text = (tmp_path / "run.yaml").read_text()
    assert "2 users, 1 items, 2 interactions. 1 rows are none by their value." in text
    assert "# As given on the command line." in text and "User: by its name." in text
    config = load_config(tmp_path / "run.yaml")
    assert config.columns.model_dump() == {
        "user": "uid",
        "item": "product",
        "time": "at",
        "time_unit": None,
        "value": "rating",
    }
    assert (config.partitioning.strategy, config.test_interactions, config.interactions) == ("hash", None, uri)
    ingested = ingest(config)
    assert (ingested["users"], ingested["items"], ingested["interactions"]) == (2, 1, 2)


def test_each_file_has_a_seed_of_its_own_unless_one_is_given(tmp_path):
    uri = write_interactions(tmp_path / "t.parquet")
    for name, given in (("a", []), ("b", []), ("c", ["seed=7"])):
        init(uri, tmp_path / f"{name}.yaml", given)
    a, b, c = (load_config(tmp_path / f"{name}.yaml").seed for name in "abc")
    assert len({a, b, 0}) == 3 and max(a, b) < 2**53 and c == 7
    assert "# Drawn for this file." in (tmp_path / "a.yaml").read_text()


def test_a_time_that_cannot_be_read_is_left_out_and_the_file_says_so(tmp_path):
    pa.csv.write_csv(pa.table({"user_id": [1, 2], "item_id": [3, 4], "time": [964982703, None]}), tmp_path / "t.csv")
    init(str(tmp_path / "t.csv"), tmp_path / "run.yaml")
    assert load_config(tmp_path / "run.yaml").columns.time is None
    assert "Without the time" in (tmp_path / "run.yaml").read_text()
    with pytest.raises(InputError, match="time"):  # what somebody asked for is not dropped
        init(str(tmp_path / "t.csv"), tmp_path / "other.yaml", ["columns.time=time"])
    assert not (tmp_path / "other.yaml").exists()


def test_an_existing_file_and_a_missing_folder_are_refused(tmp_path, capsys):
    uri = write_interactions(tmp_path / "t.parquet")
    (tmp_path / "run.yaml").write_text("mine")
    assert run(["init", uri, "--to", str(tmp_path / "run.yaml")]) == 2
    assert "not overwritten" in capsys.readouterr().err and (tmp_path / "run.yaml").read_text() == "mine"
    assert run(["init", uri, "--to", str(tmp_path / "nowhere" / "run.yaml")]) == 2
    assert run(["init", uri, "--to", str(tmp_path / "new.yaml"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["users"], told["items"], told["columns"]) == (12, 8, {"user": "user_id", "item": "item_id"})


@pytest.mark.parametrize(
    ("users", "interactions", "cpus", "partitions", "loss", "epochs"),
    [(1000, 50_000, 8, 2, "bpr", 30), (6040, 1_000_209, 8, 8, "softmax", 12), (29858, 810_128, 1, 1, "softmax", 10)],
)
def test_the_recipe_follows_the_size(users, interactions, cpus, partitions, loss, epochs):
    recipe = fit_recipe(users, interactions, cpus)
    assert recipe["cluster"]["partitions"].value == partitions
    assert (recipe["train"]["loss"].value, recipe["train"]["epochs"].value) == (loss, epochs)
