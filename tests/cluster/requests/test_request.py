"""Deletion requests: every way to write one down, and the nodes that it means."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from unlearnrec.cluster.requests.matching import IdMap, resolve
from unlearnrec.cluster.requests.request import Request, commitment, parse_request
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import AWS, StorageOptions, filesystem_for


def parse(
    *,
    users: str | None = None,
    items: str | None = None,
    interactions: str | None = None,
    requests: str | None = None,
    request_id: str | None = None,
    options: StorageOptions = AWS,
) -> Request:
    return parse_request(users, items, interactions, requests, request_id, options)


def parquet(path: Path, **columns: Sequence[Any]) -> str:
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return str(path)


def csv(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def id_map(ids: Sequence[Any], nodes: Sequence[int]) -> IdMap:
    return pa.array(ids), np.array(nodes, dtype=np.int64), np.zeros(len(ids), dtype=np.int16)


def test_every_form_of_the_same_request_has_the_same_content(tmp_path: Path) -> None:
    forms = [
        parse(users="17,3,250", items="8"),
        parse(users="250,3,,17,3", items="8,8"),
        parse(users=parquet(tmp_path / "u.parquet", user_id=[3, 250, 17]), items="8"),
        parse(users=parquet(tmp_path / "s.parquet", user_id=["3", "17", "250"], other=[0, 0, 0]), items="8"),
        parse(users=csv(tmp_path / "u.csv", "user_id\n250\n17\n3\n17\n"), items="8"),
        parse(users="250,17,3", requests=parquet(tmp_path / "i.parquet", item_id=[8, 8])),
        parse(items="8", requests=csv(tmp_path / "r.csv", "user_id\n17\n3\n250\n")),
        parse(users="17", items="8", requests=csv(tmp_path / "r2.csv", "user_id\n3\n250\n")),
    ]
    for form in forms:
        assert form == forms[0] and form.body() == forms[0].body()
    assert forms[0].users == ("17", "250", "3") and forms[0].items == ("8",) and forms[0].interactions == ()
    assert json.loads(forms[0].body()) == {"users": ["17", "250", "3"], "items": ["8"], "interactions": []}


def test_every_form_of_interactions_has_the_same_content(tmp_path: Path) -> None:
    forms = [
        parse(interactions=parquet(tmp_path / "p.parquet", user_id=[2, 1, 1, 2], item_id=[5, 6, 5, 5])),
        parse(interactions=csv(tmp_path / "p.csv", "item_id,day,user_id\n5,x,1\n6,y,1\n5,z,2\n")),
        parse(requests=parquet(tmp_path / "r.parquet", item_id=["5", "5", "6"], user_id=["1", "2", "1"])),
        parse(
            interactions=csv(tmp_path / "a.csv", "user_id,item_id\n1,5\n"),
            requests=csv(tmp_path / "b.csv", "user_id,item_id\n1,5\n1,6\n2,5\n"),
        ),
    ]
    for form in forms:
        assert form == forms[0]
    assert forms[0].interactions == (("1", "5"), ("1", "6"), ("2", "5")) and not forms[0].users and not forms[0].items
    # Three pairs are not two users and two items.
    assert forms[0].body() != parse(users="1,2", items="5,6").body()


def test_a_file_on_s3(s3_server: StorageOptions, tmp_path: Path) -> None:
    uri = f"s3://lake/{tmp_path.name}/forget.csv"
    filesystem, path = filesystem_for(uri, s3_server)
    with filesystem.open_output_stream(path) as stream:
        stream.write(b"user_id\nana\n")
    for named in ({"users": uri}, {"requests": uri}):
        assert parse(options=s3_server, **named).users == ("ana",)


def test_ids_that_are_texts(tmp_path: Path) -> None:
    names = ["ünal", "a b", 'quo"te', "0017", "17", "x,y"]
    request = parse(users=parquet(tmp_path / "u.parquet", user_id=names), items="ünal,a b")
    assert request.users == tuple(sorted(names)) and request.items == ("a b", "ünal")
    assert "ünal".encode() in request.body()
    users = id_map(sorted(names), range(10, 16))
    named = resolve(request, users, id_map(["a b", "b"], [4, 5]))
    found = named.removal
    assert found.users.tolist() == list(range(10, 16)) and found.items.tolist() == [4] and named.unknown == 1
    # Where ids are texts, 0017 and 17 are two people.
    assert resolve(parse(users="0017"), users, users).removal.users.tolist() == [10 + sorted(names).index("0017")]


def test_texts_that_look_like_integers_find_integers(tmp_path: Path) -> None:
    users, items = id_map([-4, 17, 250], [9, 0, 5]), id_map([17, 18], [3, 1])
    text = "17, 0017,-4,1.0,17a,+17,999,9999999999999999999,²,250.0,17.5"
    named = resolve(parse(users=text), users, items)
    found = named.removal
    assert sorted(found.users.tolist()) == [0, 0, 5, 9] and named.unknown == 7
    # A float of so many digits may have been another id.
    large = id_map([2**53, 999_999_999_999_999], [1, 2])
    named = resolve(parse(users=f"{2**53}.0,999999999999999.00"), large, items)
    assert named.removal.users.tolist() == [2] and named.unknown == 1
    assert {x.dtype for x in (found.users, found.items, found.pair_users, found.pair_items)} == {np.dtype(np.int64)}
    path = csv(tmp_path / "p.csv", "user_id,item_id\n250,17\n250,99\n7,17\n17,18\n")
    named = resolve(parse(interactions=path), users, items)
    found = named.removal
    # A pair is known when both its ends are.
    assert sorted(zip(found.pair_users.tolist(), found.pair_items.tolist(), strict=True)) == [(0, 1), (5, 3)]
    assert named.unknown == 2 and not len(found.users) and not len(found.items)


def test_a_request_for_nobody_known_is_no_error() -> None:
    named = resolve(parse(users="x,y", items="z"), id_map(["a"], [0]), id_map([1], [0]))
    found = named.removal
    assert named.unknown == 3 and not len(found.users) and not len(found.items) and not len(found.pair_users)


def test_a_list_longer_than_a_file_name_is_a_list() -> None:
    assert len(parse(users=",".join(str(n) for n in range(5000))).users) == 5000


def test_an_empty_list_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "everybody.parquet", user_id=[1, 2, 3])
    monkeypatch.chdir(tmp_path)
    assert parse(users="", items="8").users == ()
    # A folder that is named is read.
    assert parse(users=".", items="8").users == ("1", "2", "3")


def test_a_request_that_names_nothing_is_refused(tmp_path: Path) -> None:
    empty = csv(tmp_path / "empty.csv", "user_id,item_id\n")
    for named in ({"users": ""}, {"items": " , "}, {"interactions": empty}, {}):
        with pytest.raises(InputError, match=r"names no user, item or interaction\. Give"):
            parse(**named)


@pytest.mark.parametrize("option", ["users", "items", "interactions", "requests"])
def test_files_without_their_columns_are_named(tmp_path: Path, option: str) -> None:
    for path in (csv(tmp_path / "x.csv", "customer\n1\n"), parquet(tmp_path / "x.parquet", customer=[1])):
        with pytest.raises(InputError, match=rf"{path}.*no column"):
            parse(**{option: path})
    with pytest.raises(InputError, match="absent"):
        parse(**{option: str(tmp_path / "absent.parquet")})


def test_interactions_need_both_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="item_id"):
        parse(interactions=csv(tmp_path / "x.csv", "user_id\n1\n"))


def test_a_missing_id_is_refused(tmp_path: Path) -> None:
    for path in (
        csv(tmp_path / "x.csv", "user_id,item_id\n1,\n"),
        parquet(tmp_path / "x.parquet", user_id=[1], item_id=pa.array([None], pa.int64())),
    ):
        with pytest.raises(InputError, match="item_id"):
            parse(interactions=path)


@pytest.mark.parametrize("bad", ["", "a b", "a/b", "../x", "ü", "x" * 129, "a\n", ".tmp-x", ".x", ".."])
def test_bad_request_ids_are_refused(bad: str) -> None:
    with pytest.raises(InputError, match="--request-id"):
        parse(users="1", request_id=bad)


def test_request_ids() -> None:
    assert parse(users="1", request_id="Case-17_b.2").request_id == "Case-17_b.2"
    assert parse(users="1", request_id="x" * 128).request_id == "x" * 128
    derived = parse(users="2,1").request_id
    assert derived == parse(users="1,2,2").request_id and derived.startswith("req-")
    assert derived != parse(users="1").request_id != parse(items="1").request_id
    # A derived id is a valid one.
    assert parse(users="1", request_id=derived).request_id == derived


def test_a_commitment_depends_on_salt_and_content() -> None:
    body, other = parse(users="1").body(), parse(users="2").body()
    digests = {commitment(b, s) for b in (body, other) for s in ("salt", "other salt")}
    assert len(digests) == 4 and all(len(d) == 64 for d in digests)
    assert commitment(body, "salt") == commitment(body, "salt")


def test_an_id_is_taken_as_it_is_written(tmp_path: Path) -> None:
    spaced = csv(tmp_path / "u.csv", 'user_id\n"abc "\n')
    rows = csv(tmp_path / "r.csv", 'user_id,item_id\n"abc ",1\n" ",1\n')
    users, items = id_map(["abc", "abc ", "x"], [0, 1, 2]), id_map([" 1", "2"], [0, 1])
    assert parse(users=spaced).users == parse(users="abc ").users == ("abc ",)
    assert parse(requests=rows).interactions == (("abc ", "1"),) and parse(requests=rows).items == ("1",)
    assert resolve(parse(users=spaced), users, items).removal.users.tolist() == [1]
    assert resolve(parse(users="x ,abc"), users, items).padded.tolist() == [False, True]
    # Where ids are integers, nobody else can be meant.
    assert resolve(parse(users=" 7"), id_map([7], [0]), items).removal.users.tolist() == [0]


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "missing.csv", "missing.TXT", "folder/ann", "missing.pq", "a,missing.parquet"]
)
def test_a_mistyped_file_is_not_taken_for_an_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for option in ("users", "items"):
        with pytest.raises(InputError, match=f"--{option} {name}: no such file"):
            parse(**{option: name})


def test_ids_may_be_those_of_a_state_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_deltalake("people", pa.table({"user_id": ["a", "b"]}))
    DeltaTable("people").delete("user_id = 'b'")
    assert parse(users="people").users == parse(users=f"{tmp_path}/people?version=1").users == ("a",)
    assert parse(users="people?version=0").users == parse(requests="people?version=0").users == ("a", "b")
    with pytest.raises(InputError, match=r"people\?version=7: there is no such version"):
        parse(users="people?version=7")
    assert parse(users="ann?version=0").users == ("ann?version=0",)  # no such table


def test_a_file_of_another_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "users.jsonl").write_text('{"user_id": "a"}\n')
    with pytest.raises(InputError, match=r"users\.jsonl: it takes Parquet \(\.parquet\) or CSV"):
        parse(users=str(tmp_path / "users.jsonl"))


@pytest.mark.parametrize("ids", ["john.doe", "a.b@example.org", "x,y.csvs", "a/b", "3.5"])
def test_ids_with_dots_and_slashes_are_ids(ids: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(users=ids).users == tuple(sorted(ids.split(",")))
