"""Where the workers run: the check that they fit, and their placement group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from ..distributed.environment import EXCHANGE_DTYPE, HUGE_PAGES
from ..partitioning.errors import InputError
from .connection import is_own_ray


class NoRoom(InputError):
    """The cluster has no room for the workers: it is too small, or other jobs hold what is needed."""


@dataclass(frozen=True)
class WorkerSettings:
    """What the workers are: the settings of the section `cluster` that each of them, or all of them, are started
    with."""

    num_partitions: int
    """One worker each."""
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    threads_per_worker: int | None = None
    """OMP_NUM_THREADS of a worker; None: as many as it has CPUs, at least one."""
    collective_timeout_seconds: float = 60.0
    """A collective that does not end within this time fails, and so does a worker whose control methods stay silent."""
    exchange_dtype: str = "float32"
    """How rows of embeddings travel: "float32" or "bfloat16"."""
    network_interface: str | None = None
    """The interface, or the network, over which workers talk to each other; None: the address by which Ray knows a node."""
    start_seconds: float = 20.0
    """How long to wait for room: for earlier runs to let go of theirs, or for nodes that an autoscaler starts."""
    spread: bool = False
    """One worker a node, instead of as few nodes as possible."""

    @property
    def resources(self) -> dict[str, float]:
        """What Ray reserves for one worker, by Ray's names; without those that it does not need."""
        wanted = {"CPU": float(self.cpus_per_worker), "GPU": float(self.gpus_per_worker)}
        return {name: each for name, each in wanted.items() if each or name == "CPU"}

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a worker."""
        threads = self.threads_per_worker or max(1, int(self.cpus_per_worker))
        variables = {"OMP_NUM_THREADS": str(threads), EXCHANGE_DTYPE: self.exchange_dtype, **HUGE_PAGES}
        if not self.gpus_per_worker:
            # Ray hides no GPU from an actor that asked for none, and NCCL refuses two ranks on one.
            variables["CUDA_VISIBLE_DEVICES"] = ""
        elif self.network_interface and "/" not in self.network_interface:
            variables["NCCL_SOCKET_IFNAME"] = (
                f"={self.network_interface}"  # NCCL chooses by itself; "=": this very name
            )
        return variables


def placement_problem(nodes: Sequence[Mapping[str, float]], settings: WorkerSettings) -> str | None:
    """Why the workers do not fit on machines with these resources, or None if they do. A pure function. A worker needs
    all of its resources on one machine."""
    num_partitions = settings.num_partitions
    wanted = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
    setting = {"CPU": "cluster.cpus_per_worker", "GPU": "cluster.gpus_per_worker"}
    for name, each in wanted.items():
        total, largest = sum(n.get(name, 0) for n in nodes), max((n.get(name, 0) for n in nodes), default=0)
        if num_partitions * each > total:
            return (
                f"cluster.partitions = {num_partitions} with {setting[name]} = {each:g} needs "
                f"{num_partitions * each:g} {name}s, the Ray cluster has {total:g}: lower cluster.partitions or "
                f"{setting[name]}"
            )
        if each > largest:
            return f"{setting[name]} = {each:g}, but no machine has more than {largest:g} {name}s"
    # Ray counts in 1/10000: of .1 CPUs ten make one, which .1 * 10 does not quite.
    rooms = [min(int(n.get(name, 0) / each + 1e-4) for name, each in wanted.items() if each > 0) for n in nodes]
    holds = " and ".join(f"{setting[name]} = {each:g}" for name, each in wanted.items())
    if settings.spread and (machines := sum(map(bool, rooms))) < num_partitions:
        return (
            f"cluster.partitions = {num_partitions} with cluster.spread needs as many machines that each hold a worker with "
            f"{holds}, the Ray cluster has {machines}: lower cluster.partitions, or set cluster.spread=false"
        )
    if sum(rooms) < num_partitions:
        return (
            f"cluster.partitions = {num_partitions}, but only {sum(rooms)} workers with {holds} fit on whole machines"
        )
    return None


def make_placement_group(settings: WorkerSettings) -> PlacementGroup:
    """Reserve one bundle of resources per worker, on as few machines as possible, or each on another with `spread`.

    On a cluster, where nodes may still come, the group waits for them; an autoscaler sees what it waits for.

    Raises:
        NoRoom: a Ray that this process started is too small; after `start_seconds` where a cluster is still too small,
            or where other jobs hold what is needed.
    """
    if is_own_ray() and (problem := _present_problem(settings)):
        raise NoRoom(problem)
    strategy = "STRICT_SPREAD" if settings.spread else "PACK"
    group = placement_group([settings.resources] * settings.num_partitions, strategy=strategy)
    if group.wait(settings.start_seconds):
        return group
    remove_placement_group(group)
    if problem := _present_problem(settings):
        raise NoRoom(
            f"{problem}. Waited {settings.start_seconds:g} s for more machines; where they take longer to start, raise "
            "cluster.start_seconds"
        )
    free, total = ray.available_resources(), ray.cluster_resources()
    raise NoRoom(
        f"cluster.partitions = {settings.num_partitions} with cluster.cpus_per_worker = {settings.cpus_per_worker:g} and "
        f"cluster.gpus_per_worker = {settings.gpus_per_worker:g}: other jobs held too much of the Ray cluster for "
        f"{settings.start_seconds:g} s; free are {free.get('CPU', 0):g} of {total.get('CPU', 0):g} CPUs and "
        f"{free.get('GPU', 0):g} of {total.get('GPU', 0):g} GPUs. Wait (longer with cluster.start_seconds), or lower "
        "cluster.partitions"
    )


def _present_problem(settings: WorkerSettings) -> str | None:
    """`placement_problem` with the nodes that are there now."""
    return placement_problem([node["Resources"] for node in ray.nodes() if node["Alive"]], settings)
