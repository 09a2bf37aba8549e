"""Which files are a table: hidden names, links, folders of other formats, parts of such, and what is no table at all."""

import os
from pathlib import Path

import pytest
from lake_tables import read, rows, text, users, write

from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.lake import list_table, open_table
from unlearnrec.partitioning.lake.formats import table_around
from unlearnrec.partitioning.storage import AWS, StorageOptions, canonical_uri, filesystem_for


def refused(uri: str, words: str, options: StorageOptions = AWS) -> None:
    with pytest.raises(InputError, match=words) as error:
        users(uri, options)
    assert uri.partition("?")[0] in str(error.value)


@pytest.mark.parametrize("key", ["_src", "_metadata", "__x", "ordinary"])
def test_a_partition_column_is_not_hidden_whatever_it_begins_with(tmp_path: Path, key: str) -> None:
    write(tmp_path / "t" / f"{key}=app" / "a.parquet", rows(1))
    write(tmp_path / "t" / "plain=web" / f"{key}=web" / "a.parquet", rows(2))
    assert users(str(tmp_path / "t")) == {1: 2, 2: 2}


@pytest.mark.parametrize(
    "name",
    [
        "_SUCCESS",
        "_metadata",
        "_common_metadata",
        "_temporary/0/a.parquet",
        ".a.parquet.crc",
        ".part/user_id=5/a.parquet",
        "a.parquet._COPYING_",
        "dt=1/_started_12",
        "_symlink_format_manifest/manifest",
    ],
)
def test_what_spark_hides_is_hidden(tmp_path: Path, name: str) -> None:
    write(tmp_path / "t" / "dt=1" / "a.parquet", rows(1))
    text(tmp_path / "t" / name, "not Parquet")
    assert users(str(tmp_path / "t")) == {1: 2}


def test_the_partition_value_wins_over_a_column_of_its_name(tmp_path: Path) -> None:
    """As in Spark."""
    write(tmp_path / "t" / "user_id=7" / "a.parquet", rows(1))
    assert users(str(tmp_path / "t")) == {7: 2}


