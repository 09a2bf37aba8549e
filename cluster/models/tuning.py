"""`train --tune`: try the combinations of a small grid on validation interactions with Ray Tune, and take the best."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from typing import Any

from ...distributed.graph.removal import Removal
from ...partitioning.errors import InputError
from ...workers.connection import connect_to_ray
from ..config.schema import Config, parse_config
from ..output.ingests import lake_graph
from ..output.session import Session, absolute
from ..reporting.progress import SILENT, Progress
from .training import make_run
from .validation import Choice, validate

SECTIONS = ("train", "backbone")
SHARE = 0.1
"""validation.share while tuning, if the configuration holds nothing out."""
MOST = 64
"""The largest number of combinations."""

Settings = dict[str, Any]
"""Values by key, such as {"train.learning_rate": 0.01}."""


def combinations(config: Config) -> list[Settings]:
    """What is tried: all combinations of the grid of the section `tune`.

    Raises:
        InputError: a key is of another section, there are more than MOST, or one is no valid configuration.
    """
    rate = config.train.learning_rate
    grid: Mapping[str, list[Any]] = config.tune.grid or {"train.learning_rate": [rate / 2, rate, rate * 2]}
    for key, values in grid.items():
        if key.partition(".")[0] not in SECTIONS or not key.partition(".")[2]:
            raise InputError(
                f"tune.grid: {key!r}: expected a key of `train` or `backbone`, such as train.learning_rate"
            )
        if not values:
            raise InputError(f"tune.grid: {key}: has no values")
    found = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if len(found) > MOST:
        raise InputError(f"tune.grid: {len(found)} combinations; at most {MOST} are tried. Leave values out")
    for settings in found:
        with_settings(config, settings)
    return found


def with_settings(config: Config, settings: Settings) -> Config:
    """The configuration with these values.

    Raises:
        InputError: one is not valid. The message names its key.
    """
    document = config.model_dump()
    for key, value in settings.items():
        section, _, name = key.partition(".")
        document[section] = document[section] | {name: value}
    return parse_config(document)


def tuned_config(config: Config, progress: Progress) -> tuple[Config, dict[str, Any]]:
    """(the configuration with the best settings, what was tried). The configuration has a validation share, so that the
    number of epochs is chosen for these settings as well.

    Each combination is a trial of Ray Tune, which starts the workers of one training. As many run at once as the cluster
    holds. The model is not trained here.

    Raises:
        InputError: as `combinations` and `lake_graph`; Ray Tune is not installed; or every trial failed.
    """
    tried = combinations(config)
    if not config.validation.share:
        config = config.model_copy(update={"validation": config.validation.model_copy(update={"share": SHARE})})
    lake_graph(Session(config))  # raises if there is no graph, before Ray is started
    try:
        import ray
        from ray import tune
    except ImportError as error:
        raise InputError(f"train --tune needs Ray Tune ({error}): pip install 'unlearnrec[tune]'") from None
    metric = f"{config.validation.metric}@{config.evaluate.k[0]}"
    # A trial has a working directory of its own.
    document = config.model_dump() | {"output": absolute(config.output)}
    owns_ray = connect_to_ray(config.cluster.address)
    try:
        needed = config.cluster.partitions * max(config.cluster.cpus_per_worker, 1e-9)
        at_once = max(1, int(ray.cluster_resources().get("CPU", 1) // needed))
        with (
            tempfile.TemporaryDirectory(prefix="unlearnrec-tune-") as folder,
            progress.task("tune", len(tried)) as task,
        ):

            class Counting(tune.Callback):
                """Counts the trials that ended. Tune pickles its callbacks: this one is then empty."""

                def on_trial_complete(self, *_: Any, **__: Any) -> None:
                    task.advance()

                def on_trial_error(self, *_: Any, **__: Any) -> None:
                    task.advance()

                def __reduce__(self) -> Any:
                    return (tune.Callback, ())

            tuner = tune.Tuner(
                # The trial itself only waits for its workers, which have CPUs of their own. Tune wants it to need something.
                tune.with_resources(tune.with_parameters(_trial, document=document), {"memory": 1}),
                param_space={"settings": tune.grid_search(tried)},
                tune_config=tune.TuneConfig(metric=metric, mode="max", max_concurrent_trials=at_once),
                run_config=tune.RunConfig(storage_path=folder, verbose=0, callbacks=[Counting()]),
            )
            results = tuner.fit()
    finally:
        if owns_ray:
            ray.shutdown()
    trials = []
    for settings, result in zip(tried, (results[n] for n in range(len(results))), strict=True):
        row: dict[str, Any] = {"settings": settings}
        if result.error is not None:
            row["error"] = str(result.error).strip().splitlines()[-1]
        else:
            row |= {name: (result.metrics or {})[name] for name in (metric, "epochs", "seconds")}
        trials.append(row)
    done = [trial for trial in trials if metric in trial]
    if not done:
        raise InputError(f"train --tune: all {len(trials)} trials failed; the first with: {trials[0]['error']}")
    best = max(done, key=lambda trial: trial[metric])
    shown = ", ".join(f"{key}={value}" for key, value in best["settings"].items())
    progress.note(f"tune: the best of {len(trials)} is {shown}, {metric} {best[metric]:.4f}")
    return with_settings(config, best["settings"]), {"trials": trials, "best": best}


def _trial(config: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """One trial: the best validation measure of a combination. It runs in a process of Ray Tune.

    config: {"settings": the combination}. document: the configuration as a dictionary."""
    settings = with_settings(parse_config(document), config["settings"])
    session = Session(settings)
    graph = lake_graph(session)
    run = make_run(settings, graph, Removal())
    with session.workers(None) as workers:
        choice: Choice = validate(session, workers, graph, run, SILENT)
    return {choice.metric: choice.value, "epochs": choice.epochs, "seconds": choice.curve[-1]["seconds"]}
