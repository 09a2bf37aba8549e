"""`submit`: run a command as a job on a Ray cluster (docs/jobs.md).

Before anything is sent, the command line and the configuration are checked, and that neither names a place on this machine.
Only a copy of this package and the file of --config are sent.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...partitioning.errors import InputError
from ..config.schema import Config, load_config
from ..jobs import job_server, package
from ..reporting.progress import SILENT, Progress

NO_CONFIG_NEEDED = ("doctor",)
"""Commands that take a configuration and also work without one."""


@dataclass(frozen=True)
class Job:
    """A checked command: the shell line that runs it on the cluster, and the configuration file to send with it."""

    entrypoint: str
    config_file: Path | None


# ---- pure: what the job is ----------------------------------------------------------------------------------------


def plan_job(arguments: Sequence[str], commands: Mapping[str, Any]) -> Job:
    """Check a command line and turn it into a job.

    commands: all commands by name. Their parsers check the arguments.

    Raises:
        InputError: the command line or the configuration is wrong, or names a place on this machine.
        click.UsageError: the command's own parser refuses the arguments.
    """
    if not arguments or arguments[0].startswith("-"):
        raise InputError("submit: give the command after `--`, such as: unlearnrec submit -- train --config FILE")
    parameters, values = _parse_command(commands, arguments[0], arguments[1:])
    refuse_local_options(parameters, values)
    file = Path(values["config"]) if values.get("config") is not None else None
    overrides = values.get("overrides") or []
    if "overrides" not in values or (arguments[0] in NO_CONFIG_NEEDED and file is None and not overrides):
        return Job(entrypoint(arguments), None)
    config = load_config(file, overrides)
    refuse_local_places(config)
    extra = ["cluster.address=auto"] if config.cluster.address is None else []
    return Job(entrypoint([*with_config(arguments, file), *extra]), file)


def entrypoint(arguments: Sequence[str]) -> str:
    """The shell line of the job. It uses `python -m`, because console scripts are not on the PATH of a job."""
    return shlex.join(["python", "-m", "unlearnrec", *arguments])


def with_config(arguments: Sequence[str], file: Path | None) -> list[str]:
    """The arguments with only the file's name after `--config`, because the file lies in the job's working folder."""
    result = list(arguments)
    for place, argument in enumerate(arguments):
        if file is None or not argument.startswith(("--config", "-c")):
            continue
        if argument in ("--config", "-c"):
            result[place + 1] = file.name
        else:
            result[place] = f"--config={file.name}"
    return result


def is_local(path: str) -> bool:
    """Whether a path is relative, and so has a meaning only in this machine's working directory."""
    return "://" not in path and not os.path.isabs(path)


def refuse_local_places(config: Config) -> None:
    """Raise InputError for a relative path in the configuration, because the job would look for it in its own folder."""
    places = {
        "interactions": config.interactions,
        "test_interactions": config.test_interactions,
        "output": config.output,
        "partitioning.assignment": config.partitioning.assignment,
        "partitioning.spool": config.partitioning.spool,
        "serve.tokens_file": config.serve.tokens_file,
    }
    for key, path in places.items():
        if path is not None and is_local(path):
            raise InputError(f"{key}: got {path!r}, which means nothing on the cluster. {_REMEDY}")


def refuse_local_options(parameters: Sequence[Any], values: Mapping[str, Any]) -> None:
    """Raise InputError for a relative path in an option that takes a file or a folder, and for ids in the place of a file.

    Ids are refused because Ray shows the command lines of its jobs to everybody. The file of `--config` is sent, so its
    path may be relative.
    """
    for parameter in parameters:
        metavar = parameter.metavar or ""
        given = values.get(parameter.name)
        for value in given if isinstance(given, list | tuple) else [given]:
            is_place = isinstance(value, Path) or (isinstance(value, str) and ("FILE" in metavar or "DIR" in metavar))
            if parameter.name == "config" or not is_place:
                continue
            text = str(value)
            ids = "|" in metavar and not text.lower().endswith((".parquet", ".csv")) and not os.path.exists(text)
            if is_local(text) and ids:
                raise InputError(
                    f"{parameter.opts[0]}: Ray would list the ids with the job. Put them in a file. {_REMEDY}"
                )
            if is_local(text):
                raise InputError(f"{parameter.opts[0]} {text}: means nothing on the cluster. {_REMEDY}")


