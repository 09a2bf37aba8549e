"""What `/metrics` says of phases, gate and workers; and that each metric that a service can have is described."""

import types

import pytest

from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.tickets import State, Ticket
from unlearnrec.cluster.reporting.prometheus import family_name
from unlearnrec.cluster.serving.callback_sender import Sender
from unlearnrec.cluster.serving.families import FAMILIES
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.measured import Measured
from unlearnrec.cluster.serving.service import Service
from unlearnrec.cluster.serving.watcher import Watcher
from unlearnrec.workers.placement import NoRoom


def ticket(request_id: str, accepted: float, again: float | None = None) -> Ticket:
    return Ticket(request_id, State.COMMITTED, accepted, accepted_again_at=again)


@pytest.fixture
def measured() -> Measured:
    measured = Measured(2)
    gate = {"gate": {"status": "missed"}, "phases": {"find": 0.2, "commit": 3.0}}
    answers = {"a": gate, "b": gate, "none": {"status": "nothing_to_forget"}}
    tickets = [ticket("a", 100), ticket("b", 40, again=90), ticket("none", 100)]
    measured.carried_out(answers, tickets, begun=110, ended=115)
    measured.evidence_written(3, 0.7)
    return measured


def test_each_request_counts_in_each_phase(measured):
    found = measured.gauges()
    counts = {
        name: found[f'request_phase_seconds_count{{phase="{name}"}}']
        for name in ("waiting", "total", "find", "evidence")
    }
    assert counts == {"waiting": 3, "total": 3, "find": 2, "evidence": 3}
    assert found['request_phase_seconds_sum{phase="waiting"}'] == 10 + 20 + 10  # a second try waits anew
    assert found['request_phase_seconds_sum{phase="total"}'] == 15 + 75 + 15  # and is as old as the first
    assert found['request_phase_seconds_bucket{phase="find",le="0.1"}'] == 0
    assert found['request_phase_seconds_bucket{phase="find",le="0.25"}'] == 2
    assert found['gate_verdicts_total{status="missed"}'] == 1  # of the version, not of each request


def test_workers_are_ready_when_they_have_formed(measured):
    assert (measured.gauges()["workers_wanted"], measured.gauges()["workers_ready"]) == (2, 0)
    measured.group = types.SimpleNamespace(num_partitions=2, formed=True)
    assert measured.gauges()["workers_ready"] == 2
    measured.group.formed = False
    assert measured.gauges()["workers_ready"] == 0


def test_a_service_without_room_says_so_and_each_metric_is_described(measured, tmp_path):
    session = Session(parse_config({"interactions": "x", "output": str(tmp_path)}))
    service = Service(session, Intake(session), engine=None, measured=measured)
    service._pause(NoRoom("no room"))
    found = service.gauges()
    assert found["blocked"] == 1 and found['blocked_reason{reason="NoRoom"}'] == 1
    service._unblock()
    assert service.gauges()["blocked"] == 0 and not [n for n in service.gauges() if n.startswith("blocked_reason")]
    # Those of callbacks and of a followed table, which this service has not.
    outbox = types.SimpleNamespace(entries=dict, wake=None)
    rules = types.SimpleNamespace(url_pattern="", key=b"")
    found |= Sender(outbox, None, rules).gauges()
    found |= Watcher.gauges(types.SimpleNamespace(blocked=None, made=0))
    assert {family_name(name, FAMILIES) for name in found} == set(FAMILIES)
