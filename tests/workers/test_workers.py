"""The worker group on a real local Ray, with a fake host; the actor's own rules without Ray."""

import os
import signal
import threading
import time

import fake_host
import pytest
import ray
from fake_host import FakeHost, NamelessHost
from ray import cloudpickle
from ray.exceptions import OutOfMemoryError

from unlearnrec.partitioning.errors import InputError
from unlearnrec.workers import Kind, ShardWorker, WorkerFailure, WorkerGroup, WorkerSettings, calling, post_mortem
from unlearnrec.workers.memory import PlannedMemory
from unlearnrec.workers.post_mortem import ended_for_memory, oom_kills_of

cloudpickle.register_pickle_by_value(fake_host)  # the workers cannot import the tests' folder


def settings(num_partitions):
    return WorkerSettings(num_partitions, threads_per_worker=1, collective_timeout_seconds=5.0)


@pytest.fixture(scope="module")
def group(ray_session):
    with WorkerGroup.start(settings(2), FakeHost) as group:
        group.form()
        yield group


@pytest.fixture
def formed(group):
    """The shared group in a working generation, with nothing loaded."""
    if not group.formed:
        group.rebuild()
    group.call(calling(FakeHost.load, None))
    return group


def pids(group):
    return [ray.get(actor.ping.remote()).pid for actor in group._actors]


def later(seconds, action):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


# ---- the actor without Ray ------------------------------------------------------------------------------------------


@pytest.fixture
def worker():
    worker = ShardWorker(0, 2, FakeHost)
    assert worker.prepare().cause is None
    assert worker.join("localhost", 1, 1, 1.0).cause is None
    return worker


def test_a_repeated_call_returns_the_same_result_and_runs_nothing(worker):
    first = worker.call(1, 1, calling(FakeHost.count))
    assert worker.call(1, 1, calling(FakeHost.count)) is first
    assert worker.call(1, 2, calling(FakeHost.count)).value == 2
    assert worker.call(1, 1, calling(FakeHost.count)).cause.kind is Kind.STALE


def test_calls_of_another_generation_are_refused(worker):
    assert worker.call(2, 1, calling(FakeHost.count)).cause.kind is Kind.STALE
    worker.join("localhost", 1, 2, 1.0)
    assert worker.call(1, 2, calling(FakeHost.count)).cause.kind is Kind.STALE
    assert worker.join("localhost", 1, 2, 1.0).cause.kind is Kind.STALE
    assert worker.call(2, 1, calling(FakeHost.count)).value == 1


def test_an_abort_of_an_old_generation_does_not_touch_the_new_one(worker):
    worker.join("localhost", 1, 2, 1.0)
    worker.abort(1)
    assert worker.call(2, 1, calling(FakeHost.collective, 0)).value == "done"
    worker.abort(2)
    assert worker.call(2, 2, calling(FakeHost.count)).cause.kind is Kind.ABORTED


def test_an_error_ends_the_process_groups_at_once(worker):
    assert worker.call(1, 1, calling(FakeHost.defect_on, 0)).cause.kind is Kind.ERROR
    assert worker._host.stop.is_set()


# ---- the group on Ray -----------------------------------------------------------------------------------------------


def test_calls_on_all_and_on_some(formed):
    assert [part for part, _, _ in formed.call(calling(FakeHost.where))] == [0, 1]
    assert formed.call(calling(FakeHost.where), partitions=[1])[0][0] == 1


def test_progress_passes_a_blocked_call(formed):
    seen = []
    assert formed.call(calling(FakeHost.collective, 2.0), on_progress=seen.append) == ["done", "done"]
    assert len(seen) >= 3 and all(p["step"] >= 1 for p in seen[-1])


def test_a_call_can_be_given_up(formed):
    """The workers are free again, those that were in a collective and one that does not come back from its call."""

    def give_up(progress):
        raise KeyError("enough")

    for method in (FakeHost.collective, FakeHost.nap):
        with pytest.raises(KeyError, match="enough"):
            formed.run(calling(method, 600.0), restore=lambda: None, on_progress=give_up)
        assert not formed.formed
        assert formed.run(calling(FakeHost.where), restore=lambda: None)[0][0] == 0


def test_a_killed_worker_is_noticed_and_replaced(formed):
    victim = pids(formed)[1]
    times = {}

    def kill():
        times["killed"] = time.monotonic()
        os.kill(victim, signal.SIGKILL)

    def restore():
        times["restored"] = time.monotonic()
        formed.call(calling(FakeHost.load, "committed"))

    later(1.0, kill)
    generation = formed.generation
    result = formed.run(calling(FakeHost.collective_if_not_loaded, 60), restore=restore, max_rebuilds=1)
    assert result == ["committed 0", "committed 1"]
    assert formed.generation == generation + 1
    # Survivors keep their host, the new process has a new one.
    (_, _, old_joins), (_, _, new_joins) = formed.call(calling(FakeHost.where))
    assert old_joins > 1 and new_joins == 1
    assert times["restored"] - times["killed"] < 25
    print(f"killed to re-formed: {times['restored'] - times['killed']:.1f} s")


def test_a_killed_worker_is_named_within_seconds(formed):
    victim = pids(formed)[0]
    killed = []
    later(0.5, lambda: (killed.append(time.monotonic()), os.kill(victim, signal.SIGKILL)))
    with pytest.raises(WorkerFailure) as caught:
        formed.call(calling(FakeHost.collective, 9.5))
    assert caught.value.dead == [0] and not formed.formed
    assert time.monotonic() - killed[0] < 9  # before the one that sleeps is there


