"""The report of a run: what is written, and what of an earlier one is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_output import commit_encoder, commit_forget, commit_train, small_config, user_name, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config
from unlearnrec.cluster.evidence.run_report import update_run_report, write_run_report
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.cluster.reporting.run_page import run_page

CURVE = {"epochs": 1, "seconds": 2.0, "curve": [{"epoch": 1.0, "loss": 0.5, "seconds": 2.0}]}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = small_config(write_interactions(tmp_path / "t.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    return config


def update(config: Config, **measured: object) -> dict:
    session = Session(config)
    place = update_run_report(session, session.version(), **measured)
    assert place is not None and place.endswith("output/reports/report.html")
    document = json.loads((Path(config.output) / "reports" / "report.json").read_text())
    assert (Path(config.output) / "reports" / "report.html").read_text() == run_page(document)
    return document


def test_the_report_says_what_the_log_says_and_names_nobody(config: Config) -> None:
    assert update(config)["requests"] == []
    commit_forget(config, user_name(1), "r")
    document = update(config, quality={"recall@20": np.float64(0.5), "nothing": float("nan")})
    (request,) = document["requests"]
    assert request["request_id"] == "r" and request["version"] == 2
    assert request["accepted"] <= request["committed"]
    assert document["forgotten"]["requests"] == 1
    assert document["quality"] == {"recall@20": 0.5, "nothing": None}  # plain JSON
    assert sum(row["users"] for row in document["graph"]["by_partition"]) == 11
    assert all(row["bytes of the graph"] > 0 for row in document["graph"]["by_partition"])
    assert "ann-" not in json.dumps(document) and "item-0" not in json.dumps(document)


def test_what_is_still_true_is_kept(config: Config) -> None:
    update(config, training=CURVE)
    document = update(config, quality={"recall@20": 0.5})  # the same version: everything stays
    assert document["training"]["curve"] == CURVE["curve"] and document["quality"] == {"recall@20": 0.5}
    commit_encoder(config)
    encoder = Session(config).version().model.encoder
    document = update(config, encoder={"seconds": 9.0, "file": encoder.file})
    assert document["training"]["curve"] == CURVE["curve"]  # the same training
    assert "quality" not in document  # of another version
    commit_forget(config, user_name(1), "r")
    document = update(config)
    assert document["encoder"]["seconds"] == 9.0 and document["training"]["seconds"] == 2.0
    commit_train(config.model_copy(update={"seed": 1}))
    document = update(config)
    assert "curve" not in document["training"] and "encoder" not in document  # of another training


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99, "version": 1}', "{"])
def test_an_earlier_file_of_another_kind_is_replaced(config: Config, text: str) -> None:
    update(config)
    (Path(config.output) / "reports" / "report.json").write_text(text)
    assert update(config)["version"] == 1


def test_a_report_that_cannot_be_written_is_a_note(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    class Notes(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    session = Session(config)
    monkeypatch.setattr(session.store, "write", lambda *_: (_ for _ in ()).throw(PermissionError("read only")))
    assert update_run_report(session, session.version(), Notes()) is None
    assert notes == ["reports/report.html was not written: PermissionError: read only"]
    with pytest.raises(PermissionError):
        write_run_report(session, {})


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["x/bin/unlearnrec", "evaluate", "--config", "a b.yaml"], "unlearnrec evaluate --config 'a b.yaml'"),
        (["x/unlearnrec/__main__.py", "evaluate"], "unlearnrec evaluate"),
        (
            ["unlearnrec", "evaluate", "--users", "ann", "--items=pear", "k=1"],
            "unlearnrec evaluate --users ... --items=... k=1",
        ),
        (["x/kernel.py", "-f", "secret.json"], "Python (kernel.py)"),
    ],
)
def test_the_command_is_shown_without_what_it_names(
    config: Config, monkeypatch: pytest.MonkeyPatch, argv: list[str], shown: str
) -> None:
    monkeypatch.setattr("sys.argv", argv)
    assert update(config)["made"]["command"] == shown
