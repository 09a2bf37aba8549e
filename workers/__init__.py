"""The Ray actors that host the partitions, and the group that starts, watches and rebuilds them."""

from .actor import Factory, PartitionHost, ShardWorker
from .failures import Cause, Kind, StaleGeneration, WorkerFailure
from .group import WorkerGroup

__all__ = [
    "Cause",
    "Factory",
    "Kind",
    "PartitionHost",
    "ShardWorker",
    "StaleGeneration",
    "WorkerFailure",
    "WorkerGroup",
]
