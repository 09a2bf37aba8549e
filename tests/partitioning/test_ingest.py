"""From a table of the lake to a partitioned graph under the output, and back: on a local disk and on an S3 server."""

import io
import json
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.halo import HALOS, plan
from unlearnrec.partitioning.ingest import (
    InteractionTable,
    PartitioningSettings,
    ingest,
    load_assignment,
    load_ids,
    load_shard,
)
from unlearnrec.partitioning.lake import Columns
from unlearnrec.partitioning.manifest import MANIFEST, load_manifest
from unlearnrec.partitioning.storage import AWS, StorageOptions, Store, filesystem_for

NAMES = Columns(user="customer", item="product", time="day")
Events = list[tuple[Any, Any]]
Place = tuple[str, StorageOptions]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A root of its own, without a slash at its end, and how to reach it."""
    if request.param == "local":
        return str(tmp_path), AWS
    return f"s3://lake/{uuid.uuid4().hex}", request.getfixturevalue("s3_server")


def make_events(text: bool = False, seed: int = 0) -> Events:
    """90 events of up to 12 users and 8 items, many of them repeats, in no order."""
    users, items = np.random.default_rng(seed).integers(0, (12, 8), (90, 2)).T
    if text:
        return [(f"u-{u}", f"ü/{i}=") for u, i in zip(users, items, strict=True)]
    return [(int(u) * 10**12 - 5, int(i)) for u, i in zip(users, items, strict=True)]


def write_table(place: Place, name: str, events: Events, without: str | None = None) -> None:
    customers, products = (pa.array([e[side] for e in events], None if events else pa.int64()) for side in (0, 1))
    days = pa.array(range(len(events)), pa.timestamp("s"))
    table = pa.table({"customer": customers, "note": ["x"] * len(events), "product": products, "day": days})
    filesystem, path = filesystem_for(f"{place[0]}/{name}", place[1])
    if isinstance(filesystem, pafs.LocalFileSystem):
        filesystem.create_dir(path.rpartition("/")[0])
    pq.write_table(table.drop_columns([without] if without else []), path, filesystem=filesystem)


def write_file(place: Place, events: Events) -> str:
    write_table(place, "events.parquet", events)
    return f"{place[0]}/events.parquet"


def write_folder(place: Place, events: Events) -> str:
    for j in range(3):
        write_table(place, f"events/deep/part-{j}.parquet", events[j::3])
    return f"{place[0]}/events"


def write_hive(place: Place, events: Events) -> str:
    for product in {i for _, i in events}:
        folder = f"product={str(product).replace('/', '%2F').replace('=', '%3D')}"
        write_table(place, f"hive/{folder}/0.parquet", [e for e in events if e[1] == product], without="product")
    return f"{place[0]}/hive"


def run(uri: str, place: Place, num_partitions: int = 2, **settings: Any) -> tuple[Store, dict[str, Any]]:
    store = Store(f"{place[0]}/output", place[1])
    progress = settings.pop("progress", None)
    chosen = PartitioningSettings(num_partitions, **{"strategy": "hash", "seed": 0, "halo": "pull"} | settings)
    return store, ingest(InteractionTable(uri, NAMES, place[1]), chosen, store, progress=progress)


def stored_events(store: Store) -> Counter[tuple[Any, Any]]:
    """Every event of the graph, by external ids, from the rows of users; the rows of items must agree with them."""
    manifest = load_manifest(store)
    (users, user_nodes, _), (items, item_nodes, _) = (load_ids(store, manifest, side) for side in ("user", "item"))
    np.testing.assert_array_equal(user_nodes, np.arange(manifest.users))
    np.testing.assert_array_equal(item_nodes, np.arange(manifest.items))
    from_users: Counter[tuple[Any, Any]] = Counter()
    from_items: Counter[tuple[Any, Any]] = Counter()
    for k in range(manifest.partitions):
        shard = load_shard(store, manifest, k)
        for u, i, n in zip(*shard.interactions(), strict=True):
            from_users[users[int(u)].as_py(), items[int(i)].as_py()] += int(n)
        owners = np.repeat(shard.item_ids, np.diff(shard.item_indptr))
        for u, i, n in zip(shard.item_neighbours, owners, shard.item_counts, strict=True):
            from_items[users[int(u)].as_py(), items[int(i)].as_py()] += int(n)
    assert from_users == from_items
    return from_users


@pytest.mark.parametrize("write", [write_file, write_folder, write_hive])
@pytest.mark.parametrize("text", [False, True], ids=["int64", "string"])
def test_every_event_is_in_the_graph(place: Place, write: Callable[[Place, Events], str], text: bool) -> None:
    events = make_events(text)
    uri = write(place, events)
    store, manifest = run(uri, place, num_partitions=3)
    assert manifest == load_manifest(store)
    assert stored_events(store) == Counter(events)
    kind = "string" if text else "int64"
    expected = {
        "users": len({u for u, _ in events}),
        "items": len({i for _, i in events}),
        "interactions": len(set(events)),
        "events": len(events),
        "skipped": 0,
        "partitions": 3,
        "source": uri,
        "id_type": {"user": kind, "item": kind},
    }
    assert {name: manifest.document()[name] for name in expected} == expected
    assert sorted(manifest.files) == [name for name in store.list() if name != MANIFEST]
    for name, facts in manifest.files.items():
        data = store.read(name)
        assert facts.document() == {"sha256": store.sha256(data), "bytes": len(data)}


@pytest.mark.parametrize("strategy", ["metis", "hash"])
def test_the_same_seed_gives_the_same_files(tmp_path: Path, strategy: str) -> None:
    uri = write_file((str(tmp_path), AWS), make_events())
    digests = []
    for name in ("one", "two"):
        store, manifest = run(uri, (str(tmp_path / name), AWS), strategy=strategy, seed=11)
        digests.append([manifest.files[file].sha256 for file in manifest.files])
        assignment = load_assignment(store, manifest)
        shards = [load_shard(store, manifest, k) for k in range(2)]
        for k, shard in enumerate(shards):
            np.testing.assert_array_equal(shard.user_ids, np.flatnonzero(assignment.owner_of_user == k))
            np.testing.assert_array_equal(shard.item_ids, np.flatnonzero(assignment.owner_of_item == k))
        for halo in HALOS:
            rows = sum(int(plan(shard, assignment, halo).send_counts.sum()) for shard in shards)
            assert manifest.rows_per_layer[halo] == rows
    assert digests[0] == digests[1]
    assert 0 <= manifest.edge_cut <= 1 <= manifest.balance <= 2


def test_owners_from_a_file_beside_the_events(place: Place) -> None:
    events = make_events()
    users, items = ({e[side] for e in events} for side in (0, 1))
    rows = [("user", u, u % 3 % 2) for u in users] + [("item", i, i % 2) for i in items]
    filesystem, path = filesystem_for(f"{place[0]}/owners.parquet", place[1])
    table = pa.table(dict(zip(("side", "id", "partition"), zip(*rows, strict=True), strict=True)))
    uri = write_file(place, events)
    pq.write_table(table, path, filesystem=filesystem)
    store, manifest = run(uri, place, strategy="file", assignment_file=f"{place[0]}/owners.parquet")
    for side, rule in (("user", lambda u: u % 3 % 2), ("item", lambda i: i % 2)):
        ids, _, owner = load_ids(store, manifest, side)
        assert owner.tolist() == [rule(x) for x in ids.to_pylist()]
    assert stored_events(store) == Counter(events)


def test_progress_counts_the_rows(tmp_path: Path) -> None:
    seen: list[int] = []
    uri = write_folder((str(tmp_path), AWS), make_events())
    run(uri, (str(tmp_path), AWS), progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 90


BAD_INPUT: dict[str, tuple[Events, str]] = {
    "missing column": ([(1, 2)], "no column 'product'"),
    "wrong type": ([(1.5, 2)], "'customer' is double"),
    "null id": ([(1, 2), (None, 3)], "'customer' is null in row 2"),
    "empty": ([], "no interactions, it has no rows"),
}


@pytest.mark.parametrize("mistake", [*BAD_INPUT, "unreadable", "absent"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_bad_input_writes_nothing(tmp_path: Path, mistake: str, again: bool) -> None:
    here = (str(tmp_path), AWS)
    store = Store(str(tmp_path / "output"))
    if again:
        run(write_folder(here, make_events()), here)
    before = {name: store.read(name) for name in store.list()}
    bad, words = tmp_path / "bad.parquet", "no such file or folder. Check the path"
    if mistake == "unreadable":
        bad.write_bytes(b"user,item\n1,2\n")
        words = "not a readable Parquet file"
    elif mistake != "absent":
        events, words = BAD_INPUT[mistake]
        write_table(here, bad.name, events, without="product" if mistake == "missing column" else None)
    with pytest.raises(InputError, match=words) as error:
        run(str(bad), here)
    assert str(bad) in str(error.value)
    assert {name: store.read(name) for name in store.list()} == before
    assert again or not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"halo": "push"}, r"partitioning\.halo is 'push'; it must be one of pull, cover"),
        ({"strategy": "random"}, r"partitioning\.strategy is 'random'"),
        ({"num_partitions": 0}, r"cluster\.partitions is 0"),
        ({"strategy": "file", "assignment_file": "nowhere.parquet"}, r"nowhere\.parquet: no such file"),
    ],
)
def test_bad_settings_write_nothing(place: Place, settings: dict[str, Any], words: str) -> None:
    uri = write_file(place, make_events())
    with pytest.raises(InputError, match=words):
        run(uri, place, **settings)
    assert Store(f"{place[0]}/output", place[1]).list() == []


def test_an_output_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    uri = write_file((str(tmp_path), AWS), make_events())
    (tmp_path / "output").touch()
    with pytest.raises(InputError, match=r"output .*/output cannot be written"):
        run(uri, (str(tmp_path), AWS))


@pytest.mark.parametrize("fails_at", range(6))
def test_a_failing_write_leaves_the_earlier_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    here = (str(tmp_path), AWS)
    earlier, later = make_events(seed=1), make_events(seed=2)
    store, manifest = run(write_file(here, earlier), here)
    uri = write_file(here, later)
    writes = 0
    write = Store.write

    def disk_full(self: Store, path: str, data: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes > fails_at:
            raise OSError(28, "No space left on device")
        write(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", disk_full)
        if fails_at < 5:  # two id maps, two shards, the manifest
            with pytest.raises(OSError, match="No space left"):
                run(uri, here)
        else:
            run(uri, here)
    if fails_at < 5:
        assert load_manifest(store) == manifest
        assert stored_events(store) == Counter(earlier)
        run(uri, here)
    assert stored_events(store) == Counter(later)


def test_no_graph_and_a_graph_of_another_format(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(InputError, match=r"holds no graph\. Run `unlearnrec ingest`"):
        load_manifest(store)
    store.write(MANIFEST, json.dumps({"format": 2}).encode())
    with pytest.raises(InputError, match="has format 2, this version of unlearnrec reads format 1"):
        load_manifest(store)


@pytest.mark.parametrize("kind", ["shard_files", "user_file", "item_file"])
@pytest.mark.parametrize("damage", ["one bit", "cut short", "removed"])
def test_damage_is_noticed(place: Place, kind: str, damage: str) -> None:
    store, manifest = run(write_file(place, make_events()), place)
    name = getattr(manifest, kind)[1] if kind == "shard_files" else getattr(manifest, kind)
    data = store.read(name)
    if damage == "one bit":
        store.write(name, data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif damage == "cut short":
        store.write(name, data[:-8])
    else:
        store.remove(name)
    words = "is missing" if damage == "removed" else "SHA-256"
    with pytest.raises(InputError, match=f"{store.root_uri}/{name} .*{words}") as error:
        load_shard(store, manifest, 0)
        load_shard(store, manifest, 1)
        load_assignment(store, manifest)
    assert "ingest` again" in str(error.value)


def test_id_maps_are_plain_parquet(tmp_path: Path) -> None:
    """They outlive this code: whoever has the output can read which id is which node, and who owns it."""
    here = (str(tmp_path), AWS)
    store, manifest = run(write_file(here, make_events(text=True)), here)
    table = pq.read_table(io.BytesIO(store.read(manifest.user_file)))
    assert table.schema == pa.schema([("user_id", pa.string()), ("node", pa.int64()), ("owner", pa.int16())])
    assert table["user_id"].to_pylist() == sorted({u for u, _ in make_events(text=True)})
