"""`doctor`: check whether this machine can run unlearnrec. Most checks do the thing in small, and do not only look whether a
package is there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from typing import Any

from ...partitioning.storage import StorageOptions, Store
from ..config.schema import Config
from ..reporting.software import package_versions, usable_cpus

GIB = 2**30
MIN_SHARED_MEMORY = 1 * GIB
"""The least free space in /dev/shm, in bytes. With less, Ray keeps its object store in files on disk, which is many times
slower."""


def doctor(config: Config | None, *, cluster: bool = False) -> dict[str, Any]:
    """Run all checks. A check that raises has failed, and its detail says why.

    config: if given, the number of workers and the place of the output are checked too. cluster: check the Ray cluster that
    is named by it, or by RAY_ADDRESS, as well.

    Returns:
        `ok` (whether all checks passed) and `checks`, a list of {"name", "ok", "detail"}.
    """
    checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("versions", _versions),
        ("cores", lambda: _cores(config)),
        ("memory", _memory),
        ("/dev/shm", _shared_memory),
        ("ray", _ray),
        ("RAY_AUTH_MODE", _ray_auth),
        ("neighbour sum", _neighbour_sum),
        ("gloo all-to-all", _exchange),
    ]
    if config is not None:
        checks.append(("output store", lambda: _output(config)))
    results = [_run(name, check) for name, check in checks]
    if cluster:
        from .doctor_cluster import cluster_checks

        with cluster_checks(config) as found:
            results += [_run(name, check) for name, check in found]
    return {"ok": all(result["ok"] for result in results), "checks": results}


def _run(name: str, check: Callable[[], tuple[bool, str]]) -> dict[str, Any]:
    try:
        ok, detail = check()
    except Exception as error:
        # An error is the result of the check. The other checks shall run all the same.
        ok, detail = False, f"{type(error).__name__}: {error}"
    return {"name": name, "ok": ok, "detail": detail}


def _versions() -> tuple[bool, str]:
    found = package_versions(("unlearnrec", "torch", "ray", "numpy", "pyarrow", "dgl", "s3fs"))
    return True, ", ".join(f"{package} {version or 'not installed'}" for package, version in found.items())


def _cores(config: Config | None) -> tuple[bool, str]:
    usable = usable_cpus()
    from ...workers.shared_folder import runs_on_a_cluster

    if config is None or runs_on_a_cluster(config.cluster.address):
        return True, f"{usable} usable"
    wanted = config.cluster.partitions * config.cluster.cpus_per_worker
    detail = f"{usable} usable, {wanted:g} wanted by cluster.partitions x cluster.cpus_per_worker"
    return usable >= wanted, detail


def _memory() -> tuple[bool, str]:
    import psutil

    memory = psutil.virtual_memory()
    return memory.available >= GIB, f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"


def _shared_memory() -> tuple[bool, str]:
    if not os.path.isdir("/dev/shm"):
        return True, "none on this system; Ray uses files"
    free = shutil.disk_usage("/dev/shm").free
    return free >= MIN_SHARED_MEMORY, f"{free / GIB:.1f} GiB free, at least {MIN_SHARED_MEMORY / GIB:.0f} wanted"


def _ray() -> tuple[bool, str]:
    import ray

    return True, f"imports, {ray.__version__}"


def _ray_auth() -> tuple[bool, str]:
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is None:
        return True, "not set: Ray's default, which differs between versions; set it where jobs are submitted"
    return mode in ("disabled", "token"), f"{mode!r} (disabled or token)"


def _neighbour_sum() -> tuple[bool, str]:
    """Check that the dgl kernel, if it is installed, gives the same sums as torch."""
    from ...distributed.graph import neighbour_sum

    return neighbour_sum.kernels_agree()


def _exchange() -> tuple[bool, str]:
    """Check that two processes can exchange rows, as the workers do."""
    from ...distributed import comm
    from ...distributed import processes as launch

    launch.run_processes(2, comm.check_exchange)
    return True, "2 processes exchanged rows"


def _output(config: Config) -> tuple[bool, str]:
    """Check that the output's store lets only one of two writers create a file. The log depends on that."""
    options = StorageOptions(**config.storage.model_dump())
    store = Store(config.output, options)
    name = f"doctor-{uuid.uuid4().hex}"
    store.create(name, b"first")
    try:
        store.create(name, b"second")
    except FileExistsError:
        kept = store.read(name)
        return kept == b"first", f"{config.output}: exclusive create is honoured"
    finally:
        store.remove(name)
    return False, f"{config.output}: a second create of the same name was let through; the log would not be safe there"
