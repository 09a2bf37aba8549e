"""Jobs: what is refused before anything is sent, what is sent, exit codes, and a real job on a Ray of its own."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from lanes import LONG

import unlearnrec
from unlearnrec.cluster.cli.app import app, run
from unlearnrec.cluster.commands.submit import Job, exit_code_of, is_local, plan_job, runtime_env
from unlearnrec.cluster.commands.submit import submit as submit_here
from unlearnrec.cluster.jobs import job_server, package
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.partitioning.errors import InputError

PLACES = ["interactions=s3://bucket/in", "output=s3://bucket/out"]
ROOT = Path(unlearnrec.__file__).resolve().parent


# ---- what the job is --------------------------------------------------------------------------------------------------


def plan(arguments: list[str]) -> Job:
    return plan_job(arguments, typer.main.get_command(app).commands)


def test_the_job_runs_the_same_command_on_the_cluster_it_lands_on():
    assert plan(["train", "--resume", *PLACES]) == Job(
        "python -m unlearnrec train --resume interactions=s3://bucket/in output=s3://bucket/out cluster.address=auto",
        None,
    )


@pytest.mark.parametrize("spelled", [["--config", "{}"], ["--config={}"], ["-c", "{}"], ["-c{}"]], ids=str)
def test_the_configuration_travels_and_is_named_as_it_lies_in_the_jobs_folder(tmp_path, spelled):
    path = tmp_path / "a run.yaml"
    path.write_text("interactions: /data/in\noutput: /data/out\n")
    job = plan(["train", *[part.format(path) for part in spelled], "train.epochs=3"])
    assert job.config_file == path
    assert str(tmp_path) not in job.entrypoint and "a run.yaml'" in job.entrypoint
    assert job.entrypoint.endswith(" train.epochs=3 cluster.address=auto")


def test_an_address_that_the_user_set_stays(tmp_path):
    assert plan(["train", *PLACES, "cluster.address=ray://other:10001"]).entrypoint.endswith("ray://other:10001")
    path = tmp_path / "c.yaml"
    path.write_text("interactions: /in\noutput: /out\ncluster: {address: 'other:6379'}\n")
    assert "auto" not in plan(["train", "--config", str(path)]).entrypoint


def test_commands_without_a_configuration_get_none():
    assert plan(["doctor"]).entrypoint == "python -m unlearnrec doctor"
    assert plan(["bench", "partitioning", "--sizes", "1"]).entrypoint.endswith("bench partitioning --sizes 1")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--"),
        (["--wait"], "--"),
        (["nope"], "nope"),
        (["submit", "--", "train"], "submit"),
        (["bench", "nope"], "nope"),
        (["train"], "interactions: missing"),
        (["train", *PLACES, "train.epochs=0"], r"train\.epochs"),
        (["train", *PLACES, "interactions=in.parquet"], r"interactions: got 'in\.parquet'"),
        (["evaluate", *PLACES, "test_interactions=./t"], r"test_interactions: got '\./t'"),
        (["ingest", *PLACES, "output=out"], "output: got 'out'"),
        (["ingest", *PLACES, "partitioning={strategy: file, assignment: a.parquet}"], r"partitioning\.assignment"),
        (["serve", *PLACES, "serve.tokens_file=tokens.json"], r"serve\.tokens_file: got 'tokens\.json'"),
        (["train", *PLACES, "--without", "/a.csv", "--without", "b.csv"], r"--without b\.csv"),
        (["evaluate", *PLACES, "--reference", "other", "--users", "1"], "--reference other"),
        (["forget", *PLACES, "--users", "u.csv"], r"--users u\.csv"),
        (["export", *PLACES, "--to", "there"], "--to there"),
        (["quickstart"], "--output quickstart-output"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_on_the_cluster_is_refused_here(arguments, named):
    with pytest.raises(InputError, match=named):
        plan(arguments)


@pytest.mark.parametrize("command", ["forget", "lift"])
@pytest.mark.parametrize("option", ["--users", "--items"])
def test_ids_do_not_travel_on_a_command_line(command, option, capsys):
    """Ray lists the command lines of its jobs."""
    for ids in ("ann@example.com", "1,2", "not-there"):
        assert run(["submit", "--", command, *PLACES, option, ids]) == 2
        said = capsys.readouterr().err
        assert option in said and "file" in said and ids not in said
    for file in ("s3://bucket/ids.csv", "/shared/ids.parquet"):
        assert file in plan([command, *PLACES, option, file]).entrypoint


def test_local_places():
    assert is_local("in.parquet") and not is_local("/in.parquet") and not is_local("delta://in")


@pytest.mark.parametrize("arguments", [["train", "--bogus", *PLACES], ["nope"], ["train", "train.epochs=0", *PLACES]])
def test_mistakes_are_exit_code_2_before_a_server_is_asked(arguments, capsys, monkeypatch):
    monkeypatch.setattr(job_server, "connect", lambda address: pytest.fail("asked"))
    assert run(["submit", "--json", "--", *arguments]) == 2
    assert set(json.loads(capsys.readouterr().out)) == {"error"}


# ---- the server -------------------------------------------------------------------------------------------------------


def test_the_address_on_the_command_line_wins():
    environment = {"RAY_ADDRESS": "ray:6379", "RAY_API_SERVER_ADDRESS": "http://api:8265"}
    assert job_server.choose_address("http://mine:1/", environment) == "http://mine:1"
    assert job_server.choose_address("mine:8265", environment) == "http://mine:8265"
    assert job_server.choose_address("auto", environment) == "auto"
    assert job_server.choose_address(None, environment) == "http://api:8265"
    assert job_server.choose_address(None, {"RAY_ADDRESS": "ray:6379"}) == "ray:6379"
    assert job_server.choose_address(None, {}) == "http://127.0.0.1:8265"


def test_a_token_goes_unasked_to_this_machine_only(tmp_path):
    near, far, token = "http://127.0.0.1:8265", "http://head:8265", {"RAY_AUTH_TOKEN": "t"}
    assert job_server.turns_token_on(near, "token", token, tmp_path)
    assert not job_server.turns_token_on(far, "token", token, tmp_path)
    assert not job_server.turns_token_on(near, "disabled", token, tmp_path)
    assert not job_server.turns_token_on(near, None, token, tmp_path)
    assert not job_server.turns_token_on(near, "token", token | {"RAY_AUTH_MODE": "disabled"}, tmp_path)
    assert not job_server.turns_token_on(near, "token", {}, tmp_path)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    assert job_server.turns_token_on(near, "token", {}, tmp_path)


def test_no_server_is_an_input_error_with_the_remedy(capsys):
    assert run(["submit", "--address", "http://127.0.0.1:9", "--", "train", *PLACES]) == 2
    assert "127.0.0.1:9" in (said := capsys.readouterr().err) and "--address" in said


# ---- what is shipped --------------------------------------------------------------------------------------------------


def test_the_package_is_sent_as_folders_that_python_can_import(tmp_path):
    env = runtime_env(Job("python", None), "token", tmp_path)
    assert env["env_vars"] == {"RAY_AUTH_MODE": "token"} and "working_dir" not in env
    code, metadata = env["py_modules"]
    there = {path.relative_to(code).as_posix() for path in Path(code).rglob("*") if path.is_file()}
    assert there >= {"__init__.py", "py.typed", "cluster/cli/app.py"} | {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks" / "matrices").glob("*.yaml")
    }
    assert not [name for name in there if name.split("/")[0] in ("tests", "docs", ".git", "pyproject.toml")]
    ask = "import unlearnrec, importlib.metadata as m; print(unlearnrec.__file__, m.version('unlearnrec'))"
    said = subprocess.run(
        [sys.executable, "-c", ask],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(code).parent), str(Path(metadata).parent)])},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout.split()
    assert said == [f"{code}/__init__.py", unlearnrec.__version__]


def test_an_installed_package_is_sent_too(tmp_path, monkeypatch):
    installed = tmp_path / "site-packages" / "unlearnrec"
    (installed / "cluster" / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "cluster/__init__.py", "cluster/__pycache__/a.pyc", "py.typed"):
        (installed / name).touch()
    monkeypatch.setattr(package, "ROOT", installed)
    (tmp_path / "sent").mkdir()
    code, _ = package.copy_package(tmp_path / "sent", "1.2")
    files = sorted(path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file())
    assert files == ["__init__.py", "cluster/__init__.py", "py.typed"]


# ---- how it ends ------------------------------------------------------------------------------------------------------


class Client:
    """A job server that runs a job at once, which ends with this exit code; None: it never began."""

    def __init__(self, code: int | None) -> None:
        status = types.SimpleNamespace(value="SUCCEEDED" if code == 0 else "FAILED", is_terminal=lambda: True)
        self.details = types.SimpleNamespace(status=status, driver_exit_code=code, message="no such environment")
        self.sent: list[dict] = []

    def get_address(self) -> str:
        return "http://head:8265"

    def submit_job(self, **sent: object) -> str:
        self.sent.append(sent)
        return "job1"

    def get_job_status(self, job_id: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(value="PENDING")

    def get_job_info(self, job_id: str) -> types.SimpleNamespace:
        return self.details

    async def tail_job_logs(self, job_id: str):
        yield "epoch 1\n"


@pytest.mark.parametrize(
    ("code", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3), (127, 127), (-9, 137), (None, 1)], ids=str
)
def test_the_exit_code_is_the_jobs_own(code, expected, monkeypatch, capsys):
    client = Client(code)
    monkeypatch.setattr(job_server, "connect", lambda address: (client, None))
    assert run(["submit", "--json", "--", "doctor"]) == expected
    out, err = capsys.readouterr()
    answer = json.loads(out.splitlines()[-1])
    assert answer.get("exit_code") == (None if code is None else exit_code_of(code)) and "epoch 1" in err
    assert answer["ok"] is (code == 0)


def test_how_to_follow_and_stop_it_is_said_at_once(monkeypatch, capsys):
    monkeypatch.setattr(job_server, "connect", lambda address: (Client(2), None))
    monkeypatch.setattr(job_server, "follow_log", lambda *arguments: pytest.fail("waited"))
    assert run(["submit", "--json", "--no-wait", "--", "doctor"]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out.splitlines()[-1])
    lines = {
        "follow": "RAY_API_SERVER_ADDRESS=http://head:8265 ray job logs --follow job1",
        "stop": "RAY_API_SERVER_ADDRESS=http://head:8265 ray job stop job1",
        "dashboard": "http://head:8265/#/jobs/job1",
    }
    assert {name: answer[name] for name in lines} == lines
    assert all(line in err for line in lines.values()) and "ok" not in answer


def test_ctrl_c_ends_the_waiting_and_says_how_to_end_the_job(monkeypatch):
    client, notes = Client(0), []

    async def interrupted(job_id: str):
        raise KeyboardInterrupt
        yield

    client.tail_job_logs = interrupted
    monkeypatch.setattr(job_server, "connect", lambda address: (client, None))
    progress = Progress()
    progress.note = notes.append
    with pytest.raises(KeyboardInterrupt):
        submit_here(["doctor"], typer.main.get_command(app).commands, progress=progress)
    assert "job1 goes on" in notes[-1] and "ray job stop job1" in notes[-1]


# ---- a real job -------------------------------------------------------------------------------------------------------

# ray.init has no setting for the port of the agent that takes jobs; with the default one the agent does not start beside
# another Ray of this machine, such as that of the other tests. And only `ray start` writes down where its cluster is: a
# job's driver would connect to any Ray of this machine.
SERVER = """
import functools, sys, ray
from ray._private import parameter, utils
parameter.RayParams = functools.partial(parameter.RayParams, dashboard_agent_listen_port=0)
context = ray.init("local", num_cpus=2, include_dashboard=True, object_store_memory=10**8, _temp_dir=sys.argv[1])
utils.write_ray_address(context.address_info["gcs_address"], sys.argv[1])
print("http://" + context.dashboard_url, flush=True)
sys.stdin.read()
ray.shutdown()
"""
TOKEN = "0123456789abcdef0123456789abcdef"


@contextlib.contextmanager
def running(mode):
    """A Ray with a job server and this mode of authentication, in a process of its own, which ends it: (address, env)."""
    here = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    here["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), here["PATH"]])
    token = {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    # Short, because sockets lie in it; its own, because a job on "auto" finds its cluster through it.
    with tempfile.TemporaryDirectory(prefix="ur", ignore_cleanup_errors=True) as folder:
        # As in an environment that uv made: what asks for pip fails.
        (Path(folder) / "none" / "pip").mkdir(parents=True)
        (Path(folder) / "none" / "pip" / "__init__.py").write_text("raise ImportError('there is no pip')\n")
        paths = [f"{folder}/none", *filter(None, [here.get("PYTHONPATH")])]
        command = [sys.executable, "-c", SERVER, folder]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(
            command, env=here | token | {"PYTHONPATH": os.pathsep.join(paths)}, text=True, cwd=folder, **pipes
        ) as process:
            lines = iter(process.stdout.readline, "")
            yield next(line.strip() for line in lines if line.startswith("http://")), here
            process.stdin.close()
            process.wait(60)


def submit(cluster, *arguments, **environment):
    address, here = cluster
    command = ["submit", "--json", "--address", address, "--", *arguments]
    # Another address in the environment: the client would prefer it.
    other = {"RAY_ADDRESS": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "unlearnrec", *command], env=here | other | environment, capture_output=True, text=True
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def cluster():
    with running("token") as found:
        yield found


@LONG
def test_a_job_on_a_cluster_without_authentication(tmp_path):
    """With a token that nobody asks for, and without one."""
    with running("disabled") as cluster:
        for token in ({"RAY_AUTH_TOKEN": TOKEN}, {}):
            code, answer, log = submit(cluster, "doctor", **token)
            assert (code, answer["status"], answer["exit_code"]) == (0, "SUCCEEDED", 0), log
        code, answer, log = submit(cluster, "train", f"interactions={tmp_path}/in", f"output={tmp_path}/out")
        assert (code, answer["exit_code"]) == (2, 2), log


@pytest.mark.slow
def test_jobs_on_a_real_cluster(cluster, tmp_path):
    code, answer, _ = submit(cluster, "doctor", RAY_AUTH_MODE="disabled")
    assert code == 2 and "wants its token" in answer["error"] and "RAY_AUTH_TOKEN" in answer["error"]

    table = pa.table({"user_id": [1, 1, 2, 2, 3, 3], "item_id": [10, 11, 11, 12, 10, 12]})
    pq.write_table(table, tmp_path / "in.parquet")
    config = tmp_path / "run.yaml"
    config.write_text(f"interactions: {tmp_path}/in.parquet\noutput: {tmp_path}/out\n")
    # On this machine the token goes without RAY_AUTH_MODE.
    code, answer, log = submit(cluster, "ingest", "--config", str(config), RAY_AUTH_TOKEN=TOKEN)
    assert (code, answer["status"], answer["exit_code"]) == (0, "SUCCEEDED", 0), log
    assert answer["job_id"] in log and "interactions" in log
    assert "sdk.py" not in log  # what Ray's client tells of itself
    assert (tmp_path / "out" / "graph" / "manifest.json").is_file()
    assert "address: auto" in (tmp_path / "out" / "config.yaml").read_text()

    code, answer, log = submit(
        cluster, "ingest", "--config", str(config), "--debug", f"interactions={tmp_path}/none", RAY_AUTH_TOKEN=TOKEN
    )
    assert (code, answer["status"], answer["exit_code"]) == (2, "FAILED", 2), log
    assert f"{tmp_path}/none: no such file" in log
    # The traceback tells which copy of the package ran: the shipped one, not the one installed for these tests.
    assert "/py_modules_files/_ray_pkg_" in log


class JustStarted:
    """A client whose cluster has no agent the first time."""

    def __init__(self, *answers: Exception | str) -> None:
        self.answers = list(answers)

    def submit_job(self, **_: object) -> str:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_cluster_that_has_just_started_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server.time, "sleep", lambda seconds: None)
    starting = RuntimeError("500: No available agent to submit job, please try again later.")
    assert job_server.submit_when_ready(JustStarted(starting, starting, "id"), "x", {}) == "id"
    with pytest.raises(RuntimeError, match="other"):
        job_server.submit_when_ready(JustStarted(RuntimeError("other"), "id"), "x", {})


def test_a_head_that_uv_run_started_is_told_how_to_start() -> None:
    said = RuntimeError("500: RuntimeEnvSetupError: Failed to upload working_dir /srv/project: Package size (954MiB)")
    with pytest.raises(InputError, match="RAY_ENABLE_UV_RUN_RUNTIME_ENV=0"):
        job_server.submit_when_ready(JustStarted(said), "x", {})
