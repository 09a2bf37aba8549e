"""What somebody does after a command: the next one, or the same one again after Ctrl-C."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..reporting.exit_codes import DONE, GATE_FAILED

NEXT = {
    "quickstart": "init your-table.parquet --to run.yaml",
    "init": "ingest",
    "doctor": "ingest",
    "plan": "train",
    "ingest": "train",
    "train": "pretrain",
    "pretrain": "forget --users ID,ID --dry-run",
    "retrain": "evaluate",
    "rollback": "evaluate",
    "evaluate": "export --to exported",
    "export": "serve",
    "forget": "purge",
    "watch": "purge",
    "drop": "purge",
    "approve": "status",
    "cancel": "status",
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
        elif code == DONE and "--dry-run" in arguments:
            return shlex.join(["unlearnrec", *(argument for argument in arguments if argument != "--dry-run")])
    elif command == "doctor" and not _configuration(command, arguments):
        follows = "quickstart"
    elif command == "plan" and "--for" in arguments[:-1]:
        planned = arguments[arguments.index("--for") + 1]
        follows = f"{planned} --users ID,ID" if planned == "forget" else planned
    if follows is None or "--help" in arguments or "--without" in arguments or "--reference" in arguments:
        return None
    return shlex.join(["unlearnrec", *follows.split(), *_configuration(command, arguments)])


GOES_ON = {
    "pretrain": "goes on where it was: counterfactual runs that had ended are kept",
    "forget": "carries the request out, if it was accepted already",
}
"""What the same command does after Ctrl-C, where that is no matter of course."""


def interrupted(arguments: Sequence[str]) -> str:
    """What is said after Ctrl-C."""
    command = arguments[0] if arguments else ""
    if command in GOES_ON:
        return f"interrupted. `{shlex.join(['unlearnrec', *arguments])}` {GOES_ON[command]}"
    if command not in ("train", "retrain"):
        return "interrupted"
    line = shlex.join(["unlearnrec", *arguments, *([] if "--resume" in arguments else ["--resume"])])
    return f"interrupted. `{line}` goes on from the last checkpoint, if one was written"


FLAGS = {
    "--accept-only",
    "--baselines",
    "--cluster",
    "--debug",
    "--detached",
    "--dry-run",
    "--from-now",
    "--json",
    "--now",
    "--once",
    "--own-seeds",
    "--resume",
    "--stop",
    "--truncate-log",
    "--tune",
    "--verify",
    "--wait",
}
"""Options without a value, of all commands."""


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
