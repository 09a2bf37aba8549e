"""Follows a table of the lake from a durable cursor and makes a request of what was deleted in it (docs/watching.md).

The cursor moves behind a commit when all requests of the commit are in the log. Whoever dies before that looks at the
commit again, finds the same requests under the same ids, and makes none of them twice.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.lake import Columns
from ...partitioning.lake.data_file import Table
from ...partitioning.lake.following.changes import is_missed
from ...partitioning.lake.following.follow import open_history
from ...partitioning.lake.following.history import BEFORE_ALL, Commit, History, MissedChanges, missing_files
from ...partitioning.manifest import MANIFEST, load_manifest
from ..layout import WATCH_CURSOR
from ..lifecycle.decisions import error_class
from ..lifecycle.refusals import TakenId, TooMany
from ..output.session import Session
from .interface import RequestsInterface
from .watch_requests import DeletionRules, Found, deletions, named, requests, told

LONGEST_WAIT_SECONDS = 3600.0
SLICE_SECONDS = 0.1
FORMAT = 1
MOST_NAMED = 50
"""Commits that are looked at, to name those that were missed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cursor:
    """How far the table was followed."""

    table: str
    table_id: str
    kind: str
    position: int
    """All that changed up to this version (Delta) or snapshot (Iceberg) is in the log."""
    upto: int | None = None
    """The state that a look under way compares with: it is repeated with the same."""
    format: int = FORMAT


@dataclass
class Look:
    """What one look at the table came to."""

    cursor: int
    requests: int = 0
    """New in the log."""
    repeated: int = 0
    """There already: an earlier look was interrupted."""
    skipped: int = 0
    """Deleted rows whose interaction is still in the table, so that there is nothing to forget."""
    invalid: int = 0
    """Rows of a table of requests that mean nothing."""
    behind: int = 0
    """Commits not looked at, or not all of them, because too many requests are open."""


