"""A forgotten user over HTTP, from before the commit to the next readouts, and when the process fails in between."""

import numpy as np
import pytest

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient
from small_output import commit_train, item_name, small_config, user_name, without_request, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.commands.serve import admission_rules
from unlearnrec.cluster.http.app import make_app
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.readouts import Readouts, living_ids
from unlearnrec.cluster.serving.service import Service

GONE, STAYS = user_name(1), user_name(2)


class Engine:
    """Commits a version without the users named, as `carry_out` does, and looks at every moment."""

    def __init__(self, session, look):
        self.session, self.look, self.error = session, look, None

    def carry_out(self, requests, before_commit):
        session = self.session
        head, version, number = session.log.head(), session.version(), session.versions.next_number()
        manifest = without_request(session, version, number, requests[0].users[0])
        request_id = requests[0].request_id
        answer = {"request_id": request_id, "status": "committed", "version": number, "affected_partitions": [0, 1]}
        manifest = manifest.replaced(reason="forget", lake_graph=manifest.graph, answers={request_id: answer})
        self.look("before")
        before_commit(manifest)
        self.look("hidden")
        session.versions.commit(manifest, after=head)
        self.look("committed")
        if self.error is not None:
            raise self.error

    def readouts(self, version):
        self.look("refresh")
        users, items = map(sorted, living_ids(self.session, version))
        return Readouts(
            version=version.version,
            users={name: place for place, name in enumerate(users)},
            items=items,
            user_rows=np.ones((len(users), 2), np.float32),
            item_rows=np.ones((len(items), 2), np.float32),
            seen_indptr=np.zeros(len(users) + 1, np.int64),
            seen=np.empty(0, np.int32),
            item_there=np.ones(len(items), bool),
        )


@pytest.mark.parametrize("error", [None, OSError("the refresh failed")])
def test_a_forgotten_user_is_not_served_from_the_commit_on(tmp_path, error):
    config = small_config(write_interactions(tmp_path / "interactions.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    seen = []

    def look(moment):
        codes = tuple(client.get(f"/v1/recommendations/{user}").status_code for user in (GONE, STAYS))
        seen.append((moment, *codes))

    engine = Engine(Session(config), look)
    engine.error = error
    service = Service(Session(config), Intake(Session(config)), engine)
    client = TestClient(make_app(service, admission_rules(config.serve, "127.0.0.1")), base_url="http://127.0.0.1")
    service.tick()
    shown = client.get(f"/v1/recommendations/{STAYS}?k=1").json()
    assert shown == {"version": 1, "recommendations": [{"item_id": item_name(0), "score": 2.0, "rank": 1}]}
    assert client.post("/v1/requests/r", json={"users": [GONE]}).status_code == 202
    service.tick()
    look("after")
    service._not_before = 0.0  # the pause after a failure is over
    service.tick()
    look("end")
    middle = [("before", 200, 200), ("hidden", 404, 200), ("committed", 404, 200), ("after", 404, 200)]
    assert seen == [("refresh", 503, 503), *middle, ("refresh", 404, 200), ("end", 404, 200)]
    assert client.get("/v1/requests/r").json()["request_status"] == "completed"
    assert client.get(f"/v1/recommendations/{STAYS}").json()["version"] == 2
