"""What runs, and on what: versions of packages, the commit of a checkout, CPUs."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("unlearnrec", "torch", "numpy", "ray")
_ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def software() -> dict[str, str | None]:
    """The versions of Python and of the packages on which results depend, and the `commit`."""
    return package_versions(_PACKAGES) | {"commit": commit()}


def package_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The version of Python and those of these packages, by name; None for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def commit(short: bool = False) -> str | None:
    """The git commit of this package's checkout, with "+" if tracked files were changed; None if it is not a checkout."""
    if not (_ROOT / ".git").exists():
        return None
    head = ("rev-parse", "--short", "HEAD") if short else ("rev-parse", "HEAD")
    try:
        outputs = [
            subprocess.run(
                ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True, timeout=10
            )
            for arguments in (head, ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return outputs[0].stdout.strip() + ("+" if outputs[1].stdout.strip() else "")


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """One line that describes this machine: processor, CPUs that may be used, memory and operating system."""
    import psutil

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    cpus, memory = usable_cpus(), psutil.virtual_memory().total / 2**30
    return f"{model}, {cpus} {'CPU' if cpus == 1 else 'CPUs'}, {memory:.0f} GiB of memory, {platform.system()}"