_REMEDY = "Give a URI such as s3://bucket/path, or an absolute path that all machines of the cluster share"


def _parse_command(
    commands: Mapping[str, Any], name: str, arguments: Sequence[str]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """The parameters of a command, and the values that its own parser gives them."""
    from . import bench

    if name not in commands or name == "submit":
        known = ", ".join(sorted(set(commands) - {"submit"}))
        raise InputError(f"submit -- {name}: no such command; there are: {known}")
    values = commands[name].make_context(f"unlearnrec {name}", list(arguments)).params
    if name == "bench" and values["name"] not in bench.benchmark_names():
        raise InputError(f"bench {values['name']}: no such benchmark; there are: {', '.join(bench.benchmark_names())}")
    return commands[name].params, values


# ---- effects --------------------------------------------------------------------------------------------------------


def submit(
    arguments: Sequence[str],
    commands: Mapping[str, Any],
    *,
    address: str | None = None,
    wait: bool = True,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Submit a command as a job. With `wait`, show the job's log on stderr until the job ends.

    commands: as for `plan_job`. address: of the job server; None: as `job_server.choose_address` says.

    Returns:
        `job_id`, `status` and `address`; command lines that `follow` and `stop` the job, and the link of its page in the
        `dashboard`; with `wait` also `ok` and, if it is known, the command's own `exit_code`.

    Raises:
        InputError: as `plan_job`; or no job server answers at the address, or it wants another token.
    """
    job = plan_job(arguments, commands)
    where = job_server.choose_address(address, os.environ)
    client, server_mode = job_server.connect(where)
    with tempfile.TemporaryDirectory(prefix="unlearnrec-submit-") as folder:
        env = runtime_env(job, server_mode, Path(folder))
        job_id = job_server.submit_when_ready(client, job.entrypoint, env)
    result: dict[str, Any] = {"job_id": job_id, "status": str(client.get_job_status(job_id).value), "address": where}
    result |= (lines := job_server.lines_for(client.get_address(), job_id))
    progress.note(f"job {job_id} at {where}: {job.entrypoint}")
    for what, line in lines.items():
        progress.note(f"{what + ':':<10} {line}")
    if wait:
        details = job_server.follow_log(client, job_id, progress)
        result |= {"status": details.status.value, "ok": details.status.value == "SUCCEEDED"}
        if details.driver_exit_code is not None:
            result["exit_code"] = exit_code_of(details.driver_exit_code)
    return result


def exit_code_of(returned: int) -> int:
    """The exit code of a process as a shell has it, by what `subprocess` says: -N where the signal N ended it is 128 + N."""
    return returned if returned >= 0 else 128 - returned


def runtime_env(job: Job, server_mode: str | None, folder: Path) -> dict[str, Any]:
    """Ray's runtime environment of the job: this package as Python modules, the working folder with the configuration, and
    the cluster's own mode of authentication.

    folder: where what is sent is put together. server_mode: the cluster's mode; None: it is not known.
    """
    from ... import __version__

    env: dict[str, Any] = {"py_modules": [str(path) for path in package.copy_package(folder, __version__)]}
    if job.config_file is not None:
        (folder / "job").mkdir()
        shutil.copy(job.config_file, folder / "job" / job.config_file.name)
        env["working_dir"] = str(folder / "job")
    if server_mode is not None:
        # Otherwise a driver that connects to "auto" turns authentication on by itself if it finds a token on its machine.
        env["env_vars"] = {job_server.MODE: server_mode}
    return env
