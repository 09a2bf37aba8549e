"""The life of a session: its configuration, its workers, the requests it accepted, and its end. `session.py` has the methods
that users call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ...partitioning.errors import InputError
from ..reporting.progress import SILENT, Progress
from ..reporting.screen import open_progress
from .configuration import ConfigLike, nested_values, split_tables

if TYPE_CHECKING:
    from ...workers import WorkerGroup
    from ..config.schema import Config
    from ..output.session import Session as OpenOutput
    from .held_workers import HeldWorkers
    from .requests import Requests

T = TypeVar("T")


class SessionClosed(RuntimeError):
    """The session was closed, and its workers are gone."""


def plainly(work: Callable[[], T]) -> T:
    """Call `work`. An InputError, whose message says what is wrong in whose call, comes without the frames below, of which a
    user has nothing."""
    try:
        return work()
    except InputError as error:
        raise error.with_traceback(None) from None


class OpenSession:
    """One output with workers that stay, from its opening to its end."""

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
        self._config, self._tables = plainly(lambda: _checked(config, sections))
        chosen = open_progress() if progress is True else progress
        self._progress: Progress = chosen or SILENT
        self._lock = RLock()
        self._closed = False
        self._opened: OpenOutput | None = None
        self._held: HeldWorkers | None = None
        self._accepted: Requests | None = None

    @property
    def config(self) -> Config:
        """The whole configuration, with all defaults. Tables that were given are written when this is first asked for."""
        with self._lock:
            if self._tables:
                self._check_open()
                from .tables import write_tables

                self._config = plainly(lambda: write_tables(self._config, self._tables, self._progress))
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
                if self._accepted is not None:
                    self._accepted.close()
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
            return plainly(lambda: accepted.settle(request_id, timeout))

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
            return plainly(work)

    def _kept(self) -> HeldWorkers:
        """The workers, which start when something uses them first."""
        self._check_open()
        if self._held is None:
            from .held_workers import HeldWorkers

            self._held = HeldWorkers(self.config)
        return self._held

    @contextmanager
    def _workers(self) -> Iterator[WorkerGroup]:
        with self._kept().use() as group:
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

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosed("this session is closed: open another one, with `with unlearnrec.Session(...) as s`")


def _checked(config: ConfigLike, sections: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """(the configuration, the tables in memory), both checked.

    Raises:
        InputError: as `split_tables` and `check_table`.
    """
    checked, tables = split_tables(nested_values(config, sections))
    if tables:
        from .tables import check_table

        for key, table in tables.items():
            check_table(key, table, checked.columns)
    return checked, tables
