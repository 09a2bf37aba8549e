"""Over which address a worker talks to the others, and whether the others reach it there.

Ray only tells which address it knows a node by. The workers' own connections (the store, gloo) go to any free port of
that address, or of the interface that `cluster.network_interface` names. A door is a listening socket at such a port:
before a generation forms, each worker knocks at one door of every other node, so that an address that does not lead
there is found within seconds and named, and not at the time-out of a collective.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from ..partitioning.errors import InputError

KNOCK_SECONDS = 5.0
"""How long a worker tries one door before the first generation. Later ones wait as long as a collective: a network that
was cut may come back."""
SLOW_LOOK_UP_SECONDS = 2.0
"""A look-up of one name that takes longer is told."""
SHOWN = 4
"""How many pairs of workers a message names."""


@dataclass(frozen=True)
class Door:
    """Where a worker listens while a generation forms. `token` is what it says to whoever knocks; `node` is the id of its
    Ray node, and `node_address` the address by which Ray knows that node."""

    address: str
    port: int
    token: str
    node: str
    node_address: str
    look_up_seconds: float = 0.0
    """How long the name servers of the machine let the worker wait."""

    @property
    def place(self) -> str:
        """The address, with that of the node where it is another one."""
        return self.address + (f" (node {self.node_address})" if self.node_address != self.address else "")


class OpenDoor:
    """A listening socket at one address, on a free port, that says its token to everybody who connects. Close it."""

    def __init__(self, address: str, node: str, node_address: str) -> None:
        self._listener = socket.create_server((address, 0), family=family_of(address))
        port: int = self._listener.getsockname()[1]
        self.door = Door(address, port, uuid.uuid4().hex, node, node_address)
        threading.Thread(target=self._answer, name="door", daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            with caller, contextlib.suppress(OSError):
                caller.sendall(self.door.token.encode())

    def close(self) -> None:
        """Listen no more. May be called twice."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # else accept() goes on
        self._listener.close()


def family_of(address: str) -> socket.AddressFamily:
    """IPv4 or IPv6, by the form of the address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def own_address(interface: str | None, node_address: str) -> str:
    """The address at which this process's worker listens: `node_address`, or the one that `cluster.network_interface`
    chooses on this machine.

    interface: the name of an interface such as eth1, or a network such as 10.0.0.0/16; None: `node_address`.

    Raises:
        InputError: this machine has no such interface, or `node_address` is none of its addresses.
    """
    addresses = machine_addresses()
    listed = ", ".join(f"{name} {address}" for name, address in addresses)
    if interface is None:
        if not any(address == node_address for _, address in addresses):
            raise InputError(
                f"Ray knows this machine by {node_address}, which is none of its addresses ({listed}): set "
                "cluster.network_interface to the interface, or the network, that the nodes share"
            )
        return node_address
    chosen = _chosen(interface, addresses)
    if node_address in chosen:
        return node_address
    if not chosen:
        raise InputError(
            f"cluster.network_interface: got {interface!r}, which the node {node_address} does not have ({listed}). Give "
            "the name of an interface that all nodes have, or a network such as 10.0.0.0/16"
        )
    return chosen[0]


def _chosen(interface: str, addresses: list[tuple[str, str]]) -> list[str]:
    """The addresses that `interface` means, IPv4 first."""
    try:
        network = ipaddress.ip_network(interface)
    except ValueError:
        found = [address for name, address in addresses if name == interface]
    else:
        found = [address for _, address in addresses if ipaddress.ip_address(address) in network]
    return sorted(found, key=lambda address: ":" in address)


def machine_addresses() -> list[tuple[str, str]]:
    """(interface, address) of this machine, without link-local IPv6 addresses."""
    families = (socket.AF_INET, socket.AF_INET6)
    return [
        (name, entry.address)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family in families and "%" not in entry.address
    ]


def one_a_node(doors: Mapping[int, Door]) -> dict[int, Door]:
    """The first worker's door on each node."""
    first: dict[str, int] = {}
    for k in sorted(doors):
        first.setdefault(doors[k].node, k)
    return {k: doors[k] for k in first.values()}


def unreached(own: Door, doors: Mapping[int, Door], seconds: float) -> dict[int, str]:
    """Which workers' doors on other nodes do not open for this one within so many seconds, with the reason."""
    others = {k: door for k, door in one_a_node(doors).items() if door.node != own.node}
    if not others:
        return {}
    with ThreadPoolExecutor(min(16, len(others))) as pool:
        reasons = pool.map(lambda door: _knock(door, seconds), others.values())
        return {k: reason for k, reason in zip(others, reasons, strict=True) if reason is not None}


def _knock(door: Door, seconds: float) -> str | None:
    """Why the door does not open; None if it does. Tried again until the time is over."""
    end = time.monotonic() + seconds
    while True:
        left = max(0.1, end - time.monotonic())
        try:
            limit = min(left, KNOCK_SECONDS)
            with socket.create_connection((door.address, door.port), limit) as knock:
                knock.settimeout(limit)
                said = knock.recv(64, socket.MSG_WAITALL).decode(errors="replace")
            if said == door.token:
                return None
            reason = "something else answers there"
        except OSError as error:
            reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        if time.monotonic() >= end:
            return reason
        time.sleep(0.2)


def slow_look_ups_text(doors: Mapping[int, Door]) -> str | None:
    """What to say of machines whose name servers let workers wait; None where none did."""
    slow = {
        door.node_address: door.look_up_seconds
        for door in doors.values()
        if door.look_up_seconds > SLOW_LOOK_UP_SECONDS
    }
    if not slow:
        return None
    found = ", ".join(f"{seconds:.0f} s on {address}" for address, seconds in sorted(slow.items()))
    return f"name servers (DNS) let the workers wait when they started: {found}; see /etc/resolv.conf there"


def unreached_text(doors: Mapping[int, Door], found: Mapping[int, Mapping[int, str]]) -> str:
    """The message about doors that did not open. found: of each worker that knocked in vain, `unreached`'s answer."""
    pairs = [(k, other, reason) for k in sorted(found) for other, reason in sorted(found[k].items())]
    lines = [
        f"worker {k} at {doors[k].place} does not reach worker {other} at {doors[other].place}, port "
        f"{doors[other].port}: {reason}"
        for k, other, reason in pairs[:SHOWN]
    ]
    if len(pairs) > SHOWN:
        lines.append(f"and {len(pairs) - SHOWN} more pairs of workers")
    return (
        ";\n".join(lines)
        + ".\nRay's own connections work, but workers also talk to each other directly, over TCP on any "
        "free port. Set cluster.network_interface to the interface, or the network (such as 10.0.0.0/16), over which the "
        "nodes reach each other, or open the firewall between them; `unlearnrec doctor --cluster` checks it"
    )
