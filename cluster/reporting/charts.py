"""Charts as HTML: an inline SVG with a title, what it means, and a legend.

They are pure functions of numbers. None takes ids of users or items, so none can get into a page by mistake. Colours are
those of the page; lines differ in their dashes too, marks in their shapes. A mark tells its numbers on hover. Where an axis
does not begin at zero, the chart says so.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from . import svg
from .svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, number

STYLES = 5
"""The number of different lines and marks (classes s0 to s4 of the page)."""
QUANTILES = np.linspace(0, 1, 101)
"""The quantiles of a group of scores that are kept for its curve."""
SCATTER_POINTS = 2000
"""The largest number of points in a scatter plot. More would make the page large and show nothing new."""


@dataclass(frozen=True)
class Point:
    """A point of a chart, and what it tells on hover."""

    x: float
    y: float
    hover: str


def quantiles(values: ArrayLike) -> list[float]:
    """The QUANTILES of these values; empty if there is no value. NaN is left out."""
    found = np.asarray(values, dtype=np.float64)
    found = found[~np.isnan(found)]
    return [float(f"{x:.5g}") for x in np.quantile(found, QUANTILES)] if len(found) else []


def sample_pairs(first: ArrayLike, second: ArrayLike) -> list[list[float]]:
    """Two arrays of the same length as lists of at most SCATTER_POINTS numbers: a fixed random choice, without NaN."""
    both = np.stack([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)])
    both = both[:, ~np.isnan(both).any(axis=0)]
    if both.shape[1] > SCATTER_POINTS:
        both = both[:, np.random.default_rng(0).choice(both.shape[1], SCATTER_POINTS, replace=False)]
    return [[float(f"{x:.4g}") for x in row] for row in both]


def line_chart(
    title: str, about: str, x_label: str, y_label: str, lines: Mapping[str, Sequence[Point]], joined: bool = True
) -> str:
    """Lines with marks, by name; only the marks where they are not joined. Both axes begin at zero, unless there are values
    below."""
    x = svg.scale([p.x for points in lines.values() for p in points], LEFT, WIDTH - RIGHT, include=[0])
    y = svg.scale([p.y for points in lines.values() for p in points], HEIGHT - BOTTOM, TOP, include=[0], room=0.06)
    drawn = [svg.axes(x, y, x_label, y_label)]
    for place, points in enumerate(lines.values()):
        kind = f"s{place % STYLES}"
        if joined and len(points) > 1:
            drawn.append(svg.path([(x(p.x), y(p.y)) for p in points], f"line {kind}"))
        drawn += [svg.mark(x(p.x), y(p.y), p.hover, f"mark {kind}", place, 3) for p in points]
    legend = _legend(list(lines), marks=True) if len(lines) > 1 else ""
    return _figure(title, about, svg.picture("".join(drawn), _alt(title, lines)), legend)


def ecdf_chart(title: str, about: str, x_label: str, groups: Mapping[str, Sequence[float]]) -> str:
    """Empirical distribution functions: for each value the share of a group that is not above it. groups: by name the
    `quantiles` of each. Nothing is cut off: a curve goes from the least value to the largest."""
    groups = {name: values for name, values in groups.items() if len(values)}
    x = svg.scale([v for values in groups.values() for v in (values[0], values[-1])], LEFT, WIDTH - RIGHT)
    y = Scale(0, 1, HEIGHT - BOTTOM, TOP)
    drawn = [svg.axes(x, y, x_label, "share of the pairs")]
    hovers = []
    for place, (name, values) in enumerate(groups.items()):
        shares = np.linspace(0, 1, len(values))
        drawn.append(svg.path([(x(v), y(s)) for v, s in zip(values, shares, strict=True)], f"line s{place % STYLES}"))
        for v, s in list(zip(values, shares, strict=True))[:: max(1, len(values) // 20)]:
            hovers.append(svg.mark(x(v), y(s), f"{name}: {s:.0%} score at most {number(v)}", "hit", size=5))
    return _figure(title, about, svg.picture("".join(drawn + hovers), _alt(title, groups)), _legend(list(groups)))


def bar_chart(title: str, about: str, unit: str, values: Mapping[str, float]) -> str:
    """Horizontal bars from zero on a linear axis, each with its name above it and its value at its end. values: not below
    zero."""
    row, top = 44, 6
    x = Scale(0, max([*values.values(), 1e-12]), 2, WIDTH - 84)
    drawn = []
    for place, (name, value) in enumerate(values.items()):
        y = top + row * place
        width = max(x(value) - 2, 1)
        hover = html.escape(f"{name}: {number(value)} {unit}")
        drawn.append(svg.text(2, y + 12, name, "start"))
        drawn.append(
            f'<rect x="2" y="{y + 18}" width="{width:g}" height="16" class="bar"><title>{hover}</title></rect>'
        )
        drawn.append(svg.text(width + 10, y + 31, f"{value:.3g} {unit}", "start", "value"))
    alt = f"{title}: " + ", ".join(f"{name} {number(value)} {unit}" for name, value in values.items())
    return _figure(title, about, svg.picture("".join(drawn), alt, height=top + row * len(values)))


def dot_chart(
    title: str, about: str, x_label: str, values: Mapping[str, float], lines: Mapping[str, float], begin: float
) -> str:
    """A dot for each value on one horizontal axis, each with its name and its value beside it, and vertical lines that are
    named.

    begin: a value at which the axis begins, unless there is a smaller one.
    """
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    lines = {name: value for name, value in lines.items() if math.isfinite(value)}
    row, top = 30, 8
    height = top + row * len(known) + BOTTOM
    names = min(12 + 7 * max(map(len, known), default=0), WIDTH // 2)
    x = svg.scale([*known.values(), *lines.values()], names, WIDTH - 52, include=[begin], room=0.08)
    bottom = height - BOTTOM
    drawn = []
    for value in x.ticks():
        drawn += [svg.line(x(value), bottom, x(value), top), svg.text(x(value), bottom + 16, number(value))]
    drawn.append(svg.line(x.start, bottom, x.end, bottom, "axis"))
    drawn.append(svg.text((x.start + x.end) / 2, bottom + 34, x_label, name="label"))
    for place, (name, value) in enumerate(lines.items()):
        drawn.append(
            f'<line x1="{x(value):g}" y1="{bottom:g}" x2="{x(value):g}" y2="{top}" class="rule r{place}">'
            f"<title>{html.escape(name)}: {number(value)}</title></line>"
        )
    for place, (name, value) in enumerate(known.items()):
        y = top + row * place + 16
        drawn.append(svg.text(names - 8, y + 4, name, "end"))
        drawn.append(svg.line(x.start, y, x.end, y))
        drawn.append(svg.mark(x(value), y, f"{name}: {value:.4f}", f"mark s{place % STYLES}", place, 5))
        drawn.append(svg.text(x(value) + 11, y + 4, f"{value:.3f}", "start", "value halo"))
    alt = f"{title}: " + ", ".join(f"{name} {value:.3f}" for name, value in known.items())
    keys = [_key(f"{name} ({value:.3f})", f"rule r{place}") for place, (name, value) in enumerate(lines.items())]
    about += f" The axis begins at {x.low:.2g}, not at 0."
    return _figure(title, about, svg.picture("".join(drawn), alt, height=height), _keys(keys))


def scatter_chart(
    title: str, about: str, x_label: str, y_label: str, first: Sequence[float], second: Sequence[float]
) -> str:
    """A point for each pair of values, with the diagonal on which both are equal and lines at zero. Both axes have the same
    range, so that the diagonal is one."""
    both = [*first, *second]
    x = svg.scale(both, LEFT, WIDTH - RIGHT, include=[0], room=0.04)
    y = Scale(x.low, x.high, HEIGHT - BOTTOM, TOP)
    dots = "".join(f"M{x(a):g},{y(b):g}h0" for a, b in zip(first, second, strict=True))
    drawn = (
        svg.axes(x, y, x_label, y_label)
        + (f'<path d="{dots}" class="dots"/>' if dots else "")
        + svg.line(x(x.low), y(x.low), x(x.high), y(x.high), "rule r0")
    )
    keys = [
        _key("one forgotten pair", "dots", point=True),
        _key("delivered as needed", "rule r0"),
        _key("no change", "zero"),
    ]
    alt = f"{title}: {len(first):,} points around the diagonal on which both are equal"
    return _figure(title, about, svg.picture(drawn, alt), _keys(keys))


def _figure(title: str, about: str, drawn: str, legend: str = "") -> str:
    return (
        f"<figure><figcaption><b>{html.escape(title)}</b> {html.escape(about)}</figcaption>\n{drawn}\n{legend}</figure>"
    )


def _alt(title: str, groups: Mapping[str, object]) -> str:
    return f"{title}: {', '.join(groups)}"


def _legend(names: Sequence[str], marks: bool = False) -> str:
    return _keys([_key(name, f"line s{n % STYLES}", mark=n if marks else None) for n, name in enumerate(names)])


def _key(name: str, kind: str, mark: int | None = None, point: bool = False) -> str:
    """An entry of a legend: a short piece of the line, and its name."""
    piece = '<path d="M15,6h0" class="dots"/>' if point else f'<line x1="1" y1="6" x2="29" y2="6" class="{kind}"/>'
    if mark is not None:
        piece += svg.mark(15, 6, name, f"mark s{mark % STYLES}", mark, 3)
    return f'<li><svg viewBox="0 0 30 12" aria-hidden="true">{piece}</svg>{html.escape(name)}</li>'


def _keys(keys: Sequence[str]) -> str:
    return f'<ul class="legend">{"".join(keys)}</ul>' if keys else ""
