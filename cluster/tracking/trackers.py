"""What a tracker is told, and the two that there are: TensorBoard and MLflow.

A tracker is called by one thread (`run.Sender`), which takes any exception for a tracker that is away. The packages are
imported there as well, since that takes seconds.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...partitioning.errors import InputError


@dataclass(frozen=True)
class Begin:
    """A command has begun."""

    command: str
    parameters: Mapping[str, str]
    """Values of the configuration, by dotted key."""


@dataclass(frozen=True)
class Point:
    """A point of a curve."""

    name: str
    value: float
    step: int


@dataclass(frozen=True)
class End:
    """The command has ended."""

    status: str
    """`finished`, or `failed` with the class of the error."""
    version: int | None
    """The version that it made or looked at."""
    measures: Mapping[str, float]
    texts: Mapping[str, str]


Event = Begin | Point | End


class Tracker(Protocol):
    """Takes the events of one command after another. Every call may fail."""

    name: str

    def open(self) -> None:
        """Import the package. It comes first."""

    def take(self, event: Event) -> None: ...


def require(package: str, extra: str, key: str) -> None:
    """Raise InputError if a package is not installed. extra: the extra that has it; key: of the configuration."""
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"tracking.{key} is set, and {package} is not installed. Run `pip install 'unlearnrec[{extra}]'`, or set "
            f"tracking.{key}=null"
        )


BY_VERSION = {"forget": "requests", "evaluate": "evaluate"}
"""Commands whose measures are points of a curve over the versions: all of them write into one folder of TensorBoard."""


class TensorBoard:
    """Event files below a folder: one folder for each training, and one for all requests and all evaluations."""

    name = "TensorBoard"

    def __init__(self, folder: str) -> None:
        """Raises InputError if the package is not installed."""
        require("tensorboard", "tensorboard", "tensorboard")
        self._folder = folder.rstrip("/")
        self._make: Any = None
        self._writer: Any = None
        self._command = ""

    def open(self) -> None:
        """As `Tracker.open`."""
        from torch.utils.tensorboard import SummaryWriter

        self._make = SummaryWriter

    def take(self, event: Event) -> None:
        """As `Tracker.take`."""
        if isinstance(event, Begin):
            # The process id tells runs apart that begin in the same second.
            run = BY_VERSION.get(event.command) or f"{event.command}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            self._writer, self._command = self._make(f"{self._folder}/{run}", flush_secs=10), event.command
            if self._command not in BY_VERSION:
                lines = "".join(f"    {key}: {value}\n" for key, value in event.parameters.items())
                self._writer.add_text("configuration", lines)
        elif isinstance(event, Point):
            self._writer.add_scalar(event.name, event.value, event.step)
        else:
            self._end(event)

    def _end(self, event: End) -> None:
        if self._command not in BY_VERSION or event.version is not None:
            for name, value in event.measures.items():
                self._writer.add_scalar(f"{self._command}/{name}", value, event.version or 0)
            texts = {"status": event.status, **event.texts}
            for name, text in texts.items():
                self._writer.add_text(f"{self._command}/{name}", text, event.version or 0)
        self._writer.close()


class MLflow:
    """A run for each command in one experiment."""

    name = "MLflow"

    def __init__(self, uri: str, experiment: str) -> None:
        """Raises InputError if the package is not installed."""
        require("mlflow", "mlflow", "mlflow")
        self._uri, self._experiment = uri, experiment
        self._client: Any = None
        self._entities: Any = None
        self._run = ""

    def open(self) -> None:
        """As `Tracker.open`."""
        # MLflow tells its makers of its use unless this is set.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient(tracking_uri=self._uri)

    def take(self, event: Event) -> None:
        """As `Tracker.take`."""
        if isinstance(event, Begin):
            tags = {"unlearnrec.command": event.command}
            self._run = self._client.create_run(self._experiment_id(), run_name=event.command, tags=tags).info.run_id
            parameters = [self._entities.Param(key, value[:MOST_CHARACTERS]) for key, value in event.parameters.items()]
            for first in range(0, len(parameters), MOST_PARAMETERS):
                self._client.log_batch(self._run, params=parameters[first : first + MOST_PARAMETERS])
        elif isinstance(event, Point):
            self._client.log_metric(self._run, _allowed(event.name), event.value, step=event.step)
        else:
            self._end(event)

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        return str(found.experiment_id if found is not None else self._client.create_experiment(self._experiment))

    def _end(self, event: End) -> None:
        now, step = int(time.time() * 1000), event.version or 0
        metrics = [self._entities.Metric(_allowed(name), value, now, step) for name, value in event.measures.items()]
        texts = {"status": event.status, **event.texts}
        if event.version is not None:
            texts["version"] = str(event.version)
        tags = [self._entities.RunTag(f"unlearnrec.{name}", text) for name, text in texts.items()]
        self._client.log_batch(self._run, metrics=metrics, tags=tags)
        self._client.set_terminated(self._run, "FINISHED" if event.status == "finished" else "FAILED")


MOST_CHARACTERS, MOST_PARAMETERS = 500, 100
"""What MLflow takes of a parameter, and in one call."""


def _allowed(name: str) -> str:
    """A name of a metric as MLflow takes it: it has no `@`."""
    return name.replace("@", "_at_")