def test_a_worker_that_restarted_between_calls_is_a_lost_one(formed):
    os.kill(pids(formed)[1], signal.SIGKILL)
    time.sleep(2)
    with pytest.raises(WorkerFailure) as caught:
        formed.call(calling(FakeHost.where))
    assert caught.value.dead == [1]


def test_a_worker_that_dies_for_memory_is_not_replaced(formed):
    needs_all = PlannedMemory(10**15, "Set train.batch_size=1024")
    formed.planned = needs_all
    restored = []
    try:
        with pytest.raises(WorkerFailure) as caught:
            formed.run(calling(FakeHost.claim_and_die_on, 1, 300_000_000, 1.5), restore=lambda: restored.append(1))
    finally:
        formed.planned = None
    assert caught.value.for_memory and caught.value.causes[1].kind is Kind.MEMORY and not restored
    assert "it held 0.3 GB" in str(caught.value) or "it held 3" in str(caught.value) or "it held 4" in str(caught.value)
    assert "1000000.0 GB a worker. Set train.batch_size=1024" in str(caught.value)


def test_a_worker_that_dies_with_memory_left_is_replaced(formed):
    formed.planned = PlannedMemory(400_000_000, "")

    def restore():
        formed.call(calling(FakeHost.load, "committed"))

    try:
        result = formed.run(calling(FakeHost.claim_and_die_on, 1, 50_000_000, 1.5), restore=restore, max_rebuilds=1)
    finally:
        formed.planned = None
    assert result == ["alive", "alive"]


def test_ray_has_a_record_of_a_process_that_ended(formed):
    _, seen = ray.get(formed._actors[1].pulse.remote())
    assert seen.held > 20_000_000 and seen.machine.limit > seen.machine.available > 0
    os.kill(pids(formed)[1], signal.SIGKILL)
    assert ended_for_memory(seen) is None  # ended, and not for memory
    record = post_mortem._record(seen.process)
    assert record is not None and not record.is_alive
    assert oom_kills_of(seen) == seen.machine.oom_kills
    with pytest.raises(WorkerFailure):
        formed.call(calling(FakeHost.where))


def test_rays_own_error_of_memory_is_one(monkeypatch):
    group = WorkerGroup([None], None, WorkerSettings(1), owns_ray=False)

    def get(ref):
        raise OutOfMemoryError("Task was killed due to the node running low on memory.")

    monkeypatch.setattr(ray, "get", get)
    outcomes = {}
    group._take({0: "ref"}, ["ref"], outcomes, None)
    assert outcomes[0].cause.kind is Kind.MEMORY and "low on memory" in outcomes[0].cause.text


def test_calls_tell_the_most_memory_that_was_held(formed):
    formed.peak_bytes.clear()
    formed.call(calling(FakeHost.count))
    assert set(formed.peak_bytes) == {0, 1} and all(20_000_000 < n < 10**10 for n in formed.peak_bytes.values())


def test_a_frozen_worker_is_named_with_the_setting_and_replaced(formed):
    victim = pids(formed)[1]
    later(0.5, lambda: os.kill(victim, signal.SIGSTOP))
    with pytest.raises(WorkerFailure) as caught:
        formed.call(calling(FakeHost.collective, 60))
    assert caught.value.missing == [1] and caught.value.causes[1].kind is Kind.UNRESPONSIVE
    assert "cluster.collective_timeout_seconds" in str(caught.value)
    formed.rebuild()
    assert pids(formed)[1] != victim


def test_an_input_error_passes_unchanged_and_soon(formed):
    generation, started = formed.generation, time.monotonic()
    with pytest.raises(InputError, match=r"^users.csv: no column user_id$"):
        formed.run(calling(FakeHost.wrong_input_on, 1), restore=lambda: pytest.fail("rebuilt"))
    assert formed.generation == generation and time.monotonic() - started < 4


def test_a_defect_is_raised_and_not_repeated(formed):
    generation = formed.generation
    with pytest.raises(WorkerFailure, match="no such table") as caught:
        formed.run(calling(FakeHost.defect_on, 0), restore=lambda: pytest.fail("rebuilt"))
    assert formed.generation == generation
    assert caught.value.causes[0].kind is Kind.ERROR and "defect_on" in caught.value.causes[0].trace


def test_workers_that_asked_for_no_gpu_see_none(formed):
    assert formed.call(calling(FakeHost.environment, "CUDA_VISIBLE_DEVICES")) == ["", ""]


def test_more_workers_than_cpus_fail_at_once(ray_session):
    started = time.monotonic()
    with pytest.raises(InputError, match=r"cluster\.partitions = 5 with cluster\.cpus_per_worker = 1 .*has 4"):
        WorkerGroup.start(settings(5), FakeHost)
    assert time.monotonic() - started < 2


def test_occupied_cpus_are_reported_after_a_grace(group):
    with pytest.raises(InputError, match=r"cluster\.partitions = 3 .* free are 2 of 4 CPUs"):
        WorkerGroup.start(WorkerSettings(3, start_seconds=1.0), FakeHost)


@pytest.mark.usefixtures("ray_session")
def test_silent_name_servers_are_waited_for_before_a_generation_forms(caplog):
    short = WorkerSettings(1, threads_per_worker=1, collective_timeout_seconds=2.0)
    with WorkerGroup.start(short, NamelessHost) as group:
        group.form()
        assert "name servers (DNS) let the workers wait when they started: 3 s on" in caplog.text
        caplog.clear()
        group.rebuild()  # the process has given them up
        assert not caplog.text and group.generation == 2
