"""The results file of the unlearning benchmark."""

from unlearnrec.benchmarks.unlearning_report import FIRST, MEANINGS, MEASURES, _meanings


def test_every_measure_is_explained_where_it_stands() -> None:
    assert set(MEASURES) | set(FIRST.values()) <= set(MEANINGS)
    text = _meanings([{"recall": 0.4, "shares": {"shift R2": (1, 1, 1)}}, {"recall": 0.3, "MI-BF": 1.1, "shares": {}}])
    assert [line.split(":")[0] for line in text.splitlines()[2:]] == ["- recall", "- shift R2", "- MI-BF"]
