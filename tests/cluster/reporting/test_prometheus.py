"""The text that Prometheus reads: families with help, histograms whose buckets add up."""

from prometheus_client.parser import text_string_to_metric_families

from unlearnrec.cluster.reporting.prometheus import Family, Histogram, family_name, prometheus_text
from unlearnrec.cluster.serving.families import FAMILIES

SUMS = {"took_seconds": Family("histogram", "Seconds."), "made_total": Family("counter", "Made.")}


def test_a_histogram_counts_each_observation_in_all_buckets_above_it():
    histogram = Histogram("took_seconds", "phase", (1, 10))
    for value in (0.5, 1, 5, 100):
        histogram.observe(value, "find")
    histogram.observe(2, "commit")
    text = prometheus_text({**histogram.samples(), "made_total": 3, "other": 0.25}, SUMS)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    took = {
        (s.name, s.labels.get("phase"), s.labels.get("le")): s.value
        for s in families["unlearnrec_took_seconds"].samples
    }
    assert [took["unlearnrec_took_seconds_bucket", "find", edge] for edge in ("1", "10", "+Inf")] == [2, 3, 4]
    assert took["unlearnrec_took_seconds_count", "find", None] == 4
    assert took["unlearnrec_took_seconds_sum", "find", None] == 106.5
    assert took["unlearnrec_took_seconds_count", "commit", None] == 1
    assert families["unlearnrec_took_seconds"].type == "histogram"
    assert families["unlearnrec_made"].documentation == "Made." and families["unlearnrec_made"].type == "counter"
    assert families["unlearnrec_other"].type == "gauge"


def test_samples_of_a_family_stand_together():
    text = prometheus_text({'made_total{a="1"}': 1, "other": 2, 'made_total{a="2"}': 3}, SUMS)
    assert text.splitlines() == [
        "# HELP unlearnrec_made_total Made.",
        "# TYPE unlearnrec_made_total counter",
        'unlearnrec_made_total{a="1"} 1',
        'unlearnrec_made_total{a="2"} 3',
        "# TYPE unlearnrec_other gauge",
        "unlearnrec_other 2",
    ]


def test_a_name_that_only_looks_like_a_series_of_a_histogram_is_its_own_family():
    assert family_name('took_seconds_bucket{le="1"}', SUMS) == "took_seconds"
    assert family_name("callbacks_count", SUMS) == "callbacks_count"


def test_names_follow_prometheus():
    """Counters end with _total; nothing else does; help is a sentence; units are base units."""
    for name, family in FAMILIES.items():
        assert name.endswith("_total") == (family.kind == "counter"), name
        assert family.help.endswith(".") and "\n" not in family.help
        assert not name.endswith(("_ms", "_milliseconds", "_minutes", "_hours", "_percent", "_mb"))
        assert family.kind != "histogram" or name.endswith("_seconds")
