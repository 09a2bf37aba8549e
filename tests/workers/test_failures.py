"""Decisions about failures: plain data in, plain data out."""

import errno
import pickle

import pytest
from fake_host import FakeCollectiveError

from unlearnrec.distributed.comm import Comm
from unlearnrec.partitioning.errors import InputError
from unlearnrec.workers.actor import cause_of
from unlearnrec.workers.failures import (
    Cause,
    GiveUp,
    Kind,
    RaiseInput,
    Retry,
    StaleGeneration,
    classify,
    decide,
    raise_failure,
    worker_failure,
)
from unlearnrec.workers.memory import PlannedMemory
from unlearnrec.workers.placement import WorkerSettings, placement_problem

DIED = Cause(Kind.DIED, "its process ended")
DEFECT = Cause(Kind.ERROR, "KeyError: 'x'")
LATE = Cause(Kind.COLLECTIVE, "timed out", missing=(2,))


@pytest.mark.parametrize(
    ("error", "aborted", "kind"),
    [
        (InputError("x"), True, Kind.INPUT),
        (FakeCollectiveError("x", [1]), False, Kind.COLLECTIVE),
        (FakeCollectiveError("x", [1]), True, Kind.ABORTED),
        (StaleGeneration("x"), False, Kind.STALE),
        (ConnectionError("x"), False, Kind.TRANSIENT),
        (MemoryError(), False, Kind.MEMORY),
        (OSError(errno.ENOMEM, "x"), False, Kind.MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), False, Kind.MEMORY),
        (RuntimeError("shape mismatch"), False, Kind.ERROR),
        (KeyError("x"), False, Kind.ERROR),
    ],
)
def test_classify(error, aborted, kind):
    assert classify(error, aborted) is kind


def test_a_lost_worker_is_worth_a_rebuild_even_when_the_others_echo_it_as_errors():
    assert decide({0: DEFECT, 1: DIED}, rebuilds=0, max_rebuilds=3) == Retry()


def test_a_defect_is_not_retried():
    assert isinstance(decide({0: DEFECT, 1: LATE}, rebuilds=0, max_rebuilds=3), GiveUp)


SHORT = Cause(Kind.MEMORY, "its process ended: it held 4.0 GB")


def test_a_worker_without_memory_is_not_rebuilt_into_the_same_death():
    assert isinstance(decide({0: LATE, 1: SHORT, 2: DIED}, rebuilds=0, max_rebuilds=3), GiveUp)


def test_the_message_of_a_worker_without_memory_has_the_plan_and_the_remedy():
    planned = PlannedMemory(5_000_000_000, "Set train.batch_size=65536")
    failure = worker_failure("train", {1: SHORT, 2: LATE}, 60, planned)
    assert failure.for_memory
    assert "Too little memory: worker 1; planned were 5.0 GB a worker. Set train.batch_size=65536" in failure.text
    assert "Dead" not in failure.text and failure.missing == [2]
    assert "unlearnrec plan" in worker_failure("train", {1: SHORT}, 60).text


def test_rebuilds_are_limited():
    assert decide({0: LATE}, rebuilds=2, max_rebuilds=3) == Retry()
    assert isinstance(decide({0: LATE}, rebuilds=3, max_rebuilds=3), GiveUp)


def test_the_users_mistake_comes_before_everything():
    error = InputError("no such column")
    causes = {0: DIED, 1: Cause(Kind.INPUT, "InputError", exception=error)}
    assert decide(causes, 9, 3) == RaiseInput(error)
    with pytest.raises(InputError) as caught:
        raise_failure(worker_failure("train", causes, 30))
    assert caught.value is error


def test_the_message_names_missing_ranks_and_the_setting():
    failure = worker_failure("train", {0: LATE, 1: LATE, 2: Cause(Kind.UNRESPONSIVE, "does not answer")}, 30)
    assert failure.missing == [2] and failure.dead == []
    assert "rank 2" in str(failure) and "cluster.collective_timeout_seconds = 30 s" in str(failure)


def test_a_dead_rank_is_dead_rather_than_missing():
    failure = worker_failure("train", {0: LATE, 2: DIED}, 30)
    assert (failure.dead, failure.missing) == ([2], [])


def test_failures_pickle_with_everything():
    failure = pickle.loads(pickle.dumps(worker_failure("train", {0: LATE, 2: DIED}, 30)))
    assert failure.causes == {0: LATE, 2: DIED} and failure.dead == [2] and str(failure).startswith("`train` failed")


def test_an_exception_that_does_not_pickle_travels_as_text():
    class Local(Exception):
        pass

    def fail():
        raise Local("here")

    try:
        fail()
    except Local as error:
        cause = cause_of(error, aborted=False)
    assert cause.exception is None and cause.text == "Local: here" and "in fail" in cause.trace
    pickle.dumps(cause)


def test_misfit_names_the_settings():
    two = [{"CPU": 2.0}, {"CPU": 2.0}]
    assert placement_problem(two, WorkerSettings(4)) is None
    assert "cluster.partitions = 5" in placement_problem(two, WorkerSettings(5))
    assert "no machine has more than 2" in placement_problem(two, WorkerSettings(1, cpus_per_worker=4))
    assert "only 2 workers" in placement_problem([{"CPU": 3.0}, {"CPU": 3.0}], WorkerSettings(3, cpus_per_worker=2))
    assert "cluster.gpus_per_worker" in placement_problem(two, WorkerSettings(1, gpus_per_worker=1))


def test_parts_of_a_cpu_and_one_worker_a_machine():
    two = [{"CPU": 1.0}, {"CPU": 1.0}]
    assert placement_problem(two, WorkerSettings(4, cpus_per_worker=0.5)) is None
    assert "only 2 workers" in placement_problem(two, WorkerSettings(3, cpus_per_worker=0.6))
    assert placement_problem([{"CPU": 1.0}], WorkerSettings(10, cpus_per_worker=0.1)) is None
    assert placement_problem(two, WorkerSettings(2, spread=True)) is None
    four = [{"CPU": 4.0}, {"CPU": 4.0}, {"GPU": 1.0}]  # the last has no CPU for a worker
    assert "as many machines" in placement_problem(four, WorkerSettings(3, spread=True))
    assert WorkerSettings(1, cpus_per_worker=0.5).environment["OMP_NUM_THREADS"] == "1"


class LateWork:
    """A collective that is done just after a wait for it has ended."""

    def __init__(self) -> None:
        self.done, self.waits = False, 0

    def wait(self, *_):
        self.waits += 1
        if not self.done:
            self.done = True
            raise RuntimeError("Operation timed out!")

    def is_completed(self):
        return self.done


def test_a_collective_that_is_done_just_after_a_wait_has_ended_did_not_fail():
    work = LateWork()
    Comm()._wait(work)
    assert work.waits == 2
