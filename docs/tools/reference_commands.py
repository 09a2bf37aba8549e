"""Every command with its arguments and options, from the command line itself."""

from __future__ import annotations

from typing import Any

import typer

from unlearnrec.cluster.cli.app import TABLE, app
from unlearnrec.cluster.cli.help import EXAMPLE
from unlearnrec.cluster.commands.bench import benchmark_names

HEAD = """# Commands

Every command and option, made from the code of this version. `unlearnrec COMMAND --help` says the same.

Nearly all commands take these:

| option | does |
|---|---|
| `--config FILE`, `-c FILE` | the configuration, a YAML file ([all keys](configuration.md)) |
| `SECTION.KEY=VALUE` ... | values that count more than those of the file, such as `train.epochs=10` |
| `--json` | one JSON object as the last line on standard output; everything else goes to standard error |
| `--debug` | tracebacks of errors; also `UNLEARNREC_DEBUG=1` |

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed; the same command may succeed later |
| 2 | bad input or configuration; the message says what to change |
| 3 | a quality check failed |
"""
COMMON = {"config", "overrides", "json", "debug", "help"}


def commands_page() -> str:
    """Markdown: a heading for each group of commands, and below it one for each command."""
    group: Any = typer.main.get_command(app)
    lines = [HEAD]
    for heading, members in TABLE:
        lines += [f"## {heading}", ""]
        for function, _ in members:
            lines += _command(group.commands[function.__name__])
    names = ", ".join(f"`{name}`" for name in benchmark_names())
    lines += [f"Benchmarks: {names}. `unlearnrec bench NAME --help` has the options of each."]
    return "\n".join(lines) + "\n"


def _command(command: Any) -> list[str]:
    own = [p for p in command.params if p.name not in COMMON]
    # `--help` is asked, since it is the same for all versions of typer, of whose inner classes that does not hold.
    context = command.make_context(command.name, [], resilient_parsing=True)
    options = {p.name: p.get_help_record(context) for p in own if p.param_type_name == "option"}
    words = ["unlearnrec", command.name, *(p.metavar or p.name.upper() for p in own if p.name not in options)]
    words += [options[p.name][0].split(", ")[-1] for p in own if p.name in options and p.required]
    words += ["[OPTIONS]"] if any(not p.required for p in own if p.name in options) else []
    lines = [f"### {command.name}", "", _cell(command.help or ""), "", "```text", " ".join(words), "```", ""]
    if options:
        lines += ["| option | does |", "|---|---|"]
        lines += [f"| `{_code(name)}` | {_cell(about)} |" for name, about in options.values()]
        lines.append("")
    example = (command.epilog or "").removeprefix(EXAMPLE)
    return [*lines, f"Example: `{example}`", ""]


def _cell(text: str) -> str:
    """Text that may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;").replace("[", r"\[")


def _code(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
