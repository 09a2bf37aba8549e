"""The figures of `bench scaling`: points on logarithmic axes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...partitioning.errors import InputError
from .projection import Projected

Series = Mapping[str, Sequence[tuple[float, float]]]
MARKERS = "osD^vP*X"


def check_matplotlib() -> None:
    """Raises InputError where matplotlib is not installed: before minutes are spent on what is drawn in the end."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("bench scaling: matplotlib is not installed. Run `pip install 'unlearnrec[bench]'`")


def draw_series(path: Path, panels: Mapping[str, Series], x: str, y: str) -> None:
    """One panel for each group of series; a series has a marker and a colour, and a thin line where points belong
    together."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # The same identifiers and no date: the file changes only where the numbers do.
    matplotlib.rcParams["svg.hashsalt"] = path.stem
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4.2), squeeze=False, layout="constrained")
    for axis, (title, series) in zip(axes[0], panels.items(), strict=True):
        for number, (name, points) in enumerate(series.items()):
            places, values = zip(*points, strict=True)
            style: dict[str, Any] = {"color": f"C{number}", "markersize": 5, "linewidth": 0.6}
            axis.plot(places, values, marker=MARKERS[number % len(MARKERS)], linestyle=":", label=name, **style)
        axis.set(xscale="log", yscale="log", title=title, xlabel=x, ylabel=y)
        axis.grid(which="both", alpha=0.2)
        axis.legend(fontsize=8)
        ticks = sorted({place for points in series.values() for place, _ in points})
        if len(ticks) < 10:
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def projection_panels(found: Sequence[Projected]) -> dict[str, Series]:
    """Steps against workers, a panel for each instance and a series for each graph; what does not fit is left out."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in found:
        if one.fits:
            series = panels.setdefault(one.instance.name, {})
            series.setdefault(f"{one.interactions / 1e6:,.0f} M interactions", []).append((one.workers, one.step))
    return {name: dict(series) for name, series in panels.items()}
