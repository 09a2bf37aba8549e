"""How long the phases of one batch take."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds since it was made, in all and by phase. A phase that is marked twice is added up."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.phases: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.perf_counter() - self._start

    def mark(self, phase: str) -> None:
        """The phase ends now; it began when the one before ended."""
        self.phases[phase] = self.phases.get(phase, 0.0) + self.seconds - sum(self.phases.values())
