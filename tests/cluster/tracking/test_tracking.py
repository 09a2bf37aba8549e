"""What trackers get of a command and of requests, and that one that is away harms nothing."""

import importlib.util
import threading
import time
from pathlib import Path

import pytest
from in_process import InProcess
from trained_output import trained_output

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.reporting.progress import Progress, epoch_callback
from unlearnrec.cluster.tracking import run as tracking
from unlearnrec.cluster.tracking.trackers import Begin, End, Point
from unlearnrec.partitioning.errors import InputError

CURVE = [
    {"epoch": 1.0, "loss": 0.5, "seconds": 1.0},
    {"epoch": 2.0, "loss": 0.25, "seconds": 2.0, "recall@20": 0.125, "ndcg@20": float("nan")},
]
ANSWER = {"version": 3, "loss": 0.25, "seconds": 2.0, "curve": CURVE, "passed": True}
SECRET = "ann-of-17"
FORGOTTEN = {
    "request_id": SECRET,
    "status": "committed",
    "version": 4,
    "removed_interactions": 7,
    "deleted_users": 1,
    "seconds": 0.5,
    "rows": {"deleted": 1, "named": [SECRET]},
    "gate": {"status": "not_checked", "measures": {"recall_loss": {"value": 0.01}, "gap_closed": {"left_out": SECRET}}},
}


class Notes(Progress):
    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


def configured(**tracking):
    return parse_config({"interactions": "t.parquet", "output": "out", "tracking": tracking})


@tracking.tracked
def train(config, *, progress, answer=None, error=None):
    """A stand-in for the command: of its two epochs the progress shows the first, as often as it looks."""
    with progress.task("train", 2) as task:
        on_progress = epoch_callback(task, "train")
        for finished in (None, CURVE[0], CURVE[0]):
            on_progress([{"phase": "train", "epoch": 1, "step": 0, "loss": 9.0, "finished": finished}])
    if error is not None:
        raise error
    return answer


class Kept:
    """A tracker that keeps what it gets, and fails where it is told to."""

    name = "Kept"

    def __init__(self, fails=lambda event: False):
        self.events, self.fails, self.opened = [], fails, 0

    def open(self):
        self.opened += 1

    def take(self, event):
        if self.fails(event):
            raise OSError("connection refused\nand many more lines")
        self.events.append(event)


@pytest.fixture
def tracker(monkeypatch):
    kept = Kept()
    monkeypatch.setattr(tracking, "trackers_of", lambda config: [kept])
    return kept


def test_a_command_is_followed_from_its_configuration_to_its_result(tracker):
    assert train(configured(), progress=Notes(), answer=ANSWER) == ANSWER
    begin, *points, end = tracker.events
    assert isinstance(begin, Begin) and begin.command == "train" and begin.parameters["train.epochs"] == "30"
    assert not any(key.startswith(("serve", "drop", "tracking", "storage")) for key in begin.parameters)
    # Each point once, though the progress saw the first epoch twice and the result has both; what is NaN is left out.
    expected = [("loss", 0.5, 1), ("seconds", 1.0, 1), ("loss", 0.25, 2), ("seconds", 2.0, 2), ("recall@20", 0.125, 2)]
    assert [(p.name, p.value, p.step) for p in points] == [(f"train/{name}", *rest) for name, *rest in expected]
    assert end == End("finished", 3, {"version": 3.0, "loss": 0.25, "seconds": 2.0}, {})


def test_of_an_error_only_its_class_is_told(tracker):
    with pytest.raises(InputError):
        train(configured(), progress=Notes(), error=InputError(f"user {SECRET} is unknown"))
    assert tracker.events[-1] == End("failed: InputError", None, {}, {})


def test_requests_are_told_without_ids(tracker):
    with tracking.open_run(configured(), Notes()) as run:
        run.requests([FORGOTTEN, FORGOTTEN | {"seconds": 0.75}, {"status": "nothing_to_forget", "version": 3}])
        run.requests([{"status": "nothing_to_forget", "version": 3}])
    begin, end = tracker.events
    assert begin.command == "forget" and (end.version, end.texts) == (4, {"gate": "not_checked"})
    told = {"requests": 2.0, "removed_interactions": 14.0, "deleted_users": 2.0, "seconds": 0.75}
    assert told.items() <= end.measures.items() and end.measures["gate.recall_loss"] == 0.01
    assert SECRET not in repr(tracker.events)


def test_a_tracker_that_is_away_fails_nothing_and_is_told_of_once(tracker):
    tracker.fails = lambda event: True
    notes = Notes()
    assert train(configured(), progress=notes, answer=ANSWER) == ANSWER
    assert notes.told == [
        "tracking: Kept failed (OSError: connection refused), and gets nothing more of this. The command goes on without it"
    ]


