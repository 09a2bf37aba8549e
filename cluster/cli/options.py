"""What the commands have in common: options, and the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="The configuration, in YAML.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.KEY=VALUE", show_default=False, help="Values of the configuration: train.epochs=10."
    ),
]
# `app.run` reads these two from the arguments itself, because they must also hold when parsing fails.
Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks; also UNLEARNREC_DEBUG=1.")]


def load_configuration(
    path: Path | None,
    overrides: list[str] | None,
    holds: Literal["table", "graph", "model"] | None = None,
    reference: str | None = None,
    **named: Any,
) -> Any:
    """Every command does this first, so that the usual mistakes show before torch and Ray are loaded (`output.ready`).

    Args:
        holds: what must be there for this command: the table of interactions, or a graph or a model in the output.
        reference: another output, which must hold a model.
        named: options of the command that may be files, as `parse_request` takes them, and `without`, a list of files.
    """
    from ..config.schema import load_config

    config = load_config(path, overrides or [])
    if holds is None:
        return config
    from ..output import ready

    if holds == "table":
        ready.check_named(config, {"interactions": config.interactions})
    elif holds == "graph":
        ready.check_ingested(config)
    else:
        ready.check_trained(config, reference)
    ready.check_named(config, named)
    return config
