"""What the process of the loop measures of the requests that it carries out, for `/metrics`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ...workers import WorkerGroup
from ..output.tickets import Ticket
from ..reporting.prometheus import Histogram

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 86400, 604800, 2592000)
"""Seconds: a phase takes parts of a second to minutes; a request may wait until its deadline of 30 days."""
WAITING, EVIDENCE, TOTAL = "waiting", "evidence", "total"
"""Phases besides those of the batch (`Stopwatch.mark` in models/)."""


class Measured:
    """Phases of requests, verdicts of the gate, and workers. The loop tells it; any thread may read."""

    def __init__(self, workers_wanted: int) -> None:
        self._wanted = workers_wanted
        self.group: WorkerGroup | None = None
        """The workers; None before they are started."""
        self._phases = Histogram("request_phase_seconds", "phase", BUCKETS)
        self._lock = threading.Lock()
        self._verdicts: Counter[str] = Counter()

    def carried_out(
        self, answers: Mapping[str, Mapping[str, Any]], tickets: Iterable[Ticket], begun: float, ended: float
    ) -> None:
        """Take in a batch. Its requests share its phases, and each counts.

        answers: of `carry_out`, by request id. tickets: of these requests. begun, ended: of the batch, in seconds since the
        epoch.
        """
        for ticket in tickets:
            self._phases.observe(max(0.0, begun - ticket.waits_from), WAITING)
            self._phases.observe(max(0.0, ended - ticket.accepted_at), TOTAL)
            for phase, seconds in answers[ticket.request_id].get("phases", {}).items():
                self._phases.observe(seconds, phase)
        # The gate judges the version, and each of its answers says the same.
        verdict = next((answer["gate"]["status"] for answer in answers.values() if "gate" in answer), None)
        if verdict is not None:
            with self._lock:
                self._verdicts[verdict] += 1

    def evidence_written(self, requests: int, seconds: float) -> None:
        """Take in how long the evidence of a batch of so many requests took."""
        for _ in range(requests):
            self._phases.observe(seconds, EVIDENCE)

    def gauges(self) -> dict[str, float]:
        """Name and labels -> value; no id."""
        group = self.group
        ready = group.num_partitions if group is not None and group.formed else 0
        with self._lock:
            verdicts = {f'gate_verdicts_total{{status="{name}"}}': count for name, count in self._verdicts.items()}
        return {"workers_wanted": self._wanted, "workers_ready": ready, **verdicts, **self._phases.samples()}
