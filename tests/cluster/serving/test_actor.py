"""The service as a detached actor behind Ray Serve: a process that dies, and is followed by another."""

import os
import re
import signal
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import requests
from lanes import LONG
from ray_fixture import two_workers
from trained_output import trained_output

pytest.importorskip("fastapi")
pytest.importorskip("ray.serve")

from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands import serve_detached
from unlearnrec.cluster.output import ready
from unlearnrec.cluster.output.session import Session
from unlearnrec.partitioning.errors import InputError

TOKEN = "a-token-of-enough-letters"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def config(ray_session, tmp_path, monkeypatch):
    """A small output with an encoder, and the configuration to serve it with."""
    monkeypatch.setenv("UNLEARNREC_TOKEN", TOKEN)
    with two_workers() as group:
        return trained_output(tmp_path, group, serve={"poll_seconds": 0.2, "port": 0})[0]


def until(condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return found


def secret(page):
    return re.search(r'name="form_secret" value="([0-9a-f]+)"', page)[1]


def signed_in(url):
    """A browser that is signed in at the pages of the desk."""
    desk = requests.Session()
    page = desk.get(f"{url}/", timeout=60)
    assert page.url == f"{url}/desk/sign-in"
    fields = {"form_secret": secret(page.text), "token": HEADERS["Authorization"].removeprefix("Bearer ")}
    assert desk.post(f"{url}/desk/sign-in", data=fields, timeout=60).url == f"{url}/desk/"
    return desk


@pytest.mark.slow
def test_the_actor_dies_and_its_successor_carries_out_what_was_accepted(config):
    first, second, third = (str(n) for n in sorted(set(pq.read_table(config.interactions)["user_id"].to_pylist()))[:3])
    with pytest.raises(InputError, match=r"no actor 'unlearnrec-.*' in namespace"):
        serve_detached.stop_detached(config)
    started = serve_detached.start_detached(config)
    try:
        url, actor = started["url"], ray.get_actor(started["actor"], serve_detached.NAMESPACE)

        def get(path, headers=HEADERS):
            return requests.get(url + path, headers=headers, timeout=60)

        def post(name, user):
            return requests.post(f"{url}/v1/requests/{name}", json={"users": [user]}, headers=HEADERS, timeout=60)

        def completed(name):
            answer = get(f"/v1/requests/{name}")
            return answer.status_code == 200 and answer.json()["request_status"] == "completed"

        with pytest.raises(InputError, match=rf"the actor '{started['actor']}' .* serves .* already"):
            serve_detached.start_detached(config)
        assert get("/metrics", headers={}).status_code == 401 and get("/healthz", headers={}).json()["version"] == 2
        assert get(f"/v1/recommendations/{first}?k=3").json()["recommendations"]
        assert post("one", first).status_code == 202
        until(lambda: completed("one"))
        assert (
            get(f"/v1/recommendations/{first}").status_code == 404
            and get(f"/v1/recommendations/{second}").status_code == 200
        )
        assert post("one", second).status_code == 409  # raised in the actor, answered by the face

        desk = signed_in(url)
        story = desk.get(f"{url}/desk/requests/one", timeout=60).text
        assert "Carried out" in story and "Received by default" in story
        draft = desk.post(f"{url}/desk/new/typed", data={"form_secret": secret(story), "users": third}, timeout=60)
        assert "Interactions that go" in draft.text
        assert [one["request_id"] for one in get("/v1/requests").json()["requests"]] == ["one"]
        assert get("/v1/requests/one/evidence/evidence.json").json()["request_id"] == "one"

        assert post("two", second).status_code == 202
        os.kill(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        until(lambda: get("/v1/requests/two").status_code == 200)
        until(lambda: completed("two"))
        until(lambda: get(f"/v1/recommendations/{second}").status_code == 404)
        assert get(f"/v1/recommendations/{third}").status_code == 200
        assert 'unlearnrec_requests_total{state="committed"} 2' in get("/metrics").text
    finally:
        stopped = serve_detached.stop_detached(config)
    assert stopped == {"status": "stopped", "actor": started["actor"]}
    with pytest.raises(requests.ConnectionError):
        get("/healthz")
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    assert any((logs / "serve").iterdir())
    assert not [file for file in logs.rglob("*.*") if file.is_file() and b"/v1/recommendations/" in file.read_bytes()]
    records = Session(config).log.records()
    answers = [name for r in records if r.kind == "committed" for name in r.body["manifest"].get("answers", {})]
    assert sorted(answers) == ["one", "two"]
    until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])


