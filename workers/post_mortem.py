"""What Ray and the kernel of a machine tell of a worker's process after it has ended. All of it may stay unknown."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import ray
from ray.core.generated import common_pb2, gcs_pb2
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .memory import WorkerMemory, machine_memory

RECORD_SECONDS = 3.0
"""Ray has the record of an ended process a moment later than its error."""
ANSWER_SECONDS = 15.0


def ended_for_memory(seen: WorkerMemory | None) -> str | None:
    """What Ray says of a process that its monitor of the memory ended; None for any other end, or where it is not known.

    A worker that Ray starts again does not get `OutOfMemoryError`: its calls say only that it was started again. The reason
    is in Ray's record of the process, which has no public function without a dashboard. So every error means unknown.
    """
    if seen is None or not seen.process:
        return None
    deadline = time.monotonic() + RECORD_SECONDS
    while True:
        record: Any = None
        with contextlib.suppress(Exception):
            record = _record(seen.process)
        if record is None:
            return None
        if not record.is_alive:
            exit_types: Any = common_pb2
            out = record.exit_type == exit_types.WorkerExitType.Value("NODE_OUT_OF_MEMORY")
            return " ".join(str(record.exit_detail).split())[:300] if out else None
        if time.monotonic() > deadline:
            return None
        time.sleep(0.1)


def _record(process: str) -> Any:
    """Ray's record of a process, by its id in hexadecimal; None where there is none."""
    from ray._private.state import state

    messages: Any = gcs_pb2  # generated: mypy does not see what it holds
    table: Any = state._connect_and_get_accessor().get_worker_table()
    records = (messages.WorkerTableData.FromString(row) for row in table)
    return next((record for record in records if record.worker_address.worker_id.hex() == process), None)


def oom_kills_of(seen: WorkerMemory | None) -> int | None:
    """How many processes the kernel has ended for want of memory on the machine that a worker was last seen on, now. None
    where the machine is gone, does not answer, or does not count them."""
    if seen is None or not seen.node or seen.machine.oom_kills is None:
        return None
    if not any(node["NodeID"] == seen.node and node["Alive"] for node in ray.nodes()):
        return None
    task = ray.remote(num_cpus=0, max_retries=0)(machine_memory)
    try:
        ref = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(seen.node, soft=False)).remote()
        return ray.get(ref, timeout=ANSWER_SECONDS).oom_kills
    except (RayError, GetTimeoutError):
        return None