def test_names_that_differ_in_case_are_two_columns(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.parquet", {"User_ID": [9], "user_id": [1], "item_id": [2]})
    assert read(uri) == [(1, 2)]


# ---- links ------------------------------------------------------------------------------------------------------------


def linked(tmp_path: Path, link: str, target: str) -> str:
    """A table of one folder with a link in it, beside a folder that is no part of it."""
    write(tmp_path / "t" / "dt=1" / "a.parquet", rows(1))
    write(tmp_path / "t" / ".hidden" / "h.parquet", rows(3))
    write(tmp_path / "other" / "b.parquet", rows(2))
    os.makedirs((tmp_path / "t" / link).parent, exist_ok=True)
    os.symlink(target, tmp_path / "t" / link)
    return str(tmp_path / "t")


@pytest.mark.parametrize(
    ("link", "target", "expected"),
    [
        ("latest", "dt=1", {1: 2}),
        ("latest.parquet", "dt=1/a.parquet", {1: 2}),
        ("dt=1/up", "..", {1: 2}),
        ("dt=1/self", ".", {1: 2}),
        ("dt=2", "../other", {1: 2, 2: 2}),
        ("b.parquet", "../other/b.parquet", {1: 2, 2: 2}),
        ("shown", ".hidden", {1: 2, 3: 2}),
        ("_link", "../other", {1: 2}),
        (".link", "nowhere", {1: 2}),
    ],
)
def test_what_a_link_leads_to_counts_once(tmp_path: Path, link: str, target: str, expected: dict[int, int]) -> None:
    assert users(linked(tmp_path, link, target)) == expected


@pytest.mark.parametrize(
    ("link", "target", "words"),
    [
        ("up", "..", "the link up leads to .*, a folder that holds the table itself"),
        ("far", "../..", "the link far leads to .*, a folder that holds the table itself"),
        ("gone.parquet", "nowhere", r"the link gone\.parquet leads to nowhere, where nothing is"),
        (
            "dt=2",
            "dt=1",
            "the link dt=2 leads to dt=1/a.parquet, which the table has already, and its name gives other",
        ),
    ],
)
def test_a_link_that_would_count_wrongly_is_named(tmp_path: Path, link: str, target: str, words: str) -> None:
    refused(linked(tmp_path, link, target), words)


def test_two_links_to_one_file_outside_cannot_be_told_from_a_copy(tmp_path: Path) -> None:
    uri = linked(tmp_path, "x", "../other")
    os.symlink("../other/b.parquet", tmp_path / "t" / "y.parquet")
    refused(uri, r"the links x and y\.parquet lead to the same file")
    os.remove(tmp_path / "t" / "y.parquet")
    os.symlink("x", tmp_path / "t" / "alias")  # stands for something that the folder has
    assert users(uri) == {1: 2, 2: 2}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    uri = linked(tmp_path, "x", "../other")
    os.symlink("../t", tmp_path / "other" / "back")
    os.symlink(".", tmp_path / "other" / "again")
    assert users(uri) == {1: 2, 2: 2}


def test_the_table_itself_may_be_a_link(tmp_path: Path) -> None:
    linked(tmp_path, "latest", "dt=1")
    os.symlink("t", tmp_path / "alias")
    assert users(str(tmp_path / "alias")) == {1: 2}


# ---- other formats ----------------------------------------------------------------------------------------------------

MARKS = {
    "Hudi": ".hoodie/hoodie.properties",
    "Spark streaming sink": "_spark_metadata/0",
    "Paimon": "snapshot/LATEST",
    "Delta": "_delta_log/00000000000000000000.json",
    "Iceberg": "metadata/v1.metadata.json",
}


@pytest.mark.parametrize("name", MARKS)
@pytest.mark.parametrize("place", ["local", "s3"])
def test_files_of_another_format_are_never_read_as_parquet(
    tmp_path: Path, s3_server: StorageOptions, name: str, place: str
) -> None:
    """Not the folder, not a part of it, not a single file, and not a folder above."""
    root = str(tmp_path / "db") if place == "local" else f"s3://lake/{name.replace(' ', '-')}/db"
    options = s3_server
    write(tmp_path / "db" / "t" / "data" / "dt=1" / "a.parquet", rows(1))
    text(tmp_path / "db" / "t" / MARKS[name], "{}")
    if place == "s3":
        filesystem, path = filesystem_for(root, options)
        for file in (tmp_path / "db").rglob("*"):
            if file.is_file():
                with filesystem.open_output_stream(f"{path}/{file.relative_to(tmp_path / 'db').as_posix()}") as stream:
                    stream.write(file.read_bytes())
    if name not in ("Delta", "Iceberg"):
        refused(f"{root}/t", f"is a table of the format {name}, which is not read. .*Spark", options)
    for part in ("t/data", "t/data/dt=1", "t/data/dt=1/a.parquet"):
        refused(f"{root}/{part}", f"lies in {root}/t, which is an? .*{name}", options)
    refused(root, f"{root}/t in it is an? .*{name}", options)
    with pytest.raises(InputError, match=name):
        list_table(f"{root}/t", options)


@pytest.mark.parametrize(
    "name", ["delta_0000001_0000001_0000/bucket_00000", "base_0000005/a", "ducklake-01ab-c.parquet"]
)
def test_folders_whose_files_only_an_engine_understands(tmp_path: Path, name: str) -> None:
    name = name.replace("01ab-c", "018ce795-a3a1-7a44-9a1b-0ba6c3a1fd0e")
    write(tmp_path / "t" / name, rows(1))
    refused(str(tmp_path / "t"), "is a table of the format (Hive ACID|DuckLake), which is not read")


def test_a_link_into_a_table_is_a_part_of_it(tmp_path: Path) -> None:
    write(tmp_path / "delta" / "dt=1" / "a.parquet", rows(1))
    text(tmp_path / "delta" / MARKS["Delta"], "{}")
    write(tmp_path / "t" / "b.parquet", rows(2))
    os.symlink("../delta/dt=1", tmp_path / "t" / "dt=1")
    refused(str(tmp_path / "t"), f"lies in {tmp_path}/delta, which is a Delta table")
    os.symlink("../delta/dt=1/a.parquet", tmp_path / "single.parquet")
    os.symlink("delta", tmp_path / "alias")
    refused(f"{tmp_path}/alias/dt=1", "which is a Delta table")


def test_a_data_file_of_iceberg_or_hudi_is_known_by_its_footer(tmp_path: Path) -> None:
    import pyarrow as pa

    for key, name in (("iceberg.schema", "an Iceberg"), ("hoodie_min_record_key", "a Hudi")):
        uri = write(tmp_path / "a.parquet", pa.table(rows(1)).replace_schema_metadata({key: "{}"}))
        refused(uri, f"was written as a data file of {name} table")


def test_a_hidden_folder_may_hold_what_it_likes(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.parquet", rows(1))
    text(tmp_path / "t" / ".trash" / "old" / MARKS["Delta"], "{}")
    assert users(str(tmp_path / "t")) == {1: 2}


@pytest.mark.parametrize("name", ["README.md", "more.json", "part.orc", "part.avro", "notes.txt", "t.tsv"])
def test_a_file_that_is_no_table_is_named_not_skipped(tmp_path: Path, name: str) -> None:
    write(tmp_path / "t" / "a.parquet", rows(1))
    text(tmp_path / "t" / "dt=1" / name, "x")
    with pytest.raises(InputError, match=rf"dt=1/{name}: a table is made of Parquet or of CSV files.*begins with _"):
        users(str(tmp_path / "t"))


def test_parquet_and_csv_in_one_folder_are_both_named(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.parquet", rows(1))
    text(tmp_path / "t" / "b.csv", "user_id,item_id\n1,2\n")
    refused(str(tmp_path / "t"), r"holds Parquet \(.*a\.parquet\) and CSV \(.*b\.csv\)")


def test_files_need_no_ending(tmp_path: Path) -> None:
    """Hive writes none."""
    write(tmp_path / "t" / "000000_0", rows(1))
    assert users(str(tmp_path / "t")) == {1: 2}


# ---- URIs -------------------------------------------------------------------------------------------------------------


def test_a_question_mark_may_be_part_of_a_name(tmp_path: Path) -> None:
    for name in ("a?version=1.parquet", "b?version=1", "c?d"):
        assert users(write(tmp_path / name, rows(1))) == {1: 2}
    refused(write(tmp_path / "plain", rows(1)) + "?version=1", "is no Delta or Iceberg table, so it has no versions")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("delta://", "names no table"),
        ("delta:///t?when=3", "'when' is not known after the"),
        ("delta:///t?version=x", "version is 'x'; it must be a whole number"),
        ("delta:///t?version=1&timestamp=2026-01-01", "more than once"),
        ("delta:///t?timestamp=yesterday", "timestamp is 'yesterday'; write it as"),
        ("iceberg://catalog/table", "names no table of a catalog"),
        ("hudi:///t", "unknown location"),
    ],
)
def test_uris_that_mean_nothing(uri: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_table(uri, AWS)


def test_the_place_of_a_table_with_its_format(tmp_path: Path) -> None:
    os.symlink(tmp_path, tmp_path / "link")
    for uri in (f"delta://{tmp_path}/link/t?version=3", f"iceberg://{tmp_path}/t", f"delta://file://{tmp_path}/t"):
        assert canonical_uri(uri) == os.path.realpath(tmp_path / "t")
    assert (
        canonical_uri("delta://s3://b/t/") == "s3://b/t"
        and canonical_uri("iceberg://lake/shop.t") == "iceberg://lake/shop.t"
    )


def test_folders_above_that_may_not_be_looked_at_are_no_tables(tmp_path: Path) -> None:
    """But a store that does not answer is not taken for one."""

    class Closed:
        def __init__(self, error: OSError) -> None:
            self.error = error

        def get_file_info(self, _: object) -> None:
            raise self.error

    denied = OSError("When listing: AWS Error ACCESS_DENIED during ListObjectsV2 operation")
    assert table_around(Closed(denied), "bucket/a/b") is None
    with pytest.raises(OSError, match="no route"):
        table_around(Closed(OSError("no route to host")), "bucket/a/b")


def test_a_file_uri(tmp_path: Path) -> None:
    write(tmp_path / "a b.parquet", rows(1))
    assert users(f"file://{tmp_path}/a%20b.parquet") == {1: 2}
