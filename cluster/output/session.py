"""A session: what every command needs of one output, that is the store with its log and versions, and the workers."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from ...distributed.partition.state import Location, PartitionState, fingerprint
from ...partitioning.errors import InputError
from ...partitioning.halo import chosen
from ...partitioning.lake import Columns
from ...partitioning.manifest import MANIFEST, Graph
from ...partitioning.storage import StorageOptions, Store, canonical_uri, split_uri
from ...workers import Call, KeptWorkers, WorkerGroup, Workers, WorkerSettings, calling
from ...workers.group import Progress
from ...workers.shared_folder import check_folder
from ..config.schema import Cluster, Config, to_yaml
from ..layout import CONFIG, REQUEST_KEY
from ..log.checkpoints import put_checkpoint
from ..log.log import Log
from ..log.records import CHECKPOINT
from .id_maps import IdMaps
from .ledger import Ledger
from .manifest import Manifest
from .ready import no_model_text, open_store
from .versions import Versions

CHECKPOINT_RECORDS = 10_000
"""The number of records after which a checkpoint of the log is due."""

R = TypeVar("R")


class Session:
    """One output, opened by one command."""

    def __init__(self, config: Config, store: Store | None = None) -> None:
        """store: the store of `config.output`; None opens it.

        Raises:
            InputError: the output is a file, or lies below one.
        """
        self.config = config
        self.options = StorageOptions(**config.storage.model_dump())
        self.columns = Columns(**config.columns.model_dump())
        self.store = store or open_store(config.output, self.options)
        self.location = Location(absolute(config.output), self.options)
        self.log = Log(self.store)
        self.versions = Versions(self.store, self.log)
        self.id_maps = IdMaps(self.store)
        self._ledger: Ledger | None = None
        self._folding = Lock()

    def ledger(self, look: bool = True) -> Ledger:
        """The ledger of all records that are in the log now. With look=False only of those that were read already.

        It is the same object at each call, and takes in new records. It is another object after a cut that removed records
        which this session did not know: it then begins at the checkpoint.

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
        """Write a checkpoint of the log as it is now, so that later readers begin behind it.

        Nothing is written if no record came since the last checkpoint.
        """
        ledger = self.ledger()
        if ledger.seen <= ledger.checkpointed + 1:  # no record came but that of the checkpoint itself
            return
        # The state first: threads may add records meanwhile, and the checkpoint stands for those that the state has.
        state = ledger.state()
        later, records = self.log.resume(state["seen"] - 1, look=False)
        if later is not None:  # another process has made a checkpoint meanwhile, and cut the log off
            return
        # The file before its record, which makes it count.
        body = put_checkpoint(self.store, state["seen"], records[0].digest, state)
        if body is not None:
            self.log.append(CHECKPOINT, body)

    def checkpoint_if_due(self) -> None:
        """Write a checkpoint if there are more new records than CHECKPOINT_RECORDS, and than half of those that the last one
        stands for. The checkpoints grow then, so that writing all of them costs only a few times what the last one costs."""
        ledger = self.ledger()
        if ledger.seen - ledger.checkpointed > max(CHECKPOINT_RECORDS, ledger.checkpointed // 2):
            self.checkpoint()

    def save_config(self) -> None:
        """Write the resolved configuration into the output."""
        self.store.write(CONFIG, to_yaml(self.config).encode())

    def refuse_own(self, option: str, uri: str, folders: Sequence[str] = ("",)) -> None:
        """Raise InputError if `uri` lies in one of these folders of the output: a purge would remove or overlook a file of
        the user there. option: the name of the option that names the place. folders: by default the whole output."""
        place, output = canonical_uri(uri), canonical_uri(self.config.output).rstrip("/")
        for folder in folders:
            if f"{place}/".startswith(f"{output}/{folder}".rstrip("/") + "/"):
                where = f"`{folder}` under `output`" if folder else "under `output`"
                raise InputError(f"{option} {uri} is {where}. Choose another place: what is written there is yours")

    def request_key(self, create: bool = True) -> bytes:
        """The secret key (32 bytes) under which ids of requests are derived from their content. The first `ingest` makes it.

        A derived id stands in the log. If it were a plain hash, the content of a small request could be found by trying. The
        key lies beside the requests and not in the log. With create=False, and where there is no key, the result is a random
        key that is not kept, so that it fits nothing.
        """
        with contextlib.suppress(FileNotFoundError):
            return self.store.read(REQUEST_KEY)
        if not create:
            return secrets.token_bytes(32)
        # Exclusive creation, and then read: of two processes that make a key, both use the one that is there.
        with contextlib.suppress(FileExistsError):
            self.store.create(REQUEST_KEY, secrets.token_bytes(32))
        return self.store.read(REQUEST_KEY)

    def version(self) -> Manifest:
        """The manifest of the current version.

        Raises:
            InputError: nothing has been trained yet, or the graph has another number of partitions than the configuration.
        """
        current = self.versions.current()
        if current is None:
            raise InputError(no_model_text(self.config.output, self.store.exists(MANIFEST)))
        self.check_partitions(current.graph)
        self.check_backbone(current)
        return current

    def whole_version(self) -> Manifest:
        """The manifest of the current version, after a check that all of its files are there.

        Raises:
            InputError: as `version`; or a file is missing, because the output was damaged or only a part of it was copied.
                The message names the file.
        """
        while True:
            version = self.version()
            missing = self.missing_file(version)
            if missing is None:
                return version
            # If another version is current by now, a purge may have removed the file, and the new version is checked.
            if self.version().version == version.version:
                raise InputError(missing_text(self.store, missing, version))

    def missing_file(self, version: Manifest) -> str | None:
        """The first file that is missing of a version, or of its graph to train on next; None if all are there."""
        names = {**version.files, **version.lake_graph.files}
        return next((name for name in names if not self.store.exists(name)), None)

    def check_partitions(self, graph: Graph) -> None:
        """Raise InputError unless the graph has as many partitions as the configuration asks for."""
        if graph.partitions != self.config.cluster.partitions:
            raise InputError(
                f"cluster.partitions is {self.config.cluster.partitions}, but the graph in {self.config.output} has "
                f"{graph.partitions} partitions. Set cluster.partitions={graph.partitions}, or ingest again"
            )

    def check_backbone(self, version: Manifest) -> None:
        """Raise InputError if a version is of a backbone outside this package that the configuration does not name. So no
        code is imported because a file of the output names it."""
        name, wanted = version.model.backbone["name"], self.config.backbone.name
        if ":" in name and name != wanted:
            raise InputError(
                f"version {version.version} in {self.config.output} was trained with the backbone {name}, and backbone.name "
                f"is {wanted}. Set backbone.name={name}, so that its code is imported"
            )

    @contextmanager
    def workers(self, group: Workers | None = None) -> Iterator[WorkerGroup]:
        """A group of workers for the `with` block.

        A group that is given is used, and not ended. Without one, a group is started as the configuration says, and ended
        with the block.
        """
        if isinstance(group, KeptWorkers):
            with group.use() as kept:
                yield kept
            return
        if group is not None:
            yield group
            return
        cluster = self.config.cluster
        with WorkerGroup.start(worker_settings(cluster), address=cluster.address) as started:
            check_folder(self.config.output)  # workers on other machines must see the same folder before they use it
            yield started

    def load(self, group: WorkerGroup, version: Manifest) -> None:
        """Load a version into all workers, whatever they hold."""
        self._run(group, self._load_call(version), lambda: None)

    def ensure_loaded(self, group: WorkerGroup, version: Manifest) -> None:
        """Load a version into all workers, unless they hold it already."""
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
        """Call a method of workers that hold `version`; returns their results.

        The workers load the version first if they hold another one, and again after a failure of a worker. partitions: whose
        workers are called; None calls all.
        """

        def restore() -> None:
            group.call(self._load_call(version))

        wanted = self.fingerprint(version)
        if set(self._run(group, calling(PartitionState.loaded_fingerprint), restore)) != {wanted}:
            self.load(group, version)
        return self._run(group, call, restore, partitions, on_progress)

    def fingerprint(self, version: Manifest) -> str:
        """The text that workers return for the version that they hold, if it is this one; it need not be committed."""
        return fingerprint(version, self._halo(version), self.kernel)

    def _load_call(self, version: Manifest) -> Call[dict[str, float]]:
        self.check_backbone(version)
        return calling(PartitionState.load, self.location, version, self._halo(version), self.kernel)

    def _halo(self, version: Manifest) -> str:
        return chosen(self.config.partitioning.halo, version.graph.rows_per_layer)

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
        """The implementation of the neighbour sum that `train.kernel` means."""
        return "torch" if self.config.train.kernel == "auto" else self.config.train.kernel


def absolute(output: str) -> str:
    """The output as an absolute place, for workers: in their working directory a relative path means another folder."""
    scheme, path = split_uri(output)
    return os.path.abspath(path) if scheme == "file" else output


def worker_settings(cluster: Cluster) -> WorkerSettings:
    """The settings of the workers, from the section `cluster` of the configuration."""
    return WorkerSettings(
        num_partitions=cluster.partitions,
        cpus_per_worker=cluster.cpus_per_worker,
        gpus_per_worker=cluster.gpus_per_worker,
        threads_per_worker=cluster.threads_per_worker,
        collective_timeout_seconds=cluster.collective_timeout_seconds,
        exchange_dtype=cluster.exchange_dtype,
        network_interface=cluster.network_interface,
        start_seconds=cluster.start_seconds,
        spread=cluster.spread,
    )


def missing_text(store: Store, name: str, version: Manifest) -> str:
    """The message for a file `name` of this version that is not there."""
    return (
        f"{store.root_uri}/{name} is missing, and version {version.version} names it: the output is damaged, and is left "
        "as it is. Restore the file from a backup, or run `unlearnrec train`"
    )
