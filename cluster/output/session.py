"""What every command needs: the store with its log and versions, and the workers."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

from ...distributed.partition.state import Location, PartitionState, fingerprint
from ...partitioning.errors import InputError
from ...partitioning.lake import Columns
from ...partitioning.manifest import Graph
from ...partitioning.storage import StorageOptions, Store, canonical_uri, split_uri
from ...workers import Call, WorkerGroup, WorkerSettings, calling
from ...workers.group import Progress
from ...workers.shared_folder import check_folder
from ..config.schema import Cluster, Config, to_yaml
from ..layout import CONFIG, REQUEST_KEY
from ..log.checkpoints import put_checkpoint
from ..log.log import Log
from ..log.records import CHECKPOINT
from .ledger import Ledger
from .manifest import Manifest
from .versions import Versions

CHECKPOINT_RECORDS = 10_000

R = TypeVar("R")


class Session:
    """The output of one run, opened by one command."""

    def __init__(self, config: Config, store: Store | None = None) -> None:
        """store: that of `config.output`, where it is opened already.

        Raises:
            InputError: the output is a file, or below one.
        """
        self.config = config
        self.options = StorageOptions(**config.storage.model_dump())
        self.columns = Columns(**config.columns.model_dump())
        self.store = store or _opened(config.output, self.options)
        self.location = Location(absolute(config.output), self.options)
        self.log = Log(self.store)
        self.versions = Versions(self.store, self.log)
        self._ledger: Ledger | None = None
        self._folding = Lock()

    def ledger(self, look: bool = True) -> Ledger:
        """What the log comes to now: begun at its last checkpoint, and the same object at each call, until the log is cut
        off behind what this session knows. Without `look`, as far as this session knows it already.

        Raises:
            InputError: the log is damaged.
        """
        checkpoint, records = self.log.resume(self._ledger.seen if self._ledger else 0, look)
        with self._folding:
            ledger = self._ledger or Ledger()
            if checkpoint is not None and checkpoint.number > ledger.seen:
                ledger = Ledger(state=checkpoint.state)
            self._ledger = ledger
        ledger.absorb(records)
        return ledger

    def checkpoint(self) -> None:
        """Let readers of the log begin behind what is there now, unless nothing came since they were let the last time."""
        ledger = self.ledger()
        if ledger.seen <= ledger.checkpointed + 1:
            return
        state = ledger.state()
        later, records = self.log.resume(state["seen"] - 1, look=False)
        if later is not None:  # others have made it, and cut the log off
            return
        body = put_checkpoint(self.store, state["seen"], records[0].digest, state)
        if body is not None:
            self.log.append(CHECKPOINT, body)

    def checkpoint_if_due(self) -> None:
        """Make a checkpoint after CHECKPOINT_RECORDS records, or half as many as the last one stands for: all of them
        together then cost no more than a few times the last."""
        ledger = self.ledger()
        if ledger.seen - ledger.checkpointed > max(CHECKPOINT_RECORDS, ledger.checkpointed // 2):
            self.checkpoint()

    def save_config(self) -> None:
        """The resolved configuration, beside what it made."""
        self.store.write(CONFIG, to_yaml(self.config).encode())

    def refuse_own(self, option: str, uri: str, folders: Sequence[str] = ("",)) -> None:
        """Raise InputError for a place in one of these folders of the output: what others keep there, `purge` would remove
        or overlook."""
        place, output = canonical_uri(uri), canonical_uri(self.config.output).rstrip("/")
        for folder in folders:
            if f"{place}/".startswith(f"{output}/{folder}".rstrip("/") + "/"):
                where = f"`{folder}` under `output`" if folder else "under `output`"
                raise InputError(f"{option} {uri} is {where}. Choose another place: what is written there is yours")

    def request_key(self, create: bool = True) -> bytes:
        """The secret under which ids of requests are derived from their content; made by the first `ingest`.

        Such an id stands in the log, and a small request could be found by trying if the id were a plain hash. The key
        lies beside the requests, not in the log. Without `create` one that nobody has is not written down.
        """
        with contextlib.suppress(FileNotFoundError):
            return self.store.read(REQUEST_KEY)
        if not create:
            return secrets.token_bytes(32)
        with contextlib.suppress(FileExistsError):
            self.store.create(REQUEST_KEY, secrets.token_bytes(32))
        return self.store.read(REQUEST_KEY)

    def version(self) -> Manifest:
        """The current version.

        Raises:
            InputError: nothing has been trained yet, or for another number of partitions.
        """
        current = self.versions.current()
        if current is None:
            raise InputError(f"{self.config.output} holds no trained model. Run `unlearnrec train` first")
        self.check_partitions(current.graph)
        return current

    def whole_version(self) -> Manifest:
        """The current version, when all of its files are there.

        Raises:
            InputError: as `version`; or a file is missing, which is named: the output was damaged, or copied in parts.
        """
        while True:
            version = self.version()
            missing = self.missing_file(version)
            if missing is None:
                return version
            if self.version().version == version.version:  # else a purge took it, after another commit
                raise InputError(missing_text(self.store, missing, version))

    def missing_file(self, version: Manifest) -> str | None:
        """The first file that a version, or the graph to train on next, names in vain."""
        names = {**version.files, **version.lake_graph.files}
        return next((name for name in names if not self.store.exists(name)), None)

    def check_partitions(self, graph: Graph) -> None:
        """Raise InputError unless the graph has as many partitions as the configuration asks for."""
        if graph.partitions != self.config.cluster.partitions:
            raise InputError(
                f"cluster.partitions is {self.config.cluster.partitions}, but the graph in {self.config.output} has "
                f"{graph.partitions} partitions. Set cluster.partitions={graph.partitions}, or ingest again"
            )

    @contextmanager
    def workers(self, group: WorkerGroup | None = None) -> Iterator[WorkerGroup]:
        """The given group, which is not ended here; without one, a group as the configuration says, ended at exit."""
        if group is not None:
            yield group
            return
        cluster = self.config.cluster
        with WorkerGroup.start(worker_settings(cluster), address=cluster.address) as started:
            check_folder(self.config.output)  # before workers read or write there
            yield started

    def load(self, group: WorkerGroup, version: Manifest) -> None:
        """Load a version into all workers."""
        self._run(group, self._load_call(version), lambda: None)

    def ensure_loaded(self, group: WorkerGroup, version: Manifest) -> None:
        """Load a version into all workers, unless they hold it."""
        self.call(group, version, calling(PartitionState.loaded_fingerprint))

    def call(
        self,
        group: WorkerGroup,
        version: Manifest,
        call: Call[R],
        *,
        partitions: Sequence[int] | None = None,
        on_progress: Progress | None = None,
    ) -> list[R]:
        """Call a method of workers that hold `version`: they load it first where they hold another, or after a failure."""

        def restore() -> None:
            group.call(self._load_call(version))

        wanted = self.fingerprint(version)
        if set(self._run(group, calling(PartitionState.loaded_fingerprint), restore)) != {wanted}:
            self.load(group, version)
        return self._run(group, call, restore, partitions, on_progress)

    def fingerprint(self, version: Manifest) -> str:
        """What workers say that they hold when they hold this version, committed or not."""
        return fingerprint(version, self.config.partitioning.halo, self.kernel)

    def _load_call(self, version: Manifest) -> Call[None]:
        return calling(PartitionState.load, self.location, version, self.config.partitioning.halo, self.kernel)

    def _run(
        self,
        group: WorkerGroup,
        call: Call[R],
        restore: Callable[[], None],
        partitions: Sequence[int] | None = None,
        on_progress: Progress | None = None,
    ) -> list[R]:
        limit = self.config.cluster.max_rebuilds
        return group.run(call, restore=restore, max_rebuilds=limit, partitions=partitions, on_progress=on_progress)

    @property
    def kernel(self) -> str:
        """The neighbour sum that `train.kernel` means."""
        return "torch" if self.config.train.kernel == "auto" else self.config.train.kernel


def absolute(output: str) -> str:
    """The output as workers have to be told: they have another working directory."""
    scheme, path = split_uri(output)
    return os.path.abspath(path) if scheme == "file" else output


def _opened(output: str, options: StorageOptions) -> Store:
    scheme, path = split_uri(output)
    if scheme == "file":
        folder = Path(os.path.abspath(path))
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir():
            raise InputError(f"output {output}: {there} is a file. Name a folder; it need not be there yet")
    return Store(output, options)


def worker_settings(cluster: Cluster) -> WorkerSettings:
    """What the section `cluster` of the configuration says of the workers."""
    return WorkerSettings(
        num_partitions=cluster.partitions,
        cpus_per_worker=cluster.cpus_per_worker,
        gpus_per_worker=cluster.gpus_per_worker,
        threads_per_worker=cluster.threads_per_worker,
        collective_timeout_seconds=cluster.collective_timeout_seconds,
    )


def missing_text(store: Store, name: str, version: Manifest) -> str:
    """What to tell when `name` is not there."""
    return (
        f"{store.root_uri}/{name} is missing, and version {version.version} names it: the output is damaged, and is left "
        "as it is. Restore the file from a backup, or run `unlearnrec train`"
    )
