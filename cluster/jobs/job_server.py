"""Talk to the job server of a Ray cluster: find its address, authenticate, submit a job, and follow the output of a job."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...partitioning.errors import InputError
from ..reporting.progress import Progress

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS, MODE = "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE"
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
ANSWER_SECONDS = 10.0
"""How long to wait for an answer of the job server."""
AGENT_SECONDS = 60.0
"""How long to wait for an agent on a cluster that has just started."""
SHIPS_ITS_FOLDER = ("Failed to upload working_dir", "uv_runtime_env_hook")
"""What a head says of jobs if it was started by `uv run ray start --block`. Ray then takes the folder where that was typed
for the working directory of all jobs, and its project for their environment."""


def choose_address(given: str | None, environment: Mapping[str, str]) -> str:
    """The job server's address: the given one, otherwise that of the environment, otherwise this machine's. A given address
    without a scheme is taken for HTTP."""
    if given:
        given = given if "://" in given or given == "auto" else f"http://{given}"
    return (given or environment.get(ADDRESS) or environment.get("RAY_ADDRESS") or DEFAULT_ADDRESS).rstrip("/")


def turns_token_on(address: str, server_mode: str | None, environment: Mapping[str, str], home: Path) -> bool:
    """Whether to send a token although `RAY_AUTH_MODE` does not say so. It is Ray's own rule: a token is sent only to a
    server on this machine that wants one, and only if there is a token.

    server_mode: the server's mode of authentication. home: the user's home folder.
    """
    if server_mode != "token" or MODE in environment:
        return False
    nearby = urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")
    return nearby and (any(environment.get(name) for name in TOKENS) or (home / ".ray" / "auth_token").is_file())


def connect(address: str) -> tuple[Any, str | None]:
    """(a client of the job server, the server's mode of authentication or None if the server does not say it).

    Raises:
        InputError: no job server answers at this address, or it wants another token.
    """
    import requests

    mode = None
    if address.startswith(("http://", "https://")):
        try:
            answer = requests.get(f"{address}/api/authentication_mode", timeout=ANSWER_SECONDS)
            mode = answer.json().get("authentication_mode") if answer.ok else None
        except requests.JSONDecodeError:
            mode = None  # not Ray, or Ray before 2.52; the client below finds out which
        except requests.RequestException as error:
            raise InputError(
                f"no Ray job server answers at {address} ({type(error).__name__}). Start a cluster (`ray start --head`), "
                f"or name its dashboard with --address http://HOST:8265 or {ADDRESS}"
            ) from None
    token = {MODE: "token"} if turns_token_on(address, mode, os.environ, Path.home()) else {}
    # Ray reads both from the environment: the mode when it is imported, and the address even if another one is passed.
    with _environment({ADDRESS: address} | token):
        from ray.job_submission import JobSubmissionClient

        # It would tell of each upload and of how the log's connection ended, between the lines of the job. Its modules
        # choose their own levels.
        for handler in logging.getLogger("ray").handlers:
            handler.setLevel(logging.WARNING)
        try:
            return JobSubmissionClient(address), mode
        except Exception as error:  # errors of Ray, requests or JSON; each means that no job server can be used there
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"what answers at {address} is of no use as a Ray job server ({said})"
                if mode != "token"
                else f"the Ray cluster at {address} wants its token ({said[:100]}). Set {MODE}=token and "
                f"{TOKENS[0]} or {TOKENS[1]} (or ~/.ray/auth_token) to it; `ray get-auth-token` on its head prints it"
            ) from None


def submit_when_ready(client: Any, entrypoint: str, runtime_env: dict[str, Any]) -> str:
    """Submit a job and return its id. A cluster that has just started may have no agent yet; it is then asked again, for up
    to AGENT_SECONDS.

    Raises:
        InputError: the head was started by `uv run`, and Ray cannot ship the folder where that was.
        RuntimeError: the cluster takes no job for another reason.
    """
    end = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env))
        except RuntimeError as error:
            if any(words in str(error) for words in SHIPS_ITS_FOLDER):
                raise InputError(
                    "the head of this Ray cluster was started by `uv run`, and wants to ship its folder with every job, "
                    "which failed. Start the head and all nodes with RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 in the environment of "
                    "`ray start`, or without `uv run`, from the activated environment"
                ) from None
            if "No available agent" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(1)


def lines_for(address: str, job_id: str) -> dict[str, str]:
    """What somebody may want to do with a job: the command lines that `follow` its output and `stop` it, and the link of
    its page in the `dashboard`.

    address: of the dashboard. It stands in the environment, because `ray job` prefers what it finds there to its option.
    """
    ray_job = f"{ADDRESS}={shlex.quote(address)} ray job"
    return {
        "follow": f"{ray_job} logs --follow {job_id}",
        "stop": f"{ray_job} stop {job_id}",
        "dashboard": f"{address}/#/jobs/{job_id}",
    }


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set these environment variables for the block, and restore them after it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def follow_log(client: Any, job_id: str, progress: Progress) -> Any:
    """Show the output of a job on stderr until the job ends; returns Ray's details of the job."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job_id):
            print(text, end="", file=sys.stderr, flush=True)

    try:
        asyncio.run(tail())
    except KeyboardInterrupt:
        progress.note(f"job {job_id} goes on; this ends it: {lines_for(client.get_address(), job_id)['stop']}")
        raise
    except Exception as error:  # the job goes on, even if its output cannot be shown any more
        progress.note(f"the log of {job_id} broke off ({error}); waiting for its end")
    while not (details := client.get_job_info(job_id)).status.is_terminal():
        time.sleep(1)
    if details.driver_exit_code is None:
        progress.note(f"job {job_id} {details.status.value}: {details.message}")
    return details
