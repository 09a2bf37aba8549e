"""`unlearnrec.Session`: the commands as methods, with workers that stay between the calls (docs/python.md).

It is what Python code uses. `output/session.py` has the internal `Session`, one output as one command opens it, which is
called `OpenOutput` here. Heavy modules are imported inside the methods: a configuration is checked before torch and Ray are
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

from ...partitioning.errors import InputError
from .lifetime import OpenSession
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
    from ..serving.readouts import Readouts
    from .embeddings import Embeddings
    from .handle import ForgetRequest

Id = int | str


class Session(OpenSession):
    """One output, with workers that stay: `with unlearnrec.Session("run.yaml") as s: s.train()`.

    Workers start when a method first needs them. They, and the CPUs or GPUs that they hold, stay until the end of the `with`
    block, `close` or `stop_workers`. Without `with` the session works too; then call `close` yourself.

    Threads may share a session: calls that need the workers run one after the other. Processes may not, but each may open
    its own session on the same output, also beside `unlearnrec serve`: all of them decide by the same log.
    """

    _readouts: Readouts | None = None
    """Those of the version that `recommend` saw last."""

    # ---- a model -----------------------------------------------------------------------------------------------------

    def ingest(self) -> IngestResult:
        """Read `interactions`, partition the graph and write it.

        Raises:
            InputError: the table cannot be read, or a request was carried out meanwhile. The graph before stays.
        """
        from .. import pipeline

        return IngestResult.of(self._do(lambda: pipeline.ingest(self.config, progress=self._progress)))

    def train(self, *, resume: bool = False, without: str | Sequence[str] = (), tune: bool = False) -> TrainResult:
        """Train the backbone and commit it as the current version.

        Args:
            resume: go on from the last checkpoint, if there is one of the same settings.
            without: files of what to leave out: a counterfactual, from which nothing can be forgotten.
            tune: try a grid of settings first (docs/evaluation.md).

        Raises:
            InputError: nothing was ingested, or the training diverged.
            RuntimeError: another version was committed meanwhile.
        """
        from .. import pipeline

        files = [without] if isinstance(without, str) else list(without)
        if tune:  # its trials have workers of their own, which need the room
            self.stop_workers()
            tuned = self._do(
                lambda: pipeline.train(self.config, progress=self._progress, resume=resume, without=files, tune=True)
            )
            return TrainResult.of(tuned)
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
            options: those of the command: `baselines=True`; `reference` with `users`, `items`, `interactions` or
                `requests` (files or "ID,ID").

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
                return export(self.config, to=to, top_k=top_k, format=format, progress=self._progress, group=group)

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
        name = self._do(lambda: self._requests().accept(asked, request_id, requester))
        return ForgetRequest(name, lambda: self.status(name).phase, lambda seconds: self._settle(name, seconds))

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

    def _with_workers(self, command: Callable[..., dict[str, Any]], **options: Any) -> dict[str, Any]:
        def run() -> dict[str, Any]:
            with self._workers() as group:
                return command(self.config, progress=self._progress, group=group, **options)

        return self._do(run)

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
