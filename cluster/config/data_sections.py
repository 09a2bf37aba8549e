"""The sections on the data: its columns, how it is reached, and how the graph of it is placed on workers."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from .section import Section


class Columns(Section):
    """The names of the columns of the table of interactions."""

    user: str = "user_id"
    """The column of the users' ids, which are integers or strings."""
    item: str = "item_id"
    """The column of the items' ids, which are integers or strings."""
    time: str | None = None
    """The column with the times of the events, if there is one: timestamps (UTC if they have no zone), dates or whole
    numbers. The graph keeps the times, so that `forget` can take time ranges."""
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """The unit of a time column of numbers, which count from 1970. null: `since` and `until` must be numbers too."""
    value: str | None = None
    """A column of numbers such as ratings or counts. A row whose value is null or not positive is no interaction."""


class Storage(Section):
    """How s3:// places are reached. Credentials come from the provider's usual chain, never from the configuration."""

    endpoint_url: str | None = None
    """The address of a store other than AWS, such as MinIO: http://host:port. If it has a path, only `output` can be in
    that store, because tables are read without the path."""
    region: str | None = None
    """The region of the bucket; null: as the provider's usual chain has it."""
    anonymous: bool = False
    """Read public buckets without credentials."""

    @model_validator(mode="after")
    def _endpoint_is_a_url(self) -> Storage:
        if self.endpoint_url is not None and not re.fullmatch(r"https?://[^/\s]\S*", self.endpoint_url):
            raise ValueError(
                f"storage.endpoint_url: got {self.endpoint_url!r}, expected http://host:port or https://host"
            )
        return self


class Cluster(Section):
    """Where the workers run, how many they are, and what they need. Each worker has one partition."""

    address: str | None = None
    """The address of a running Ray. null: one is started on this machine. "auto": the one on this machine is used."""
    partitions: int = Field(2, ge=1, le=1024)
    """How many parts the graph is cut into, each held by one worker. More than the CPUs there are only slow a run down."""
    cpus_per_worker: float = Field(1, gt=0)
    """The number of CPU cores that each worker asks Ray for. Parts are allowed: with 0.5, two workers share a core."""
    gpus_per_worker: float = Field(0, ge=0)
    """The number of GPUs that each worker asks Ray for. 0: workers use no GPU. No worker uses more than one. A fraction is
    allowed only with one partition."""
    threads_per_worker: int | None = Field(None, ge=1)
    """The number of Torch threads in each worker. null: as many as `cpus_per_worker`, at least one."""
    spread: bool = False
    """Put each worker on another machine. false: on as few machines as possible."""
    start_seconds: float = Field(20, ge=0)
    """How long to wait for room on a cluster: for other jobs to let go of theirs, or for machines that an autoscaler
    starts. Give minutes where machines take minutes to start."""
    network_interface: str | None = Field(None, min_length=1)
    """How workers on several machines reach each other: the name of a network interface that all of them have, or a network
    such as 10.0.0.0/16. null: at the address by which Ray knows each machine."""
    collective_timeout_seconds: float = Field(60, gt=0)
    """How long a worker waits for the others in one exchange. After that it takes the group for broken."""
    exchange_dtype: Literal["float32", "bfloat16"] = "float32"
    """How rows of embeddings travel between workers. `bfloat16` sends half as many bytes, and rounds each number to 8
    significant bits (docs/halo.md)."""
    max_rebuilds: int = Field(3, ge=0)
    """How often a run rebuilds its group of workers after failures before it gives up."""

    check_memory: bool = True
    """Whether work is refused whose planned memory the machines do not have. false: it begins all the same, with a
    warning."""

    @model_validator(mode="after")
    def _workers_share_no_gpu(self) -> Cluster:
        if self.partitions > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"cluster.gpus_per_worker: got {self.gpus_per_worker:g}, expected 0 or at least 1 with {self.partitions} "
                "partitions: workers that exchange rows through NCCL cannot share a GPU"
            )
        return self


class Partitioning(Section):
    """How nodes are assigned to partitions, and what the partitions send each other."""

    strategy: Literal["metis", "hash", "stream", "file"] = "metis"
    """How nodes are dealt out: `metis` cuts few edges, `stream` nearly as few in far less memory (METIS on a sample, the
    rest by streams over the interactions), `hash` goes by the ids alone, `file` reads `assignment`."""
    metis_gib: float = Field(4, ge=0)
    """Where METIS would need more memory than this, in GiB and by estimate, `stream` takes the place of `metis`."""
    spool: str | None = None
    """The folder of the temporary files of `ingest`; null: the system's, which the environment variable TMPDIR names. A
    table with 100 million rows needs some 4 GB there (docs/ingest.md)."""
    halo: Literal["pull", "cover", "auto"] = "pull"
    """`pull` sends rows, and gives the same bits for any number of partitions. `cover` sends fewer rows or sums, by a
    minimum vertex cover. `auto` takes the one that sends fewer, which gives the same bits only with `pull`."""
    assignment: str | None = None
    """With strategy `file`: a Parquet file with the columns side ("user" or "item"), id and partition."""

    @model_validator(mode="after")
    def _file_needs_a_path(self) -> Partitioning:
        if self.strategy == "file" and self.assignment is None:
            raise ValueError("partitioning.assignment: strategy 'file' needs the path of the assignment's Parquet file")
        if self.strategy != "file" and self.assignment is not None:
            raise ValueError(
                f"partitioning.assignment: got {self.assignment!r}, which only strategy 'file' reads "
                f"(partitioning.strategy is {self.strategy!r})"
            )
        return self
