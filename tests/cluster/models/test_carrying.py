"""An encoder is carried over to the next model: when, from where, and what it costs."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_workers import OneWorker
from small_output import copied
from trained_output import trained_output

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config, parse_config
from unlearnrec.cluster.evidence.drafts import CARRIED_ENCODER, ENCODER, not_removed
from unlearnrec.cluster.models import carried_encoder
from unlearnrec.cluster.models.carrying import why_not_carried
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.planning.runs import carry_fork_of
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.distributed.encoder.forks import Fork
from unlearnrec.distributed.encoder.influence import FORMATS
from unlearnrec.distributed.partition.partition import Partition
from unlearnrec.distributed.partition.version import EarlierEncoder, Encoder


class Notes(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def of_encoder(self) -> list[str]:
        return [text for text in self.told if "not carried over" in text]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Three epochs, so that the run of the check is forked after the first. Not to be changed."""
    folder = tmp_path_factory.mktemp("carried")
    sections: dict[str, Any] = {
        "cluster": {"partitions": 1},
        "train": {"epochs": 3, "batch_size": 100},
        "pretrain": {"counterfactuals": 2, "epochs": 10, "fork": 0.0},
    }
    return trained_output(folder, OneWorker(), **sections)[0]


@pytest.fixture
def config(made: Config, tmp_path: Path) -> Config:
    return copied(made, tmp_path)


