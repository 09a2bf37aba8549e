"""The exit codes of all commands. A submitted job's are those of its command."""

DONE = 0
FAILED = 1
BAD_INPUT = 2
GATE_FAILED = 3
"""A quality gate failed: the version was committed, and needs a retrain."""
