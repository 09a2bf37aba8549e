"""Counterfactual runs that are forked from the training: where they begin, what is kept, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_workers import OneWorker
from small_output import copied
from trained_output import trained_output

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config
from unlearnrec.cluster.models.pretraining import folder_of_runs
from unlearnrec.cluster.output.session import Session


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Four epochs, so that runs are forked after two and looked at after three. Not to be changed."""
    folder = tmp_path_factory.mktemp("forked")
    sections: dict[str, Any] = {"cluster": {"partitions": 1}, "train": {"epochs": 4}, "pretrain": {"fork": 0.5}}
    return trained_output(folder, OneWorker(), **sections)[0]


@pytest.fixture
def config(made: Config, tmp_path: Path) -> Config:
    return copied(made, tmp_path)


def encoder_of(config: Config) -> bytes:
    session = Session(config)
    return session.store.read(session.version().model.encoder.file)


def kept(config: Config) -> set[str]:
    """The folders that the current model's runs have, below their own."""
    session = Session(config)
    folder = folder_of_runs(config, session.version())
    return {name.removeprefix(f"{folder}/").split("/")[0] for name in session.store.list(folder)}


def changed(config: Config, section: str, **values: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def test_a_fork_takes_half_the_epochs_of_a_training(config: Config, trained: list[tuple[bool, int]]) -> None:
    """And the run of the small request is a whole one, from which the sizes of changes are known."""
    more = changed(config, "pretrain", counterfactuals=3)
    told = pipeline.pretrain(more, group=OneWorker())
    assert trained == [(True, 4), (True, 2)]  # the first one, a fork, is there
    own = told["run_seconds"] / (told["run_seconds"] + told["fit_seconds"])
    assert told["retrains"] * own == pytest.approx(2.0)  # two halves and a whole one
    assert {"after-epoch-00002", "after-epoch-00003-rows"} < kept(config)
    assert Session(config).store.list("checkpoints") == []


def test_what_the_training_did_not_keep_is_made_again(config: Config, trained: list[tuple[bool, int]]) -> None:
    before, store = encoder_of(config), Session(config).store
    for name in store.list("pretrain"):
        store.remove(name)
    told = pipeline.pretrain(config, group=OneWorker())
    assert trained == [(False, 3), (True, 2)]  # the original up to half way from the fork, then the fork
    assert encoder_of(config) == before
    again = pipeline.pretrain(config, group=OneWorker())
    assert len(trained) == 2 and again["run_seconds"] == told["run_seconds"]


def test_forks_of_another_length_are_other_runs(config: Config, trained: list[tuple[bool, int]]) -> None:
    whole = changed(config, "pretrain", fork=0.0)
    before = encoder_of(config)
    pipeline.pretrain(whole, group=OneWorker())
    assert trained == [(True, 4)] and encoder_of(config) != before
    pipeline.pretrain(config, group=OneWorker())
    assert len(trained) == 1 and encoder_of(config) == before


def test_after_a_request_they_are_forked_from_a_training_on_what_is_left(
    config: Config, trained: list[tuple[bool, int]]
) -> None:
    worker = OneWorker()
    assert pipeline.forget(config, users="1", group=worker)["status"] == "committed"
    pipeline.pretrain(config, group=worker)
    assert trained == [(False, 4), (True, 2)]
    assert kept(config) >= {"original", "after-epoch-00002", "after-epoch-00003-rows"}
    # What the first training kept holds the data of the user; it goes with the other files on the old graph.
    pipeline.purge(config, now=True)
    names = Session(config).store.list("pretrain")
    assert names and all(name.startswith(folder_of_runs(config, Session(config).version())) for name in names)


def test_another_training_on_the_graph_removes_what_the_one_before_kept(config: Config) -> None:
    before = folder_of_runs(config, Session(config).version())
    other = config.model_copy(update={"seed": 5})
    pipeline.train(other, group=OneWorker())
    left = {name.removeprefix(f"{before}/").split("/")[0] for name in Session(config).store.list(before)}
    assert len(left) == 1 and not any(name.startswith("after-epoch") for name in left)  # the finished counterfactual
    assert kept(other) == {"after-epoch-00002", "after-epoch-00003-rows"}


def test_a_training_that_leaves_something_out_keeps_nothing(config: Config, tmp_path: Path) -> None:
    (tmp_path / "without.csv").write_text("user_id\n1\n")
    pipeline.train(config, without=[str(tmp_path / "without.csv")], group=OneWorker())
    assert kept(config) == set()
