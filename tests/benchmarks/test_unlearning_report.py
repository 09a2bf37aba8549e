"""The results file of the unlearning benchmark."""

import pytest

from unlearnrec.benchmarks.unlearning_report import FIRST, MEANINGS, MEASURES, _meanings, _pays_from


def test_every_measure_is_explained_where_it_stands() -> None:
    assert set(MEASURES) | set(FIRST.values()) <= set(MEANINGS)
    text = _meanings([{"recall": 0.4, "shares": {"shift R2": (1, 1, 1)}}, {"recall": 0.3, "MI-BF": 1.1, "shares": {}}])
    assert [line.split(":")[0] for line in text.splitlines()[2:]] == ["- recall", "- shift R2", "- MI-BF"]


@pytest.mark.parametrize(
    ("method", "preparation", "seconds", "requests", "pays"),
    [
        ("encoder", 320.0, 1.0, 1, "4"),
        ("encoder", 298.0, 1.0, 1, "4"),  # three requests take 301 s, three retrains 300 s
        ("encoder", 320.0, 1000.0, 1000, "4"),  # a stream: 1 s each
        ("cut", 0.0, 1.0, 1, "1"),
        ("slow", 0.0, 100.0, 1, "never"),
        ("retrain", 0.0, 100.0, 1, "-"),
    ],
)
def test_a_preparation_has_paid_when_requests_cost_less_than_retrains(
    method: str, preparation: float, seconds: float, requests: int, pays: str
) -> None:
    times = {"preparation seconds": preparation, "seconds": seconds, "retrain seconds": 100.0}
    assert _pays_from({"method": method, "requests": requests, **times}) == pays
