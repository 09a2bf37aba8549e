"""The Ray actors that host the partitions, and the group that starts, watches and rebuilds them."""

from .actor import Factory, PartitionHost, ShardWorker
from .calls import Call, calling
from .failures import Cause, Kind, StaleGeneration, WorkerFailure
from .group import WorkerGroup
from .kept import KeptWorkers, Workers
from .placement import WorkerSettings

__all__ = [
    "Call",
    "Cause",
    "Factory",
    "KeptWorkers",
    "Kind",
    "PartitionHost",
    "ShardWorker",
    "StaleGeneration",
    "WorkerFailure",
    "WorkerGroup",
    "WorkerSettings",
    "Workers",
    "calling",
]
