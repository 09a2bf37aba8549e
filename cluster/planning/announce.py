"""Before long work: tell its plan, refuse it where it cannot fit, and let the workers' messages name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from ...partitioning.errors import InputError
from ...workers import KeptWorkers, WorkerGroup, Workers
from ...workers.memory import PlannedMemory
from ...workers.shared_folder import runs_on_a_cluster
from ..config.schema import Config
from ..reporting.progress import Progress
from .machines import Machine, ray_machines, this_machine
from .plan import Plan, machine_speed, make_plan
from .room import check_room, remedy
from .sizes import Sizes

TIGHT = 0.8
"""A worker died although its plan fitted: with the setting that its message offers it needs at most this share."""


@dataclass(frozen=True)
class Announced:
    """A plan that was told, of work that has begun or is about to."""

    config: Config
    sizes: Sizes
    plan: Plan
    progress: Progress
    test_rows: int = 0
    carries: bool = False

    def again(self, changed: Config) -> Plan:
        """The plan of the same work with another configuration, without its seconds."""
        return make_plan(changed, self.sizes, self.plan.work, self.test_rows, carries=self.carries)

    def check(self, machines: Sequence[Machine], starts_ray: bool) -> None:
        """Raise InputError if the plan does not fit on these machines; with `cluster.check_memory=false` only say so."""
        try:
            check_room(self.config, self.plan, machines, self.again, starts_ray)
        except InputError as error:
            if self.config.cluster.check_memory:
                raise
            self.progress.note(f"warning: {error}")

    def placed(self, group: WorkerGroup) -> None:
        """The workers are there: on a cluster check its machines; and give the group the plan, for its messages.

        Raises:
            InputError: as `check`.
        """
        machines = ray_machines() if ray.is_initialized() else [this_machine()]
        if runs_on_a_cluster(self.config.cluster.address):
            self.check(machines, starts_ray=False)
        advice = remedy(self.config, self.plan, machines, self.again, most=TIGHT * self.plan.peak)
        group.planned = PlannedMemory(round(self.plan.peak), f"{advice}.")
        group.peak_bytes = {}

    def measured(self, group: WorkerGroup) -> dict[str, Any]:
        """What the commands report: the bytes of a worker, planned and measured (null where the system does not tell)."""
        return {
            "planned_bytes": round(self.plan.peak),
            "peak_bytes": max(group.peak_bytes.values(), default=0) or None,
        }


def announce(
    config: Config,
    sizes: Sizes,
    work: str,
    progress: Progress,
    group: Workers | None = None,
    test_rows: int = 0,
    carries: bool = False,
) -> Announced:
    """Plan a work and tell its line. If its workers will be started on this machine, refuse it where it does not fit.

    group: the workers that were given. Those that run already are not refused, since what they hold is no longer free. On a
    cluster the machines are asked by `Announced.placed`. carries: as for `make_plan`.

    Raises:
        InputError: as `check_room`.
    """
    plan = make_plan(config, sizes, work, test_rows, machine_speed(config), carries)
    progress.note(plan.line())
    announced = Announced(config, sizes, plan, progress, test_rows, carries)
    starts = group is None or (isinstance(group, KeptWorkers) and not group.running)
    if starts and not runs_on_a_cluster(config.cluster.address):
        announced.check([this_machine()], starts_ray=bool(plan.workers) and not ray.is_initialized())
    return announced
