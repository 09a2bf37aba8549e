"""What `Session.evaluate` and `train` take in the place of the options of the command line. No processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import opened_in_process
from small_output import copied, item_name, scored_output, small_config, user_name, write_interactions

import unlearnrec
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.api import evaluation, held_workers
from unlearnrec.cluster.config.schema import Config
from unlearnrec.cluster.planning import announce
from unlearnrec.partitioning.errors import InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return scored_output(tmp_path_factory.mktemp("evaluation"))


def test_cut_offs_sample_and_baselines_of_one_call(made: Config):
    with opened_in_process(made) as session:
        assert set(session.evaluate().recall) == {20}
        measured = session.evaluate(k=[1, 3], sample=5, baselines=True)
        assert (set(measured.recall), measured.users) == ({1, 3}, 5)
        assert measured.standard_errors and measured.baselines
        assert "recall@1=" in repr(measured), "in a notebook the last value of a cell is shown like this"
        assert set(measured.baselines) == {"popularity", "item_knn"}
        assert set(session.evaluate(k=2).ndcg) == {2}
        assert session.config.evaluate.k == (20,), "a call changes no setting"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": [1]}, "users says what was forgotten, and is for reference=OUTPUT only"),
        ({"reference": "other"}, "reference needs what was forgotten: users, items, interactions or requests"),
        ({"reference": "other", "users": [1], "baselines": True}, "baselines and reference do not go together"),
        ({"reference": "other", "users": [1], "sample": 5}, "sample and reference do not go together"),
        ({"reference": "other", "users": []}, "evaluate: names no user, item or interaction"),
        ({"reference": "other", "users": [1.5]}, "users: got 1.5"),
        ({"reference": "nowhere", "users": [1]}, "nowhere: holds no trained model"),
        ({"sample": 0}, "evaluate.users: got 0"),
        ({"k": 0}, r"evaluate.k\[0\]: got 0"),
    ],
)
def test_bad_arguments_are_told_before_anything_starts(made: Config, arguments: dict[str, Any], message: str):
    session = unlearnrec.Session(made, progress=False)
    with pytest.raises(InputError, match=message):
        session.evaluate(**arguments)
    assert "no workers yet" in repr(session)


def test_a_reference_with_values_of_python(made: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}

    def compare(config: Config, reference: str, request: Any, **_: Any) -> dict[str, Any]:
        seen.update(reference=reference, users=request.users, items=request.items)
        return {"version": 1, "models": [{"model": "original"}], "gap_closed": 0.9}

    monkeypatch.setattr(evaluation, "compare_with_reference", compare)
    session = unlearnrec.Session(made, progress=False)
    result = session.evaluate(reference=tmp_path, users=np.array([3, 1]), items=["x"])
    assert seen == {"reference": str(tmp_path), "users": ("1", "3"), "items": ("x",)}
    assert (result.gap_closed, result.models[0]["model"], result.shift_r2) == (0.9, "original", None)


def test_input_is_checked_before_workers_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An output without a graph, or without a model, costs no start of Ray."""
    monkeypatch.setattr(held_workers.HeldWorkers, "_start", lambda self: pytest.fail("workers were started"))
    config = small_config(write_interactions(tmp_path / "t.parquet"), str(tmp_path / "output"))
    session = unlearnrec.Session(config, progress=False)
    calls: list[Any] = [session.train, session.retrain, lambda: session.train(tune=True)]
    for call in calls:
        with pytest.raises(InputError, match="Run `unlearnrec ingest`"):
            call()
    session.ingest()
    calls = [
        session.pretrain, session.evaluate, session.embeddings, lambda: session.export(str(tmp_path / "to")),
        lambda: session.recommend([1]), session.recommend_table, lambda: session.scores([1], [1]),
        lambda: session.forget(users=[1]),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InputError, match="holds no trained model"):
            call()


def test_a_plan_that_does_not_fit_is_refused_before_workers_start(made: Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(held_workers.HeldWorkers, "_start", lambda self: pytest.fail("workers were started"))
    machine = announce.this_machine()
    monkeypatch.setattr(announce, "this_machine", lambda: replace(machine, memory=replace(machine.memory, available=0)))
    with pytest.raises(InputError, match="planned are"):
        unlearnrec.Session(made, progress=False).train()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"train.learning_rate": 0.1}, "tune: train.learning_rate: got 0.1, expected a list of values"),
        ({"train.learning_rate": "ab"}, "got 'ab', expected a list of values"),
        ({}, "got dict, expected True or values by key"),
        ([0.1], "got list, expected True or values by key"),
        ({"pretrain.epochs": [1]}, "expected a key of `train` or `backbone`"),
        ({"train.epochs": [0]}, "train.epochs"),
        ({"train.epoch": [1]}, "did you mean 'epochs'"),
    ],
)
def test_a_bad_grid_is_refused_before_workers_are_stopped(
    made: Config,
    monkeypatch: pytest.MonkeyPatch,
    grid: Any,
    message: str,
):
    session = unlearnrec.Session(made, progress=False)
    monkeypatch.setattr(session, "stop_workers", lambda: pytest.fail("workers were stopped"))
    with pytest.raises(InputError, match=message):
        session.train(tune=grid)


def test_a_grid_reaches_the_command(made: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}

    def train(config: Config, **options: Any) -> dict[str, Any]:
        seen.update(options, grid=config.tune.grid)
        return {"version": 1, "epochs": 1, "seconds": 1.0, "loss": 0.5, "tune": {"trials": [], "best": {}}}

    monkeypatch.setattr(pipeline, "train", train)
    session = unlearnrec.Session(copied(made, tmp_path), progress=False)
    result = session.train(tune={"train.learning_rate": np.array([0.25, 0.5]), "backbone.num_layers": (1, 2)})
    assert seen["tune"] is True
    assert seen["grid"] == {"train.learning_rate": [0.25, 0.5], "backbone.num_layers": [1, 2]}
    assert result.tune == {"trials": [], "best": {}} and result.validation is None
    assert session.config.tune.grid == {}


def test_a_training_without_what_python_names(made: Config, tmp_path: Path):
    config = copied(made, tmp_path).model_copy(update={"train": made.train.model_copy(update={"epochs": 1})})
    with opened_in_process(config) as session:
        result = session.train(without={"users": [user_name(1)], "interactions": [(user_name(2), item_name(1))]})
        assert (result.removed_interactions, result.unknown_ids) == (5, 0)
        with pytest.raises(InputError, match="without: names nothing that the graph holds"):
            session.train(without={"users": ["nobody"]})
