"""Carry the encoder of the version before over to a new model, and check it by one short run (docs/encoder.md)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from ...distributed.encoder.carry import LEAST_R2, does_well
from ...distributed.encoder.pretrain import PretrainSettings
from ...distributed.graph.removal import Removal, Simulated
from ...distributed.partition.partition import Partition
from ...distributed.partition.results import Fitted
from ...distributed.partition.training import FinishedRuns
from ...distributed.partition.version import Encoder
from ...workers import WorkerGroup, calling
from ..output.manifest import Manifest
from ..output.session import Session
from ..planning.runs import carry_fork_of
from ..reporting.progress import Progress, with_callback
from .carrying import not_carried_text
from .counterfactual_runs import Cost, Runs
from .training import as_trained

NOTHING_KEPT = "its training kept no state to check it from (it had another configuration, or the files are gone)"

DOES_BADLY = (
    "on this model it explains {carried_r2:.2f} of the squared changes of scores of a simulated request, times a factor of "
    "{carried_factor:.2g}; at least {least:g} is needed, and a factor from {smallest:.2g} to {largest:.2g}"
)


def carried_encoder(
    session: Session,
    version: Manifest,
    group: WorkerGroup,
    requests: Sequence[Simulated],
    folder: str,
    progress: Progress,
    look: Callable[[], None],
) -> tuple[Encoder, list[Fitted]] | None:
    """Make the earlier encoder that a version's model names one of this model; None where that cannot be checked, or it does
    badly. A note then says why.

    The run of the check is written when it is finished, as those of a whole pre-training are, so a command that was killed
    finds it again.

    requests: those of a whole pre-training. folder: of the runs (`forks.runs_folder`). look: as for `fit_encoder`.

    Returns:
        (the encoder's entry in a manifest, the workers' results).
    """
    config, graph, model = session.config, version.graph, version.model
    earlier, trained, began, cost = model.earlier, as_trained(config, model), time.perf_counter(), Cost()
    assert earlier is not None
    fork = carry_fork_of(trained)
    assert fork is not None, "called where no encoder is carried over"
    made = Runs(session, group, trained, graph, folder, fork, progress, look, cost)
    if not model.was_trained_on(graph) or not made.has_kept():
        progress.note(not_carried_text(earlier, NOTHING_KEPT))
        return None
    run = made.counterfactual(Removal(simulated=(requests[0],)), f"check of the encoder of version {earlier.version}")
    finished = FinishedRuns([run], None, made.fork, made.halfway())
    settings = config.pretrain
    fit = PretrainSettings(config.seed, settings.epochs, settings.batch_size, settings.learning_rate, settings.examples)
    name = session.versions.new_name(session.versions.next_number(), "encoder", "safetensors")
    call = calling(Partition.carry_encoder, session.location, finished, requests, fit, name)
    results: list[Fitted] = session.call(group, version, call, on_progress=with_callback(lambda _: None, look))
    found = results[0]["fit"]
    # NaN, where no score has to change, says nothing for the encoder.
    if not does_well(found["carried_r2"], found["carried_factor"], fork):
        bounds = {"least": LEAST_R2, "smallest": 1 / fork.times, "largest": fork.times}
        progress.note(not_carried_text(earlier, DOES_BADLY.format(**found, **bounds)))
        session.store.remove(results[0]["files"][0]["name"])
        return None
    found["step_seconds"] = float(np.mean(made.step_seconds)) if made.step_seconds else math.nan
    found |= cost.told(time.perf_counter() - began)
    shifts = [result["largest_shift"] for result in results]
    # The run of the check leaves out one kind of request only: what the others needed is known from the model before.
    if earlier.encoder.largest_shift is not None:
        shifts.append(earlier.encoder.largest_shift)
    entry = earlier.encoder.replaced(
        file=name,
        interactions=graph.interactions,
        largest_shift=max(shifts),
        carried_from=earlier.version,
        carried_r2=found["carried_r2"],
    )
    return entry, results
