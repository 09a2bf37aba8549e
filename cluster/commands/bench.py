"""`bench`: find the benchmarks, which are the modules of benchmarks/ with a function `main`, and run one as a process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ...partitioning.errors import InputError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def benchmark_names() -> list[str]:
    """The names of the benchmarks, found without importing them."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if _has_main(path))


def _has_main(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


def run_benchmark(name: str, arguments: Sequence[str]) -> int:
    """Run `python -m unlearnrec.benchmarks.NAME ARGUMENTS` and return its exit code.

    Raises:
        InputError: there is no such benchmark. The message lists those that there are.
    """
    if name not in benchmark_names():
        raise InputError(f"bench {name}: no such benchmark; there are: {', '.join(benchmark_names()) or 'none yet'}")
    return subprocess.run([sys.executable, "-m", f"unlearnrec.benchmarks.{name}", *arguments], check=False).returncode
