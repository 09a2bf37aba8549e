"""A plan: the memory, the time and the disk that work needs, and its line for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...partitioning.estimate import temporary_bytes
from ...workers.memory import in_gib
from ..config.schema import Config
from ..reporting.software import usable_cpus
from . import memory
from .runs import carry_fork_of, fork_of, run_lengths
from .sizes import SHARD_ENTRY, SHARD_NODE, Sizes
from .speed import OFF_BY, Speed, calibrate, evaluate_seconds, step_seconds

WORKS = ("ingest", "train", "pretrain", "forget", "evaluate")


@dataclass(frozen=True)
class Plan:
    """What one work needs. `workers`: bytes of each at its peak, none for `ingest`; `command`: of the command's own process;
    `ray`: of Ray's processes where it is started. Seconds are None where they are not known."""

    work: str
    workers: Sequence[float]
    command: float
    disk: float
    steps: int = 0
    epochs: int = 0
    step_seconds: float | None = None
    seconds: float | None = None
    exchanged: float = 0.0
    carries: bool = False
    """Whether an encoder may be carried over in it, or after it."""
    remark: str = ""
    """A further part of its line."""

    @property
    def peak(self) -> float:
        """Bytes of the largest worker at its peak; of the command, where there are no workers."""
        return max(self.workers, default=self.command)

    @property
    def ray(self) -> float:
        """Bytes of Ray's own processes."""
        return memory.RAY if self.workers else 0.0

    @property
    def total(self) -> float:
        """Bytes of all processes, if all are at their peaks at once."""
        return sum(self.workers) + self.command + self.ray

    def result(self) -> dict[str, Any]:
        """What `plan --json` prints."""
        return {
            "work": self.work,
            "peak_bytes": round(self.peak),
            "total_peak_bytes": round(self.total),
            "step_seconds": self.step_seconds,
            "epoch_seconds": self.step_seconds * self.steps if self.step_seconds is not None and self.steps else None,
            "seconds": self.seconds,
            "disk_bytes": round(self.disk),
        }

    def line(self) -> str:
        """The plan as one line."""
        where = f"{in_gib(self.peak)} a worker, {in_gib(self.total)} in all" if self.workers else in_gib(self.total)
        parts = [f"plan of {self.work}: {where} at the peak; {in_gib(self.disk)} of disk"]
        if self.step_seconds is not None and self.steps:
            epoch = _time(self.step_seconds * self.steps)
            parts.append(
                f"{self.epochs} epochs of {self.steps} steps of about {_time(self.step_seconds)}, {epoch} each"
            )
        if self.seconds is not None:
            parts.append(f"about {_time(self.seconds)} (within {OFF_BY:g} times, on an idle machine)")
        if self.exchanged:
            parts.append(f"workers exchange {in_gib(self.exchanged)} a step")
        if self.remark:
            parts.append(self.remark)
        return "; ".join(parts)


CARRIED = (
    "the encoder of the version before is carried over and checked; if it does badly, a whole pre-training of {runs} runs "
    "follows, of {epochs} epochs in all"
)


def make_plan(
    config: Config,
    sizes: Sizes,
    work: str,
    test_rows: int = 0,
    speed: Speed | None = None,
    carries: bool = False,
) -> Plan:
    """The plan of one of WORKS. speed: of the machine; None leaves the seconds out. carries: whether there is an encoder
    that `pretrain` may carry over. Its seconds are then those of the check, and memory and disk are enough for a whole
    pre-training too."""
    table = 4.0 * config.backbone.embedding_size * sizes.nodes
    steps = max(1, -(-sizes.interactions // config.train.batch_size))
    epochs = config.train.epochs
    if work == "ingest":
        entry = SHARD_ENTRY * 2 * sizes.interactions + (SHARD_NODE + 12) * sizes.nodes
        spool = temporary_bytes(sizes.interactions, sizes.interactions, config.columns.time is not None)
        return Plan(work, (), memory.ingest_bytes(config, sizes), disk=entry + spool)
    of = {
        "train": lambda part: memory.train_bytes(config, sizes, part, carries=carries),
        "pretrain": lambda part: memory.pretrain_bytes(config, sizes, part),
        "forget": lambda part: memory.forget_bytes(config, sizes, part),
        "evaluate": lambda part: memory.evaluate_bytes(config, sizes, part, test_rows),
    }[work]
    workers = tuple(of(part) for part in sizes.parts)
    command = memory.command_bytes(work, sizes, test_rows)
    step = None if speed is None else step_seconds(config, sizes, speed)
    exchanged = 2 * config.backbone.num_layers * sizes.rows_per_layer * 4.0 * config.backbone.embedding_size
    saves = 0 < config.train.checkpoint_every < epochs
    # The state from which counterfactual runs are forked, with its moments, and the rows half way from there to the end.
    fork = fork_of(config)
    check = carry_fork_of(config) if carries else None
    kept = 4 * len({one.after for one in (fork, check) if one is not None})
    if work == "train":
        # The result, and the last two checkpoints with their moments, of which the older one goes when the newer is there.
        disk = table * (1 + kept + (6 if saves else 0))
        whole = None if step is None else step * steps * epochs
        return Plan(work, workers, command, disk, steps, epochs, step, whole, exchanged, check is not None)
    if work == "pretrain":
        lengths = run_lengths(config)
        # A fork leaves its rows half way, too.
        rows = sum(1 if length == config.train.epochs else 2 for length in lengths)
        copies, remark = rows + kept + (6 if saves and lengths else 0), ""
        if check is not None:
            copies, remark = copies + 2, CARRIED.format(runs=len(lengths), epochs=sum(lengths))
            lengths = [check.epochs - check.after]
        # The runs are made one after the other, so their epochs are told together.
        epochs, steps = sum(lengths), steps if lengths else 0
        whole = None if step is None or not lengths else step * steps * epochs
        disk = table * copies
        return Plan(work, workers, command, disk, steps, epochs, step, whole, exchanged, check is not None, remark)
    if work == "forget":
        shard = SHARD_ENTRY * 2 * sizes.interactions + SHARD_NODE * sizes.nodes
        return Plan(work, workers, command, disk=table + shard)
    ranking = None if speed is None else evaluate_seconds(config, sizes, speed)
    return Plan(work, workers, command, disk=0.0, seconds=ranking)


def machine_speed(config: Config) -> Speed:
    """The speed of this machine with the threads of the workers that it holds."""
    cluster = config.cluster
    each = cluster.threads_per_worker or max(1, int(cluster.cpus_per_worker))
    threads = min(usable_cpus(), each * cluster.partitions)
    return calibrate(threads, memory.readout_columns(config.backbone), max(config.evaluate.k))


def _time(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
