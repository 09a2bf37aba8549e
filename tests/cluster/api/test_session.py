"""`unlearnrec.Session` with real workers: the whole path, Ctrl-C in the middle, two sessions, a Ray dataset."""

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from lanes import LONG
from trained_output import small_sample

import unlearnrec
from unlearnrec.cluster.api import held_workers, results
from unlearnrec.cluster.reporting.progress import Progress, Task
from unlearnrec.partitioning.errors import InputError

SMALL: dict[str, Any] = {
    "backbone": {"embedding_size": 8, "num_layers": 2},
    "train": {"epochs": 2, "batch_size": 500},
    "pretrain": {"epochs": 1, "counterfactuals": 1},
}


def session_on(folder: Path, **sections: Any) -> unlearnrec.Session:
    sample = small_sample(folder)
    values = {"interactions": sample["train"], "test_interactions": sample["test"], **SMALL, **sections}
    return unlearnrec.Session(values, output=str(folder / "output"), progress=False)


@pytest.fixture(scope="module")
def session(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[unlearnrec.Session]:
    with session_on(tmp_path_factory.mktemp("session")) as session:
        yield session


def untyped(result: results.Result, *known: str) -> set[str]:
    """The keys of an answer that are no fields."""
    return set(result.keys()) - {one.name for one in fields(result)} - set(known)


def test_the_whole_path_with_workers_that_stay(session: unlearnrec.Session):
    config = session.config
    ingested = session.ingest()
    assert (ingested.partitions, ingested.users) == (2, 60)
    assert not untyped(ingested, "rows_per_layer_by_halo")
    assert "no workers yet" in repr(session)
    trained, group = session.train(), session._held._group
    assert (trained.version, trained.epochs, len(trained.curve)) == (1, 2, 2)
    assert session.pretrain().version == 2
    measured = session.evaluate()
    assert measured.recall[20] == measured["recall@20"] == measured.measures["recall@20"] > 0
    assert set(measured.ndcg) == {20}

    embeddings = session.embeddings()
    exported = session.export(str(Path(config.output).parent / "exported"), top_k=5)
    assert (exported.users, exported.items) == (len(embeddings.user_ids), len(embeddings.item_ids))
    folder = Path(config.output).parent / "exported"
    for side in ("user", "item"):
        written, given = (
            table.sort_by(f"{side}_id")
            for table in (pq.read_table(folder / f"{side}s.parquet"), embeddings.arrow(side))
        )
        assert written.to_pydict() == given.to_pydict()
    frame = embeddings.pandas("user")
    assert frame.index.name == "user_id" and np.array_equal(frame.to_numpy(), embeddings.users)

    users = embeddings.user_ids[:3].tolist()
    best = session.recommend(users, k=5)
    rows = pq.read_table(folder / "recommendations.parquet").to_pandas()
    for user, line in zip(users, best, strict=True):
        wanted = rows[rows.user_id == user].sort_values("rank")
        assert [item for item, _ in line] == wanted.item_id.tolist()
        assert np.allclose([score for _, score in line], wanted.score, rtol=1e-5)
    with pytest.raises(InputError, match="expected a list of ids"):
        session.recommend("12")

    done = session.forget(users=users[:1]).wait()
    assert (done.status, done.version, done.deleted_users) == ("committed", 3, 1)
    assert done.evidence and not done.repeated
    after = session.recommend([*users, "nobody"], k=5)
    assert [bool(line) for line in after] == [False, True, True, False]
    assert users[0] not in session.embeddings().user_ids
    assert [version.reason for version in session.versions()] == ["train", "pretrain", "forget"]
    assert session.versions()[-1].current and session.versions()[-1].users == 59
    assert session.verify().ok
    assert session._held._group is group, "all of it with the same workers"


def test_results_are_frozen_pickle_and_name_their_keys(session: unlearnrec.Session):
    result = session.forget(users=[session.embeddings().user_ids[0]]).wait()
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result and copy.answer == result.answer and dict(copy) == result.answer
    assert result.phases == result["phases"]
    with pytest.raises(AttributeError, match="ForgetResult has no 'verison'; it has request_id"):
        result.verison  # noqa: B018
    with pytest.raises(AttributeError):
        result.version = 7


def test_another_process_makes_a_version_and_this_session_sees_it(session: unlearnrec.Session):
    users = session.embeddings().user_ids[:2].tolist()
    assert all(session.recommend(users, k=2))
    with unlearnrec.Session(session.config, progress=False) as other:
        assert other.forget(users=users[:1]).wait().status == "committed"
    assert [bool(line) for line in session.recommend(users, k=2)] == [False, True]


class Interrupting(Progress):
    """Sends the process Ctrl-C a moment after the first epoch of a training was told."""

    def __init__(self) -> None:
        self.sent = False

    def _start(self, name: str, total: int | None) -> Task:
        outer = self

        class Watched(Task):
            def advance(self, n: int = 1, **more: object) -> None:
                if not outer.sent and name == "train" and n:
                    outer.sent = True
                    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

        return Watched()


@LONG
def test_ctrl_c_in_the_middle_leaves_a_session_that_works(ray_session: None, tmp_path: Path):
    sample = small_sample(tmp_path)
    values = {"interactions": sample["train"], "output": str(tmp_path / "output"), **SMALL}
    progress = Interrupting()
    with unlearnrec.Session(values, progress=progress, train={"epochs": 30000}, cluster={"partitions": 1}) as session:
        session.ingest()
        with pytest.raises(KeyboardInterrupt):
            session.train()
        assert progress.sent and not session._held.running, "nobody waits for what the workers still do"
        assert session.status().version is None
        short = session.config.model_copy(update={"train": session.config.train.model_copy(update={"epochs": 2})})
        session._config = short
        assert session.train().version == 1


@LONG
def test_one_session_ends_and_the_other_goes_on(ray_session: None, tmp_path: Path):
    first = session_on(tmp_path / "a", cluster={"partitions": 1})
    second = session_on(tmp_path / "b", cluster={"partitions": 1})
    with second:
        with first:
            for one in (first, second):
                one.ingest()
                assert one.train().version == 1
        assert second.train().version == 2
        second.stop_workers()
        assert second.train().version == 3, "others are started"


def test_the_last_session_ends_the_ray_that_a_session_started(monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    connected = [True, False, False, True]
    monkeypatch.setattr(held_workers, "connect_to_ray", lambda address: connected.pop(0))
    monkeypatch.setattr(held_workers.ray, "shutdown", lambda: events.append("shutdown"))
    shared = held_workers._SharedRay()
    for _ in range(3):
        shared.take(None)
    shared.release()
    shared.release()
    assert events == []
    shared.release()
    assert events == ["shutdown"]
    shared.take(None)
    shared.release()
    assert events == ["shutdown", "shutdown"]


def test_a_ray_dataset_is_a_table(ray_session: None, tmp_path: Path):
    import ray

    sample = small_sample(tmp_path)
    expected = unlearnrec.Session(interactions=sample["train"], output=str(tmp_path / "a"), progress=False).ingest()
    table = pd.read_parquet(sample["train"]).assign(more="x")
    dataset = ray.data.from_pandas([table.iloc[:100], table.iloc[100:]])
    session = unlearnrec.Session(interactions=dataset, output=str(tmp_path / "b"), progress=False)
    assert session.ingest() == expected
    bad = unlearnrec.Session(interactions=ray.data.range(3), output=str(tmp_path / "c"), progress=False)
    with pytest.raises(InputError, match="interactions: no column 'user_id'; it has id"):
        bad.ingest()


def test_a_configuration_from_a_file_with_keywords_on_top(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("interactions: a\noutput: b\ntrain: {epochs: 3, l2: 0.5}\n")
    for given in (path, str(path)):
        config = unlearnrec.Session(given, train={"epochs": 4}, output=tmp_path / "c", seed=5).config
        assert (config.train.epochs, config.train.l2, config.output, config.seed) == (4, 0.5, str(tmp_path / "c"), 5)
    assert unlearnrec.Session(config).config == config
    assert unlearnrec.Session(config, seed=6).config.train == config.train
    with pytest.raises(InputError, match="output: missing"):
        unlearnrec.Session(interactions="a")
    with pytest.raises(InputError, match=r"got DataFrame, expected the path of a YAML file or a dictionary. A table"):
        unlearnrec.Session(pd.DataFrame())
