"""`unlearnrec.Session`: the commands as methods, with workers that stay between the calls (docs/python.md).

It is what Python code uses. `output/session.py` has the internal `Session`, one output as one command opens it, which is
called `OpenOutput` here. Heavy modules are imported inside the methods: a configuration is checked before torch and Ray are
loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from .lifetime import plainly
from .results import (
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
from .using import UsedSession

if TYPE_CHECKING:
    from ..config.schema import Config
    from .handle import ForgetRequest

Id = int | str


class Session(UsedSession):
    """One output, with workers that stay: `with unlearnrec.Session("run.yaml") as s: s.train()`.

    Workers start when a method first needs them. They, and the CPUs or GPUs that they hold, stay until the end of the `with`
    block, `close` or `stop_workers`. Without `with` the session works too; then call `close` yourself.

    Threads may share a session: calls that need the workers run one after the other. Processes may not, but each may open
    its own session on the same output, also beside `unlearnrec serve`: all of them decide by the same log.
    """

    # ---- a model -----------------------------------------------------------------------------------------------------

    def ingest(self) -> IngestResult:
        """Read `interactions`, partition the graph and write it.

        Raises:
            InputError: the table cannot be read, or a request was carried out meanwhile. The graph before stays.
        """
        from .. import pipeline

        return IngestResult.of(self._do(lambda: pipeline.ingest(self.config, progress=self._progress)))

    def train(
        self,
        *,
        resume: bool = False,
        without: str | Sequence[str] | Mapping[str, Any] = (),
        tune: bool | Mapping[str, Sequence[Any]] = False,
    ) -> TrainResult:
        """Train the backbone and commit it as the current version.

        With `validation.share` the number of epochs is chosen first, on interactions that are held out for that
        (docs/evaluation.md).

        Args:
            resume: go on from the last checkpoint, if there is one of the same settings.
            without: what to leave out, as the arguments of `forget` ({"users": [17]}), or files of it. The result is a
                counterfactual, to compare with (`evaluate(reference=...)`); nothing can be forgotten from it.
            tune: try settings first, and train the best: True for the grid of the section `tune`, or a grid such as
                {"train.learning_rate": [0.003, 0.01]}.

        Raises:
            InputError: nothing was ingested, the grid is bad, or the training diverged.
            RuntimeError: another version was committed meanwhile.
        """
        from .. import pipeline
        from .asked import left_out_of

        left_out = plainly(lambda: left_out_of("train: without", without, self._config))
        if tune is False:
            return TrainResult.of(self._with_workers(pipeline.train, resume=resume, without=left_out))
        from ..models.tuning import combinations
        from .configuration import with_grid

        def checked() -> Config:
            config = self.config if tune is True else with_grid(self.config, tune)
            combinations(config)  # raises for a bad grid, before workers are stopped
            return config

        config = plainly(checked)
        self.stop_workers()  # the trials have workers of their own, which need the room
        return TrainResult.of(
            self._do(
                lambda: pipeline.train(config, progress=self._progress, resume=resume, without=left_out, tune=True)
            )
        )

    def pretrain(self) -> PretrainResult:
        """Fit the Influence Encoder of the current version, which `forget` needs. After Ctrl-C it goes on where it was."""
        from .. import pipeline

        return PretrainResult.of(self._with_workers(pipeline.pretrain))

    def retrain(self, *, resume: bool = False) -> TrainResult:
        """Train and pre-train as one version. Requests that are carried out meanwhile are carried out on it too."""
        from .. import pipeline

        return TrainResult.of(self._with_workers(pipeline.retrain, resume=resume))

    def rollback(self, to: int) -> RollbackResult:
        """Make an older version the current one, unless data were deleted since."""
        from .. import pipeline

        return RollbackResult.of(self._do(lambda: pipeline.rollback(self.config, to=to)))

    def versions(self) -> list[VersionInfo]:
        """All versions that the log has, oldest first."""
        from .versions import read_versions

        return plainly(lambda: read_versions(self._output()))

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
        return ForgetRequest(
            name,
            lambda: self.status(name).phase,
            lambda seconds: self._settle(name, seconds),
            lambda: plainly(lambda: self._requests().results(name)),
        )

    def preview(
        self, *, users: Any = None, items: Any = None, interactions: Any = None, requests: Any = None
    ) -> ForgetPreview:
        """What `forget` would change, for the same arguments. Nothing is written, and no workers are needed.

        With `requests` the answer has `results`, a table with what would become of each row.
        """
        from ..commands.forget import preview
        from ..lifecycle.results_file import KeptResults
        from ..models.carry_out import able_version
        from .asked import Asked

        def look() -> dict[str, Any]:
            output = self._output()
            version = able_version(output)
            asked = Asked(users, items, interactions, requests)
            request = asked.request(None, output.options, output.request_key(create=False))
            return preview(output, version, request, KeptResults() if request.rows else None)

        return ForgetPreview.of(plainly(look))

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

        found = plainly(lambda: status(self._config, request_id))
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
