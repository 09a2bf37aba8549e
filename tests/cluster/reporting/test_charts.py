"""Charts: what they draw, what they tell without colours and without eyes, and that they do not mislead."""

import re

import numpy as np
import pytest

from unlearnrec.cluster.reporting import charts, svg
from unlearnrec.cluster.reporting.charts import Point

ATTACK = "<b>\"'&"


def all_charts(name: str) -> list[str]:
    points = [Point(1, 0.5, name), Point(2, 0.4, name)]
    return [
        charts.line_chart(name, name, name, name, {name: points, "b": points}),
        charts.ecdf_chart(name, name, name, {name: charts.quantiles(np.arange(50)), "b": charts.quantiles([1.0, 2.0])}),
        charts.bar_chart(name, name, name, {name: 3.0}),
        charts.dot_chart(name, name, name, {name: 0.7}, {name: 0.6}, 0.5),
        charts.scatter_chart(name, name, name, name, [0.0, 1.0], [0.5, 1.0]),
    ]


def test_all_text_is_escaped():
    for chart in all_charts(ATTACK):
        inside = re.sub(r"<b>&lt;b&gt;", "", chart)  # the title stands in a <b> of its own
        assert ATTACK not in chart and "<b>" not in inside and "&lt;b&gt;&quot;&#x27;&amp;" in chart


def test_charts_have_a_text_alternative_and_scale_with_the_page():
    for chart in all_charts("name"):
        pictures = re.findall(r"<svg[^>]*>", chart)
        assert 'role="img" aria-label="name' in pictures[0] and "viewBox" in pictures[0]
        assert not any(re.search(r"\b(width|height)=", picture) for picture in pictures)
        assert "style=" not in chart and "fill=" not in chart and "stroke=" not in chart  # colours are the page's


def test_hovering_tells_numbers():
    points = [Point(1, 0.5, "epoch 1: 0.5")]
    assert "<title>epoch 1: 0.5</title>" in charts.line_chart("t", "", "x", "y", {"a": points})
    ecdf = charts.ecdf_chart("t", "", "x", {"a": charts.quantiles(np.arange(101))})
    assert "<title>a: 50% score at most 50</title>" in ecdf


def test_lines_differ_in_more_than_their_colour():
    from unlearnrec.cluster.reporting.style import CHARTS

    dashes = re.findall(r"\.line\.s\d \{ (?:stroke-dasharray|stroke-width): ([^;]+);", CHARTS)
    assert len(dashes) == len(set(dashes)) == charts.STYLES - 1  # the first is the plain line
    marks = [svg.mark(0, 0, "", "", shape) for shape in range(charts.STYLES)]
    assert len(set(marks)) == charts.STYLES


def places(chart: str, kind: str) -> list[float]:
    return [float(x) for x in re.findall(rf'width="([\d.]+)" height="16" class="{kind}"', chart)]


def test_bars_are_linear_from_zero():
    one, ten = places(charts.bar_chart("t", "", "s", {"a": 1.0, "b": 10.0}), "bar")
    assert ten / one == pytest.approx(10, rel=0.03)


def test_an_axis_that_is_cut_says_so():
    assert "The axis begins at 0.5, not at 0." in charts.dot_chart("t", "", "AUC", {"a": 0.7}, {}, 0.5)
    assert "The axis begins at 0.3" in charts.dot_chart("t", "", "AUC", {"a": 0.7, "b": 0.3277}, {}, 0.5)
    lines = charts.line_chart("t", "", "x", "y", {"a": [Point(5, 90, ""), Point(6, 91, "")]})
    assert lines.count(">0</text>") == 2  # both axes begin at zero


def test_the_whole_of_a_distribution_is_shown_with_a_line_at_zero():
    values = charts.quantiles([-3.0, np.nan, 0.5, 40.0])
    assert values[0] == -3 and values[-1] == 40 and len(values) == len(charts.QUANTILES)
    assert 'class="zero"' in charts.ecdf_chart("t", "", "x", {"a": values})
    scatter = charts.scatter_chart("t", "", "x", "y", [-1.0, 1.0], [-0.5, 0.4])
    assert scatter.split("<ul")[0].count('class="zero"') == 2


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0])
def test_constant_and_missing_values_are_drawn(value):
    charts.line_chart("t", "", "x", "y", {"a": [Point(value, value, "")]})
    charts.ecdf_chart("t", "", "x", {"a": charts.quantiles([value]), "b": []})
    charts.scatter_chart("t", "", "x", "y", [], [])
    charts.dot_chart("t", "", "x", {"a": value, "b": float("nan")}, {}, value)
    charts.bar_chart("t", "", "s", {"a": 0.0})


def test_scatter_points_are_few_and_fixed():
    both = np.arange(5000.0), np.full(5000, np.nan)
    assert charts.sample_pairs(*both) == [[], []]
    first = charts.sample_pairs(both[0], both[0])
    assert len(first[0]) == charts.SCATTER_POINTS and first == charts.sample_pairs(both[0], both[0])


def test_ticks_are_round():
    assert svg.Scale(0, 12, 0, 100).ticks() == [0, 5, 10]
    assert svg.Scale(-1.5, 1.5, 0, 100).ticks() == [-1, 0, 1]
    assert svg.Scale(0.48, 0.62, 0, 100).ticks() == [0.5, 0.55, 0.6]
