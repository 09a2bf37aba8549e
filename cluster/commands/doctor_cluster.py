"""`doctor --cluster`: whether the nodes of a Ray cluster can hold workers, and whether workers on them reach each other."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...distributed.partition.partition import Partition
from ...partitioning.errors import InputError
from ...workers import WorkerGroup, WorkerSettings, calling
from ...workers.connection import connect_to_ray
from ...workers.placement import placement_problem
from ...workers.shared_folder import check_folder, runs_on_a_cluster
from ..config.data_sections import Cluster
from ..config.schema import Config
from ..output.session import absolute, worker_settings
from ..reporting.software import package_versions

Checks = Sequence[tuple[str, Callable[[], tuple[bool, str]]]]
NODE_SECONDS = 60.0
"""How long a node may take to run one function: it starts a process for it."""
LITTLE = 0.001
"""The share of a CPU that a worker of the check asks for: workers of a run keep what they have."""
CLOCK_SECONDS = 5.0
"""So far the clocks of two nodes may be apart. Machines that ask a time server (NTP) are apart by milliseconds."""
PACKAGES = ("unlearnrec", "torch", "ray", "numpy", "pyarrow")
"""What must be the same everywhere: calls and shards travel between nodes."""


@contextmanager
def cluster_checks(config: Config | None) -> Iterator[Checks]:
    """The checks, each to be run once inside the `with` block, during which this process is connected to the cluster."""
    settings = config.cluster if config is not None else Cluster()
    if not runs_on_a_cluster(settings.address):
        yield [("cluster", _none_named)]
        return
    try:
        owns_ray = connect_to_ray(settings.address)
    except InputError as error:
        text = str(error)
        yield [("cluster", lambda: (False, text))]
        return
    try:
        checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
            ("cluster", _nodes),
            ("room", lambda: _room(settings)),
            ("versions on the nodes", _versions),
            ("clocks of the nodes", _clocks),
            ("workers on all nodes", lambda: _workers(settings)),
        ]
        if config is not None:
            checks.append(("output on the nodes", lambda: _output(config)))
        yield checks
    finally:
        if owns_ray:
            ray.shutdown()


def _none_named() -> tuple[bool, str]:
    return False, "none is named: set cluster.address (HOST:PORT, or auto) or RAY_ADDRESS"


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _nodes() -> tuple[bool, str]:
    found = [f"{node['NodeManagerAddress']} ({node['Resources'].get('CPU', 0):g} CPUs)" for node in _alive()]
    return True, f"{len(found)} nodes: {', '.join(sorted(found))}"


def _room(settings: Cluster) -> tuple[bool, str]:
    """Check that the workers fit on the nodes that are there; an autoscaler may add some."""
    problem = placement_problem([node["Resources"] for node in _alive()], worker_settings(settings))
    return problem is None, problem or f"{settings.partitions} workers fit"


def _versions() -> tuple[bool, str]:
    """Check that all nodes have the same versions of what travels between them."""
    task = ray.remote(num_cpus=0, max_retries=0)(_own_versions)
    asked = {
        node["NodeManagerAddress"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in _alive()
    }
    nodes: dict[str, list[str]] = defaultdict(list)
    for address, ref in asked.items():
        nodes[ray.get(ref, timeout=NODE_SECONDS)].append(address)
    if len(nodes) == 1:
        return True, f"the same on all: {next(iter(nodes))}"
    return False, "; ".join(f"{', '.join(addresses)}: {versions}" for versions, addresses in sorted(nodes.items()))


def _own_versions() -> str:
    return ", ".join(f"{name} {version or 'not installed'}" for name, version in package_versions(PACKAGES).items())


def _clocks() -> tuple[bool, str]:
    """Check that the clocks of all nodes agree with that of this machine."""
    task = ray.remote(num_cpus=0, max_retries=0)(_own_time)
    apart = {}
    for node in _alive():
        place = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        ray.get(place.remote(), timeout=NODE_SECONDS)  # the second answer comes without the start of a process
        before = time.time()
        there = ray.get(place.remote(), timeout=NODE_SECONDS)
        apart[node["NodeManagerAddress"]] = clock_difference(before, there, time.time())
    return clocks_agree(apart)


def _own_time() -> float:
    return time.time()


def clock_difference(before: float, there: float, after: float) -> float:
    """How many seconds another clock is ahead of this one at least (negative: behind), if it showed `there` at some moment
    between `before` and `after` of this one."""
    return there - after if there > after else min(0.0, there - before)


def clocks_agree(apart: Mapping[str, float]) -> tuple[bool, str]:
    """Whether clocks agree, and what there is to say. apart: by address, the seconds by which each is ahead."""
    wrong = {address: seconds for address, seconds in apart.items() if abs(seconds) > CLOCK_SECONDS}
    if not wrong:
        return True, f"apart by less than {CLOCK_SECONDS:g} s"
    found = ", ".join(
        f"{address} is {abs(s):.0f} s {'ahead' if s > 0 else 'behind'}" for address, s in sorted(wrong.items())
    )
    return False, (
        f"by the clock of this machine {found}: grace windows, deadlines, leases and the times in evidence would be wrong, "
        "and S3 refuses what is 15 minutes apart. Let all machines follow one time server (NTP)"
    )


def _workers(settings: Cluster) -> tuple[bool, str]:
    """Check that workers on all nodes reach each other and exchange rows, at the addresses that a run would take."""
    nodes = [node for node in _alive() if node["Resources"].get("CPU", 0) >= LITTLE]
    trial = WorkerSettings(
        num_partitions=len(nodes),
        cpus_per_worker=LITTLE,
        threads_per_worker=1,
        collective_timeout_seconds=min(30.0, settings.collective_timeout_seconds),
        network_interface=settings.network_interface,
        start_seconds=max(20.0, settings.start_seconds),
        spread=True,
    )
    with WorkerGroup.start(trial) as group:
        group.form()
        group.call(calling(Partition.check_exchange))
        return True, f"{len(nodes)} workers, one a node, exchanged rows at {', '.join(group.addresses)}"


def _output(config: Config) -> tuple[bool, str]:
    """Check that all nodes see a local output folder."""
    check_folder(absolute(config.output))
    return True, f"{config.output}: seen by all"
