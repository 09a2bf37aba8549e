"""`doctor --cluster` on one node, on a cluster that is not there, and on none. On several nodes: test_machines.py."""

import socket
from pathlib import Path

import pytest

from unlearnrec.cluster.commands.doctor_cluster import cluster_checks
from unlearnrec.cluster.config.schema import parse_config


def results(config):
    with cluster_checks(config) as found:
        return {name: check() for name, check in found}


def config_of(folder: Path, **cluster):
    return parse_config({"interactions": "x", "output": str(folder / "run"), "cluster": cluster})


def test_a_cluster_must_be_named(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert results(None) == {
        "cluster": (False, "none is named: set cluster.address (HOST:PORT, or auto) or RAY_ADDRESS")
    }


def test_a_cluster_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ((ok, detail),) = results(config_of(tmp_path, address=f"127.0.0.1:{port}")).values()
    assert not ok and f"no Ray cluster answers at '127.0.0.1:{port}'" in detail


@pytest.mark.usefixtures("ray_session")
def test_the_nodes_of_a_cluster_are_checked(tmp_path):
    found = results(config_of(tmp_path, address="auto", partitions=9))
    assert list(found) == ["cluster", "room", "versions on the nodes", "workers on all nodes", "output on the nodes"]
    ok, detail = found.pop("room")
    assert not ok and "cluster.partitions = 9" in detail
    assert all(ok for ok, _ in found.values()), found
    assert found["cluster"][1].startswith("1 nodes: ") and "(4 CPUs)" in found["cluster"][1]
    assert "torch" in found["versions on the nodes"][1]
