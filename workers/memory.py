"""Memory of a machine and of a worker's process, as the kernel tells it, and what it says of a process that died.

A container has less than its machine: limits of control groups count (both of their versions), of the own group and of those
above it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
RAY_THRESHOLD = 0.95
"""The share of a machine's memory above which Ray ends workers, unless RAY_memory_usage_threshold says otherwise."""
_THRESHOLD, _REFRESH = "RAY_memory_usage_threshold", "RAY_memory_monitor_refresh_ms"  # Ray's own spelling
LEAST_FREE = 0.05
"""A worker that died while less than this share of the machine's memory was free is taken to have died for want of it."""
_UNLIMITED = 2**60
"""Control groups without a limit tell a number near 2**63."""


@dataclass(frozen=True)
class MachineMemory:
    """Memory of a machine, or of the container that limits it, in bytes.

    `available` is what a process may still claim before others have to give something up; caches of files are not counted as
    used. `oom_kills` counts the processes that the kernel has ended for want of memory; None where it does not tell.
    """

    limit: int
    available: int
    oom_kills: int | None = None

    @property
    def usable(self) -> int:
        """What may be claimed before Ray ends workers."""
        return max(0, self.available - int((1 - ray_threshold()) * self.limit))


@dataclass(frozen=True)
class WorkerMemory:
    """What a worker reports of itself: Ray's ids of its node and process, the bytes it holds, and its machine."""

    node: str
    process: str
    held: int
    machine: MachineMemory


@dataclass(frozen=True)
class PlannedMemory:
    """What a run was planned to need: bytes of a worker at its peak, and the sentence that says which setting to change."""

    worker: int
    remedy: str


def ray_threshold() -> float:
    """The share of the memory that Ray's monitor lets be used; 1 where it is switched off."""
    with contextlib.suppress(ValueError):
        if float(os.environ.get(_REFRESH, "250")) == 0:
            return 1.0
        return float(os.environ.get(_THRESHOLD, RAY_THRESHOLD))
    return RAY_THRESHOLD


def machine_memory(root: Path = Path("/")) -> MachineMemory:
    """The memory of the machine on which this process runs. root: where /proc and /sys lie, for tests."""
    host = _numbers(root / "proc/meminfo", 1024)
    if "MemTotal" not in host:  # no Linux
        import psutil

        memory = psutil.virtual_memory()
        return MachineMemory(memory.total, memory.available)
    limit, available = host["MemTotal"], host.get("MemAvailable", host.get("MemFree", 0))
    kills = _numbers(root / "proc/vmstat").get("oom_kill")
    for group_limit, used, group_kills in _control_groups(root):
        if group_limit < host["MemTotal"]:
            limit, available = min(limit, group_limit), min(available, max(0, group_limit - used))
        if kills is None:
            kills = group_kills
    return MachineMemory(limit, available, kills)


def own_bytes() -> int:
    """The bytes that this process holds."""
    return _numbers(Path("/proc/self/status"), 1024).get("VmRSS", 0)


def own_peak_bytes() -> int:
    """The most bytes that this process has held since it began, or since `forget_peak`. 0 where the system does not tell."""
    return _numbers(Path("/proc/self/status"), 1024).get("VmHWM", 0)


def forget_peak() -> None:
    """Let `own_peak_bytes` begin anew, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _control_groups(root: Path) -> Iterator[tuple[int, int, int | None]]:
    """(limit, bytes used without caches, processes ended for want of memory) of the control groups of this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        second = not controllers
        if not second and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("" if second else "memory")
        names = ("memory.max", "memory.current", "inactive_file") if second else _FIRST_VERSION
        folder = top / path.strip("/")
        while True:
            # In a container the path is often that of the host, and only the top is there.
            limit, used = _number(folder / names[0]), _number(folder / names[1])
            if limit is not None and used is not None and limit < _UNLIMITED:
                cache = _numbers(folder / "memory.stat").get(names[2], 0)
                kills = _numbers(folder / ("memory.events" if second else "memory.oom_control")).get("oom_kill")
                yield limit, max(0, used - cache), kills
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent


_FIRST_VERSION = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max": no limit
        return None


def _numbers(file: Path, unit: int = 1) -> dict[str, int]:
    """The numbers of a file with a name and a number on each line, times `unit`."""
    found = {}
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            parts = line.replace(":", " ").split()
            if len(parts) > 1 and parts[1].isdecimal():
                found[parts[0]] = int(parts[1]) * unit
    return found


def why_memory(
    seen: WorkerMemory | None, kills: int | None, ray_says: str | None, planned: PlannedMemory | None
) -> str | None:
    """Why a process that ended is taken to have died for want of memory; None where nothing says so. A pure function.

    seen: its last report. kills: `oom_kills` of its machine after the death; None where the machine is gone or does not
    tell. ray_says: what Ray tells of a process that it ended for that. planned: what the run was planned to need.
    """
    if ray_says:
        return f"Ray ended it for want of memory: {ray_says}"
    if seen is None:
        return None
    held = f"it held {in_gib(seen.held)} when it was last seen"
    if kills is not None and seen.machine.oom_kills is not None and kills > seen.machine.oom_kills:
        return f"the kernel ended a process of its machine for want of memory, and {held}"
    free = f"its machine had {in_gib(seen.machine.available)} of {in_gib(seen.machine.limit)} left"
    if seen.machine.available < LEAST_FREE * seen.machine.limit:
        return f"{held}, and {free}"
    # A plan may be a quarter too high: only what is needed in any case counts.
    if planned is not None and 0.75 * planned.worker - seen.held > seen.machine.available:
        return f"{held} of {in_gib(planned.worker)} planned, and {free}"
    return None


def in_gib(size: float) -> str:
    """A number of bytes for people: in GB with one decimal, or in MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
