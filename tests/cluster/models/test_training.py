"""The settings with which a model is trained, and was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.models.training import as_trained, make_run
from unlearnrec.cluster.output.manifest import read_manifest
from unlearnrec.distributed.graph.removal import Removal

OLD = json.loads((Path(__file__).parents[1] / "output/manifests-of-7a468d8.json").read_text())
VERSION = read_manifest(OLD["versions"][0]["manifest"], "here")
"""A version from before the key train.dense_learning_rate."""


@pytest.mark.parametrize(
    ("name", "own", "rate"),
    [("lightgcn", {}, None), ("lightgcn", {"dense_learning_rate": 0.5}, None), ("ngcf", {}, 0.003)]
    + [("ngcf", {"dense_learning_rate": 0.5}, 0.5)],
)
def test_dense_weights_learn_at_a_tenth_unless_it_says_otherwise(
    name: str, own: dict[str, Any], rate: float | None
) -> None:
    sections = {"backbone": {"name": name}, "train": {"learning_rate": 0.03} | own}
    config = parse_config({"interactions": "-", "output": "-", **sections})
    run = make_run(config, VERSION.graph, Removal())
    assert run.settings.dense_learning_rate == (None if rate is None else pytest.approx(rate))
    # Only where there are dense weights is it another run.
    other = config.model_copy(update={"train": config.train.model_copy(update={"dense_learning_rate": 0.7})})
    assert (make_run(other, VERSION.graph, Removal()).folder == run.folder) == (rate is None)


@pytest.mark.parametrize(("dense", "rate"), [(None, None), ("dense.safetensors", VERSION.model.train["learning_rate"])])
def test_a_model_from_before_the_key_was_trained_with_one_rate(dense: str | None, rate: float | None) -> None:
    assert "dense_learning_rate" not in VERSION.model.train
    config = parse_config({"interactions": "-", "output": "-"})
    trained = as_trained(config, VERSION.model.replaced(dense=dense))
    assert trained.train.dense_learning_rate == rate
    known = VERSION.model.replaced(dense=dense, train=VERSION.model.train | {"dense_learning_rate": None})
    assert as_trained(config, known).train.dense_learning_rate is None
