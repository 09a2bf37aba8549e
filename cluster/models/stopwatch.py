"""Measure how long the phases of one batch take."""

from __future__ import annotations

import time

from ..reporting.spans import ended


class Stopwatch:
    """Seconds since the stopwatch was made, in total and by phase. The times of a phase that is marked twice are added."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.phases: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self._start

    def mark(self, phase: str) -> None:
        """End a phase. It began when the phase before it ended. It is a span, too."""
        seconds = self.seconds - sum(self.phases.values())
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        ended(phase, seconds)
