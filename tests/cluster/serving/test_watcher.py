"""The follower beside the service's loop, and as a command that runs until it is told to stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from small_output import commit_train, small_config, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.config.schema import Config, to_yaml
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.serving.start import open_service


@pytest.fixture
def followed(tmp_path: Path) -> tuple[Path, Config]:
    """(a table of requests without rows, an output that follows it)."""
    table = tmp_path / "requests"
    write_deltalake(str(table), rows())
    watch = {"table": str(table), "kind": "requests", "poll_seconds": 0.05}
    config = small_config(write_interactions(tmp_path / "t.parquet"), str(tmp_path / "output"), watch=watch)
    pipeline.ingest(config)
    commit_train(config)
    return table, config


def rows(*names: str) -> pa.Table:
    return pa.table({"user_id": list(names), "request_id": list(names)}, schema=SCHEMA)


SCHEMA = pa.schema({"user_id": pa.string(), "request_id": pa.string()})


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def test_it_runs_beside_the_loop_and_its_errors_end_nothing(followed: Any, tmp_path: Path) -> None:
    table, config = followed
    engine: Any = None
    with open_service(Session(config), engine) as service:
        write_deltalake(str(table), rows("ann"), mode="append")
        until(lambda: service.status("ann"))
        assert service.intake.arrived.is_set()
        until(lambda: service.gauges()["watch_requests_total"] == 1)
        assert service.health() == {"status": "starting", "version": None, "blocked": None, "watch_blocked": None}
        shutil.move(table, tmp_path / "away")
        until(lambda: service.health()["watch_blocked"] == "InputError")
        assert service.gauges()["watch_blocked"] == 1
        shutil.move(tmp_path / "away", table)
        write_deltalake(str(table), rows("bob"), mode="append")
        until(lambda: service.status("bob"))
        until(lambda: service.health()["watch_blocked"] is None)
    assert "watch" not in {thread.name for thread in threading.enumerate()}


def test_a_service_that_follows_nothing_says_nothing_of_it(followed: Any) -> None:
    _, config = followed
    engine: Any = None
    with open_service(Session(config.model_copy(update={"watch": type(config.watch)()})), engine) as service:
        assert "watch_blocked" not in service.health() and "watch_blocked" not in service.gauges()


def test_the_command_runs_until_it_gets_a_signal(followed: Any) -> None:
    table, config = followed

    def later() -> None:
        until(lambda: (Path(config.output) / "watch" / "cursor.json").exists())
        write_deltalake(str(table), rows("ann", "bob"), mode="append")
        until(lambda: "bob" in Session(config).ledger().tickets)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=later)
    thread.start()
    answer = pipeline.watch(config)
    thread.join()
    assert answer["requests"] == 2
    assert json.loads(Session(config).store.read("watch/cursor.json"))["position"] == 1


def test_the_command_line(followed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, config = followed
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    write_deltalake(str(table), rows("ann", "bob"), mode="append")
    assert run(["watch", "--once", "--json", "--config", str(file)]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["requests"], answer["cursor"]) == (2, 1)
    write_deltalake(str(table), pa.table({"user_id": [None], "request_id": [None]}, schema=SCHEMA), mode="append")
    assert run(["watch", "--once", "--json", "--config", str(file)]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["invalid"] == 1
    assert "1 rows: it has neither user_id nor item_id" in told.err
    DeltaTable(str(table)).delete("user_id = 'ann'")  # what is asked for stays asked for
    assert run(["watch", "--once", "--config", str(file)]) == 0
    assert len(Session(config).ledger().tickets) == 2
    assert run(["watch", "--from-version", "99", "--config", str(file)]) == 2
    assert "no such version. It stands at version 3" in capsys.readouterr().err
