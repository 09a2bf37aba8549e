"""Spans: none without a collector, one for each step of a request with one, and no person on any."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from in_process import InProcess
from trained_output import trained_output

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.reporting import spans

opentelemetry = pytest.importorskip("opentelemetry.sdk.trace")


class Group(InProcess):
    """An in-process group with what `carry_out` and plans ask of one besides."""

    num_partitions, formed, planned = 1, True, None

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes: dict[int, int] = {}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An exporter that keeps all spans of the test in memory."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), opentelemetry.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter


def test_each_step_of_a_request_is_a_span_and_names_nobody(exported, tmp_path):
    config, events = trained_output(tmp_path, Group(), names=True, cluster={"partitions": 1})
    user = events[0][0]
    with pytest.raises(Exception, match="no such file"):
        pipeline.train(config, without=[str(tmp_path / f"{user}.csv")], group=Group())
    answer = pipeline.forget(config, users=user, request_id="r1", requester="bob", group=Group())
    assert answer["status"] == "committed"
    found = exported.get_finished_spans()
    named = {span.name: span for span in found}
    whole = named["carry_out"]
    assert whole.attributes["unlearnrec.requests"] == ("r1",)
    steps = {"find", "unlearn", "write", "gate", "commit", "refresh"}
    for name in steps:
        assert named[name].parent.span_id == whole.context.span_id, name
        assert whole.start_time <= named[name].start_time <= named[name].end_time <= whole.end_time + 10**6, name
    assert {"ingest", "train", "pretrain", "evidence"} <= named.keys()
    [failed] = [span for span in found if span.name == "train" and not span.status.is_ok]
    assert failed.attributes["error.type"] == failed.status.description == "InputError" and not failed.events
    said = json.dumps([[s.name, dict(s.attributes), s.status.description] for s in found], default=str)
    assert user not in said and "bob" not in said and "item-" not in said
    assert {span.attributes["unlearnrec.run"] for span in found} == {spans.RUN}


SILENT = """
import sys
class NoOtel:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError("No module named 'opentelemetry'", name="opentelemetry")
sys.meta_path.insert(0, NoOtel())
from unlearnrec.cluster.reporting import spans
with spans.span("a", requests=["r1"]):
    spans.ended("b", 1.0)
assert spans.traced("c")(lambda: 5)() == 5
print(spans.send_spans(), "opentelemetry" in sys.modules)
"""


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:9"])
def test_without_the_extra_nothing_happens(endpoint, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if endpoint else {}
    done = subprocess.run([sys.executable, "-c", SILENT], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["False", "False"], done.stderr
    assert ("unlearnrec[otel]" in done.stderr) == bool(endpoint)


def test_what_asks_for_spans(monkeypatch):
    for name in (*spans.ENDPOINTS, "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)
    assert not spans.wanted()
    monkeypatch.setenv(spans.ENDPOINTS[0], "http://collector:4318")
    assert spans.wanted()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert not spans.wanted()
