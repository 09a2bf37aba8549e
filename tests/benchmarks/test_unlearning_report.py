"""The results file of the unlearning benchmark."""

import pytest

from unlearnrec.benchmarks.unlearning_report import FIRST, MEANINGS, MEASURES, _meanings, break_even


def test_every_measure_is_explained_where_it_stands() -> None:
    assert set(MEASURES) | set(FIRST.values()) <= set(MEANINGS)
    text = _meanings([{"recall": 0.4, "shares": {"shift R2": (1, 1, 1)}}, {"recall": 0.3, "MI-BF": 1.1, "shares": {}}])
    assert [line.split(":")[0] for line in text.splitlines()[2:]] == ["- recall", "- shift R2", "- MI-BF"]


@pytest.mark.parametrize(
    ("prepared", "seconds", "asked"), [(0.0, 1.0, "1"), (19.0, 1.0, "3"), (18.0, 1.0, "3"), (5.0, 10.0, "never")]
)
def test_break_even_is_the_first_request_from_which_retraining_costs_more(
    prepared: float, seconds: float, asked: str
) -> None:
    cell = {"retrain seconds": 10.0, "seconds": seconds, "preparation seconds": prepared}
    assert break_even(cell) == asked
    if asked != "never":
        n = int(asked)
        assert prepared + n * seconds < n * 10.0 and prepared + (n - 1) * seconds >= (n - 1) * 10.0
