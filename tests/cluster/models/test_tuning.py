"""`train --tune` with Ray Tune: each combination is tried by real workers, and the best is trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import ray
from lanes import LONG
from trained_output import small_sample

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.models.tuning import tuned_config
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import SILENT
from unlearnrec.partitioning.errors import InputError


@LONG
@pytest.mark.usefixtures("ray_session")
def test_the_best_of_the_grid_is_trained(tmp_path: Path) -> None:
    pytest.importorskip("ray.tune")
    config = parse_config(
        {
            "interactions": str(small_sample(tmp_path)["train"]),
            "output": str(tmp_path / "output"),
            "cluster": {"partitions": 2},
            "backbone": {"embedding_size": 8, "num_layers": 2},
            "train": {"epochs": 6, "batch_size": 100, "learning_rate": 0.05},
            "validation": {"share": 0.2, "metric": "recall"},
            # The first learns nothing to speak of, the second does.
            "tune": {"grid": {"train.learning_rate": [1e-9, 0.05], "train.loss": ["softmax"]}},
        }
    )
    pipeline.ingest(config)
    answer = pipeline.train(config, tune=True)
    trials, best = answer["tune"]["trials"], answer["tune"]["best"]
    assert [trial["settings"]["train.learning_rate"] for trial in trials] == [1e-9, 0.05]
    assert best["settings"] == {"train.learning_rate": 0.05, "train.loss": "softmax"}
    assert best["recall@20"] > trials[0]["recall@20"]
    # The epochs are chosen for the best settings, with the same split: the choice is that of the trial.
    assert answer["validation"]["recall@20"] == pytest.approx(best["recall@20"], abs=1e-9)
    assert answer["epochs"] == best["epochs"]
    trained = Session(config).version().model.train
    assert (trained["learning_rate"], trained["loss"]) == (0.05, "softmax")


def test_without_ray_tune_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(
        {"interactions": str(small_sample(tmp_path)["train"]), "output": str(tmp_path / "output")}
        | {"cluster": {"partitions": 1}}
    )
    pipeline.ingest(config)
    monkeypatch.delattr(ray, "tune", raising=False)
    monkeypatch.setitem(sys.modules, "ray.tune", None)
    with pytest.raises(InputError, match=r"pip install 'unlearnrec\[tune\]'"):
        tuned_config(config, SILENT)
