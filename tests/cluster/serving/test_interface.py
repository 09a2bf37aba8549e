"""What only hands calls on hands on every call, with its arguments, and raises what is raised there."""

import inspect
from types import SimpleNamespace

import pytest

from unlearnrec.cluster.lifecycle.refusals import TooMany
from unlearnrec.cluster.serving.actor import MEMORY, Coordinator
from unlearnrec.cluster.serving.interface import ForwardsAll, NewRequest, ServiceInterface
from unlearnrec.cluster.serving.listing import RequestQuery
from unlearnrec.cluster.serving.remote_service import RemoteService
from unlearnrec.cluster.serving.service import Service

CALLS = {
    "accept": (NewRequest(["ann"], request_id="r"),),
    "status": ("r",),
    "cancel": ("r",),
    "approve": ("r", "Bob"),
    "requests": (RequestQuery(text="r"),),
    "timeline": ("r",),
    "document": ("r", "evidence.json"),
    "preview": (NewRequest(["ann"]),),
    "versions": (None, 20),
    "suppressed": (),
    "recommendations": ("ann", 3),
    "health": (),
    "gauges": (),
}


def asked_names():
    return {name for name, _ in inspect.getmembers(ServiceInterface, inspect.isfunction) if not name.startswith("_")}


class Recorder(ForwardsAll):
    def __init__(self):
        self.calls = []

    def forward(self, method, *arguments, **keywords):
        self.calls.append((method.__name__, arguments, keywords))
        return len(self.calls)


def test_every_method_of_the_interface_is_forwarded():
    recorder = Recorder()
    assert asked_names() == set(CALLS)
    for number, (name, arguments) in enumerate(CALLS.items(), start=1):
        assert getattr(recorder, name)(*arguments) == number
        assert recorder.calls[-1] == (name, arguments, {})


def test_a_service_asks_its_intake_about_requests():
    service = Service(SimpleNamespace(), Recorder(), engine=None)
    assert service.accept(*CALLS["accept"]) == 1 and service.approve("r", "Bob") == 2
    assert service.intake.calls == [("accept", CALLS["accept"], {}), ("approve", CALLS["approve"], {})]


def test_the_actor_answers_nothing_before_it_has_started_and_keeps_threads_for_calls_from_memory():
    coordinator = object.__new__(Coordinator)
    coordinator._service = None
    for name, arguments in CALLS.items():
        with pytest.raises(ConnectionError, match="not started"):
            getattr(coordinator, name)(*arguments)
    # Ray looks at the innermost function.
    methods = {name: inspect.unwrap(getattr(Coordinator, name)) for name in CALLS}
    groups = {name: getattr(method, "__ray_concurrency_group__", None) for name, method in methods.items()}
    assert groups == dict.fromkeys(CALLS) | {"recommendations": MEMORY, "health": MEMORY}


def test_what_the_actor_raises_is_raised_here(monkeypatch):
    from unlearnrec.cluster.serving import remote_service as module

    def get(name, timeout):
        if name == "accept":
            raise module.RayTaskError("accept", "", TooMany(7))
        raise module.GetTimeoutError("too long")

    monkeypatch.setattr(module.ray, "get", get)
    actor = SimpleNamespace(
        **{name: SimpleNamespace(remote=lambda *_, name=name: name) for name in ("accept", "status", "health")}
    )
    service = RemoteService(actor)
    with pytest.raises(TooMany) as refused:
        service.accept(NewRequest(["ann"]))
    assert refused.value.seconds == 7
    with pytest.raises(ConnectionError):
        service.status("r")
    assert service.health()["blocked"] == "the coordinator is being restarted"