@pytest.fixture(autouse=True)
def any_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty users teach an encoder little: here any is good enough."""
    monkeypatch.setattr(carried_encoder, "does_well", lambda *_: True)


def changed(config: Config, section: str, **values: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def seeded(config: Config, seed: int = 5) -> Config:
    return config.model_copy(update={"seed": seed})


def test_after_another_training_the_encoder_is_carried_over(config: Config, trained: list[tuple[bool, int]]) -> None:
    before = Session(config).version()
    assert before.model.encoder is not None and before.model.encoder.carried_from is None
    other, notes = seeded(config), Notes()
    pipeline.train(other, progress=notes, group=OneWorker())
    between = Session(other).version()
    assert between.model.encoder is None and between.model.earlier is not None
    # A purge leaves the file, since the version names it.
    pipeline.purge(other, now=True)
    assert Session(other).store.exists(before.model.encoder.file)
    trained.clear()
    told = pipeline.pretrain(other, progress=notes, group=OneWorker())
    assert trained == [(True, 2)] and notes.of_encoder() == []
    assert told["carried_from"] == before.version and told["epochs"] == 0
    share = told["run_seconds"] / (told["run_seconds"] + told["fit_seconds"])
    assert told["retrains"] * share == pytest.approx(2 / 3)
    now = Session(other).version()
    assert now.model.earlier is None and now.model.encoder is not None
    assert now.model.encoder.carried_r2 == told["carried_r2"]
    assert now.model.encoder.interactions == now.graph.interactions
    # What the training kept for the check is spent; the finished run stays.
    store = Session(other).store
    assert not [name for name in store.list("pretrain") if "/after-epoch" in name]
    assert json.loads(store.read("reports/report.json"))["encoder"]["carried_from"] == before.version
    assert "was carried over from version" in store.read("reports/report.html").decode()
    users = pipeline.forget(other, users="1", group=OneWorker())
    assert users["status"] == "committed" and users["encoder_drift"] == pytest.approx(
        users["removed_interactions"] / now.graph.interactions
    )
    assert pipeline.verify(other)["ok"]
    # Who runs `pretrain` again wants a new one.
    trained.clear()
    again = pipeline.pretrain(other, group=OneWorker())
    assert "carried_from" not in again and (True, 3) in trained


def test_a_retrain_carries_it_over_and_comes_to_train_and_pretrain(config: Config, tmp_path: Path) -> None:
    one, other = seeded(config), seeded(copied(config, tmp_path / "other"))
    answer = pipeline.retrain(one, group=OneWorker())
    assert answer["pretrain"]["carried_from"] == 2
    pipeline.train(other, group=OneWorker())
    pipeline.pretrain(other, group=OneWorker())
    files = []
    for each in (one, other):
        session = Session(each)
        encoder = session.version().model.encoder
        assert encoder is not None
        files.append(session.store.read(encoder.file))
    assert files[0] == files[1]


def test_a_killed_one_finds_the_run_of_the_check(
    config: Config, trained: list[tuple[bool, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = seeded(config)
    pipeline.train(other, group=OneWorker())
    trained.clear()

    @functools.wraps(Partition.carry_encoder)
    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Partition, "carry_encoder", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.pretrain(other, group=OneWorker())
    assert trained == [(True, 2)] and Session(other).version().model.earlier is not None
    assert pipeline.pretrain(other, group=OneWorker())["carried_from"] == 2
    assert len(trained) == 1


def test_one_that_does_badly_is_not_carried_over(
    config: Config, trained: list[tuple[bool, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carried_encoder, "does_well", lambda *_: False)
    other, notes = seeded(config), Notes()
    pipeline.train(other, group=OneWorker())
    trained.clear()
    told = pipeline.pretrain(other, progress=notes, group=OneWorker())
    assert trained == [(True, 2), (True, 3), (True, 3)] and "carried_from" not in told
    assert len(notes.of_encoder()) == 1 and "at least 0.2 is needed" in notes.of_encoder()[0]
    encoder = Session(other).version().model.encoder
    assert encoder is not None and encoder.carried_from is None
    # The file of the attempt is gone.
    assert [name for name in Session(other).store.list("versions/000004") if "encoder" in name] == [encoder.file]


def test_where_the_recipe_differs_the_training_says_so(config: Config, trained: list[tuple[bool, int]]) -> None:
    other, notes = changed(seeded(config), "train", learning_rate=0.02), Notes()
    pipeline.train(other, progress=notes, group=OneWorker())
    [told] = notes.of_encoder()
    assert "encoder of version 2" in told and "train.learning_rate=0.01, and this one with 0.02" in told
    assert Session(other).version().model.earlier is None
    trained.clear()
    assert "carried_from" not in pipeline.pretrain(other, group=OneWorker())
    assert trained == [(True, 3), (True, 3)]


def test_where_the_training_kept_no_state_a_whole_pretraining_is_made(
    config: Config, trained: list[tuple[bool, int]]
) -> None:
    other, notes = seeded(config), Notes()
    pipeline.train(other, group=OneWorker())
    store = Session(other).store
    for name in store.list("pretrain"):
        store.remove(name)
    trained.clear()
    assert "carried_from" not in pipeline.pretrain(other, progress=notes, group=OneWorker())
    assert "kept no state" in notes.of_encoder()[0] and trained == [(True, 3), (True, 3)]


def test_without_the_key_nothing_is_kept_or_carried(config: Config) -> None:
    other, notes = changed(seeded(config), "pretrain", carry=False), Notes()
    pipeline.train(other, progress=notes, group=OneWorker())
    version = Session(other).version()
    assert version.model.earlier is None and notes.of_encoder() == []
    assert not [name for name in Session(other).store.list("pretrain") if "/after-epoch" in name]


def encoder(**fields: Any) -> EarlierEncoder:
    made = {"file": "e", "format": FORMATS["counterfactual"], "shape": {"blocks": 1, "mlp_layers": 2}}
    config = parse_config({"interactions": "-", "output": "-"})
    return EarlierEncoder(
        encoder=Encoder(**(made | {"interactions": 10} | fields)),
        version=7,
        backbone=config.backbone.specification(),
        train=config.train.model_dump(mode="json"),
    )


@pytest.mark.parametrize(
    ("sections", "fields", "why"),
    [
        ({}, {}, None),
        ({"train": {"epochs": 7, "checkpoint_every": 1, "kernel": "torch"}, "seed": 9}, {}, None),
        ({"train": {"batch_size": 5}}, {}, r"train\.batch_size=16384, and this one with 5"),
        ({"backbone": {"embedding_size": 32}}, {}, r"backbone\.embedding_size=64, and this one with 32"),
        ({"backbone": {"name": "ngcf"}}, {}, r"backbone\.name=lightgcn, and this one with ngcf"),
        ({"backbone": {"num_layers": 1}}, {}, r"backbone\.num_layers=3"),
        ({"influence": {"mlp_layers": 3}}, {}, r"2 hidden layers, and influence\.mlp_layers=3"),
        ({"influence": {"around": True}}, {}, r"influence\.around"),
        ({}, {"around": True}, r"influence\.around"),
        ({}, {"format": 1}, r"its format is 1"),
        ({}, {"format": 7}, r"its format is 7, and this release makes format 6 for this backbone"),
        ({}, {"objective": "published"}, r"its objective is published"),
    ],
)
def test_an_encoder_is_carried_between_models_of_the_same_recipe(
    sections: dict[str, Any], fields: dict[str, Any], why: str | None
) -> None:
    config = parse_config({"interactions": "-", "output": "-", **sections})
    train = config.train.model_dump(mode="json")
    found = why_not_carried(config, encoder(**fields), config.backbone.specification(), train)
    if why is None:
        assert found is None
    else:
        assert found is not None and re.search(why, found)


@pytest.mark.parametrize(
    ("epochs", "pretrain", "fork"),
    [
        (30, {}, Fork(30, 27, 28)),
        (100, {}, Fork(100, 90, 95)),
        (6, {}, Fork(6, 4, 5)),
        (3, {}, Fork(3, 1, 2)),
        (2, {}, None),  # nothing would be left to fork from
        (3, {"counterfactuals": 1}, None),  # a whole pre-training costs hardly more
        (30, {"carry": False}, None),
        (30, {"objective": "published"}, None),
    ],
)
def test_the_check_takes_a_tenth_of_a_training(epochs: int, pretrain: dict[str, Any], fork: Fork | None) -> None:
    values: dict[str, Any] = {"train": {"epochs": epochs}, "pretrain": pretrain}
    assert carry_fork_of(parse_config({"interactions": "-", "output": "-", **values})) == fork


def test_the_evidence_says_that_an_encoder_was_carried_over(config: Config) -> None:
    model = Session(config).version().model
    assert model.encoder is not None
    carried = model.replaced(encoder=model.encoder.replaced(carried_from=1, carried_r2=0.9))
    for each, (what, why) in ((model, ENCODER), (carried, CARRIED_ENCODER)):
        assert {"what": what, "why": why} in not_removed(each, listed=False)
