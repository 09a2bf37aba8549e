"""`run_processes` for functions of a test module: new processes cannot import it, so they get the function by value."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

from ray import cloudpickle

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.processes import run_processes


def run_by_value(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """`run_processes(size, function, *args)` for a function of a module that pytest alone can import."""
    cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
    return run_processes(size, _unpickled, cloudpickle.dumps(function), *args)


def _unpickled(comm: Comm, function: bytes, *args: Any) -> Any:
    return pickle.loads(function)(comm, *args)
