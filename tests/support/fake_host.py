"""A partition host of threads and sleep: a "collective" blocks until `abort`, or fails at its time-out."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from unlearnrec.partitioning.errors import InputError


class FakeCollectiveError(RuntimeError):
    """Recognised by `missing`, as the real one is."""

    def __init__(self, text: str, missing: list[int]) -> None:
        super().__init__(text, missing)
        self.missing = missing


class FakeHost:
    """Counts what is done to it."""

    def __init__(self, partition: int, num_partitions: int) -> None:
        self.partition = partition
        self.others = [k for k in range(num_partitions) if k != partition]
        self.stop = threading.Event()
        self.step = 0
        self.loaded: str | None = None
        self.joined: list[int] = []
        self.timeout = 60.0

    def try_name_servers(self, address: str) -> None:
        pass

    def open_store(self, host: str) -> tuple[str, int]:
        return host, 1

    def join(self, address: str, port: int, own_address: str, generation: int, timeout_seconds: float) -> None:
        self.stop.clear()
        self.joined.append(generation)
        self.timeout = timeout_seconds

    def abort(self) -> None:
        self.stop.set()

    def progress(self) -> dict[str, Any]:
        return {"step": self.step}

    def load(self, state: str) -> str:
        self.loaded = state
        return state

    def where(self) -> tuple[int, str | None, int]:
        return self.partition, self.loaded, len(self.joined)

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def count(self) -> int:
        self.step += 1
        return self.step

    def collective(self, seconds: float) -> str:
        """Blocks for `seconds` as a collective would, or until aborted or timed out."""
        self.step += 1
        if self.stop.wait(min(seconds, self.timeout)):
            raise FakeCollectiveError("connection closed", [])
        if seconds > self.timeout:
            raise FakeCollectiveError("timed out", self.others)
        return "done"

    def collective_if_not_loaded(self, seconds: float) -> str:
        """Blocks on the first attempt only: `restore` of the test loads a state."""
        return f"{self.loaded} {self.partition}" if self.loaded else self.collective(seconds)

    def nap(self, seconds: float) -> str:
        """A long kernel: hears no abort."""
        time.sleep(seconds)
        return "slept"

    def wrong_input_on(self, partition: int) -> None:
        if self.partition == partition:
            raise InputError("users.csv: no column user_id")
        self.collective(60)

    def claim_and_die_on(self, partition: int, claimed: int, seconds: float) -> str:
        """Claims memory and is ended as the kernel does it, the first time: a restarted one answers."""
        if self.partition != partition or self.loaded:
            return "alive" if self.loaded else self.collective(60)
        self.held = bytearray(b"x") * claimed
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"

    def defect_on(self, partition: int) -> None:
        if self.partition == partition:
            raise KeyError("no such table")
        self.collective(60)


class NamelessHost(FakeHost):
    """On a machine whose name servers are silent for longer than a collective may take."""

    def try_name_servers(self, address: str) -> None:
        time.sleep(3)
