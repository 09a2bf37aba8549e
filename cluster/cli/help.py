"""What `--help` shows of all commands: groups with an example each. And the options of `unlearnrec` itself."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

EXAMPLE = "Example: "
"""How the last line of a command's own `--help` begins."""
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


class PlainCommand(TyperCommand):
    """A command whose help does not show the Python types of its arguments, as in `TABLE <str>`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                shown: Any = parameter
                shown.display_type_rich = lambda ctx: None
        super().format_options(ctx, formatter)


class CommandGroup(TyperGroup):
    """Lists the commands under their headings, in the order of the table, with the whole of what each does."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[Any]] = {}
        known: dict[str, Any] = dict(self.commands)  # of typer, so each has its heading
        for command in known.values():
            groups.setdefault(str(command.rich_help_panel), []).append(command)
        width = max(map(len, self.commands))
        for heading, commands in groups.items():
            with formatter.section(heading):
                formatter.write_dl([(command.name.ljust(width), command.help) for command in commands])
                shown = (commands[0].epilog or "").removeprefix(EXAMPLE)
                formatter.write(f"{'':>{formatter.current_indent}}$ {shown}\n")
        formatter.write_paragraph()
        formatter.write_text("unlearnrec COMMAND --help shows a command's options and an example.")


def _version(wanted: bool) -> None:
    if wanted:
        from ... import __version__

        print(f"unlearnrec {__version__}")
        raise typer.Exit()


def _known(shell: str) -> str:
    if shell not in SHELLS:
        raise typer.BadParameter(f"{shell!r} is no shell that is known here. Choose one of {', '.join(SHELLS)}")
    return shell


def _show_completion(shell: str | None) -> None:
    if shell is not None:
        from typer.completion import get_completion_script

        print(get_completion_script(prog_name="unlearnrec", complete_var="_UNLEARNREC_COMPLETE", shell=_known(shell)))
        raise typer.Exit()


def _install_completion(shell: str | None) -> None:
    if shell is not None:
        from typer.completion import install

        _, path = install(shell=_known(shell), prog_name="unlearnrec", complete_var="_UNLEARNREC_COMPLETE")
        print(f"completion for {shell} is installed in {path}; it takes effect in a new shell")
        raise typer.Exit()


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    show_completion: Annotated[
        str | None,
        typer.Option(
            metavar="SHELL",
            callback=_show_completion,
            is_eager=True,
            help=f"Print the script that completes commands and options: {', '.join(SHELLS)}.",
        ),
    ] = None,
    install_completion: Annotated[
        str | None,
        typer.Option(metavar="SHELL", callback=_install_completion, is_eager=True, help="Install it for this shell."),
    ] = None,
) -> None:
    """Distributed training of graph recommenders that can forget on request."""
