"""The report page and the sample data."""

import numpy as np
import pyarrow.parquet as pq

from unlearnrec.cluster.reporting import html as report
from unlearnrec.partitioning.sample import make_sample


def test_a_page_is_self_contained_and_escapes(tmp_path):
    draw = np.random.default_rng(0)
    figures = [
        report.training_figure([1, 2, 3], [0.6, 0.4, 0.3], [3], [0.2]),
        report.score_figure({"before": draw.normal(size=500), "retrained": draw.normal(size=500)}),
        report.seconds_figure({"forget": 0.4, "retrain": 90.0}),
        report.auc_figure({"before": 0.7, "unlearned": 0.55, "retrained": 0.554}),
        report.shift_figure(draw.normal(size=5000), draw.normal(size=5000)),
    ]
    table = [{"model": "a <b>", "Recall": 0.123456, "pairs": 12345}]
    report.write_report(tmp_path / "r" / "report.html", "T & T", [report.Section("H", "x < y", table, figures)])
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.count("<img") == 5 and "T &amp; T" in page and "a &lt;b&gt;" in page
    assert "0.1235" in page and "12,345" in page
    assert "<script" not in page and "http" not in page


def test_the_sample_is_seeded_and_splits_each_user(tmp_path):
    sizes = {"users": 300, "items": 200}
    made = make_sample(tmp_path / "a", seed=3, **sizes)
    make_sample(tmp_path / "b", seed=3, **sizes)
    make_sample(tmp_path / "c", seed=4, **sizes)
    read = {name: (tmp_path / name / "train.parquet").read_bytes() for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
    train, test = pq.read_table(made["train"]), pq.read_table(made["test"])
    columns = ([table["user_id"].to_pylist(), table["item_id"].to_pylist()] for table in (train, test))
    pairs = [set(zip(*both, strict=True)) for both in columns]
    assert not pairs[0] & pairs[1]
    assert len(pairs[0]) == train.num_rows == made["train_interactions"]
    assert len(pairs[1]) == test.num_rows == made["test_interactions"]
    assert set(test["user_id"].to_pylist()) == set(train["user_id"].to_pylist())
    assert 0.15 < len(pairs[1]) / len(pairs[0]) < 0.25