def test_a_tracker_that_hangs_delays_the_end_by_a_moment_only(tracker, monkeypatch):
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    held, notes = threading.Event(), Notes()
    tracker.fails = lambda event: held.wait(30)
    started = time.monotonic()
    assert train(configured(), progress=notes, answer=ANSWER) == ANSWER
    assert time.monotonic() - started < 5
    held.set()
    [told] = notes.told
    assert "do not answer" in told


def test_a_service_tries_a_tracker_again_that_was_away(tracker, monkeypatch):
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    tracker.fails = lambda event: isinstance(event, Point | End) and not tracker.events[1:]
    with tracking.open_run(configured(), Notes()) as run:
        run.requests([FORGOTTEN])
        run.requests([FORGOTTEN | {"version": 5}])
    assert tracker.opened == 2 and [type(event) for event in tracker.events] == [Begin, Begin, End]


def test_a_full_queue_drops_events_and_waits_for_nobody(tracker, monkeypatch):
    monkeypatch.setattr(tracking, "QUEUE_EVENTS", 5)
    held, notes = threading.Event(), Notes()
    tracker.fails = lambda event: held.wait(30)
    with tracking.open_run(configured(), notes) as run:
        run.begin("train")
        for step in range(100):
            run.point("train/loss", 1.0, step)
        assert len(notes.told) == 1 and "too slow" in notes.told[0]
        held.set()


@pytest.mark.parametrize(("key", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_a_missing_package_is_named_with_its_extra_before_anything_is_done(monkeypatch, tmp_path, key, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = []
    command = tracking.tracked(lambda config, *, progress: done.append(1))
    with pytest.raises(InputError, match=rf"{package} is not installed. Run `pip install 'unlearnrec\[{key}\]'`"):
        command(configured(**{key: str(tmp_path)}), progress=Notes())
    assert not done


def test_no_password_is_kept_in_the_configuration():
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as error:
        configured(mlflow="https://ann:secret@host")
    assert "secret" not in str(error.value)


def test_without_trackers_there_is_no_thread():
    before = threading.active_count()
    with tracking.open_run(configured(), Notes()) as run:
        assert run.idle and threading.active_count() == before


def test_the_commands_themselves_are_followed(tracker, tmp_path):
    group = InProcess()
    config, events = trained_output(tmp_path, group, names=True, cluster={"partitions": 1})
    user = events[0][0]
    answer = pipeline.forget(config, users=user, request_id=SECRET, group=group)
    assert pipeline.forget(config, users=user, request_id=SECRET, group=group)["repeated"]  # is no event
    commands = [event.command for event in tracker.events if isinstance(event, Begin)]
    assert commands == ["train", "pretrain", "forget"]
    curves = [(event.name, event.step) for event in tracker.events if isinstance(event, Point)]
    assert ("train/loss", 1) in curves and ("encoder/loss", 1) in curves and len(curves) == len(set(curves))
    ends = [event for event in tracker.events if isinstance(event, End)]
    assert [event.version for event in ends] == [1, 2, 3]
    assert ends[-1].measures["removed_interactions"] == answer["removed_interactions"] > 0
    assert user not in repr(tracker.events) and SECRET not in repr(tracker.events)


# ---- the real packages -----------------------------------------------------------------------------------------------


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = configured(tensorboard=str(tmp_path))
    train(config, progress=Notes(), answer=ANSWER)
    for version in (4, 5):
        with tracking.open_run(config, Notes()) as run:
            run.requests([FORGOTTEN | {"version": version}])
    [folder] = tmp_path.glob("train-*")
    found = EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in found.Scalars("train/loss")][:2] == [(1, 0.5), (2, 0.25)]
    [configuration] = found.Tensors("configuration/text_summary")
    assert b"train.epochs: 30" in configuration.tensor_proto.string_val[0]
    # The requests of all versions are one curve.
    found = EventAccumulator(str(tmp_path / "requests")).Reload()
    assert [e.step for e in found.Scalars("forget/removed_interactions")] == [4, 5]
    assert SECRET.encode() not in everything_in(tmp_path)


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a local store without a database
    config = configured(mlflow=tmp_path.as_uri(), experiment="shop")
    train(config, progress=Notes(), answer=ANSWER)
    with tracking.open_run(config, Notes()) as run:
        run.requests([FORGOTTEN])
    client = mlflow.MlflowClient(tracking_uri=tmp_path.as_uri())
    runs = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
    forgot, trained = sorted(runs, key=lambda one: one.data.tags["unlearnrec.command"])
    assert trained.info.status == forgot.info.status == "FINISHED"
    assert trained.data.params["backbone.name"] == "lightgcn"
    assert trained.data.tags["unlearnrec.version"] == "3" and forgot.data.tags["unlearnrec.gate"] == "not_checked"
    points = client.get_metric_history(trained.info.run_id, "train/recall_at_20")
    assert [(point.step, point.value) for point in points] == [(2, 0.125)]
    assert forgot.data.metrics["removed_interactions"] == 7
    assert SECRET.encode() not in everything_in(tmp_path)
