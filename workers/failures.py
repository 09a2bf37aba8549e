"""What went wrong on which worker, and what to do about it. Plain data and pure functions, so tests need no Ray.

Ranks and partitions are the same numbers: worker k hosts partition k and is rank k of its process groups.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn

from ..partitioning.errors import InputError
from .memory import PlannedMemory, in_gib

NO_PLAN = "`unlearnrec plan` says what the commands need, and which setting makes it less"
TIMEOUT_SETTING = "cluster.collective_timeout_seconds"


class StaleGeneration(RuntimeError):
    """A call named a generation or a sequence number that the worker has left behind, or never took part in."""


class Kind(Enum):
    """What stopped a worker's part of a call."""

    INPUT = "input"  # the host raised InputError: the user can mend it
    ERROR = "error"  # any other exception: a defect, the same again on every attempt
    TRANSIENT = "transient"  # storage or network said no: another attempt may go through
    MEMORY = "memory"  # it died, or could not go on, for want of memory: the same again on every attempt
    COLLECTIVE = "collective"  # other ranks did not take part in time, or hung up
    STALE = "stale"  # the worker process is a new one and holds no state of this generation
    DIED = "died"  # the worker process ended during the call
    UNRESPONSIVE = "unresponsive"  # alive for the operating system, but not even its control methods answer
    ABORTED = "aborted"  # stopped by the driver because another worker had failed: a consequence, never the cause


# Kinds that say that a worker's process and all its state are gone, or will be once it is replaced.
LOST = frozenset({Kind.DIED, Kind.UNRESPONSIVE, Kind.STALE, Kind.MEMORY})

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says, in an ordinary RuntimeError, where it gets no memory."""


@dataclass(frozen=True)
class Cause:
    """Why one worker's part of a call failed.

    `missing` are the ranks that this worker waited for in vain. `exception` is the host's own exception when it can be
    pickled; `trace` is its traceback as text, which always can.
    """

    kind: Kind
    text: str
    missing: tuple[int, ...] = ()
    exception: BaseException | None = None
    trace: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a worker returns for a call: its value, or the cause of its failure. Errors travel as data. `peak_bytes` is the
    most memory that its process held during the call; 0 where the system does not tell."""

    value: Any = None
    cause: Cause | None = None
    peak_bytes: int = 0


class WorkerFailure(RuntimeError):
    """A call on the group failed.

    `causes` maps each failed partition to its Cause; `dead` are the partitions whose process ended or was replaced;
    `missing` are the ranks that the others waited for, or that do not answer; `text` is the message. Can be pickled.
    """

    def __init__(self, text: str, causes: Mapping[int, Cause], dead: list[int], missing: list[int]) -> None:
        super().__init__(text, causes, dead, missing)
        self.text = text
        self.causes = dict(causes)
        self.dead = dead
        self.missing = missing

    def __str__(self) -> str:
        return self.text

    @property
    def for_memory(self) -> bool:
        """Whether a worker had too little memory: a setting has to be changed, and another attempt would fail too."""
        return any(cause.kind is Kind.MEMORY for cause in self.causes.values())


def classify(error: BaseException, aborted: bool) -> Kind:
    """The kind of an exception that a host raised. `aborted`: whether the driver had already told this worker to stop.

    A failed collective is recognised by its list `missing` of ranks, so that this module needs no torch.
    """
    if isinstance(error, InputError):
        return Kind.INPUT
    if aborted:
        return Kind.ABORTED
    if isinstance(error, StaleGeneration):
        return Kind.STALE
    if isinstance(getattr(error, "missing", None), list):
        return Kind.COLLECTIVE
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _tells_of_memory(str(error))):
        return Kind.MEMORY
    if isinstance(error, OSError):
        return Kind.MEMORY if error.errno == errno.ENOMEM else Kind.TRANSIENT
    return Kind.ERROR


def _tells_of_memory(text: str) -> bool:
    return any(words in text.lower() for words in _NO_MEMORY)


