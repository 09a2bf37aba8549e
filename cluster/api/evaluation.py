"""`Session.evaluate`: what the command `evaluate` measures, with values of Python in the place of its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...partitioning.errors import InputError
from ...workers import Workers
from ..commands import evaluate as command
from ..commands.evaluate_reference import compare_with_reference
from ..config.schema import Config, parse_config
from ..output.session import Session as OpenOutput
from ..reporting.progress import Progress
from .asked import Asked


def evaluate(
    config: Config,
    *,
    asked: Asked,
    reference: str | None,
    baselines: bool,
    sample: float | None,
    k: int | Sequence[int] | None,
    progress: Progress,
    group: Workers,
) -> dict[str, Any]:
    """The answer of the command. The arguments are those of `Session.evaluate`.

    Raises:
        InputError: as the command; or arguments that do not go together, or are out of range.
    """
    config = with_settings(config, sample, k)
    if reference is None:
        if asked.named:
            raise InputError(
                f"evaluate: {asked.named[0]} says what was forgotten, and is for reference=OUTPUT only. Without a reference "
                "leave it out; sample=N evaluates N users"
            )
        return command.evaluate(config, baselines=baselines, progress=progress, group=group)
    if not asked.named:
        raise InputError(
            "evaluate: reference needs what was forgotten: users, items, interactions or requests, as for `forget`"
        )
    if baselines or sample is not None:
        which = "baselines" if baselines else "sample"
        raise InputError(f"evaluate: {which} and reference do not go together: call evaluate once with each")
    request = asked.request(None, OpenOutput(config).options, b"", "evaluate")
    return compare_with_reference(config, reference, request, progress=progress, group=group)


def with_settings(config: Config, sample: float | None, k: int | Sequence[int] | None) -> Config:
    """The configuration with another sample of users and other cut-offs, where they are given.

    Raises:
        InputError: they are out of range. The message names the key of the configuration.
    """
    given: dict[str, Any] = {}
    if sample is not None:
        given["users"] = sample
    if k is not None:
        given["k"] = [k] if isinstance(k, int) else list(k)
    if not given:
        return config
    document = config.model_dump()
    return parse_config(document | {"evaluate": document["evaluate"] | given})
