"""The address at which a worker listens, and doors that open or do not."""

import socket
from dataclasses import replace

import pytest

from unlearnrec.partitioning.errors import InputError
from unlearnrec.workers import Kind, WorkerFailure, WorkerGroup, WorkerSettings
from unlearnrec.workers.network import Door, OpenDoor, one_a_node, own_address, unreached, unreached_text

MACHINE = [("lo", "127.0.0.1"), ("eth0", "10.0.0.5"), ("eth1", "fd00::5"), ("eth1", "192.168.7.5")]


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr("unlearnrec.workers.network.machine_addresses", lambda: MACHINE)


def test_the_address_is_rays_or_that_of_the_interface(machine):
    assert own_address(None, "10.0.0.5") == "10.0.0.5"
    assert own_address("eth1", "10.0.0.5") == "192.168.7.5"
    assert own_address("eth1", "fd00::5") == "fd00::5"
    assert own_address("192.168.0.0/16", "10.0.0.5") == "192.168.7.5"


def test_an_interface_that_is_not_there_is_named_with_those_that_are(machine):
    for wrong in ("eth9", "172.16.0.0/12"):
        with pytest.raises(InputError, match=rf"{wrong}.* node 10\.0\.0\.5 does not have \(lo 127\.0\.0\.1, eth0"):
            own_address(wrong, "10.0.0.5")
    with pytest.raises(InputError, match=r"203\.0\.113\.1, which is none of its addresses"):
        own_address(None, "203.0.113.1")


@pytest.fixture
def opened():
    """A worker's door on each of two nodes."""
    doors = [OpenDoor("127.0.0.1", node, f"10.0.0.{n}") for n, node in enumerate("ab", start=1)]
    yield doors
    for door in doors:
        door.close()


def test_doors_of_other_nodes_are_knocked_at_and_one_a_node_is_enough(opened):
    a, b = (each.door for each in opened)
    again = replace(b, port=1)  # nothing listens there; the node's first door speaks for it
    assert one_a_node({0: a, 1: b, 2: again}) == {0: a, 1: b}
    assert unreached(a, {0: a, 1: b, 2: again}, 5.0) == {}
    opened[1].close()
    assert unreached(a, {0: a, 1: b}, 0.3) == {1: "Connection refused"}
    assert unreached(b, {0: b}, 0.3) == {}


def test_somebody_else_at_the_same_address_is_not_the_worker(opened):
    """Each machine of many has the same address of a bridge, such as docker0's."""
    a, b = (each.door for each in opened)
    assert unreached(a, {0: a, 1: replace(b, port=a.port)}, 0.3) == {1: "something else answers there"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = unreached(a, {0: a, 1: replace(b, port=silent.getsockname()[1])}, 0.3)
    assert found == {1: "no answer"}


DOORS = {0: Door("172.17.0.1", 1, "x", "a", "10.0.0.1"), 1: Door("10.0.0.2", 2, "y", "b", "10.0.0.2")}


def test_the_message_has_both_addresses_and_what_to_set():
    text = unreached_text(DOORS, {1: {0: "Connection refused"}})
    assert (
        "worker 1 at 10.0.0.2 does not reach worker 0 at 172.17.0.1 (node 10.0.0.1), port 1: Connection refused" in text
    )
    assert "cluster.network_interface" in text
    many = {k: {0: "no answer"} for k in range(9)}
    assert "and 5 more pairs" in unreached_text(dict.fromkeys(range(9), DOORS[0]), many)


def test_a_network_that_never_carried_anything_is_set_up_wrongly_and_later_is_cut():
    group = WorkerGroup([], None, WorkerSettings(2), owns_ray=False)  # type: ignore[arg-type]
    answers = {"listen": list(DOORS.values()), "knock": [{}, {0: "no answer"}]}
    group._actors = [type("Actor", (), {"listen": Remote(), "knock": Remote()})() for _ in range(2)]
    group._collect = lambda method, *_: answers[method]  # type: ignore[method-assign]
    with pytest.raises(InputError, match="does not reach"):
        group._meet()
    group._met = True
    with pytest.raises(WorkerFailure, match="does not reach") as caught:
        group._meet()
    assert {k: cause.kind for k, cause in caught.value.causes.items()} == {1: Kind.TRANSIENT}
    answers["knock"] = [{}, {}]
    group._meet()
    assert group.addresses == ["172.17.0.1", "10.0.0.2"]


class Remote:
    def remote(self, *_: object) -> None:
        return None
