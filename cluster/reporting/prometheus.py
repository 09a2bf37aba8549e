"""Numbers about a running service in the text format of Prometheus: families with help, and histograms."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PREFIX = "unlearnrec_"
SUFFIXES = ("_bucket", "_sum", "_count")
"""What the names of a histogram's series end with."""


@dataclass(frozen=True)
class Family:
    """What one metric is. As Prometheus wants it, its name ends with its unit, or with `_total` where it is a counter."""

    kind: str
    """`gauge`, `counter` or `histogram`."""
    help: str


class Histogram:
    """How many observations were at most so large, by the values of one label. Threads may observe and read at once."""

    def __init__(self, name: str, label: str, bounds: Sequence[float]) -> None:
        """bounds: of the buckets, ascending, without infinity."""
        self._name, self._label, self._bounds = name, label, tuple(bounds)
        self._lock = threading.Lock()
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, value: float, label: str) -> None:
        """Count one observation."""
        with self._lock:
            counts = self._counts.setdefault(label, [0] * (len(self._bounds) + 1))
            counts[bisect_left(self._bounds, value)] += 1
            self._sums[label] = self._sums.get(label, 0.0) + value

    def samples(self) -> dict[str, float]:
        """Name and labels -> value, of all series."""
        found: dict[str, float] = {}
        with self._lock:
            for label, counts in self._counts.items():
                own, total = f'{self._label}="{label}"', 0
                for bound, count in zip([*self._bounds, math.inf], counts, strict=True):
                    total += count
                    edge = "+Inf" if math.isinf(bound) else f"{bound:g}"
                    found[f'{self._name}_bucket{{{own},le="{edge}"}}'] = total
                found[f"{self._name}_sum{{{own}}}"] = self._sums[label]
                found[f"{self._name}_count{{{own}}}"] = total
        return found


def family_name(sample: str, families: Mapping[str, Family]) -> str:
    """The name of the family that a sample (a name, with labels or without) belongs to."""
    name = sample.partition("{")[0]
    stems = (name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix))
    return next((stem for stem in stems if stem in families and families[stem].kind == "histogram"), name)


def prometheus_text(samples: Mapping[str, float], families: Mapping[str, Family]) -> str:
    """Samples (name and labels -> value) in Prometheus's text format, those of a family together, below its HELP and TYPE.

    families: by name, without the prefix that all names get here. A family that is not there is a counter if its name ends
    with `_total`, else a gauge.
    """
    together: dict[str, list[str]] = {}
    for sample, value in samples.items():
        number = f"{float(value):g}" if value % 1 else f"{int(value)}"
        together.setdefault(family_name(sample, families), []).append(f"{PREFIX}{sample} {number}")
    lines = []
    for name, own in together.items():
        family = families.get(name) or Family("counter" if name.endswith("_total") else "gauge", "")
        lines += [f"# HELP {PREFIX}{name} {family.help}"] if family.help else []
        lines += [f"# TYPE {PREFIX}{name} {family.kind}", *own]
    return "\n".join(lines) + "\n"
