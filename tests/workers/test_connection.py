"""A Ray that is not there, does not answer or does not start: told within seconds, with its name."""

import json
import logging
import socket
import threading
import time

import pytest
import ray
from ray._private.ray_constants import LOGGER_FORMAT
from ray._private.ray_logging import setup_logger

from unlearnrec.cluster.reporting.logs import telling
from unlearnrec.partitioning.errors import InputError
from unlearnrec.workers import connection
from unlearnrec.workers.connection import connect_to_ray


@pytest.fixture(autouse=True)
def unconnected(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def silent():
    """The port of a server that accepts connections and says nothing, as that of a frozen process does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_head_that_does_not_answer_is_given_up(silent, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 2.0)
    began = time.monotonic()
    for address in (f"127.0.0.1:{silent}", f"ray://127.0.0.1:{silent}"):
        with pytest.raises(InputError, match=rf"no Ray cluster answers at '{address}' \(no answer"):
            connect_to_ray(address)
    assert time.monotonic() - began < 15
    monkeypatch.setenv("RAY_ADDRESS", f"ray://127.0.0.1:{silent}")
    with pytest.raises(InputError, match="RAY_ADDRESS"):
        connect_to_ray(None)


@pytest.mark.parametrize("address", ["http://head:8265", "head", "head:port", "https://head"])
def test_what_is_no_address_of_a_head_is_told(address):
    with pytest.raises(InputError, match=rf"got '{address}'.*expected HOST:PORT"):
        connect_to_ray(address)


def test_a_refused_token_is_told_as_that(silent, monkeypatch):
    refusal = "import time; print('GCS: Unauthenticated: InvalidAuthToken', flush=True); time.sleep(60)"
    monkeypatch.setattr(connection, "ASK", refusal)
    with pytest.raises(InputError, match=r"it wants a token.*RAY_AUTH_MODE=token"):
        connect_to_ray(f"127.0.0.1:{silent}")


def test_a_head_that_answers_is_not_waited_for(silent, monkeypatch):
    answer = "print('imported', flush=True); print('a warning'); print('asks 10.0.0.1:6379'); print('answers')"
    monkeypatch.setattr(connection, "ASK", answer)
    assert connection._silent(f"127.0.0.1:{silent}") is None
    monkeypatch.setattr(connection, "ASK", answer.replace("'answers'", "'no more answers'"))
    assert connection._silent(f"127.0.0.1:{silent}") == "no answer from a head of Ray at 10.0.0.1:6379"


def test_a_start_that_times_out_is_tried_once_more(monkeypatch, caplog):
    tries = []

    def init(address, **_):
        tries.append(address)
        if len(tries) < fails:
            raise Exception("The current node timed out during startup.\nMore.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: tries.append("shutdown"))
    fails = 2
    assert connect_to_ray(None) and tries == ["local", "shutdown"] + ["local"]
    assert "trying once more" in caplog.text
    tries.clear()
    fails = 9
    with pytest.raises(
        RuntimeError, match=r"also not at a second try \(The current node timed out during startup\.\).*ray start"
    ):
        connect_to_ray("local")
    assert tries == ["local", "shutdown", "local", "shutdown"]


def test_a_name_server_that_does_not_answer_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr(connection, "LOOK_UP_SECONDS", 0.5)
    monkeypatch.setattr(connection, "SLOW_LOOK_UP_SECONDS", 0.1)
    asked = threading.Event()

    def silent_server(*_, **__):
        asked.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", silent_server)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"'head:6379' \(the name head could not be looked up within 0\.5 s"):
        connect_to_ray("head:6379")
    assert time.monotonic() - began < 5
    asked.set()
    with pytest.raises(InputError, match=r"'head:6379' \(Temporary failure in name resolution"):
        connect_to_ray("head:6379")

    def slow_server(*_, **__):
        time.sleep(0.2)
        entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{k}", 1)) for k in (1, 2)]
        return entries + entries[:1]

    monkeypatch.setattr(socket, "getaddrinfo", slow_server)
    assert connection._looked_up("head:6379", "head", 6379) == ["127.0.0.1", "127.0.0.2"]
    assert "looking up the name head took" in caplog.text


def test_rays_own_warnings_are_lines_of_the_log_that_was_asked_for(monkeypatch, capsys):
    """Where nobody asked they are as Ray writes them."""
    of_ray = logging.getLogger("ray")
    before = list(of_ray.handlers)

    def init(address, logging_level, **_):
        setup_logger(logging_level, "%(message)s, as text")  # what ray.init does
        logging.getLogger("ray._private.anything").warning("a warning")

    monkeypatch.setattr(ray, "init", init)
    try:
        connect_to_ray(None)
        assert of_ray.handlers == before
        capsys.readouterr()
        with telling("json"):
            connect_to_ray(None)
        (line,) = capsys.readouterr().err.splitlines()
        assert json.loads(line)["message"] == "a warning" and json.loads(line)["level"] == "warning"
    finally:
        of_ray.handlers[:] = before
        setup_logger(logging.WARNING, LOGGER_FORMAT)
