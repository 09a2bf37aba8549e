"""`python -m unlearnrec COMMAND ...`: the same commands where scripts are not on the PATH, as inside a Ray job.

A job has this package whatever its cluster has installed, and `python` there may be another one than Ray's. So this file and
the package's `__init__.py` run on Pythons that are too old, and without any dependency, to say so.
"""

import sys

LOWEST = (3, 11)
BAD_INPUT = 2
"""As in `cluster.reporting.exit_codes`, which may not be there to be imported."""
REMEDY = (
    "install unlearnrec there; in a job of `unlearnrec submit`, `python` on the PATH of `ray start` must be that of the "
    "environment which has Ray and unlearnrec's dependencies, on every machine of the cluster (docs/jobs.md)"
)


def main() -> None:
    """Run the command; exit code 2 if this Python cannot."""
    here = f"{sys.executable} (Python {sys.version_info[0]}.{sys.version_info[1]})"
    if sys.version_info < LOWEST:
        fail(f"{here} is too old for unlearnrec, which needs {LOWEST[0]}.{LOWEST[1]} or newer: {REMEDY}")
    try:
        from .cluster.cli.app import main as run_command
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__package__ or "unlearnrec"):
            raise
        fail(f"{here} has no module {error.name}: {REMEDY}")
    run_command()


def fail(reason: str) -> None:
    """Say why on stderr and end this process."""
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
