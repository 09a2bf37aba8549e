"""`doctor --cluster` on one node, on a cluster that is not there, and on none. On several nodes: test_machines.py."""

import socket
from pathlib import Path

import pytest

from unlearnrec.cluster.commands.doctor_cluster import clock_difference, clocks_agree, cluster_checks
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
    nodes = ["versions on the nodes", "clocks of the nodes", "workers on all nodes", "output on the nodes"]
    assert list(found) == ["cluster", "room", *nodes]
    ok, detail = found.pop("room")
    assert not ok and "cluster.partitions = 9" in detail
    assert all(ok for ok, _ in found.values()), found
    assert found["cluster"][1].startswith("1 nodes: ") and "(4 CPUs)" in found["cluster"][1]
    assert "torch" in found["versions on the nodes"][1]


def test_a_clock_that_is_wrong_is_named():
    assert clock_difference(100.0, 100.2, 100.5) == 0.0  # it may have been asked at any moment
    assert clock_difference(100.0, 101.0, 100.5) == 0.5 and clock_difference(100.0, 99.0, 100.5) == -1.0
    assert clocks_agree({"10.0.0.1": 0.0, "10.0.0.2": -4.9})[0]
    ok, detail = clocks_agree({"10.0.0.1": 0.2, "10.0.0.2": 3600.0, "10.0.0.3": -61.0})
    assert not ok and "10.0.0.2 is 3600 s ahead, 10.0.0.3 is 61 s behind" in detail and "10.0.0.1" not in detail
