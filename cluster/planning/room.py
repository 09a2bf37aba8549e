"""Whether a plan fits on the machines, and which setting makes it fit where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...partitioning.errors import InputError
from ...workers.memory import in_gib
from ..config.schema import Config
from .machines import Machine, missing_bytes
from .plan import Plan
from .runs import carry_fork_of, fork_of

CERTAIN = 0.75
"""The plan's bytes are within a quarter of what is measured, so this share of them is needed in any case. Only what does not
fit even so is refused."""


def check_room(
    config: Config, plan: Plan, machines: Sequence[Machine], again: Callable[[Config], Plan], starts_ray: bool
) -> None:
    """Raise InputError if the machines cannot hold the plan even if it is a quarter too high.

    again: the plan of another configuration, for the settings that the message offers. starts_ray: whether Ray's own
    processes are still to be started on the one machine.
    """
    if not machines or config.cluster.gpus_per_worker:
        return  # the tables of workers with a GPU lie there
    missing, machine = _missing(config, plan, machines, starts_ray)
    if machine is None:
        return
    raise InputError(
        f"{plan.work}: planned are {_planned(plan)}, and {machine.name} has {in_gib(machine.memory.available)} of "
        f"{in_gib(machine.memory.limit)} free, of which Ray lets workers use {in_gib(machine.memory.usable)}: at least "
        f"{in_gib(missing)} are missing. {remedy(config, plan, machines, again, starts_ray)}. "
        f"cluster.check_memory=false begins all the same"
    )


def remedy(
    config: Config,
    plan: Plan,
    machines: Sequence[Machine],
    again: Callable[[Config], Plan],
    starts_ray: bool = False,
    most: float = math.inf,
) -> str:
    """The sentence that says which setting makes the work fit, without a full stop. most: bytes that a worker may take."""
    for changed, setting in smaller(config, plan.work, plan.carries):
        found = again(changed)
        if found.peak <= most and _missing(changed, found, machines, starts_ray, certain=1.0)[1] is None:
            return f"Set {setting}"
    return (
        f"No single setting makes it fit here: use a machine with {in_gib(plan.total / 0.95)} of free memory, or more "
        "machines (cluster.address) with more cluster.partitions"
    )


def _missing(
    config: Config, plan: Plan, machines: Sequence[Machine], starts_ray: bool, certain: float = CERTAIN
) -> tuple[float, Machine | None]:
    ray = plan.ray if starts_ray else 0.0
    overhead = {True: certain * (plan.command + ray), False: 0.0}
    return missing_bytes(machines, [certain * x for x in plan.workers], config.cluster.cpus_per_worker, overhead)


def _planned(plan: Plan) -> str:
    if not plan.workers:
        return in_gib(plan.total)
    count = len(plan.workers)
    each = f"{count} workers of up to {in_gib(plan.peak)}" if count > 1 else f"a worker of {in_gib(plan.peak)}"
    return f"{each}, {in_gib(plan.total)} in all"


def smaller(config: Config, work: str, carries: bool = False) -> Iterator[tuple[Config, str]]:
    """(a configuration that needs less, its setting as on the command line), those that change the result least first.

    carries: as for `make_plan`."""

    def changed(section: str, **keys: Any) -> tuple[Config, str]:
        name, value = next(iter(keys.items()))
        part = getattr(config, section).model_copy(update=keys)
        return config.model_copy(update={section: part}), f"{section}.{name}={value}"

    if work == "ingest":
        if config.partitioning.strategy == "metis" and config.cluster.partitions > 1:
            yield changed("partitioning", strategy="hash")
        return
    if work == "train":
        # A state is written as a checkpoint is, so it takes all of these settings to write none.
        less, settings = config, []
        if 0 < config.train.checkpoint_every < config.train.epochs:
            less, setting = changed("train", checkpoint_every=0)
            settings.append(setting)
        off: dict[str, Any] = {}
        if fork_of(config) is not None:
            off["fork"] = 0.0
            settings.append("pretrain.fork=0")
        if carries and carry_fork_of(config) is not None:
            off["carry"] = False
            settings.append("pretrain.carry=false")
        less = less.model_copy(update={"pretrain": config.pretrain.model_copy(update=off)})
        if settings:
            yield less, " ".join(settings)
        for value in _halves(config.train.batch_size, 1024):
            yield changed("train", batch_size=value)
        for value in _halves(config.backbone.embedding_size, 8):
            yield changed("backbone", embedding_size=value)
    if work == "pretrain":  # the training that it repeats, and the model, are what they are
        for share in (0.02, 0.01, 0.005):
            if share < config.pretrain.request_share:
                yield changed("pretrain", request_share=share)


def _halves(value: int, least: int) -> Iterator[int]:
    """Powers of two below a value, down to `least`, the largest first."""
    power = 2 ** max(0, math.ceil(math.log2(max(2, value))) - 1)
    while power >= least:
        yield power
        power //= 2
