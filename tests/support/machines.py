"""Network namespaces of this machine as machines of one network, each with a Ray node of its own.

Their host names resolve to a loopback address, as Debian sets it up. They share the file system. Needs root and `ip`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from s3 import CREDENTIALS

import unlearnrec

PORT = 6379
PACKAGE = Path(unlearnrec.__file__).resolve().parents[1]
# Without these Ray notices a lost or frozen node after a minute.
QUICK = '{"health_check_initial_delay_ms":0,"health_check_period_ms":1000,"health_check_timeout_ms":1500,'
QUICK += '"health_check_failure_threshold":8}'
NAME_SERVER = """
import socket, time
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("10.77.0.254", 53))
time.sleep(1e6)
"""
"""Takes questions, and answers none: a look-up ends after ten seconds."""
CLOCK = """
import time
own = time.time
time.time = lambda: own() + {seconds}
"""
"""A module that Python imports at its start: the clock is wrong."""


def why_not() -> str | None:
    """Why this machine cannot have namespaces; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program `ip` (package iproute2)"
    name = f"ulr-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return f"`ip netns add` failed: {made.stderr.strip()}" if made.returncode else None


class Machines:
    """Machines 1 to `count` at 10.77.0.1 and so on, and behind them the switch, 10.77.0.254. To be used in a `with`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._cpus: dict[int, float] = {}  # of the Ray node of each machine that has one
        self._starts = 0
        self._harmed: set[int] = set()  # machines of which nobody knows what became of their Ray
        self._programs: list[subprocess.Popen[bytes]] = []
        self._prefix = f"ulr{os.getpid() % 100000}"
        self.folder = Path(tempfile.mkdtemp(prefix="ur"))  # short: Ray's sockets lie in it
        self._env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self._env |= {
            "PYTHONPATH": os.pathsep.join([str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "RAY_AUTH_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
            **CREDENTIALS,
        }

    @property
    def address(self) -> str:
        """Of the Ray cluster, whose head is machine 1."""
        return f"10.77.0.1:{PORT}"

    def name(self, k: int) -> str:
        return f"{self._prefix}-{k}"

    def __enter__(self) -> Machines:
        try:
            self._ip("netns", "add", self.name(0))
            inside = ("-n", self.name(0))
            self._ip(*inside, "link", "add", "switch", "type", "bridge")
            self._ip(*inside, "addr", "add", "10.77.0.254/24", "dev", "switch")
            self._ip(*inside, "link", "set", "switch", "up")
            self._ip(*inside, "link", "set", "lo", "up")
            for k in range(1, self.count + 1):
                self._add(k)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _add(self, k: int) -> None:
        name = self.name(k)
        files = Path("/etc/netns") / name
        files.mkdir(parents=True)
        (files / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        (files / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # where nothing listens
        self._ip("netns", "add", name)
        inside = ("-n", name)
        self._ip(*inside, "link", "add", "eth0", "type", "veth", "peer", "name", f"to{k}", "netns", self.name(0))
        self._ip("-n", self.name(0), "link", "set", f"to{k}", "master", "switch", "up")
        self._ip(*inside, "addr", "add", f"10.77.0.{k}/24", "dev", "eth0")
        self._ip(*inside, "link", "set", "eth0", "up")
        self._ip(*inside, "link", "set", "lo", "up")

    def __exit__(self, *_: Any) -> None:
        for k in range(self.count + 1):
            self.kill(k)
            subprocess.run(["ip", "netns", "del", self.name(k)], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / self.name(k), ignore_errors=True)
        with contextlib.suppress(OSError):
            Path("/etc/netns").rmdir()  # if it was empty before
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _ip(*arguments: str) -> str:
        run = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        assert run.returncode == 0, f"ip {' '.join(arguments)}: {run.stderr}"
        return run.stdout

    # ---- what runs on them ---------------------------------------------------------------------------------------

    def popen(self, k: int, *command: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a program on machine k; what it prints goes to the file `log`."""
        named = ["unshare", "--uts", "sh", "-c", f'hostname {self.name(k)} && exec "$@"', "sh"]
        with open(log, "wb") as out:
            program = subprocess.Popen(
                ["ip", "netns", "exec", self.name(k), *named, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._env | environment,
                cwd=self.folder,
                start_new_session=True,
            )
        self._programs.append(program)
        return program

    def start(self, k: int, *arguments: str, **environment: str) -> Command:
        """Start `unlearnrec ARGUMENTS` on machine k."""
        log = self.folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        return Command(self.popen(k, sys.executable, "-m", "unlearnrec", *arguments, log=log, **environment), log)

    def run(self, k: int, *arguments: str, seconds: float = 120.0, code: int = 0, **environment: str) -> str:
        """Run `unlearnrec ARGUMENTS` on machine k; returns what it printed. It must end with this exit code."""
        return self.start(k, *arguments, **environment).end(seconds, code)

    def python(self, k: int, code: str) -> None:
        """Run a line of Python on machine k."""
        log = self.folder / f"python-{time.monotonic_ns()}.log"
        Command(self.popen(k, sys.executable, "-c", code, log=log), log).end(60)

    def start_ray(self, *machines: int, cpus: float = 1, clock: float = 0.0) -> None:
        """Start a Ray node on each of these machines, the head on machine 1, one after the other: all at once they took
        longer on two cores than Ray waits for a node.

        clock: by how many seconds the clock of what runs on the node is ahead."""
        environment = {}
        if clock:
            own = self.folder / "clock"
            own.mkdir(exist_ok=True)
            (own / "sitecustomize.py").write_text(CLOCK.format(seconds=clock))
            environment["PYTHONPATH"] = os.pathsep.join([str(own), self._env["PYTHONPATH"]])
        main = "from ray.scripts.scripts import main; main()"
        for k in machines:
            self._cpus[k] = cpus
            self._starts += 1
            own = [f"--node-ip-address=10.77.0.{k}", f"--num-cpus={cpus}", "--object-store-memory=100000000"]
            if k == 1:
                own += ["--head", f"--port={PORT}", "--include-dashboard=false", f"--system-config={QUICK}"]
                own.append(f"--temp-dir={self.folder}/ray{self._starts}")
            else:
                own.append(f"--address={self.address}")
            log = self.folder / f"ray-{k}-{self._starts}.log"
            command = [sys.executable, "-c", main, "start", *own, "--block", "--disable-usage-stats"]
            ray = self.popen(k, *command, log=log, **environment)
            self._programs.remove(ray)  # it stays from test to test
            wait(lambda ray=ray, log=log: started(ray, log), 120)

    def heal(self, *, all_of_them: bool = False) -> None:
        """End what was started besides Ray, and start the machines anew to which something happened; all of them where it
        was the head."""
        for program in self._programs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        self._programs.clear()
        everything = all_of_them or 1 in self._harmed
        again = set(self._cpus) if everything else self._harmed & set(self._cpus)
        for k in again:
            self.kill(k)
        self._harmed.clear()
        for k in sorted(again):
            self.start_again(k)

    def start_again(self, k: int, clock: float = 0.0) -> None:
        """Start the Ray of machine k, which was switched off."""
        self.mend(k)
        self.start_ray(k, cpus=self._cpus[k], clock=clock)
        if not clock:
            self._harmed.discard(k)

    def silence_name_servers(self) -> None:
        """From now on the name server of all machines takes questions and answers none."""
        self.popen(0, sys.executable, "-c", NAME_SERVER, log=self.folder / "names.log")
        for k in range(1, self.count + 1):
            # In place: the machine sees this file, and not another of its name.
            (Path("/etc/netns") / self.name(k) / "resolv.conf").write_text("nameserver 10.77.0.254\n")

    # ---- what happens to them ------------------------------------------------------------------------------------

    def pids(self, k: int) -> list[int]:
        run = subprocess.run(["ip", "netns", "pids", self.name(k)], capture_output=True, text=True)
        return [int(pid) for pid in run.stdout.split()]

    def signal(self, k: int, number: int) -> None:
        """Send all processes of machine k a signal."""
        self._harmed.add(k)
        for pid in self.pids(k):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def power_off(self, k: int) -> None:
        """As if its power failed: the others hear nothing, not even that a connection ended."""
        self.cut(k)
        self.kill(k)

    def kill(self, k: int) -> None:
        """End all its processes. Its kernel still tells the others that their connections are closed."""
        for _ in range(5):
            self.signal(k, signal.SIGKILL)
            time.sleep(0.05)

    def cut(self, k: int) -> None:
        """Pull its network cable."""
        self._harmed.add(k)
        self._ip("-n", self.name(0), "link", "set", f"to{k}", "down")

    def mend(self, k: int) -> None:
        """Put its network cable back."""
        self._ip("-n", self.name(0), "link", "set", f"to{k}", "up")

    def holding(self, title: str) -> dict[int, list[int]]:
        """The processes of actors whose class begins so, by machine; machines without one are left out."""
        found: dict[int, list[int]] = {}
        for k in range(1, self.count + 1):
            for pid in self.pids(k):
                with contextlib.suppress(psutil.Error):
                    if "".join(psutil.Process(pid).cmdline()).startswith(f"ray::{title}"):
                        found.setdefault(k, []).append(pid)
        return found


class Command:
    """A command under way."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def text(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def end(self, seconds: float = 120.0, code: int = 0) -> str:
        """Wait for its end, which must have this exit code; returns what it printed."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"not done after {seconds:g} s:\n{self.text}") from None
        assert self.process.returncode == code, self.text
        return self.text


def started(ray: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether a Ray node says that it has started; it must not have ended."""
    assert ray.poll() is None, log.read_text()
    return "Ray runtime started" in log.read_text()


def wait(condition: Callable[[], Any], seconds: float) -> Any:
    """Until it is true, which is returned."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        time.sleep(0.1)
    return found
