"""The parts of a chart as SVG text: scales, ticks, axes and marks.

A chart is drawn in units of a viewBox and scaled by the page. Its colours are those of the page (style.py).
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 270
"""The size of a chart's viewBox. It is as wide as the screen of a phone, so labels keep their size there."""
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 12, 42
"""The margins around the plot, in units of the viewBox."""


@dataclass(frozen=True)
class Scale:
    """A linear map of values to a coordinate of the viewBox. low < high; `start` is the coordinate of `low`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values between both ends, at most about `most` of them."""
        step = _step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) + 0.0 for n in range(first, last + 1)]


def scale(values: Iterable[float], start: float, end: float, include: Sequence[float] = (), room: float = 0.0) -> Scale:
    """A scale that holds all finite values and those of `include`. room: the share of the range that is added at each end
    where the end is none of `include`."""
    found = [float(x) for x in values if math.isfinite(x)]
    low, high = min([*found, *include], default=0.0), max([*found, *include], default=1.0)
    if high <= low:
        low, high = low - 0.5 * (low not in include), high + 0.5
    added = room * (high - low)
    return Scale(low - added * (low not in include), high + added * (high not in include), start, end)


def _step(least: float) -> float:
    """The least of 1, 2 or 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def number(value: float) -> str:
    """A number in four significant digits, or with separators of thousands."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def text(x: float, y: float, content: str, anchor: str = "middle", name: str = "", turned: bool = False) -> str:
    """A label. turned: it is read from below to above."""
    turn = f' transform="rotate(-90 {x:g} {y:g})"' if turned else ""
    kind = f' class="{name}"' if name else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}{turn}>{html.escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, name: str = "grid") -> str:
    """A straight line of this class."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{name}"/>'


def path(points: Iterable[tuple[float, float]], name: str) -> str:
    """A line through these points of the viewBox."""
    return f'<path d="M{" ".join(f"{x:g},{y:g}" for x, y in points)}" class="{name}"/>'


def mark(x: float, y: float, hover: str, name: str, shape: int = 0, size: float = 4) -> str:
    """A mark with a text that is shown on hover. shape: 0 a circle, 1 a square, 2 a diamond, 3 a triangle, 4 a triangle that
    stands on its tip."""
    title = f"<title>{html.escape(hover)}</title>"
    if shape % 5 == 0:
        return f'<circle cx="{x:g}" cy="{y:g}" r="{size:g}" class="{name}">{title}</circle>'
    s = size
    corners = {
        1: ((-s, -s), (s, -s), (s, s), (-s, s)),
        2: ((0, -1.4 * s), (1.4 * s, 0), (0, 1.4 * s), (-1.4 * s, 0)),
        3: ((0, -1.2 * s), (1.2 * s, s), (-1.2 * s, s)),
        4: ((0, 1.2 * s), (1.2 * s, -s), (-1.2 * s, -s)),
    }[shape % 5]
    points = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in corners)
    return f'<polygon points="{points}" class="{name}">{title}</polygon>'


def axes(x: Scale, y: Scale, x_label: str, y_label: str) -> str:
    """Both axes with their ticks, labels and a grid, and a stronger line at zero where zero is inside of an axis."""
    parts = []
    bottom, left = y.start, x.start
    for value in y.ticks():
        parts.append(line(left, y(value), x.end, y(value)))
        parts.append(text(left - 6, y(value) + 4, number(value), "end"))
    for value in x.ticks():
        parts.append(line(x(value), bottom, x(value), y.end))
        parts.append(text(x(value), bottom + 16, number(value)))
    parts += [line(left, bottom, x.end, bottom, "axis"), line(left, bottom, left, y.end, "axis")]
    if x.low < 0 < x.high:
        parts.append(line(x(0), bottom, x(0), y.end, "zero"))
    if y.low < 0 < y.high:
        parts.append(line(left, y(0), x.end, y(0), "zero"))
    parts.append(text((left + x.end) / 2, bottom + 34, x_label, name="label"))
    parts.append(text(13, (bottom + y.end) / 2, y_label, name="label", turned=True))
    return "".join(parts)


def picture(content: str, alt: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """The <svg> element of a chart. alt: what it shows, for readers who do not see it."""
    named = f'role="img" aria-label="{html.escape(alt)}"'
    return f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" {named}>{content}</svg>'
