"""Make a report as one HTML page with tables and figures. It has no scripts, fetches nothing, and can be read on a light and
on a dark background.

Figures are pure functions of arrays. No function takes ids of users or items, so none can get into a report by mistake.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#808080"  # readable on white and on black: the figures have no background of their own
COLOURS = ("#4c8bf5", "#e8710a", "#12a45c", "#b565d9", "#d6336c")
SCATTER_POINTS = 3000
"""The largest number of points in a scatter plot. More would make the page slow and show nothing new."""

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #8886; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
"""


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading, a paragraph, a table and figures. All but the heading may be empty."""

    heading: str
    text: str = ""
    table: Sequence[Mapping[str, Any]] = ()
    """The rows of the table, which have the same keys; the keys are the titles of the columns."""
    figures: Sequence[str] = ()
    """Figures as the functions of this module return them."""


def render_report(title: str, sections: Sequence[Section]) -> str:
    """The page as a string of HTML."""
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def write_report(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page to a local file. Its folder is made if it is missing."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render_report(title, sections), encoding="utf-8")


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.table:
        keys = list(section.table[0])
        head = "".join(f"<th>{html.escape(key)}</th>" for key in keys)
        lines = ("".join(f"<td>{_cell(row[key])}</td>" for key in keys) for row in section.table)
        rows = "".join(f"<tr>{line}</tr>" for line in lines)
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
    parts.extend(section.figures)
    return "\n".join(parts)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else html.escape(str(value))


def _axes(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty figure with grey axes and labels."""
    # pyplot is not used, because it wants a display and has state that threads would share.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, color=GREY, fontsize=11)
    axes.set_xlabel(x_label, color=GREY)
    axes.set_ylabel(y_label, color=GREY)
    axes.tick_params(colors=GREY, which="both")
    for side, spine in axes.spines.items():
        spine.set_color(GREY)
        spine.set_visible(side in ("left", "bottom"))
    axes.set_facecolor("none")
    return figure, axes


def _finish(figure: Figure, alt: str) -> str:
    """The figure as an <img> tag that contains its SVG. As an image it has ids of its own, which cannot be confused with
    those of another figure. alt: the text for readers who do not see the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}"></p>'


def training_figure(seconds: ArrayLike, loss: ArrayLike, recall_seconds: ArrayLike, recall: ArrayLike) -> str:
    """Loss after each epoch and Recall where it was measured, over the seconds of training.

    Args:
        seconds, loss: [epochs].
        recall_seconds, recall: [measurements]; if they are empty, only the loss is drawn.
    """
    figure, axes = _axes("Training", "seconds", "loss")
    axes.plot(seconds, loss, color=COLOURS[0], label="loss")
    if np.size(recall):
        right = axes.twinx()
        right.plot(recall_seconds, recall, color=COLOURS[1], marker="o", label="Recall")
        right.set_ylabel("Recall", color=COLOURS[1])
        right.tick_params(colors=GREY)
        for spine in right.spines.values():
            spine.set_visible(False)
    return _finish(figure, "Loss and Recall over the seconds of training")


def score_figure(scores: Mapping[str, ArrayLike]) -> str:
    """Densities of scores with one line for each group, such as forgotten pairs in each model, and held-out pairs.

    scores: the scores of each group by its name, each [n] with n > 0.
    """
    figure, axes = _axes("Scores of pairs", "score", "density")
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    low, high = np.quantile(np.concatenate(list(arrays.values())), [0.002, 0.998])
    bins = np.linspace(low, max(high, low + 1e-6), 61)
    for place, (name, values) in enumerate(arrays.items()):
        density, _ = np.histogram(values, bins=bins, density=True)
        colour = COLOURS[place % len(COLOURS)]
        axes.plot((bins[1:] + bins[:-1]) / 2, density, label=f"{name} (mean {values.mean():.3g})", color=colour)
    axes.legend(frameon=False, labelcolor=GREY, fontsize=9)
    return _finish(figure, "Densities of scores: " + ", ".join(arrays))


def seconds_figure(seconds: Mapping[str, float]) -> str:
    """Horizontal bars of seconds on a logarithmic scale. seconds: by name, all > 0, such as {"forget": 0.4}."""
    figure, axes = _axes("Time", "seconds (logarithmic)", "")
    bars = axes.barh(list(seconds), list(seconds.values()), color=COLOURS[0])
    axes.bar_label(bars, [f" {value:.3g} s" for value in seconds.values()], color=GREY)
    axes.set_xscale("log")
    axes.set_xlim(min(seconds.values()) / 3, max(seconds.values()) * 4)
    axes.invert_yaxis()
    return _finish(figure, "Seconds: " + ", ".join(f"{name} {value:.3g}" for name, value in seconds.items()))


def auc_figure(auc: Mapping[str, float]) -> str:
    """One bar for each model: the AUC of the attack that tells forgotten from held-out pairs. The retrained model's AUC is
    the aim."""
    figure, axes = _axes("Attack: forgotten or held out?", "", "AUC")
    bars = axes.bar(list(auc), list(auc.values()), color=COLOURS[0], width=0.55)
    axes.bar_label(bars, [f"{value:.3f}" for value in auc.values()], color=GREY)
    axes.axhline(0.5, color=GREY, linestyle=":", linewidth=1)
    axes.set_ylim(min(0.45, *auc.values()) - 0.02, max(0.55, *auc.values()) + 0.03)
    return _finish(figure, "AUC of the attack: " + ", ".join(f"{name} {value:.3f}" for name, value in auc.items()))


def shift_figure(needed: ArrayLike, delivered: ArrayLike) -> str:
    """A scatter plot of the change of each forgotten pair's score: that in the counterfactual retrain (needed) on the
    x-axis, that in the unlearned model (delivered) on the y-axis.

    needed, delivered: [pairs]. If there are more than `SCATTER_POINTS`, a fixed random choice of them is drawn.
    """
    needed_P, delivered_P = np.asarray(needed, dtype=np.float64), np.asarray(delivered, dtype=np.float64)
    if needed_P.size > SCATTER_POINTS:
        chosen = np.random.default_rng(0).choice(needed_P.size, SCATTER_POINTS, replace=False)
        needed_P, delivered_P = needed_P[chosen], delivered_P[chosen]
    figure, axes = _axes("Change of score of each forgotten pair", "needed (counterfactual retrain)", "delivered")
    axes.scatter(needed_P, delivered_P, s=5, alpha=0.45, color=COLOURS[0], linewidths=0, rasterized=True)
    low, high = float(min(needed_P.min(), delivered_P.min())), float(max(needed_P.max(), delivered_P.max()))
    axes.plot([low, high], [low, high], color=GREY, linestyle=":", linewidth=1)
    return _finish(figure, "Delivered against needed change of score, with the diagonal")