@pytest.mark.slow
def test_health_and_recommendations_are_answered_while_all_other_calls_hang(config, tmp_path, monkeypatch):
    """None of them is given up meanwhile."""
    monkeypatch.setattr(serve_detached, "RemoteService", partial(serve_detached.RemoteService, seconds=600))
    user = pq.read_table(config.interactions)["user_id"][0].as_py()
    calls, hanging, back = serve_detached.CALLS + 16, tmp_path / "hanging", tmp_path / "back"
    hanging.mkdir()

    def hang(coordinator):
        def status(_):
            (hanging / uuid.uuid4().hex).touch()
            while not back.exists():
                time.sleep(0.1)

        coordinator._service.intake.status = status

    started = serve_detached.start_detached(config)
    try:
        url = started["url"]

        def get(path, seconds=90):
            return requests.get(url + path, headers=HEADERS, timeout=seconds)

        ray.get(ray.get_actor(started["actor"], serve_detached.NAMESPACE).__ray_call__.remote(hang))
        with ThreadPoolExecutor(calls) as callers:
            try:
                asked = [callers.submit(get, "/v1/requests/one", 600) for _ in range(calls)]
                until(lambda: len(list(hanging.iterdir())) == serve_detached.CALLS)
                health, recommended = get("/healthz"), get(f"/v1/recommendations/{user}?k=3")
                assert (health.status_code, health.json()["version"]) == (200, 2)
                assert len(recommended.json()["recommendations"]) == 3
            finally:
                back.touch()
            assert {one.result().status_code for one in asked} == {404}
    finally:
        serve_detached.stop_detached(config)


@LONG
@pytest.mark.slow
def test_several_outputs_are_served_under_paths_of_their_own(config, monkeypatch):
    """Another application has `/`, such as another output's face."""
    serve = pytest.importorskip("ray.serve")

    class Other:
        def __call__(self, request):
            return "other"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    serve.start("HeadOnly", {"host": "127.0.0.1", "port": port})
    try:
        serve.run(serve.deployment(Other, ray_actor_options={"num_cpus": 0}).bind(), name="other", route_prefix="/")
        with monkeypatch.context() as patch:
            patch.setattr(serve_detached, "_start_actor", lambda *_: pytest.fail("started"))
            with pytest.raises(InputError, match=r"serve\.route_prefix /: the application 'other'"):
                serve_detached.start_detached(config)
        own = config.model_copy(update={"serve": config.serve.model_copy(update={"route_prefix": "/a/run"})})
        serve_detached.start_detached(own)
        url = f"http://127.0.0.1:{port}"
        health = requests.get(f"{url}/a/run/healthz", timeout=60)
        assert health.json()["version"] == 2 and requests.get(f"{url}/healthz", timeout=60).text == "other"
        first = pq.read_table(config.interactions)["user_id"][0].as_py()
        found = requests.get(f"{url}/a/run/v1/recommendations/{first}?k=3", headers=HEADERS, timeout=60)
        assert len(found.json()["recommendations"]) == 3
        desk = signed_in(f"{url}/a/run")
        assert "No request waits" in desk.get(f"{url}/a/run/desk/", timeout=60).text
        assert desk.get(f"{url}/a/run/desk/style.css", timeout=60).status_code == 200
        serve_detached.stop_detached(own)
        assert requests.get(f"{url}/healthz", timeout=60).text == "other"
    finally:
        serve.shutdown()


@pytest.mark.parametrize("option", ["--detached", "--stop"])
def test_a_ray_that_ends_with_the_command_does_not_do(monkeypatch, tmp_path, capsys, option):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(serve_detached, "check_servable", lambda session: None)
    monkeypatch.setattr(ready, "check_trained", lambda *_: None)
    assert run(["serve", option, "interactions=x.parquet", f"output={tmp_path}"]) == 2
    assert "cluster.address" in capsys.readouterr().err
