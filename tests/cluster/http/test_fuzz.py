"""The API against its own OpenAPI document: whatever schemathesis sends, answers are as documented."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")
from desk_output import served
from small_output import commit_train, small_config, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.commands.serve import admission_rules
from unlearnrec.cluster.http.app import make_app
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.serving.callbacks import Outbox, url_pattern
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.readouts import Readouts
from unlearnrec.cluster.serving.service import Service

TOKEN = "a-token-of-enough-letters"


@pytest.fixture
def url(tmp_path, monkeypatch):
    """The real intake on a small output; without workers, so that nothing is ever carried out."""
    monkeypatch.setenv("UNLEARNREC_TOKEN", TOKEN)
    more = {"forget": {"grace_seconds": 3600}, "serve": {"rate_per_second": 1e6, "burst": 10**6}}
    config = small_config(write_interactions(tmp_path / "interactions.parquet"), str(tmp_path / "output"), **more)
    pipeline.ingest(config)
    commit_train(config)
    session = Session(config)
    service = Service(session, Intake(Session(config), outbox=Outbox(session.store)), engine=None)
    nodes, rows = np.arange(8), np.ones((8, 2), dtype=np.float32)
    service.published = Readouts(
        version=1,
        users={str(n): n for n in range(8)},
        items=[f"item {n}" for n in range(8)],
        user_rows=rows,
        item_rows=rows,
        seen_indptr=np.zeros(9, dtype=np.int64),
        seen=nodes[:0].astype(np.int32),
        item_there=np.ones(8, dtype=bool),
    )
    app = make_app(service, admission_rules(config.serve, "127.0.0.1"), url_pattern(["desk.example"]))
    with served(app) as address:
        yield address


HOOKS = """
import schemathesis


@schemathesis.hook
def filter_case(context, case):
    # That `since` is before `until` is the one rule that a JSON schema cannot tell.
    ranges = case.body.get("ranges") if isinstance(case.body, dict) else None
    ranges = ranges if isinstance(ranges, list) else []
    return all(not isinstance(x, dict) or x.get("since") is None or x.get("until") is None for x in ranges)
"""


@pytest.mark.slow
def test_schemathesis_finds_nothing(url, tmp_path):
    options = ["--checks=all", "--max-examples=10", "--seed=1", "--generation-database=none", "--no-color"]
    # A request that was cancelled is still there, and says so.
    options.append("--exclude-checks=use_after_free")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", *options]
    token = f"--header=Authorization: Bearer {TOKEN}"
    (tmp_path / "hooks.py").write_text(HOOKS)
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([*command, token], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
