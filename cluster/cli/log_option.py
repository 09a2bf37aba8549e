"""`--log-format`, an option that all commands have: how a command tells its log, and that its spans are sent."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from ..reporting.logs import VARIABLE, LogFormat, telling
from ..reporting.spans import send_spans

NAME = "log_format"
SERVICES = ("serve", "watch")
"""Commands that run on: they tell of each change of a request's state, also where no format is asked for."""
LogFormatOption = Annotated[
    LogFormat | None,
    typer.Option(
        f"--{NAME.replace('_', '-')}",
        envvar=VARIABLE,
        show_default=False,
        help="Log lines on stderr for people (text) or machines (json), which name requests and never people.",
    ),
]


def with_log_format(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with one more option, under the same name."""
    default: LogFormat | None = "text" if command.__name__ in SERVICES else None

    @functools.wraps(command)
    def call(*arguments: Any, log_format: LogFormat | None = None, **keywords: Any) -> Any:
        with telling(log_format or default):
            send_spans()
            return command(*arguments, **keywords)

    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    option = inspect.Parameter(NAME, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=LogFormatOption)
    own = [each.replace(annotation=hints.get(each.name, each.annotation)) for each in signature.parameters.values()]
    call.__signature__ = signature.replace(parameters=[*own, option])  # type: ignore[attr-defined]
    call.__annotations__ = {**hints, NAME: LogFormatOption}
    return call
