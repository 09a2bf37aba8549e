"""The store: atomic writes and exclusive creation, on a local disk and on a real S3 server."""

import threading
import time
from pathlib import Path

import pytest

from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.files import is_temporary
from unlearnrec.partitioning.storage import StorageOptions, Store, filesystem_for


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "deep" / "root"))
    options: StorageOptions = request.getfixturevalue("s3_server")
    return Store(f"s3://lake/{tmp_path.name}", options)


def test_files_come_back(store: Store) -> None:
    assert store.list() == [] and store.list("graph") == [] and not store.exists("graph/b")
    store.write("graph/b", b"1")
    store.write("graph/b", b"2")
    store.create("graph/deep/a", b"")
    store.create("graphs", b"not in the folder")
    assert store.read("graph/b") == b"2" and store.read("graph/deep/a") == b""
    assert store.list("graph") == ["graph/b", "graph/deep/a"]
    assert store.list() == ["graph/b", "graph/deep/a", "graphs"]
    assert store.list("graphs") == []  # no folder, though a file has the name
    assert store.exists("graph/b") and not store.exists("graph")
    store.remove("graph/b")
    assert store.list("graph/") == ["graph/deep/a"]
    for act in (store.read, store.remove):
        with pytest.raises(FileNotFoundError):
            act("graph/b")


def test_listing_sees_another_writer_at_once(store: Store) -> None:
    assert store.list("log") == []
    Store(store.root_uri, store.options).write("log/1", b"x")
    assert store.list("log") == ["log/1"]


def test_second_creator_loses(store: Store) -> None:
    store.create("log/1", b"first")
    with pytest.raises(FileExistsError):
        store.create("log/1", b"second")
    assert store.read("log/1") == b"first"
    store.check()
    assert store.list() == ["log/1"]


def test_one_of_many_creators_wins(store: Store) -> None:
    outcomes: list[int] = []
    start = threading.Barrier(8)

    def race(me: int) -> None:
        start.wait()
        try:
            store.create("log/7", f"writer {me}".encode())
        except FileExistsError:
            return
        outcomes.append(me)

    threads = [threading.Thread(target=race, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert store.read("log/7") == f"writer {outcomes[0]}".encode()


def test_a_repeated_put_of_the_same_bytes_is_success_on_s3(s3_server: StorageOptions, tmp_path: Path) -> None:
    store = Store(f"s3://lake/{tmp_path.name}", s3_server)
    store.create("log/1", b"nonce-of-this-writer")
    store.create("log/1", b"nonce-of-this-writer")


def test_a_crash_between_write_and_link_leaves_the_name_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.link", power_cut)
        with pytest.raises(KeyboardInterrupt):
            store.create("log/1", b"lost")
    store.create("log/1", b"kept")
    assert store.read("log/1") == b"kept"


def test_temporary_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123").write_bytes(b"left by a crash")
    assert Store(str(tmp_path)).list() == []


def test_check_refuses_a_store_without_exclusive_creation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    monkeypatch.setattr(store, "create", store.write)
    with pytest.raises(InputError, match="If-None-Match"):
        store.check()
    assert store.list() == []


def test_check_names_a_root_that_cannot_be_written(tmp_path: Path, s3_server: StorageOptions) -> None:
    (tmp_path / "file").touch()
    for root in (str(tmp_path / "file" / "root"), "s3://no-such-bucket/x"):
        with pytest.raises(InputError, match=root):
            Store(root, s3_server).check()


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3://", "delta:///x"])
def test_unknown_locations_are_refused(uri: str) -> None:
    with pytest.raises(InputError, match="s3://bucket/prefix"):
        Store(uri)
    with pytest.raises(InputError, match="s3://bucket/prefix"):
        filesystem_for(uri, StorageOptions())


@pytest.mark.parametrize("uri", ["s3://lake//run", "s3://lake/a//b"])
def test_a_prefix_with_an_empty_part_is_refused(uri: str) -> None:
    """It can be written to, and every listing of it is empty."""
    with pytest.raises(InputError, match="two slashes"):
        Store(uri)
    with pytest.raises(InputError, match="two slashes"):
        filesystem_for(uri, StorageOptions())


def test_tables_are_not_read_below_the_path_of_an_endpoint() -> None:
    """pyarrow knows host and port only: it would look for them elsewhere."""
    options = StorageOptions("https://ref.supabase.co/storage/v1/s3")
    with pytest.raises(InputError, match=r"s3://lake/x: storage\.endpoint_url .* without the path /storage/v1/s3\."):
        filesystem_for("s3://lake/x", options)
    assert filesystem_for("/x", options)[1] == "/x"
    assert filesystem_for("s3://lake/x", StorageOptions("http://localhost:9000/"))[1] == "lake/x"


def test_markers_of_folders_are_no_files(s3_server: StorageOptions, tmp_path: Path) -> None:
    """Consoles and some tools leave an empty object whose key ends with a slash."""
    store = Store(f"s3://lake/{tmp_path.name}", s3_server)
    store.write("log/1", b"x")
    for folder in ("", "log/", "requests/", "deep/er/"):
        store._files.fs.call_s3("put_object", Bucket="lake", Key=f"{tmp_path.name}/{folder}")
    assert store.list("log") == store.list() == ["log/1"]
    assert store.list("requests") == store.list("deep") == []
    assert store.details().keys() == {"log/1"} and not store.details("requests")


def test_size_and_time_of_a_file(store: Store) -> None:
    before = time.time()
    store.write("graph/b", b"four")
    store.write("graph/.tmp-1", b"a write that did not end")
    found = store.details("graph/")
    assert list(found) == list(store.details()) == ["graph/.tmp-1", "graph/b"] and not store.details("log")
    assert list(filter(is_temporary, found)) == ["graph/.tmp-1"] and store.list() == ["graph/b"]
    assert found["graph/b"] == (4, store.modified("graph/b"))
    assert before - 2 <= found["graph/b"].modified <= time.time() + 2  # S3 tells whole seconds
    with pytest.raises(FileNotFoundError):
        store.modified("graph/a")
