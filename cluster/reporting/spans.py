"""Spans of OpenTelemetry: how long the steps of a run and of a request take, for a tracing system (extra `otel`).

Spans carry ids of requests, runs and versions; never a user, an item or an operator, and of an error only its class.
Without a variable that names a collector, and where nobody else uses OpenTelemetry in this process, nothing is imported and
nothing is done.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from .logs import RUN

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""The variables of OpenTelemetry that name a collector. With one of them set, spans are sent there."""
SCOPE = "unlearnrec"

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


def wanted() -> bool:
    """Whether the environment asks for spans to be sent."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(map(os.environ.get, ENDPOINTS))


@functools.cache
def send_spans() -> bool:
    """Send the spans of this process to the collector that the environment names; returns whether they are sent.

    It does nothing the second time, without such a variable, and where the program has set up OpenTelemetry itself. Without
    the packages of the extra `otel`, a warning says what to install.
    """
    if not wanted():
        return False
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        log.warning("no spans are sent: %s is not installed. Run `pip install 'unlearnrec[otel]'`", error.name)
        return False
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return True  # whoever set it up decides where spans go
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what stands here.
    provider = TracerProvider(resource=Resource({"service.name": SCOPE}).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # its own hook sends what is left when the process ends
    return True


def _tracer() -> Any:
    """The tracer; None where spans go nowhere."""
    if not (wanted() or "opentelemetry.trace" in sys.modules):
        return None
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        return None
    return trace.get_tracer(SCOPE)


@contextmanager
def span(name: str, **attributes: str | int | float | list[str]) -> Iterator[None]:
    """A span around the block, below the one that is open. attributes: named `unlearnrec.NAME` on it."""
    tracer = _tracer()
    if tracer is None:
        yield
        return
    from opentelemetry.trace import StatusCode

    # Neither the text of an error nor its traceback: they may name anybody.
    with tracer.start_as_current_span(
        name, attributes=_named(attributes), record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield
        except BaseException as error:
            current.set_status(StatusCode.ERROR, type(error).__name__)
            current.set_attribute("error.type", type(error).__name__)
            raise


def ended(name: str, seconds: float) -> None:
    """A span of a step that has just ended, and took this long, below the one that is open."""
    tracer = _tracer()
    if tracer is not None:
        now = time.time_ns()
        tracer.start_span(name, start_time=now - int(seconds * 1e9), attributes=_named({})).end(now)


def traced(name: str) -> Callable[[Callable[Arguments, Answer]], Callable[Arguments, Answer]]:
    """A decorator: each call is a span of this name."""

    def decorate(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
        @functools.wraps(function)
        def call(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Answer:
            with span(name):
                return function(*arguments, **keywords)

        return call

    return decorate


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"unlearnrec.run": RUN, **{f"unlearnrec.{name}": value for name, value in attributes.items()}}
