"""Write a results file: numbers, and the machine, the versions, the command and the commit with which they were measured."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cluster.jobs import package
from ..cluster.reporting.software import commit, package_versions

PACKAGES = ("torch", "ray", "dgl", "numpy", "pyarrow", "pymetis")


def folder() -> Path:
    """The default folder of results: in the source tree, or, if the package was installed without it, in the working
    directory."""
    source = package.source_folder()
    return source / "benchmarks" / "results" if source is not None else Path("benchmark-results")


FOLDER = folder()


def machine() -> str:
    """One line that describes this machine: processor, cores, memory, GPU and versions of packages."""
    import psutil
    import torch

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    versions = package_versions(PACKAGES)
    found = [f"{package} {versions[package]}" for package in PACKAGES if versions[package] is not None]
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {cores} cores, {memory:.0f} GiB{gpu}; Python {versions['python']}, {', '.join(found)}"


def command() -> str:
    """The command line that ran this benchmark. Of a path it has only the last folder and the name."""
    name = Path(sys.argv[0]).stem
    shown = ["/".join(Path(x).parts[-2:]) if os.sep in x else x for x in sys.argv[1:]]
    return " ".join(["unlearnrec bench", name, *shown])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows with the same keys."""
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(_cell(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


def write(path: Path, title: str, parts: Sequence[str], shown: str | None = None) -> None:
    """Write a results file.

    parts: the Markdown after the title and the description of the machine. shown: the command; None: that of `command`.
    """
    head = [
        f"# {title}",
        f"Command: `{shown or command()}`, commit {commit(short=True) or 'none'}.",
        f"Machine: {machine()}.",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join([*head, *parts]) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
