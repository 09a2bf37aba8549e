"""A real S3 server for the tests: moto as its own process, spoken to over HTTP. conftest.py imports the fixture."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from unlearnrec.partitioning.storage import StorageOptions

BUCKET = "lake"

# Not real credentials: moto takes any, but the clients want to find some.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_open(port: int, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"moto_server ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"moto_server did not listen on port {port} within {seconds} s")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[StorageOptions]:
    """Options that reach a running S3 server with the empty bucket `lake`; tests use prefixes of their own in it."""
    import s3fs

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    try:
        wait_until_open(port, process)
        options = StorageOptions(endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1")
        s3fs.S3FileSystem(endpoint_url=options.endpoint_url).mkdir(BUCKET)
        yield options
    finally:
        process.terminate()
        process.wait(10)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
