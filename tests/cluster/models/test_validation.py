"""The number of epochs that validation chooses, and the model that is then trained on all interactions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from in_process import InProcess
from trained_output import small_sample

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config, parse_config
from unlearnrec.cluster.models.tuning import combinations, with_settings
from unlearnrec.cluster.output.session import Session
from unlearnrec.partitioning.errors import InputError

MOST = 60
VALIDATION = {"share": 0.2, "patience": 2, "every": 2}


def configured(folder: Path, interactions: str, **sections: Any) -> Config:
    return parse_config(
        {
            "interactions": interactions,
            "output": str(folder),
            "cluster": {"partitions": 1},
            "backbone": {"embedding_size": 8, "num_layers": 2},
            **sections,
            "train": {"epochs": MOST, "batch_size": 100, "learning_rate": 0.05, **sections.get("train", {})},
        }
    )


@pytest.fixture(scope="module")
def interactions(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_sample(tmp_path_factory.mktemp("sample"))["train"])


@pytest.fixture(scope="module")
def chosen(interactions: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Any]]:
    config = configured(tmp_path_factory.mktemp("chosen"), interactions, validation=VALIDATION)
    pipeline.ingest(config)
    return config, pipeline.train(config, group=InProcess())


def test_the_run_ends_and_the_best_epoch_is_taken(chosen: tuple[Config, dict[str, Any]]) -> None:
    config, answer = chosen
    validation = answer["validation"]
    measured = {int(entry["epoch"]): entry["ndcg@20"] for entry in validation["curve"] if "ndcg@20" in entry}
    assert list(measured) == list(range(2, max(measured) + 1, 2)) and max(measured) < MOST
    best = max(measured.values())
    assert validation["ndcg@20"] == best == measured[validation["epochs"]]
    # Two evaluations later it ended: the first of the best ones counts.
    assert min(epoch for epoch, value in measured.items() if value == best) == max(measured) - 4
    assert answer["epochs"] == validation["epochs"] == len(answer["curve"])
    assert Session(config).version().model.train["epochs"] == validation["epochs"]


def test_the_model_is_that_of_a_training_for_as_many_epochs(
    chosen: tuple[Config, dict[str, Any]], interactions: str, tmp_path: Path
) -> None:
    config, answer = chosen
    plain = configured(tmp_path, interactions, train={"epochs": answer["epochs"]})
    pipeline.ingest(plain)
    assert "validation" not in pipeline.train(plain, group=InProcess())
    first, second = (Session(one) for one in (config, plain))
    digests = [
        [session.version().files[name].sha256 for name in session.version().model.embeddings]
        for session in (first, second)
    ]
    assert digests[0] == digests[1]
    assert not [name for name in first.store.list() if "validation" in name]


def test_an_interrupted_training_takes_the_choice_that_it_had(interactions: str, tmp_path: Path) -> None:
    config = configured(tmp_path, interactions, validation=VALIDATION)
    pipeline.ingest(config)

    class Dies(InProcess):
        def run(self, call: Any, **more: Any) -> Any:
            if call.method == "train":
                raise KeyboardInterrupt
            return super().run(call, **more)

    with pytest.raises(KeyboardInterrupt):
        pipeline.train(config, group=Dies())
    again, anew = InProcess(), InProcess()
    answer = pipeline.train(config, resume=True, group=again)
    assert "validate" not in again.called and "train" in again.called
    assert (
        pipeline.train(config, group=anew)["validation"]["curve"][-1]["ndcg@20"]
        == (answer["validation"]["curve"][-1]["ndcg@20"])
    )
    assert "validate" in anew.called


def test_a_counterfactual_chooses_nothing(chosen: tuple[Config, dict[str, Any]]) -> None:
    with pytest.raises(InputError, match=r"validation\.share=0"):
        pipeline.train(chosen[0], without=["users.csv"])


def test_too_small_a_share_is_refused(chosen: tuple[Config, dict[str, Any]]) -> None:
    config = chosen[0].model_copy(update={"validation": chosen[0].validation.model_copy(update={"share": 1e-9})})
    with pytest.raises(InputError, match=r"validation\.share=1e-09"):
        pipeline.train(config, group=InProcess())


def test_combinations_of_the_grid(interactions: str, tmp_path: Path) -> None:
    grid: dict[str, list[Any]] = {"train.learning_rate": [0.01, 0.02], "backbone.num_layers": [1, 2, 3]}
    config = configured(tmp_path, interactions, tune={"grid": grid})
    found = combinations(config)
    assert len(found) == 6 and found[4] == {"train.learning_rate": 0.02, "backbone.num_layers": 2}
    changed = with_settings(config, found[4])
    assert (changed.train.learning_rate, changed.backbone.num_layers) == (0.02, 2)
    assert changed.train.epochs == MOST
    rates = [x["train.learning_rate"] for x in combinations(configured(tmp_path, interactions))]
    assert rates == [0.025, 0.05, 0.1]


@pytest.mark.parametrize(
    "grid, message",
    [
        ({"cluster.partitions": [1, 2]}, "expected a key of `train` or `backbone`"),
        ({"train": [1]}, "expected a key of `train` or `backbone`"),
        ({"train.learning_rate": []}, "has no values"),
        ({"train.learning_rate": [0.1, -1.0]}, "train.learning_rate: got -1.0"),
        ({"train.learningrate": [0.1]}, "train.learningrate: unknown key"),
        ({"train.epochs": list(range(1, 100))}, "99 combinations; at most 64"),
    ],
)
def test_a_grid_that_cannot_be_tried(interactions: str, tmp_path: Path, grid: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        combinations(configured(tmp_path, interactions, tune={"grid": grid}))