class Watcher:
    """The follower of one table. `look` is called by one thread at a time."""

    def __init__(self, session: Session, intake: RequestsInterface, note: Callable[[str], None] = log.warning) -> None:
        """note: is told what somebody should read; no ids of users or items.

        Raises:
            InputError: `watch.table` is not set, and `interactions` is no table that can be followed.
        """
        self._session, self._intake, self._note = session, intake, note
        self._settings = session.config.watch
        self._uri = self._settings.table or session.config.interactions
        self.blocked: str | None = None
        """The class of the error that keeps deletions from becoming requests."""
        self.made = 0
        """Requests since the start."""

    def look(self) -> Look:
        """Make a request of everything new, as far as there is room for requests.

        Raises:
            MissedChanges: commits can no longer be read. The cursor stands before them.
            InputError: the table cannot be followed.
        """
        history = self._history()
        cursor = self._cursor(history)
        total = Look(cursor.position)
        while cursor.position != (upto := self._upto(history, cursor)):
            commits = history.commits(cursor.position, upto) if cursor.position != _FIRST else [_all_of(upto)]
            if not any(commit.removes if self._deletes else commit.adds for commit in commits):
                cursor = self._save(replace(cursor, position=upto, upto=None))
                continue
            if cursor.upto != upto:
                cursor = self._save(replace(cursor, upto=upto))
            try:
                for position in self._accepted(history, commits, upto, total):
                    cursor = self._save(replace(cursor, position=position, upto=upto if position != upto else None))
            except TooMany:
                positions = [commit.position for commit in commits]
                done = positions.index(cursor.position) + 1 if cursor.position in positions else 0
                total.behind = len(commits) - done
                break
            except MissedChanges as error:
                raise self._with_others(error, history, commits, cursor) from error
        total.cursor = cursor.position
        return total

    def move(self, position: int | None) -> Look:
        """Set the cursor to a version or snapshot, None: to the current one. What changed up to there is not looked at.

        Raises:
            InputError: the table has no such state.
        """
        history = self._history()
        if position is not None and not history.has(position):
            raise InputError(
                f"--from-version {position}: {self._uri} has no such version. It stands at {history.name(history.newest)}"
            )
        cursor = self._save(self._new(history, history.newest if position is None else position))
        return Look(cursor.position)

    def follow(self, stopped: Callable[[], bool]) -> None:
        """Look every `watch.poll_seconds`, until `stopped`. Nothing is raised: what goes wrong is told and tried again."""
        failures = 0
        while not stopped():
            try:
                look = self.look()
            except Exception as error:
                failures += 1
                self.blocked = error_class(error)
                # Messages for the user name tables and settings; those of other exceptions may name anybody.
                text = str(error) if isinstance(error, InputError) else self.blocked
                self._note(f"watch: {text}")
                log.debug("this failed", exc_info=error)
            else:
                failures, self.blocked = 0, "TooMany" if look.behind else None
                if look.requests:
                    self._note(f"watch: {look.requests} requests, up to version {look.cursor}")
            _sleep(min(self._settings.poll_seconds * 2 ** min(failures, 12), self._longest()), stopped)

    def gauges(self) -> dict[str, float]:
        """Name -> value, for `/metrics`."""
        return {"watch_blocked": int(self.blocked is not None), "watch_requests_total": self.made}

    def _longest(self) -> float:
        return max(LONGEST_WAIT_SECONDS, self._settings.poll_seconds)

    @property
    def _deletes(self) -> bool:
        return self._settings.kind == "deletions"

    @cached_property
    def _key(self) -> bytes:
        return self._session.request_key()

    @cached_property
    def _columns(self) -> Columns:
        own = self._settings.columns
        return Columns(**own.model_dump()) if own is not None else self._session.columns

    def _history(self) -> History:
        return open_history(self._uri, self._session.options)

    # ---- the cursor --------------------------------------------------------------------------------------------------

    def _cursor(self, history: History) -> Cursor:
        try:
            cursor = Cursor(**json.loads(self._session.store.read(WATCH_CURSOR)))
        except FileNotFoundError:
            return self._save(self._first(history))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{self._session.config.output}/{WATCH_CURSOR}: is no cursor ({error}). Set it with `unlearnrec watch "
                "--from-version N` or `--from-now`"
            ) from None
        if (cursor.table_id, cursor.kind) != (history.table_id, self._settings.kind):
            raise InputError(
                f"{self._uri} (watch.kind {self._settings.kind}, table id {history.table_id}) is not what was followed "
                f"before: {cursor.table} ({cursor.kind}, {cursor.table_id}). If it is meant, say where to begin: "
                "`unlearnrec watch --from-version N` or `--from-now`"
            )
        return cursor

    def _new(self, history: History, position: int) -> Cursor:
        return Cursor(self._uri, history.table_id, self._settings.kind, position)

    def _first(self, history: History) -> Cursor:
        """All rows of a table of requests are new; else it begins behind the version that was ingested, if of this table."""
        if not self._deletes:
            return self._new(history, _FIRST)
        pinned = load_manifest(self._session.store).table if self._session.store.exists(MANIFEST) else None
        if pinned is not None and pinned.get("id") == history.table_id:
            position = pinned["version"] if "version" in pinned else pinned.get("snapshot")
            return self._new(history, BEFORE_ALL if position is None else int(position))
        self._note(
            f"watch: begins at {history.name(history.newest)} of {self._uri}: no version of it was ingested here that would "
            "say where to begin. What was deleted before is not looked at"
        )
        return self._new(history, history.newest)

    def _save(self, cursor: Cursor) -> Cursor:
        self._session.store.write(WATCH_CURSOR, json.dumps(asdict(cursor)).encode())
        return cursor

    def _upto(self, history: History, cursor: Cursor) -> int:
        """The state to compare with: that of the look that was interrupted, as long as it can be read."""
        upto = cursor.upto
        if upto is None or upto == history.newest:
            return history.newest
        return upto if history.has(upto) and not missing_files(history.at(upto).files) else history.newest

    # ---- requests ----------------------------------------------------------------------------------------------------

    def _accepted(self, history: History, commits: Sequence[Commit], upto: int, total: Look) -> Iterator[int]:
        """The position of each commit whose requests are all in the log.

        Raises:
            TooMany: there is no room for more.
        """
        reasons: Counter[str] = Counter()
        for found in self._found(history, commits, upto):
            if found.request is not None:
                self._accept(history, found, total)
            elif found.invalid:
                reasons[found.invalid] += 1
            elif found.skipped:
                total.skipped += found.skipped
            else:
                if reasons:
                    total.invalid += reasons.total()
                    self._note(
                        f"watch: {self._uri}, {history.name(found.commit.position)}: rows that mean nothing, and of which "
                        f"no request was made: {told(reasons)}"
                    )
                    reasons.clear()
                yield found.commit.position

    def _found(self, history: History, commits: Sequence[Commit], upto: int) -> Iterator[Found]:
        if not self._deletes:
            yield from requests(history, commits)
            return
        opened: list[Table] = []

        def newest() -> Table:
            if not opened:
                opened.append(history.at(upto))
            return opened[0]

        rules = DeletionRules(self._columns, self._settings.whole_users, self._settings.max_rows)
        yield from deletions(history, commits, newest, rules)

    def _with_others(
        self, error: MissedChanges, history: History, commits: Sequence[Commit], cursor: Cursor
    ) -> MissedChanges:
        """The error with all commits named that are missed behind the cursor, so that one decision is enough."""
        if not self._deletes:
            return error
        positions = [commit.position for commit in commits]
        left = commits[positions.index(cursor.position) + 1 :] if cursor.position in positions else commits
        looked_at = [commit for commit in left if commit.removes][:MOST_NAMED]
        lost = [commit for commit in looked_at if is_missed(history, commit, self._columns)]
        if len(lost) < 2:
            return error
        what = ", ".join(f"{history.name(commit.position)} ({commit.what})" for commit in lost)
        return MissedChanges(error.uri, what, error.why)

    def _accept(self, history: History, found: Found, total: Look) -> None:
        request = found.request
        assert request is not None
        if not found.derived:
            try:
                self._count(self._intake.accept(request), total)
                return
            except TakenId:
                # Nobody is lost because somebody else chose the same id.
                self._note(f"watch: request_id {request.request_id} belongs to another request; a derived id is used")
        request = named(request, found.commit, history.table_id, self._key)
        assert request.request_id is not None
        # One that failed since stays so: only who asks again opens it again.
        answer = self._intake.status(request.request_id)
        self._count(self._intake.accept(request) if answer is None else {"repeated": True}, total)

    def _count(self, answer: dict[str, Any], total: Look) -> None:
        if answer.get("repeated"):
            total.repeated += 1
        else:
            total.requests += 1
            self.made += 1


_FIRST = -2
"""A cursor of a table of requests that was not looked at yet: all rows of its current state are new."""


def _all_of(position: int) -> Commit:
    return Commit(position, BEFORE_ALL, what="all of its rows")


def _sleep(seconds: float, stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not stopped() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SLICE_SECONDS))