def worker_failure(
    method: str, causes: Mapping[int, Cause], timeout_seconds: float, planned: PlannedMemory | None = None
) -> WorkerFailure:
    """The WorkerFailure for a failed call of `method`: which workers are dead, which are missing, and what the user can
    do.

    planned: the memory that the run was planned to need, for the message where a worker had too little.

    A rank counts as missing if it does not answer. It also counts as missing if another rank waited for it in vain and
    it reported no cause of its own that explains this.
    """
    short = sorted(k for k, c in causes.items() if c.kind is Kind.MEMORY)
    dead = sorted(k for k, c in causes.items() if c.kind in (Kind.DIED, Kind.STALE))
    silent = {k for k, c in causes.items() if c.kind is Kind.UNRESPONSIVE}
    named = {rank for c in causes.values() if c.kind is Kind.COLLECTIVE for rank in c.missing}
    explained = {k for k, c in causes.items() if c.kind in (Kind.INPUT, Kind.ERROR, Kind.TRANSIENT)} | set(dead + short)
    missing = sorted(silent | (named - explained))

    lines = [f"`{method}` failed."]
    lines += [f"  worker {k}: {c.text}" for k, c in sorted(causes.items()) if c.kind is not Kind.ABORTED]
    if aborted := [str(k) for k, c in sorted(causes.items()) if c.kind is Kind.ABORTED]:
        lines.append(f"  stopped because of that: worker {', '.join(aborted)}")
    if missing:
        ranks = ", ".join(map(str, missing))
        lines.append(
            f"Missing: rank {ranks} (not heard from within {TIMEOUT_SETTING} = {timeout_seconds:g} s). Likely a frozen "
            f"or overloaded machine, or one slower step than that: raise {TIMEOUT_SETTING} if it was only slow."
        )
    if dead:
        lines.append(
            f"Dead: worker {', '.join(map(str, dead))}. A lost machine, or a process that was killed or crashed; nothing "
            "says that it had too little memory (see the machine's kernel log)."
        )
    if short:
        what = f"planned were {in_gib(planned.worker)} a worker. {planned.remedy}" if planned else NO_PLAN
        lines.append(f"Too little memory: worker {', '.join(map(str, short))}; {what}")
    return WorkerFailure("\n".join(lines), causes, dead, missing)


@dataclass(frozen=True)
class Retry:
    """Form a new generation and call again."""


@dataclass(frozen=True)
class GiveUp:
    """Raise the failure; `reason` says why another attempt would not help."""

    reason: str


@dataclass(frozen=True)
class RaiseInput:
    """Raise the host's InputError unchanged, since the user made a mistake that another attempt would meet again."""

    error: InputError


Decision = Retry | GiveUp | RaiseInput


def input_error(causes: Mapping[int, Cause]) -> InputError | None:
    """The InputError of the lowest partition that raised one; None if no partition did."""
    for _, cause in sorted(causes.items()):
        if cause.kind is Kind.INPUT:
            return cause.exception if isinstance(cause.exception, InputError) else InputError(cause.text)
    return None


def decide(causes: Mapping[int, Cause], rebuilds: int, max_rebuilds: int) -> Decision:
    """What to do after a failed call, when `rebuilds` of at most `max_rebuilds` rebuilds have been made.

    If a worker was lost, the errors of the others are not counted: they are mostly its consequence. If none was lost,
    an ordinary exception is a defect, and the same data would raise it again.
    """
    if error := input_error(causes):
        return RaiseInput(error)
    if short := [k for k, c in sorted(causes.items()) if c.kind is Kind.MEMORY]:
        return GiveUp(f"worker {short[0]} had too little memory, and would have again")
    lost = any(c.kind in LOST for c in causes.values())
    defects = [k for k, c in sorted(causes.items()) if c.kind is Kind.ERROR]
    if defects and not lost:
        return GiveUp(f"worker {defects[0]} raised an error that would come back")
    if rebuilds >= max_rebuilds:
        return GiveUp(f"failed again after {rebuilds} rebuilds (max_rebuilds={max_rebuilds})")
    return Retry()


def raise_failure(failure: WorkerFailure) -> NoReturn:
    """Raise the InputError of a host if there is one, and the failure otherwise.

    Raises:
        InputError: a host raised it; the same object (or its text, where it could not be pickled).
        WorkerFailure: all other cases.
    """
    if error := input_error(failure.causes):
        raise error from None
    raise failure
