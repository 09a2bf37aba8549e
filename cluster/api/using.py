"""The methods of `unlearnrec.Session` that use a model: evaluate, recommend, score, embed, export."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ...partitioning.errors import InputError
from .lifetime import OpenSession, plainly
from .results import EvaluateResult, ExportResult

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from .embeddings import Embeddings
    from .scoring import Scoring, Unknown

Id = int | str


class UsedSession(OpenSession):
    """What can be done with the current version of an open session."""

    _known: Scoring | None = None
    """The readouts of the version that `recommend` saw last."""

    def evaluate(
        self,
        *,
        baselines: bool = False,
        sample: float | None = None,
        k: int | Sequence[int] | None = None,
        reference: str | os.PathLike[str] | None = None,
        users: Any = None,
        items: Any = None,
        interactions: Any = None,
        requests: Any = None,
    ) -> EvaluateResult:
        """Measure the current version on `test_interactions` (docs/evaluation.md); with a reference, also its forgetting.

        Args:
            baselines: rank by popularity and by item-kNN too, for comparison.
            sample: evaluate some of the users only: from 1 their number, below 1 their share. None: `evaluate.users`.
            k: the cut-offs; None: `evaluate.k`.
            reference: another output, whose model was trained without what was forgotten. The scores of the two models for
                the forgotten interactions are compared.
            users, items, interactions, requests: with a reference: what was forgotten, as for `forget`.

        Raises:
            InputError: `test_interactions` is not set, nothing has been trained yet, or an argument is bad.
        """
        from .asked import Asked
        from .evaluation import evaluate

        asked = Asked(users, items, interactions, requests)
        place = None if reference is None else os.fspath(reference)
        options = {"asked": asked, "reference": place, "baselines": baselines, "sample": sample, "k": k}
        return EvaluateResult.of(self._with_workers(evaluate, **options))

    def recommend(
        self, users: Iterable[Id], k: int = 10, *, exclude_seen: bool = True, unknown: Unknown = "empty"
    ) -> list[list[tuple[Id, float]]]:
        """The best items for each user by the current version: (item, score), best first.

        The readouts are kept in memory until another version is current, in whatever process it was made.

        Args:
            users: ids as in the table.
            k: items a user; fewer where there are no more.
            exclude_seen: leave out the items that the user interacted with.
            unknown: what becomes of a user whom the version does not have, because the table did not have him or he was
                forgotten: "empty" gives an empty list, "error" raises InputError.

        Raises:
            InputError: nothing has been trained yet, or an argument is bad.
        """

        def run() -> list[list[tuple[Id, float]]]:
            wanted = _listed("recommend", users)
            _check_options("recommend", k, unknown)
            return self._do(self._scoring).recommend(wanted, k, exclude_seen, unknown)

        return plainly(run)

    def recommend_table(
        self, users: Iterable[Id] | None = None, k: int = 10, *, exclude_seen: bool = True, unknown: Unknown = "empty"
    ) -> pa.Table:
        """As `recommend`, as a table of Arrow: `user_id`, `item_id`, `score` and `rank` (from 1), a row a recommendation.

        Args:
            users: None: all users of the version. `export` writes the same for very many users, with all workers.
            k, exclude_seen, unknown: as for `recommend`; with "empty", an unknown user has no rows.
        """

        def run() -> pa.Table:
            wanted = None if users is None else _listed("recommend_table", users)
            _check_options("recommend_table", k, unknown)
            return self._do(self._scoring).table(wanted, k, exclude_seen, unknown)

        return plainly(run)

    def scores(self, users: Iterable[Id], items: Iterable[Id]) -> npt.NDArray[np.float32]:
        """The score of each pair (users[i], items[i]) by the current version, whether they interacted or not.

        A higher score is a better recommendation. Scores of one user can be compared, and they are no probabilities.

        Raises:
            InputError: nothing has been trained yet, the two are of different lengths, or the version does not have one of
                the ids. The message does not say which id, nor whether it was forgotten or never there.
        """

        def run() -> npt.NDArray[np.float32]:
            of_users, of_items = _listed("scores", users), _listed("scores", items)
            if len(of_users) != len(of_items):
                raise InputError(
                    f"scores: got {len(of_users)} users and {len(of_items)} items, expected one item for each user"
                )
            return self._do(self._scoring).scores(of_users, of_items)

        return plainly(run)

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

        return ExportResult.of(self._with_workers(export, to=to, top_k=top_k, format=format))

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _with_workers(self, command: Callable[..., dict[str, Any]], **options: Any) -> dict[str, Any]:
        # The command starts the workers when it has checked its input: a mistake is told before Ray is started.
        return self._do(lambda: command(self.config, progress=self._progress, group=self._kept(), **options))

    def _scoring(self) -> Scoring:
        """The readouts of the version that is current now."""
        from ...distributed.partition.partition import Partition
        from ...workers import calling
        from ..output.leases import leased
        from ..serving.readouts import make_readouts
        from .scoring import Scoring

        output = self._output()
        if self._known is None or self._known.readouts.version != output.version().version:
            with leased(output) as version, self._workers() as group:
                rows = output.call(group, version, calling(Partition.readouts))
                self._known = Scoring(make_readouts(output, version, rows))
        return self._known


def _listed(method: str, ids: Iterable[Id]) -> list[Id]:
    """The ids of a list, an array or a column.

    Raises:
        InputError: it is one id, or something else.
    """
    from .asked import ids_of

    if isinstance(ids, str | int):
        raise InputError(f"{method}: got one id, expected a list of ids: [{ids!r}]")
    return ids_of(method, ids)


def _check_options(method: str, k: Any, unknown: Any) -> None:
    """Raise InputError unless k is a whole number from 1, and `unknown` says what to do."""
    if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
        raise InputError(f"{method}: k: got {k!r}, expected an integer >= 1")
    if unknown not in ("empty", "error"):
        raise InputError(f"{method}: unknown: got {unknown!r}, expected 'empty' or 'error'")
