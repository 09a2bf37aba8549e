"""One local Ray for all tests that need it, and for each file that needs them two workers on it."""

from collections.abc import Iterator

import pytest
import ray

from unlearnrec.workers import WorkerGroup, WorkerSettings


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Four logical CPUs on whatever the machine has. Ends its own Ray only."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def two_workers() -> WorkerGroup:
    """To be used in a `with` block."""
    return WorkerGroup.start(WorkerSettings(2, threads_per_worker=1))


@pytest.fixture(scope="module")
def group(ray_session: None) -> Iterator[WorkerGroup]:
    """Two workers, which all tests of a file use."""
    with two_workers() as group:
        yield group
