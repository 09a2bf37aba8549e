"""The section on trackers of experiments."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from .section import Section


def _no_password(value: str) -> str:
    if "@" in urlsplit(value).netloc:
        raise ValueError(
            "tracking.mlflow: the URI has a user or a password in it, and the configuration is kept with the output. Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, instead"
        )
    return value


class Tracking(Section):
    """Trackers that are told of trainings, versions and requests (docs/tracking.md). They get no ids of users, items or
    requests."""

    tensorboard: str | None = None
    """A folder for TensorBoard, into which each command writes its curves and measures. Needs the extra `tensorboard`."""
    mlflow: Annotated[str, AfterValidator(_no_password)] | None = None
    """The URI of an MLflow tracking server, such as http://host:5000, or sqlite:///FILE. Needs the extra `mlflow`."""
    experiment: str = Field("unlearnrec", min_length=1)
    """The name of the experiment of MLflow under which the runs stand."""
