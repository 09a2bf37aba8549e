"""A local `output` that not all machines of a cluster see is refused before anything is written."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.output.session import Session
from unlearnrec.partitioning.errors import InputError
from unlearnrec.workers import shared_folder
from unlearnrec.workers.connection import connect_to_ray
from unlearnrec.workers.shared_folder import check_folder, check_folder_on_cluster, unseen_by


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """Two other machines, each of which sees its own folder in the place of `/shared`."""
    roots: dict[str, Path] = {}

    def ask(marker: str, nodes: list[str]) -> dict[str, bool]:
        return {node: os.path.exists(roots[node] / os.path.basename(marker)) for node in nodes if node in roots}

    monkeypatch.setattr(shared_folder, "other_nodes", lambda: {"a": "10.0.0.1", "b": "10.0.0.2"})
    monkeypatch.setattr(shared_folder, "_ask", ask)
    yield roots


def test_a_folder_that_some_do_not_see_is_refused_and_left_as_it_is(cluster: dict[str, Path], tmp_path: Path) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir(), other.mkdir()
    cluster |= {"a": here, "b": other}
    with pytest.raises(InputError, match=r"machines 10\.0\.0\.2 of the Ray cluster do not see the folder .*here/run"):
        check_folder(str(here / "run"))
    assert not list(here.iterdir())
    cluster["b"] = here
    check_folder(str(here / "run"))
    assert not list(here.iterdir())


def test_what_everybody_sees_is_not_asked_for(cluster: dict[str, Path]) -> None:
    check_folder("s3://bucket/run")
    check_folder_on_cluster("s3://bucket/run", "10.0.0.1:6379")


def test_a_machine_that_does_not_answer_is_not_blamed() -> None:
    assert unseen_by("f", {"a": "x", "b": "y"}, lambda file, nodes: {"a": True}) == []


def test_workers_are_told_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = Session(parse_config({"interactions": "x", "output": "runs/one"}))
    assert session.location.root_uri == str(tmp_path / "runs" / "one")
    assert Session(parse_config({"interactions": "x", "output": str(tmp_path)})).location.root_uri == str(tmp_path)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_not_there_is_named_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InputError, match=rf"no Ray cluster answers at '{scheme}127\.0\.0\.1:{port}'"):
        connect_to_ray(f"{scheme}127.0.0.1:{port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(InputError, match="RAY_ADDRESS"):
        connect_to_ray(None)
