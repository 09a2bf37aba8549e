"""The service as an application of a Serve config, on a Ray with token authentication and on one without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lanes import LONG

import unlearnrec
from unlearnrec.cluster.commands import serve_detached
from unlearnrec.cluster.reporting.logs import log_format
from unlearnrec.partitioning.errors import InputError

pytest.importorskip("fastapi")
pytest.importorskip("ray.serve")

ROOT = Path(unlearnrec.__file__).resolve().parent
TOKEN = "a-token-of-enough-letters"
# In a process of its own: what Ray's authentication is, is settled when Ray starts.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
import pyarrow.parquet as pq
import ray, requests
sys.path.insert(0, sys.argv[1])
folder = Path(sys.argv[2])
ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=10**8)
from ray_fixture import two_workers
from trained_output import trained_output
from unlearnrec.cluster.commands import serve_detached
from unlearnrec.cluster.config.schema import to_yaml
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

with two_workers() as group:
    config, _ = trained_output(folder, group, serve={"poll_seconds": 0.2, "port": 0})
(folder / "run.yaml").write_text(to_yaml(config))
started = serve_detached.start_detached(config)
url, headers = started["url"], {"Authorization": f"Bearer {os.environ['UNLEARNREC_TOKEN']}"}
first = ray.get(ray.get_actor(started["actor"], serve_detached.NAMESPACE).__ray_call__.remote(lambda _: os.getpid()))
assert requests.get(f"{url}/healthz", timeout=60).json()["version"] == 2

# As KubeRay does it: the config is handed to the controller, which builds the application on the cluster.
module = serve_detached.__name__
one = {"name": "recommender", "route_prefix": "/", "import_path": f"{module}:application"}
one["args"] = {"config": str(folder / "run.yaml"), "overrides": ["forget.max_share=0.9"], "log_format": "json"}
port = int(url.rsplit(":", 1)[1])
config_of_serve = {"http_options": {"port": port}, "applications": [one]}
_get_global_client().deploy_apps(ServeDeploySchema.model_validate(config_of_serve))

def until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (requests.RequestException, ValueError, KeyError):
            pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)

def pid():
    actor = ray.get_actor(started["actor"], serve_detached.NAMESPACE)
    return ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))

until(lambda: pid() != first)  # the first coordinator was followed by another
until(lambda: requests.get(f"{url}/healthz", timeout=60).json()["status"] == "ok")
user = str(pq.read_table(config.interactions)["user_id"][0].as_py())
post = lambda: requests.post(f"{url}/v1/requests/r1", json={"users": [int(user)]}, headers=headers, timeout=60)
until(lambda: post().status_code in (200, 202))
get = lambda path: requests.get(f"{url}{path}", headers=headers, timeout=60)
until(lambda: get("/v1/requests/r1").json()["request_status"] == "completed")
until(lambda: get(f"/v1/recommendations/{user}").status_code == 404)
text = get("/metrics").text
assert 'unlearnrec_request_phase_seconds_count{phase="commit"} 1' in text, text
assert "unlearnrec_workers_ready 2" in text and 'unlearnrec_requests_total{state="committed"} 1' in text
logs = Path(ray._private.worker._global_node.get_logs_dir_path())
states = [
    json.loads(line)["state"]
    for file in logs.glob("worker-*.err")
    for line in file.read_text().splitlines()
    if line.startswith("{") and '"request": "r1"' in line
]
assert states[:3] == ["accepted", "in_progress", "committed"], states
assert requests.get(f"{url}/metrics", timeout=60).status_code == 401
from ray import serve
serve.shutdown()
print("all of it", flush=True)
"""


@LONG
@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_the_application_of_a_serve_config_serves(mode: str, tmp_path: Path):
    here = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    here |= {"RAY_AUTH_MODE": mode, "UNLEARNREC_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    here |= {"RAY_AUTH_TOKEN": "0123456789abcdef" * 2} if mode == "token" else {}
    command = [sys.executable, "-c", SCRIPT, str(ROOT / "tests" / "support"), str(tmp_path)]
    done = subprocess.run(command, env=here, capture_output=True, text=True, cwd=tmp_path, timeout=350)
    assert done.returncode == 0 and "all of it" in done.stdout, done.stdout[-2000:] + done.stderr[-6000:]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the application does on a cluster, which is stood in for: a coordinator of this output runs there."""
    found: list[object] = []
    actors = {"there": True}

    def get_actor(name: str, namespace: str) -> str:
        if not actors["there"]:
            raise ValueError(name)
        return name

    def stop(actor: str) -> None:
        found.append(("stopped", actor))
        actors["there"] = False

    monkeypatch.setattr(serve_detached.ray, "get_actor", get_actor)
    monkeypatch.setattr(serve_detached, "_stop_actor", stop)
    monkeypatch.setattr(serve_detached, "check_servable", lambda session: None)
    monkeypatch.setattr(serve_detached, "_refuse_without_room", lambda config: None)
    monkeypatch.setattr(
        serve_detached, "_start_actor", lambda config, name: found.append((name, config.serve.max_batch, log_format()))
    )
    return found


def test_a_coordinator_that_is_there_is_followed_by_one_with_the_present_configuration(
    done: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "run.yaml").write_text(f"interactions: /in\noutput: {tmp_path}\n", encoding="utf-8")
    args = {"config": str(tmp_path / "run.yaml"), "overrides": ["serve.max_batch=7"], "log_format": "json"}
    monkeypatch.delenv("UNLEARNREC_TOKEN", raising=False)
    with pytest.raises(InputError, match="UNLEARNREC_TOKEN"):  # whoever reaches the proxies could call it
        serve_detached.application(args)
    assert not done
    monkeypatch.setenv("UNLEARNREC_TOKEN", TOKEN)
    application = serve_detached.application(args)
    name = serve_detached.actor_name(str(tmp_path))
    assert done == [("stopped", name), (name, 7, "json")]
    assert type(application).__name__ == "Application"


@pytest.mark.parametrize("args", [{}, {"config": "run.yaml", "port": 1}])
def test_other_arguments_are_refused(args: dict):
    with pytest.raises(InputError, match="expected config"):
        serve_detached.application(args)
