"""The commands as functions, for Python and for tests. Each takes a configuration; its body is in `commands/`."""

from __future__ import annotations

from .commands.approve import approve
from .commands.audit import audit
from .commands.cancel import cancel
from .commands.drop import drop
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.forget import forget
from .commands.ingest import ingest
from .commands.lift import lift
from .commands.plan import plan
from .commands.pretrain import pretrain
from .commands.purge import purge
from .commands.residue import residue
from .commands.retrain import retrain
from .commands.rollback import rollback
from .commands.status import status
from .commands.train import train
from .commands.verify import verify
from .commands.watch import watch

__all__ = [
    "approve",
    "audit",
    "cancel",
    "drop",
    "evaluate",
    "export",
    "forget",
    "ingest",
    "lift",
    "plan",
    "pretrain",
    "purge",
    "residue",
    "retrain",
    "rollback",
    "status",
    "train",
    "verify",
    "watch",
]
