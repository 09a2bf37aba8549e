"""Where the workers run: the connection to Ray, the check that they fit, and their placement group."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from ..partitioning.errors import InputError

FREE_GRACE_SECONDS = 20.0  # an earlier run on the same cluster may need this long to let go of its CPUs


def connect(address: str | None) -> bool:
    """Connect to Ray unless this process already is; True if it was us, who then must also disconnect.

    `address`, else the environment's RAY_ADDRESS (set inside `ray job submit` and on KubeRay), else a local Ray of our
    own: never just any cluster that happens to run on this machine.

    Raises:
        InputError: nothing answers at the address.
    """
    if ray.is_initialized():
        return False
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": False} if target == "local" else {}
    try:
        ray.init(address=target, log_to_driver=False, logging_level=logging.WARNING, **local)
    except ConnectionError as error:
        raise InputError(
            f"cluster.address: no Ray cluster answers at {target!r} ({error}); null starts a local one"
        ) from None
    return True


def misfit(
    nodes: Sequence[Mapping[str, float]], num_partitions: int, cpus_per_worker: float, gpus_per_worker: float
) -> str | None:
    """Why the workers cannot fit on machines with these resources (pure); None if they do. No worker is split."""
    wanted = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
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
            f"{cpus_per_worker:g} and cluster.gpus_per_worker = {gpus_per_worker:g} fit on whole machines"
        )
    return None


def place(num_partitions: int, cpus_per_worker: float, gpus_per_worker: float) -> PlacementGroup:
    """One bundle per worker, as close together as they fit.

    Raises:
        InputError: at once when the cluster is too small; after FREE_GRACE_SECONDS when other jobs hold what is needed.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if problem := misfit(nodes, num_partitions, cpus_per_worker, gpus_per_worker):
        raise InputError(problem)
    bundle = {"CPU": float(cpus_per_worker)} | ({"GPU": float(gpus_per_worker)} if gpus_per_worker else {})
    group = placement_group([bundle] * num_partitions, strategy="PACK")
    if group.wait(FREE_GRACE_SECONDS):
        return group
    remove_placement_group(group)
    free, total = ray.available_resources(), ray.cluster_resources()
    raise InputError(
        f"cluster.partitions = {num_partitions} with cluster.cpus_per_worker = {cpus_per_worker:g} and "
        f"cluster.gpus_per_worker = {gpus_per_worker:g}: other jobs held too much of the Ray cluster for "
        f"{FREE_GRACE_SECONDS:g} s; free are {free.get('CPU', 0):g} of {total.get('CPU', 0):g} CPUs and "
        f"{free.get('GPU', 0):g} of {total.get('GPU', 0):g} GPUs. Wait, or lower cluster.partitions"
    )
