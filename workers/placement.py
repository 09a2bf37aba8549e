"""Where the workers run: the connection to Ray, the check that the workers fit, and their placement group."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from ..distributed.environment import EXCHANGE_DTYPE, HUGE_PAGES
from ..partitioning.errors import InputError

REACH_SECONDS = 5.0
FREE_GRACE_SECONDS = 20.0  # an earlier run on the same cluster may need this long to let go of its CPUs


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
        return variables


def connect_to_ray(address: str | None) -> bool:
    """Connect to Ray, unless this process is connected. Returns whether it connected: the caller must then disconnect.

    The cluster is the one at `address`, else at the environment variable RAY_ADDRESS (set inside `ray job submit` and
    on KubeRay), else a new local one. A cluster that happens to run on this machine is never taken.

    Raises:
        InputError: nothing answers at the address.
    """
    if ray.is_initialized():
        return False
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": False} if target == "local" else {}
    _check_reachable(target)
    try:
        ray.init(address=target, log_to_driver=False, logging_level=logging.WARNING, **local)
    except ConnectionError as error:
        raise InputError(
            f"cluster.address: no Ray cluster answers at {target!r} ({error}); null starts a local one"
        ) from None
    return True


def _check_reachable(target: str) -> None:
    """Raise InputError where nothing listens at HOST:PORT or ray://HOST:PORT: Ray itself would wait for many minutes."""
    host, colon, port = target.removeprefix("ray://").rpartition(":")
    if "://" in host or not colon or not port.isdecimal():
        return  # "auto" and "local", which Ray looks up itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"cluster.address: no Ray cluster answers at {target!r} ({error.strerror or error}; also RAY_ADDRESS in the "
            "environment). Start it, name another one, or leave both out for Ray on this machine"
        ) from None


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
    room = sum(min(int(n.get(name, 0) // each) for name, each in wanted.items() if each > 0) for n in nodes)
    if room < num_partitions:
        return (
            f"cluster.partitions = {num_partitions}, but only {room} workers with cluster.cpus_per_worker = "
            f"{settings.cpus_per_worker:g} and cluster.gpus_per_worker = {settings.gpus_per_worker:g} fit on whole machines"
        )
    return None


def make_placement_group(settings: WorkerSettings) -> PlacementGroup:
    """Reserve one bundle of resources per worker, on as few machines as possible.

    Raises:
        InputError: at once when the cluster is too small; after FREE_GRACE_SECONDS when other jobs hold what is needed.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if problem := placement_problem(nodes, settings):
        raise InputError(problem)
    group = placement_group([settings.resources] * settings.num_partitions, strategy="PACK")
    if group.wait(FREE_GRACE_SECONDS):
        return group
    remove_placement_group(group)
    free, total = ray.available_resources(), ray.cluster_resources()
    raise InputError(
        f"cluster.partitions = {settings.num_partitions} with cluster.cpus_per_worker = {settings.cpus_per_worker:g} and "
        f"cluster.gpus_per_worker = {settings.gpus_per_worker:g}: other jobs held too much of the Ray cluster for "
        f"{FREE_GRACE_SECONDS:g} s; free are {free.get('CPU', 0):g} of {total.get('CPU', 0):g} CPUs and "
        f"{free.get('GPU', 0):g} of {total.get('GPU', 0):g} GPUs. Wait, or lower cluster.partitions"
    )
