"""`unlearnrec serve` as a process, on a free port."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

TOKEN = "a-token-of-enough-letters"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


class Server:
    """Started, and listening, when it is made. Ended at the end of a `with`."""

    def __init__(self, file: Path, folder: Path, *overrides: str, **environment: str) -> None:
        self.log = folder / "stderr"
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-m", "unlearnrec", "serve", "--config", str(file), "--port", "0", *overrides]
        with open(self.log, "wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=kept | {"UNLEARNREC_TOKEN": TOKEN} | environment,
                cwd=folder,
            )
        try:
            self.url: str = self.wait(self._address)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def _address(self) -> str | None:
        lines = self.log.read_text().splitlines()
        return next((line.split()[-1] for line in lines if line.startswith("listening on ")), None)

    def wait(self, condition: Callable[[], Any], seconds: float = 300.0) -> Any:
        """Until it is true, which is returned; the process has to live meanwhile."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"waited in vain\n{self.log.read_text()}"
            time.sleep(0.05)
        return found

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, headers=HEADERS, timeout=30)

    def post(self, name: str, **body: Any) -> requests.Response:
        return requests.post(f"{self.url}/v1/requests/{name}", json=body, headers=HEADERS, timeout=30)

    def answered(self, *names: str) -> Any:
        """Wait until each of these requests has its final answer."""
        return self.wait(
            lambda: all(self.get(f"/v1/requests/{n}").json().get("request_status") == "completed" for n in names)
        )

    def ready(self) -> Any:
        """Wait until recommendations can be answered."""
        return self.wait(lambda: self.get("/healthz").status_code == 200)
