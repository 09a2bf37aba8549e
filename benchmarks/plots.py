"""The figure of the unlearning benchmark, an SVG file of its own that can be read on a light and on a dark background."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cluster.reporting import svg
from ..cluster.reporting.style import COLOURS
from ..cluster.reporting.svg import Scale, number

PANELS = (
    ("gap closed", "Attack gap closed", (-0.5, 1.6)),
    ("shift R2", "Pair shifts explained (R2)", (-1.0, 1.05)),
    ("recall, share of retrained", "Recall@20 / retrained", (0.8, 1.05)),
)
"""Of each panel: the measure, its title and the range of its axis. In all of them 1 is as retrained."""
WIDTH, LEFT, GAP, TOP, ROW = 1000, 190, 18, 34, 30
PANEL = (WIDTH - LEFT - 10 - GAP * (len(PANELS) - 1)) / len(PANELS)
SHAPES = 5
NOTE = (
    "The vertical line is at 1: as retrained. The axes are cut: a mark at an edge with an arrow is a value outside, which "
    "stands beside it."
)
STYLE = (
    f":root{{{COLOURS['light']}}}@media(prefers-color-scheme:dark){{:root{{{COLOURS['dark']}}}}}"
    "text{font:13px system-ui,sans-serif;fill:var(--text)}.soft{fill:var(--soft)}.small{font-size:11px}"
    ".ground{fill:var(--ground)}.grid{stroke:var(--rule);stroke-width:.6}.one{stroke:var(--text);stroke-width:1.2}"
    + "".join(
        f".m{k}{{stroke:var(--s{k});fill:var(--ground);stroke-width:1.8}}.f{k}{{fill:var(--s{k})}}"
        for k in range(SHAPES)
    )
)


def draw(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Draw the figure into a file: one panel for each measure, one row of marks for each scenario and backbone, one colour
    and shape for each method. A value outside a panel's range is drawn at its edge, with an arrow and its number."""
    groups = list(dict.fromkeys((c["backbone"], c["scenario"]) for c in cells))
    methods = list(dict.fromkeys(c["method"] for c in cells))
    bottom = TOP + ROW * len(groups)
    drawn = [_row_names(groups)]
    for place, (measure, title, (low, high)) in enumerate(PANELS):
        start = LEFT + place * (PANEL + GAP)
        x = Scale(low, high, round(start + 8, 1), round(start + PANEL - 8, 1))
        drawn += [svg.text(start + PANEL / 2, 18, title), *_grid(x, bottom)]
        for cell in cells:
            value = cell.get(measure)
            if value is not None and value == value:
                row, order = groups.index((cell["backbone"], cell["scenario"])), methods.index(cell["method"])
                y = TOP + ROW * row + ROW / 2 + (order - (len(methods) - 1) / 2) * min(4, 20 / len(methods))
                drawn.append(_mark(x, round(y, 1), value, cell["method"], order))
    legend, height = _legend(methods, bottom + 46)
    content = "".join([f"<style>{STYLE}</style>", f'<rect width="{WIDTH}" height="{height}" class="ground"/>', *drawn])
    alt = html.escape(f"{', '.join(title for _, title, _ in PANELS)}, by scenario and method")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{alt}">'
        f"{content}{legend}</svg>\n",
        encoding="utf-8",
    )


def _row_names(groups: Sequence[tuple[str, str]]) -> str:
    parts = []
    for row, (backbone, scenario) in enumerate(groups):
        y = TOP + ROW * row
        parts.append(svg.text(LEFT - 6, y + 13, scenario, "end"))
        parts.append(svg.text(LEFT - 6, y + 26, backbone, "end", "soft small"))
        parts.append(svg.line(0, y, WIDTH, y))
    return "".join(parts)


def _grid(x: Scale, bottom: float) -> list[str]:
    parts = [svg.line(x.start, bottom, x.end, bottom)]
    for value in x.ticks(4):
        parts.append(svg.line(x(value), TOP, x(value), bottom, "one" if value == 1 else "grid"))
        parts.append(svg.text(x(value), bottom + 16, number(value), name="soft"))
    return parts


def _mark(x: Scale, y: float, value: float, method: str, order: int) -> str:
    """The mark of a cell; beyond the axis an arrow at its edge, with the number beside it."""
    kind = f"m{order % SHAPES}" + (f" f{order % SHAPES}" if order // SHAPES % 2 else "")
    hover = f"{method}: {value:.3f}"
    if x.low <= value <= x.high:
        return svg.mark(x(value), y, hover, kind, order, 3.5)
    side, tip, anchor = (x.start, -7, "start") if value < x.low else (x.end, 7, "end")
    arrow = f'<path d="M{side:g},{y - 4:g}l{tip},4l{-tip},4z" class="{kind}"><title>{html.escape(hover)}</title></path>'
    return arrow + svg.text(side - tip, y + 4, number(round(value, 2)), anchor, "soft small")


def _legend(methods: Sequence[str], top: float) -> tuple[str, int]:
    """(the legend and the note below the panels, the height of the whole figure)."""
    parts, left, y = [], 10.0, top
    for order, method in enumerate(methods):
        width = 34 + 7.2 * len(method)
        if left + width > WIDTH:
            left, y = 10.0, y + 20
        kind = f"m{order % SHAPES}" + (f" f{order % SHAPES}" if order // SHAPES % 2 else "")
        parts += [svg.mark(left + 6, y - 4, method, kind, order, 4), svg.text(left + 16, y, method, "start")]
        left += width
    parts.append(svg.text(10, y + 24, NOTE, "start", "soft"))
    return "".join(parts), int(y + 36)
