"""Distributed training of graph recommenders that can forget on request.

From Python, `unlearnrec.Session` is the way in (docs/python.md); on a command line, `unlearnrec --help`. Behind both are the
four folders `unlearnrec.partitioning` (data at rest), `unlearnrec.distributed` (the mathematics as SPMD torch),
`unlearnrec.workers` (Ray actors) and `unlearnrec.cluster` (configuration, versions, commands). Importing this module imports
none of them; a name of `__all__` is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cluster.api.handle import ForgetRequest
    from .cluster.api.lifetime import SessionClosed
    from .cluster.api.session import Session
    from .distributed.backbones import Backbone
    from .distributed.graph.propagation import Layer
    from .partitioning.errors import InputError

__version__ = "0.1.0"

__all__ = ["Backbone", "ForgetRequest", "InputError", "Layer", "Session", "SessionClosed", "__version__"]

_HOMES = {
    "Backbone": "distributed.backbones",
    "ForgetRequest": "cluster.api.handle",
    "InputError": "partitioning.errors",
    "Layer": "distributed.graph.propagation",
    "Session": "cluster.api.session",
    "SessionClosed": "cluster.api.lifetime",
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
