"""Start a service as a process, break it and everything around it, and start it again whenever it has died."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from ..partitioning.failpoints import ENVIRONMENT

COMMAND = [sys.executable, "-m", "unlearnrec"]
START_SECONDS = 120.0


class Server:
    """The command `serve` as a process on a free port. `url` is None while it does not listen."""

    def __init__(self, config: Path, folder: Path, name: str) -> None:
        self._config, self._folder, self._name = config, folder, name
        self.full, self.lost, self.slow = (folder / f"{what}-{name}" for what in ("full", "lost", "slow"))
        self.token = secrets.token_hex(16)
        self.process: subprocess.Popen[bytes] | None = None
        self.url: str | None = None
        self.starts = 0

    def start(self) -> None:
        """Start the service and wait until it listens.

        Raises:
            RuntimeError: the service ended, or did not listen in time.
        """
        self.starts += 1
        points = (("full * before 1", self.full), ("full log/* after 1", self.lost), ("slow * before 1", self.slow))
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        environment["UNLEARNREC_TOKEN"] = self.token
        environment[ENVIRONMENT] = ";".join(f"{point} {file}" for point, file in points)
        log = self._folder / f"{self._name}-{self.starts}.log"
        with open(log, "wb") as stderr:
            command = [*COMMAND, "serve", "--config", str(self._config), "--port", "0"]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("listening on "):
                    self.url = line.split()[-1]
                    return
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"the service did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")

    def workers(self) -> list[psutil.Process]:
        """The processes of the service's workers."""
        found = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True) if self.process else ():
                with contextlib.suppress(psutil.Error):
                    if "ShardWorker" in " ".join(child.cmdline()):
                        found.append(child)
        return found

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.url = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """Stop the service with SIGTERM; returns its exit code."""
        assert self.process is not None
        self.url = None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


class Retrain:
    """The command `retrain` as a process that runs beside everything else."""

    def __init__(self, config: Path, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._process: subprocess.Popen[bytes] | None = None
        self.begun = 0

    @property
    def runs(self) -> bool:
        """Whether a retrain is under way."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Begin a retrain. Each has another seed, so each makes another model."""
        self.begun += 1
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        with open(self._log, "wb") as stderr:
            command = [*COMMAND, "retrain", "--config", str(self._config), f"seed={self.begun}"]
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ended(self) -> tuple[int, str] | None:
        """(exit code, the end of its output) of a retrain that has ended by itself since the last call; None if none has."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        self._process = None
        return code, self._log.read_text(encoding="utf-8", errors="replace")[-300:]

    @property
    def _log(self) -> Path:
        return self._folder / f"retrain-{self.begun}.log"


class Injector:
    """Injects one random fault after the other, about every `pause` seconds, and starts the service again if it has died."""

    def __init__(
        self,
        server: Server,
        second: Server,
        config: Path,
        draw: random.Random,
        pause: float,
        before_cut: Callable[[], None],
    ) -> None:
        """before_cut: called before records of the log are removed, so that somebody can read them first."""
        self.server, self._second, self._config, self._draw, self._pause = server, second, config, draw, pause
        self._before_cut = before_cut
        self._retrain = Retrain(config, config.parent)
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)

    def __enter__(self) -> Injector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._second.kill()
        self._retrain.kill()

    def _run(self) -> None:
        faults: list[tuple[int, str, Callable[[], None]]] = [
            (3, "service killed", self._kill_service),
            (3, "worker killed", self._kill_worker),
            (2, "worker frozen", self._freeze_worker),
            (3, "disk full", lambda: self._phase(self.server.full)),
            (2, "answers of log writes lost", lambda: self._phase(self.server.lost)),
            (1, "slow storage", lambda: self._phase(self.server.slow)),
            (2, "second service", self._second_service),
            (2, "purge", lambda: self._command("purge")),
            (1, "purge --now", lambda: self._command("purge", "--now")),
            (2, "purge --truncate-log --now", self._cut_log),
            (4, "retrain asked for", self._begin_retrain),
        ]
        weights = [weight for weight, _, _ in faults]
        while not self._stop.wait(self._draw.uniform(0.5, 1.5) * self._pause):
            _, name, fault = self._draw.choices(faults, weights)[0]
            try:
                self._check_retrain()
                fault()
                self.counts[name] += 1
                if self.server.process is None or self.server.process.poll() is not None:
                    self.server.start()
            except Exception as error:
                self.errors.append(f"{name}: {type(error).__name__}: {error}")

    def _kill_service(self) -> None:
        self.server.kill()
        self.server.start()

    def _kill_worker(self) -> None:
        self._signal_worker(signal.SIGKILL)

    def _signal_worker(self, number: int) -> psutil.Process | None:
        workers = self.server.workers()
        if not workers:
            return None
        worker = self._draw.choice(workers)
        with contextlib.suppress(psutil.Error):
            worker.send_signal(number)
        return worker

    def _freeze_worker(self) -> None:
        worker = self._signal_worker(signal.SIGSTOP)
        self._stop.wait(self._draw.choice([1.0, 5.0, 20.0]))
        if worker is not None:
            with contextlib.suppress(psutil.Error):
                worker.send_signal(signal.SIGCONT)

    def _phase(self, switch: Path) -> None:
        switch.touch()
        self._stop.wait(self._draw.uniform(0.5, 5.0))
        switch.unlink()

    def _second_service(self) -> None:
        """Let a second service work on the same output for a while, and kill it."""
        self._second.start()
        self._stop.wait(self._draw.uniform(5.0, 20.0))
        self._second.kill()

    def _begin_retrain(self) -> None:
        """Start a retrain, which runs beside the faults that follow. If one is still running, it may be killed first."""
        if self._retrain.runs and self._draw.random() < 0.3:
            self._retrain.kill()
            self.counts["retrain killed"] += 1
        if not self._retrain.runs:
            self._retrain.start()

    def _check_retrain(self) -> None:
        ended = self._retrain.ended()
        if ended is not None and ended[0] > 0:
            self.errors.append(f"retrain: exit code {ended[0]}: {ended[1]}")

    def _cut_log(self) -> None:
        self._before_cut()
        self._command("purge", "--truncate-log", "--now")

    def _command(self, *arguments: str) -> None:
        command = [*COMMAND, arguments[0], "--config", str(self._config), *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.errors.append(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-300:]}")
