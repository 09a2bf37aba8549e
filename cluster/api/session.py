"""`unlearnrec.Session`: the commands as methods, with workers that stay between the calls (docs/python.md).

It is what Python code uses. `output/session.py` has the internal `Session`, one output as one command opens it, which is
called `OpenOutput` here. Heavy modules are imported inside the methods: a configuration is checked before torch and Ray are
loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from ...partitioning.errors import InputError
from ..reporting.progress import SILENT, Progress, open_progress
from .configuration import ConfigLike, nested_values, split_tables
from .results import (
    EvaluateResult,
    ExportResult,
    ForgetPreview,
    IngestResult,
    PretrainResult,
    PurgeResult,
    RequestStatus,
    ResidueResult,
    RollbackResult,
    Status,
    TrainResult,
    VerifyResult,
    VersionInfo,
)

if TYPE_CHECKING:
    from ...workers import WorkerGroup
    from ..config.schema import Config
    from ..output.session import Session as OpenOutput
    from ..serving.readouts import Readouts
    from .embeddings import Embeddings
    from .handle import ForgetRequest
    from .held_workers import HeldWorkers
    from .requests import Requests

T = TypeVar("T")
Id = int | str


class SessionClosed(RuntimeError):
    """The session was closed, and its workers are gone."""


class Session:
    """One output, with workers that stay: `with unlearnrec.Session("run.yaml") as s: s.train()`.

    Workers start when a method first needs them. They, and the CPUs or GPUs that they hold, stay until the end of the `with`
    block, `close` or `stop_workers`. Without `with` the session works too; then call `close` yourself.

    Threads may share a session: calls that need the workers run one after the other. Processes may not, but each may open
    its own session on the same output, also beside `unlearnrec serve`: all of them decide by the same log.
    """

    def __init__(self, config: ConfigLike = None, *, progress: bool | Progress = True, **sections: Any) -> None:
        """Check the configuration. Nothing is read, written or started.

        Args:
            config: the path of a YAML file, or its content as a dictionary, or nothing if all is given by keywords.
            progress: bars on a terminal and in a notebook, lines elsewhere; False: silent.
            sections: keys of the configuration, which count more than `config`: `output="run"`, `train={"epochs": 10}`.
                `interactions` and `test_interactions` may be tables: of pandas, Arrow, a Ray dataset or another that Arrow
                reads. They are written into the output when they are first needed (docs/python.md says what deletes them).

        Raises:
            InputError: the configuration is bad. The message names the key, the value and what would be right.
        """
        self._config, self._tables = split_tables(nested_values(config, sections))
        if self._tables:
            from .tables import check_table

            for key, table in self._tables.items():
                check_table(key, table, self._config.columns)
        chosen = open_progress() if progress is True else progress
        self._progress: Progress = chosen or SILENT
        self._lock = RLock()
        self._closed = False
        self._opened: OpenOutput | None = None
        self._held: HeldWorkers | None = None
        self._accepted: Requests | None = None
        self._readouts: Readouts | None = None

    # ---- the session itself ------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The whole configuration, with all defaults. Tables that were given are written when this is first asked for."""
        with self._lock:
            if self._tables:
                self._check_open()
                from .tables import write_tables

                self._config = write_tables(self._config, self._tables, self._progress)
                self._tables = {}
            return self._config

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(carry_out=kind is None)

    def close(self, *, carry_out: bool = True) -> None:
        """Carry out the requests that nobody waited for, and end the workers. May be called twice.

        A request that cannot be carried out now (it is held, or in its grace window) stays accepted: a warning names it, and
        `unlearnrec serve`, or a later session that asks for the same, carries it out.

        Args:
            carry_out: False leaves all of them accepted, as the end of a `with` block by an exception does.
        """
        with self._lock:
            if self._closed:
                return
            try:
                if carry_out and self._accepted is not None:
                    for request_id in self._accepted.waiting:
                        self._try_to_settle(request_id)
            finally:
                self.stop_workers()
                self._closed = True
                left = self._accepted.waiting if self._accepted is not None else []
                if left:
                    warnings.warn(
                        f"accepted and not carried out: {', '.join(left)}. Nothing of them is forgotten yet; `unlearnrec "
                        "serve`, or the same `forget` in another session, carries them out",
                        stacklevel=3,
                    )

    def stop_workers(self) -> None:
        """End the workers now, and free their CPUs or GPUs. The next method that needs workers starts others."""
        with self._lock:
            if self._held is not None:
                self._held.stop()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "workers run" if self._held and self._held.running else "no workers yet"
        return f"<unlearnrec.Session output={self._config.output!r}, {state}>"

    # ---- a model -----------------------------------------------------------------------------------------------------

    def ingest(self) -> IngestResult:
        """Read `interactions`, partition the graph and write it.

        Raises:
            InputError: the table cannot be read, or a request was carried out meanwhile. The graph before stays.
        """
        from .. import pipeline

        return IngestResult.of(self._do(lambda: pipeline.ingest(self.config, progress=self._progress)))

    def train(self, *, resume: bool = False, without: str | Sequence[str] = ()) -> TrainResult:
        """Train the backbone and commit it as the current version.

        Args:
            resume: go on from the last checkpoint, if there is one of the same settings.
            without: files of what to leave out: a counterfactual, from which nothing can be forgotten.

        Raises:
            InputError: nothing was ingested, or the training diverged.
            RuntimeError: another version was committed meanwhile.
        """
        from .. import pipeline

        files = [without] if isinstance(without, str) else list(without)
        return TrainResult.of(self._with_workers(pipeline.train, resume=resume, without=files))

    def pretrain(self) -> PretrainResult:
        """Fit the Influence Encoder of the current version, which `forget` needs. After Ctrl-C it goes on where it was."""
        from .. import pipeline

        return PretrainResult.of(self._with_workers(pipeline.pretrain))

    def retrain(self, *, resume: bool = False) -> TrainResult:
        """Train and pre-train as one version. Requests that are carried out meanwhile are carried out on it too."""
        from .. import pipeline

        return TrainResult.of(self._with_workers(pipeline.retrain, resume=resume))

    def evaluate(self, **options: Any) -> EvaluateResult:
        """Measure the current version on `test_interactions`.

        Args:
            options: those of the command: `reference` with `users`, `items` or `interactions` (files or "ID,ID").

        Raises:
            InputError: `test_interactions` is not set, or nothing has been trained yet.
        """
        from ..commands.evaluate import evaluate

        def run() -> dict[str, Any]:
            with self._workers() as group:
                return evaluate(self.config, progress=self._progress, group=group, **options)

        return EvaluateResult.of(self._do(run))

    def rollback(self, to: int) -> RollbackResult:
        """Make an older version the current one, unless data were deleted since."""
        from .. import pipeline

        return RollbackResult.of(self._do(lambda: pipeline.rollback(self.config, to=to)))

    def versions(self) -> list[VersionInfo]:
        """All versions that the log has, oldest first."""
        from .versions import read_versions

        return read_versions(self._output())

    # ---- using it ----------------------------------------------------------------------------------------------------

    def recommend(self, users: Iterable[Id], k: int = 10) -> list[list[tuple[Id, float]]]:
        """The best items for each user by the current version, without those that the user had: (item, score), best first.

        A user whom the version does not have, because nobody knows him or he was forgotten, gets an empty list. The readouts
        are kept in memory until another version is current, in whatever process it was made.

        Args:
            users: ids as in the table.
            k: items a user; fewer where there are no more.
        """
        from .asked import ids_of

        if isinstance(users, str | int):
            raise InputError(f"recommend: got one id, expected a list of ids: [{users!r}]")
        wanted = ids_of("recommend", users)
        readouts = self._do(self._current_readouts)
        found = [readouts.recommend(str(user), k) or [] for user in wanted]
        return [[(one["item_id"], one["score"]) for one in line] for line in found]

    def embeddings(self) -> Embeddings:
        """The readouts of the current version: `.users`, `.items` [n, D] as NumPy, `.arrow("user")`, `.pandas("item")`."""
        from ..output.leases import leased
        from .embeddings import read_embeddings

        def read() -> Embeddings:
            output = self._output()
            with leased(output) as version, self._workers() as group:
                return read_embeddings(output, group, version)

        return self._do(read)

    def export(self, to: str, *, top_k: int = 20, format: str | None = None) -> ExportResult:
        """Write readouts and recommendations as Parquet files, Delta or Iceberg tables (docs/exports.md)."""
        from ..commands.export import export

        def run() -> dict[str, Any]:
            with self._workers() as group:
                return export(self.config, to=to, top_k=top_k, format=format, group=group)

        return ExportResult.of(self._do(run))

    # ---- forgetting --------------------------------------------------------------------------------------------------

    def forget(
        self,
        *,
        users: Any = None,
        items: Any = None,
        interactions: Any = None,
        requests: Any = None,
        request_id: str | None = None,
        requester: str | None = None,
    ) -> ForgetRequest:
        """Accept a deletion request. When this returns the log has it; `.wait()` carries it out.

        The same request again is the same request: it is not carried out twice, and `wait` gives its answer.

        Args:
            users, items: ids in a list, an array or a column of pandas or Arrow. A text is "ID,ID" or a file.
            interactions: pairs (user, item), or a table with `user_id` and `item_id`, or a file.
            requests: rows with some of `user_id`, `item_id`, `since`, `until`: dictionaries, a table, or a file. With times
                only events in [since, until) are forgotten.
            request_id: its id; None derives one from what is named.
            requester: who asks; the log keeps the name.

        Raises:
            InputError: nothing is named or a value is bad; the version cannot forget (`pretrain` first); another request has
                this id. Nothing was accepted then.
        """
        from .asked import Asked
        from .handle import ForgetRequest

        asked = Asked(users, items, interactions, requests)
        return ForgetRequest(self, self._do(lambda: self._requests().accept(asked, request_id, requester)))

    def preview(
        self, *, users: Any = None, items: Any = None, interactions: Any = None, requests: Any = None
    ) -> ForgetPreview:
        """What `forget` would change, for the same arguments. Nothing is written, and no workers are needed."""
        from ..commands.forget import preview
        from ..models.carry_out import able_version
        from .asked import Asked

        output = self._output()
        version = able_version(output)
        asked = Asked(users, items, interactions, requests)
        request = asked.request(None, output.options, output.request_key(create=False))
        return ForgetPreview.of(preview(output, version, request))

    @overload
    def status(self, request_id: None = None) -> Status: ...

    @overload
    def status(self, request_id: str) -> RequestStatus: ...

    def status(self, request_id: str | None = None) -> Status | RequestStatus:
        """Where a request is; without an id, all that have no answer yet. Works after the session was closed, too.

        Raises:
            InputError: there is no such request.
        """
        from ..commands.status import status

        found = status(self._config, request_id)
        return Status.of(found) if request_id is None else RequestStatus.of(found)

    def approve(self, request_id: str, *, by: str) -> RequestStatus:
        """Let a request be carried out that is held. Somebody else than the requester has to do it."""
        from .. import pipeline

        return RequestStatus.of(self._do(lambda: pipeline.approve(self.config, request_id, by=by)))

    def cancel(self, request_id: str) -> RequestStatus:
        """Withdraw a request that is held, or in its grace window."""
        from .. import pipeline

        return RequestStatus.of(self._do(lambda: pipeline.cancel(self.config, request_id)))

    def purge(self, *, now: bool = False) -> PurgeResult:
        """Remove older files under the output that still hold deleted data, and deleted rows from tables that were handed
        over.

        Args:
            now: do not wait for `forget.retention_hours`.
        """
        from .. import pipeline

        return PurgeResult.of(self._do(lambda: pipeline.purge(self.config, now=now, progress=self._progress)))

    def residue(self, request_id: str | None = None) -> ResidueResult:
        """Where deleted data still lies, under the output and in the lake.

        Args:
            request_id: search the lake for this request only, and bring its receipt up to date.
        """
        from .. import pipeline

        return ResidueResult.of(self._do(lambda: pipeline.residue(self.config, request_id, progress=self._progress)))

    def verify(self, request_id: str | None = None) -> VerifyResult:
        """Check log, evidence and files against each other."""
        from .. import pipeline

        return VerifyResult.of(self._do(lambda: pipeline.verify(self.config, request_id)))

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _settle(self, request_id: str, timeout: float | None) -> dict[str, Any]:
        """As `ForgetRequest.wait`."""
        with self._lock:
            accepted = self._requests()
            if self._closed and request_id in accepted.waiting:
                raise SessionClosed(
                    f"this session was closed before request {request_id} was carried out. It is accepted, and nothing is "
                    "forgotten yet: ask for the same in another session, or run `unlearnrec serve`"
                )
            return accepted.settle(request_id, timeout)

    def _try_to_settle(self, request_id: str) -> None:
        """Carry out what can be carried out now. What is held or in its grace window stays as it is."""
        from ..lifecycle.refusals import Held

        try:
            self._requests().settle(request_id, 0.0)
        except (Held, TimeoutError) as error:
            self._progress.note(str(error))

    def _do(self, work: Callable[[], T]) -> T:
        """Call `work`, which may use the workers: no two calls do at the same time."""
        with self._lock:
            self._check_open()
            return work()

    def _with_workers(self, command: Callable[..., dict[str, Any]], **options: Any) -> dict[str, Any]:
        def run() -> dict[str, Any]:
            with self._workers() as group:
                return command(self.config, progress=self._progress, group=group, **options)

        return self._do(run)

    @contextmanager
    def _workers(self) -> Iterator[WorkerGroup]:
        self._check_open()
        if self._held is None:
            from .held_workers import HeldWorkers

            self._held = HeldWorkers(self.config)
        with self._held.use() as group:
            yield group

    def _output(self) -> OpenOutput:
        """The output, which can be read after the end of the session too."""
        with self._lock:
            if self._opened is None:
                from ..output.session import Session as OpenOutput

                self._opened = OpenOutput(self.config)
            return self._opened

    def _requests(self) -> Requests:
        if self._accepted is None:
            from .requests import Requests

            self._accepted = Requests(self._output(), self._workers, self._progress)
        return self._accepted

    def _current_readouts(self) -> Readouts:
        """The readouts of the version that is current now."""
        from ...distributed.partition.partition import Partition
        from ...workers import calling
        from ..output.leases import leased
        from ..serving.readouts import make_readouts

        output = self._output()
        if self._readouts is None or self._readouts.version != output.version().version:
            with leased(output) as version, self._workers() as group:
                rows = output.call(group, version, calling(Partition.readouts))
                self._readouts = make_readouts(output, version, rows)
        return self._readouts

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosed("this session is closed: open another one, with `with unlearnrec.Session(...) as s`")
