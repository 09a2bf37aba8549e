"""What somebody does after a command: the next one, or the same one again after Ctrl-C."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..reporting.exit_codes import DONE, GATE_FAILED

NEXT = {
    "quickstart": "init your-table.parquet --to run.yaml",
    "init": "ingest",
    "ingest": "train",
    "train": "pretrain",
    "pretrain": "forget --users ID,ID --dry-run",
    "retrain": "evaluate",
    "rollback": "evaluate",
    "evaluate": "export --to exported",
    "forget": "purge",
    "purge": "residue",
    "lift": "ingest",
}


def next_command(arguments: Sequence[str], code: int) -> str | None:
    """The command line that usually follows this one, for the same configuration; None where nothing does."""
    command = arguments[0] if arguments else ""
    follows = NEXT.get(command) if code == DONE else None
    if command == "forget":
        if code == GATE_FAILED:
            follows = "retrain"
        elif "--dry-run" in arguments:
            follows = None  # the same command without it, as everybody knows
    if follows is None or "--help" in arguments or "--without" in arguments or "--reference" in arguments:
        return None
    return shlex.join(["unlearnrec", *follows.split(), *_configuration(command, arguments)])


def interrupted(arguments: Sequence[str]) -> str:
    """What is said after Ctrl-C."""
    if not arguments or arguments[0] not in ("train", "retrain"):
        return "interrupted"
    line = shlex.join(["unlearnrec", *arguments, *([] if "--resume" in arguments else ["--resume"])])
    return f"interrupted. `{line}` goes on from the last checkpoint, if one was written"


FLAGS = ("--json", "--debug", "--resume", "--dry-run", "--once", "--now", "--truncate-log")
"""Options without a value."""


def _is_value(before: str) -> bool:
    """Whether what stands behind this argument is the value of an option."""
    return before.startswith("-") and "=" not in before and before not in FLAGS


def _configuration(command: str, arguments: Sequence[str]) -> list[str]:
    """`--config` and the overrides of a command line; of `init` the file that it wrote."""
    option = ("--to",) if command == "init" else ("--config", "-c")
    found: list[str] = []
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if argument in option and place + 1 < len(arguments):
            found += ["--config", arguments[place + 1]]
        elif name in option and equals:
            found += ["--config", value]
        # What stands behind another option is its value, such as a path with an `=`; `init` has overrides in its file.
        elif equals and command != "init" and not argument.startswith("-") and not _is_value(arguments[place - 1]):
            found.append(argument)
    return found
