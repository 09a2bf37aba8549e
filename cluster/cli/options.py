"""What the commands have in common: options, and the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False)]
# `app.run` reads these two from the arguments itself, because they must also hold when parsing fails.
Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks; also UNLEARNREC_DEBUG=1.")]


def load_configuration(path: Path | None, overrides: list[str] | None) -> Any:
    """Every command does this first, so that a mistake in the configuration shows before torch and Ray are loaded."""
    from ..config.schema import load_config

    return load_config(path, overrides or [])
