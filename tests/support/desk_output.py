"""An output with requests in every state, and the real intake on it; no workers, so that nothing is carried out."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_output import commit_encoder, commit_forget, commit_train, small_config, user_name, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config
from unlearnrec.cluster.evidence.report import add_evidence
from unlearnrec.cluster.lifecycle import acceptance
from unlearnrec.cluster.lifecycle.operators import approve_request, cancel_request
from unlearnrec.cluster.log.records import FAILED, HELD
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.requests.request import parse_request
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.service import Service

GATE = {
    "status": "missed",
    "measures": {
        "user_gap_closed": {"value": 0.31, "error": 0.04},
        "recall_loss": {"value": 0.0123, "error": 0.004, "users": 1200, "before": 0.1834, "after": 0.1811},
        "largest_change": {"value": 0.8},
    },
    "bounds": {"user_gap_closed": 0.5, "recall_loss": 0.05, "largest_change": 2.0},
    "missed": ["user_gap_closed"],
}
ANSWER = {"matched": True, "removed_interactions": 4, "deleted_users": 1, "seconds": 1.5, "gate": GATE}
GRACE, DEADLINE_HOURS = 3600.0, 720.0


@dataclass
class Desk:
    """An output and the service that answers for it."""

    config: Config
    session: Session
    intake: Intake
    service: Service


def accept_for(session: Session, request_id: str, requester: str | None = None, user: int = 1) -> None:
    request = parse_request(user_name(user), None, None, None, request_id, session.options)
    acceptance.accept(session, request, requester)


def desk_output(folder: Path, encoder: bool = False, **more: Any) -> Desk:
    """Requests `waiting`, `held`, `approved`, `failed`, `cancelled` and `done`, the last with its evidence."""
    settings = {"forget": {"grace_seconds": GRACE, "deadline_hours": DEADLINE_HOURS}, **more}
    config = small_config(write_interactions(folder / "interactions.parquet"), str(folder / "output"), **settings)
    pipeline.ingest(config)
    commit_train(config)
    if encoder:
        commit_encoder(config)
    session = Session(config)
    commit_forget(config, user_name(3), "done", **ANSWER)
    add_evidence(session, [session.ledger().tickets["done"].describe()], None)
    for name in ("waiting", "held", "approved", "failed", "cancelled"):
        time.sleep(0.01)  # those that were accepted at the same moment are listed by their ids
        accept_for(session, name, "support" if name != "waiting" else None)
    for name in ("held", "approved"):
        acceptance.append_step(session, name, HELD, {"share": 0.35})
    approve_request(session, "approved", "privacy-lead")
    acceptance.append_step(session, "failed", FAILED, {"error": "WorkerFailure"})
    cancel_request(session, "cancelled")
    intake = Intake(session)
    return Desk(config, session, intake, Service(session, intake, engine=None))


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The application on a free port of this machine; the value is its address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=5)
