"""Compare ratios with committed ones: what has become worse by more than a measure may vary. Pure functions of numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...partitioning.errors import InputError

WORSE, BETTER, SAME, NEW = "WORSE", "better", "", "new"


@dataclass(frozen=True)
class Measure:
    """A ratio that is measured. `tolerance`: the relative change to the worse that fails; it is above what repeated runs of
    the same code differ by. `higher_is_better`: as for qualities; ratios of seconds and bytes are better when lower."""

    name: str
    tolerance: float
    higher_is_better: bool = False

    def verdict(self, change: float) -> str:
        """What a relative change means."""
        worse = -change if self.higher_is_better else change
        return WORSE if worse > self.tolerance else BETTER if worse < -self.tolerance else SAME

    def better(self, one: Measured, other: Measured) -> Measured:
        """The better of two: what else a machine does makes most ratios worse."""
        return max(one, other, key=lambda x: x.value if self.higher_is_better else -x.value)


@dataclass(frozen=True)
class Measured:
    """The median of a ratio over pairs that were measured by turns, their number, and half the distance of their quartiles
    as a share of the median."""

    value: float
    spread: float
    pairs: int

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Measured:
        """Of the ratios of all pairs."""
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        return cls(float(middle), float((high - low) / 2 / abs(middle)) if middle else 0.0, len(ratios))


@dataclass(frozen=True)
class Compared:
    """A measure beside its committed value, None where it is not committed yet."""

    measure: Measure
    now: Measured
    committed: float | None

    @property
    def change(self) -> float | None:
        """The relative change."""
        return None if self.committed is None else self.now.value / self.committed - 1

    @property
    def verdict(self) -> str:
        """One of WORSE, BETTER, SAME and NEW."""
        return NEW if self.change is None else self.measure.verdict(self.change)

    def row(self) -> dict[str, Any]:
        """Its line in the table."""
        change = self.change
        return {
            "measure": self.measure.name,
            "now": f"{self.now.value:.4g}",
            "committed": "" if self.committed is None else f"{self.committed:.4g}",
            "change": "" if change is None else f"{change:+.1%}",
            "allowed": f"{'-' if self.measure.higher_is_better else '+'}{self.measure.tolerance:.0%}",
            "pairs, spread": f"{self.now.pairs}, {self.now.spread:.1%}",
            "": self.verdict,
        }


def compare(
    measures: Sequence[Measure], found: Mapping[str, Measured], committed: Mapping[str, float]
) -> list[Compared]:
    """The measures that were found, in order."""
    return [Compared(one, found[one.name], committed.get(one.name)) for one in measures if one.name in found]


def read_baseline(path: Path) -> tuple[dict[str, float], str]:
    """(the committed ratios by name, the machine that they were measured on).

    Raises:
        InputError: the file is not there, or is not one of these.
    """
    if not path.exists():
        raise InputError(f"--baseline {path}: there is no such file; --write makes it from this machine's ratios")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(one["value"]) for name, one in content["measures"].items()}, str(content["machine"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--baseline {path}: not a file that --write has made ({error!r})") from None


def write_baseline(path: Path, about: Mapping[str, str], found: Mapping[str, Measured]) -> None:
    """Write the ratios for later runs. about: the machine, the command, the commit. Measures that were not taken now stay
    as they are in the file, if it is of the same machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = before["measures"] if before.get("machine") == about["machine"] else {}
    content = {**about, "measures": kept | {name: asdict(one) for name, one in found.items()}}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
