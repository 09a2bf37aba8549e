"""Two machines made of network namespaces of this one, and a network between them that is held to a rate.

Needs root and the programs `ip` and `tc` (iproute2) with the queueing discipline `tbf`. They share this machine's cores, so
each runs one rank. Their latency is this kernel's, a few tens of microseconds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...cluster.planning.sizes import PartSizes
from .points import Point
from .ranks import Found

PORT = 29_400
BURST = "256kb"
"""Bytes that may pass at once. Larger than a segment of the kernel, small beside a message."""


def why_not() -> str | None:
    """Why this machine cannot emulate a network; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [name for name in ("ip", "tc") if shutil.which(name) is None]:
        return f"the program {missing[0]} is not installed (package iproute2)"
    try:
        with TwoMachines() as machines:
            machines.hold(1e9)
    except subprocess.CalledProcessError as error:
        return f"`{' '.join(error.cmd)}` failed: {error.stderr.strip()}"
    return None


class TwoMachines:
    """Machines 0 and 1 at 10.78.0.1 and 10.78.0.2. To be used in a `with`."""

    def __init__(self) -> None:
        self._names = [f"uls{os.getpid() % 100000}-{k}" for k in (0, 1)]

    def address(self, k: int) -> str:
        """The address of machine k."""
        return f"10.78.0.{k + 1}"

    def __enter__(self) -> TwoMachines:
        try:
            for name in self._names:
                _run("ip", "netns", "add", name)
            first, second = self._names
            _run("ip", "-n", first, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", second)
            for k, name in enumerate(self._names):
                _run("ip", "-n", name, "addr", "add", f"{self.address(k)}/24", "dev", "eth0")
                for link in ("eth0", "lo"):
                    _run("ip", "-n", name, "link", "set", link, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def hold(self, rate: float) -> None:
        """Let no more bits a second pass, in each direction."""
        for name in self._names:
            limits = ("rate", f"{round(rate / 1000)}kbit", "burst", BURST, "latency", "100ms")
            _run("ip", "netns", "exec", name, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *limits)

    def start(self, k: int, *command: str) -> subprocess.Popen[str]:
        """Start a program on machine k."""
        inside = ["ip", "netns", "exec", self._names[k], *command]
        return subprocess.Popen(inside, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True)


def measure_on_two(points: Sequence[Point], rounds: int) -> Iterator[tuple[Point, list[Found]]]:
    """What the ranks of each point found, on two machines with one half of them each: the same program on both, as on a
    cluster."""
    if not points:
        return
    with TwoMachines() as machines, tempfile.TemporaryDirectory() as folder:
        for number, point in enumerate(points):
            assert point.rate is not None
            machines.hold(point.rate)
            file, result = Path(folder, f"{number}.json"), Path(folder, f"{number}-found.json")
            file.write_text(json.dumps([asdict(point)]), encoding="utf-8")
            options = [f"--points={file}", f"--raw={result}", f"--rounds={rounds}", "--nodes=2"]
            options.append(f"--head={machines.address(0)}:{PORT}")
            command = (sys.executable, "-m", "unlearnrec.benchmarks.scaling", *options)
            running = [machines.start(k, *command, f"--node={k}", f"--address={machines.address(k)}") for k in range(2)]
            for process in running:
                _, said = process.communicate(timeout=900)
                if process.returncode:
                    raise RuntimeError(f"a rank on an emulated machine failed: {said[-3000:]}")
            yield from load(result)


def save(path: Path, runs: Sequence[tuple[Point, Sequence[Found]]]) -> None:
    """Write what was measured as JSON."""
    rows = [{"point": asdict(point), "found": [asdict(one) for one in found]} for point, found in runs]
    path.write_text(json.dumps(rows), encoding="utf-8")


def load(path: Path) -> list[tuple[Point, list[Found]]]:
    """What `save` has written."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [
        (Point(**row["point"]), [Found(**{**one, "part": PartSizes(**one["part"])}) for one in row["found"]])
        for row in rows
    ]
