"""Log lines: a line for each change of a request's state, as text or JSON, and nobody's name in it."""

import json
import logging
from pathlib import Path

import pytest

from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.lifecycle.acceptance import append_step
from unlearnrec.cluster.log.records import COMMITTED, EVIDENCE, FAILED, HELD, Record
from unlearnrec.cluster.log.told import tell
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting import logs
from unlearnrec.cluster.reporting.screen import open_progress
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.interface import NewRequest

CONFIG = {"interactions": "x", "forget": {"grace_seconds": 60}}
LOG = logging.getLogger("unlearnrec.cluster.anywhere")


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    return Intake(Session(parse_config(CONFIG | {"output": str(tmp_path)})))


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_change_of_state_is_a_line_and_names_nobody(intake, capsys, tmp_path):
    with logs.telling("json"):
        asked = NewRequest(users=["ann@example"], request_id="r1", requester="bob")
        intake.accept(asked)
        intake.accept(asked)  # again: no change, no line
        append_step(intake._session, "r1", HELD, {"share": 0.3, "max_share": 0.2})
        intake.approve("r1", by="carol")
        append_step(intake._session, "r1", FAILED, {"error": "KeyError"})
        intake.accept(asked)
        intake.accept(NewRequest(items=["thing"], request_id="r2"))
        intake.cancel("r2")
        answer = {"status": "committed", "seconds": 1.5, "gate": {"status": "passed"}, "rows": {"ann@example": 1}}
        manifest = {"version": 4, "reason": "forget", "answers": {"r1": answer}}
        tell(Record(9, COMMITTED, "2026", {"manifest": manifest}, "", ""))
        tell(Record(10, EVIDENCE, "2026", {"request_id": "r1", "evidence_failed": ["rows"]}, "", ""))
    err = capsys.readouterr().err
    told = lines(err)
    assert [(line["request"], line["state"]) for line in told] == [
        ("r1", "accepted"),
        ("r1", "held"),
        ("r1", "approved"),
        ("r1", "failed"),
        ("r1", "accepted"),
        ("r2", "accepted"),
        ("r2", "cancelled"),
        ("r1", "committed"),
        ("r1", "evidence"),
    ]
    assert not [name for name in ("ann", "bob", "carol", "thing") if name in err]
    assert {line["run"] for line in told} == {logs.RUN} and told[3]["error"] == "KeyError"
    assert (told[-2]["version"], told[-2]["seconds"], told[-2]["gate"]) == (4, 1.5, "passed")
    assert [line["record"] for line in told[:3]] == [1, 2, 3]


def test_without_a_format_only_warnings_are_told(intake, capsys):
    intake.accept(NewRequest(users=["ann"], request_id="r1"))
    assert capsys.readouterr().err == ""


def test_text_is_for_people_and_the_block_leaves_nothing_behind(intake, capsys):
    before = logging.getLogger("unlearnrec").level, list(logging.getLogger("unlearnrec").handlers)
    with logs.telling("text"):
        intake.accept(NewRequest(users=["ann"], request_id="r1"))
    assert capsys.readouterr().err.endswith(" info: request r1: accepted\n")
    assert (logging.getLogger("unlearnrec").level, logging.getLogger("unlearnrec").handlers) == before


def test_an_exception_is_its_class_only(capsys):
    with logs.telling("json"):
        try:
            raise ValueError("ann@example")
        except ValueError:
            LOG.warning("that failed", exc_info=True)
    [line] = lines(capsys.readouterr().err)
    assert line["error"] == "ValueError" and line["level"] == "warning" and "ann" not in json.dumps(line)


def test_progress_is_lines_of_json_too(capsys):
    with logs.telling("json"):
        progress = open_progress()
        with progress.task("train", 2) as task:
            task.advance(2, loss=0.5)
        progress.note("planned")
    told = lines(capsys.readouterr().err)
    assert (told[0]["task"], told[0]["done"], told[0]["loss"]) == ("train", 2, 0.5) and told[1]["message"] == "planned"


@pytest.mark.parametrize("arguments", [["--log-format", "json"], []], ids=["option", "variable"])
def test_a_command_takes_the_format_as_option_or_variable(arguments, capsys, monkeypatch, tmp_path):
    import unlearnrec.cluster.commands.config as command

    if not arguments:
        monkeypatch.setenv(logs.VARIABLE, "json")
    monkeypatch.setattr(command, "explain_config", lambda key: {"format": logs.log_format()})
    assert run(["config", "--json", *arguments]) == 0
    assert json.loads(capsys.readouterr().out) == {"format": "json"}
    assert logs.log_format() is None


def test_another_format_is_a_mistake(capsys):
    assert run(["config", "--log-format", "xml"]) == 2
    assert "--log-format" in capsys.readouterr().err
