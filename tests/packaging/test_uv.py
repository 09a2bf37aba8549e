"""Where uv made the environment, there is no pip; and Ray takes notice of `uv run`, in commands and in its own start.

For the lane UNLEARNREC_TEST_INSTALL, on machines that have uv. It reads nothing that is set for pip: UV_FIND_LINKS,
UV_DEFAULT_INDEX and the like say where PyTorch comes from. From PyPI it is the GPU build, several gigabytes.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from environments import INSTALL, attempt, pinned, run

UV = shutil.which("uv") or ""
PORTS = (
    "port",
    "ray-client-server-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "dashboard-port",
)
"""Of `ray start`. Each has a default, which another Ray of this machine may have taken."""

pytestmark = [INSTALL, pytest.mark.skipif(not UV, reason="there is no uv on this machine")]


@pytest.fixture(scope="module")
def project(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of uv that needs this package, with more data in its folder than Ray would ship to a cluster."""
    folder = tmp_path_factory.mktemp("project")
    run(UV, "init", "--bare", "--python", sys.executable, cwd=folder)
    with (folder / "pyproject.toml").open("a") as settings:
        settings.write(f'\n[tool.uv]\nconstraint-dependencies = ["{pinned("torch")}"]\n')
    run(UV, "add", "--no-build", wheel, cwd=folder)
    assert "No module named pip" in attempt(folder / ".venv" / "bin" / "python", "-m", "pip", cwd=folder).stderr
    (folder / "data").touch()
    os.truncate(folder / "data", 10**9)
    rng, n = np.random.default_rng(0), 4000
    table = pa.table({"user_id": rng.integers(0, 200, n), "item_id": rng.integers(0, 100, n)})
    pq.write_table(table.group_by(["user_id", "item_id"]).aggregate([]), folder / "in.parquet")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Without what this process knows of Ray and Python."""
    return {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "PYTHON", "VIRTUAL_ENV"))} | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture(scope="module")
def address(project: Path, environment: dict[str, str]) -> Iterator[str]:
    """Of the job server of a Ray that `uv run` started, as the parent of all its processes. Without the variable such a Ray
    takes the folder of the project for the working directory of all jobs."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        ports = [each.getsockname()[1] for each in sockets]
    # Short, because sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="uv", ignore_cleanup_errors=True) as folder:
        options = [f"--temp-dir={folder}", "--num-cpus=2", "--object-store-memory=100000000"]
        options += [f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
        command = [UV, "run", "--no-sync", "ray", "start", "--head", "--block", *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        as_it_is = environment | {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        with subprocess.Popen(command, cwd=project, env=as_it_is, start_new_session=True, **quiet) as head:
            url, end = f"http://127.0.0.1:{ports[-1]}", time.monotonic() + 120
            while not answers(url):
                assert time.monotonic() < end and head.poll() is None, "this Ray did not start"
                time.sleep(0.5)
            yield url
            os.killpg(head.pid, signal.SIGKILL)  # asked to end, it takes a minute


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/api/version", timeout=5).ok
    except requests.RequestException:
        return False


def config(project: Path, output: Path) -> list[str]:
    """The rest of a command line: two workers, one epoch."""
    file = project / "run.yaml"
    file.write_text(
        f"interactions: {project}/in.parquet\noutput: {output}\n"
        "cluster: {partitions: 2, cpus_per_worker: .5}\ntrain: {epochs: 1}\n"
    )
    return ["--config", str(file)]


def uv_run(project: Path, environment: dict[str, str], *command: str) -> tuple[int, dict, str]:
    """Exit code, the JSON object and the log of a command that `uv run` starts in the project."""
    line = [UV, "run", "--no-sync", "unlearnrec", command[0], "--json", *command[1:]]
    done = subprocess.run(line, cwd=project, env=environment, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_a_command_with_a_ray_of_its_own(project, environment, tmp_path):
    for command in ("ingest", "train"):
        code, answer, log = uv_run(project, environment, command, *config(project, tmp_path))
        assert code == 0, log
    assert answer["version"] == 1


def test_jobs(project, environment, address, tmp_path):
    """Exit code 2 stays 2; neither the cluster nor this environment has pip."""
    rest = config(project, tmp_path)
    for command in ("ingest", "train"):
        code, answer, log = uv_run(project, environment, "submit", "--address", address, "--", command, *rest)
        assert code == 0, (answer, log)
        assert (answer["status"], answer["exit_code"]) == ("SUCCEEDED", 0)
    missing = f"interactions={tmp_path}/none"
    code, answer, log = uv_run(project, environment, "submit", "--address", address, "--", "ingest", *rest, missing)
    assert code == 2 and "status" in answer, (answer, log)
    assert (answer["status"], answer["exit_code"]) == ("FAILED", 2)
    assert f"{tmp_path}/none: no such file" in log


def test_the_printed_lines_follow_and_stop_a_job(project, environment, address, tmp_path):
    rest = config(project, tmp_path)
    assert uv_run(project, environment, "ingest", *rest)[0] == 0
    job = ["train", *rest, "train.epochs=1000000"]
    code, answer, log = uv_run(project, environment, "submit", "--address", address, "--no-wait", "--", *job)
    assert code == 0 and "exit_code" not in answer, log
    scripts = {"PATH": f"{project}/.venv/bin{os.pathsep}{environment['PATH']}", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    follow = ["timeout", "120", "sh", "-c", answer["follow"]]
    with subprocess.Popen(follow, env=environment | scripts, cwd=tmp_path, **pipes) as following:
        assert any("plan of train" in line for line in following.stdout)
        stopped = subprocess.run(answer["stop"], shell=True, env=environment | scripts, cwd=tmp_path, **pipes)
        assert stopped.returncode == 0, stopped.stdout
        following.communicate(timeout=60)
    state = requests.get(f"{address}/api/jobs/{answer['job_id']}", timeout=10).json()
    assert state["status"] == "STOPPED" and str(project) not in json.dumps(state["runtime_env"])
