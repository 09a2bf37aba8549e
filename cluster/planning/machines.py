"""The machines that workers may run on, and whether planned workers have room on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.client import ray as ray_client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...workers.connection import connect_to_ray
from ...workers.memory import MachineMemory, machine_memory
from ...workers.shared_folder import runs_on_a_cluster
from ..reporting.software import usable_cpus

ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Machine:
    """A machine: its name for messages, its memory, and how many CPUs its workers may have. `runs_command`: whether the
    command's own process runs there."""

    name: str
    memory: MachineMemory
    cpus: float
    runs_command: bool


def this_machine() -> Machine:
    """The machine of this process, on which Ray will be started."""
    return Machine("this machine", machine_memory(), usable_cpus(), runs_command=True)


def ray_machines() -> list[Machine]:
    """The nodes of the Ray cluster that this process is connected to. A node that does not answer is left out."""
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    own = None if ray_client.is_connected() else ray.get_runtime_context().get_node_id()
    task = ray.remote(num_cpus=0, max_retries=0)(machine_memory)
    refs = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
        if node != own
    }
    found = []
    for node, about in nodes.items():
        try:
            memory = machine_memory() if node == own else ray.get(refs[node], timeout=ANSWER_SECONDS)
        except (RayError, GetTimeoutError):
            continue
        cpus = about["Resources"].get("CPU", 0.0)
        found.append(Machine(about["NodeManagerAddress"], memory, cpus, runs_command=node == own))
    return found


def machines_of(address: str | None) -> list[Machine]:
    """The machines of the cluster at an address, to which this process connects for the while; without one this machine.

    Raises:
        InputError: no cluster answers.
    """
    if not runs_on_a_cluster(address):
        return [this_machine()]
    owns_ray = connect_to_ray(address)
    try:
        return ray_machines()
    finally:
        if owns_ray:
            ray.shutdown()


def missing_bytes(
    machines: Sequence[Machine], workers: Sequence[float], cpus_per_worker: float, overhead: Mapping[bool, float]
) -> tuple[float, Machine | None]:
    """(the bytes that are missing where they are missed most, that machine); (0, None) if all workers find room.

    workers: bytes of each. overhead: bytes that a machine needs besides its workers, by whether the command runs there. A
    machine takes as many workers as its CPUs allow; the largest are placed first, each where most memory is left. Ray does
    not look at memory when it places them, and may place them worse: then this says too little, and never too much.
    """
    left = [machine.memory.usable - overhead[machine.runs_command] for machine in machines]
    slots = [int(machine.cpus / cpus_per_worker + 1e-4) if cpus_per_worker else len(workers) for machine in machines]
    if sum(slots) < len(workers):
        slots = [len(workers)] * len(machines)  # too few CPUs are another error, which placement tells
    for size in sorted(workers, reverse=True):
        k = max((k for k in range(len(machines)) if slots[k] > 0), key=lambda k: left[k])
        left[k] -= size
        slots[k] -= 1
    worst = min(range(len(machines)), key=lambda k: left[k])
    return (-left[worst], machines[worst]) if left[worst] < 0 else (0.0, None)
