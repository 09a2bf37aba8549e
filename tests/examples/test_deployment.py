"""The folder for deployment, as far as it can be checked without a cluster: by the schemas and tools that there are."""

import datetime as dt
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kuberay_schema
import pytest
import typer
import yaml

import unlearnrec
from unlearnrec.cluster.cli.app import app
from unlearnrec.cluster.config.schema import load_config
from unlearnrec.cluster.http.tokens import SCOPES, load_tokens
from unlearnrec.cluster.reporting.prometheus import PREFIX, family_name
from unlearnrec.cluster.serving.families import FAMILIES

FOLDER = Path(unlearnrec.__file__).parent / "examples" / "deployment"
MANIFESTS = sorted(path for path in (FOLDER / "kuberay").glob("*.yaml") if path.name != "helm-values.yaml")
KUBERNETES = "1.31"
IMAGE = "registry.example/unlearnrec:0.1.0"
LONGEST_DAYS = 45
"""How often a broker has to fetch DROP's lists at least (docs/drop.md)."""


def documents() -> list[tuple[str, dict[str, Any]]]:
    """(name for the test, document) of all manifests."""
    found = [(path.stem, doc) for path in MANIFESTS for doc in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return [(f"{stem}-{doc['kind']}-{doc['metadata']['name']}", doc) for stem, doc in found]


DOCUMENTS = documents()
EACH = pytest.mark.parametrize("document", [doc for _, doc in DOCUMENTS], ids=[name for name, _ in DOCUMENTS])


def inside(value: Any, key: str) -> Iterator[Any]:
    """All values under this key, however deep."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from inside(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from inside(inner, key)


# ---- Kubernetes and KubeRay -------------------------------------------------------------------------------------------


@EACH
def test_a_manifest_has_the_fields_that_there_are(document: dict[str, Any]):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    if document["kind"].startswith("Ray"):
        jsonschema.validate(document, kuberay_schema.schema(document["kind"]))
        for template in inside(document["spec"], "template"):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_schema_refuses_what_is_misspelt():
    spec = {"headGroupSpec": {"template": {}}, "authOption": {}}
    document = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "x"}, "spec": spec}
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.validate(document, kuberay_schema.schema("RayCluster"))


@EACH
def test_a_pod_has_what_it_mounts_and_nothing_of_roots(document: dict[str, Any]):
    pods = [spec for spec in inside(document, "spec") if isinstance(spec, dict) and "containers" in spec]
    for pod in pods:
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        assert pod["securityContext"]["runAsNonRoot"] and pod["serviceAccountName"].startswith("unlearnrec")
        for container in pod["containers"]:
            assert (
                container["image"] == IMAGE and container["resources"]["limits"] == container["resources"]["requests"]
            )
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    accounts = {doc["metadata"]["name"] for _, doc in DOCUMENTS if doc["kind"] == "ServiceAccount"}
    assert {pod["serviceAccountName"] for pod in pods} <= accounts


def test_clusters_ask_for_a_token_and_the_lasting_ones_survive_their_head():
    assert sum(len(clusters_of(doc)) for _, doc in DOCUMENTS) == 4
    for _, doc in DOCUMENTS:
        for spec in clusters_of(doc):
            assert spec["authOptions"]["mode"] == "token" and spec["enableInTreeAutoscaling"]
            lasting = doc["kind"] in ("RayCluster", "RayService")
            assert ("gcsFaultToleranceOptions" in spec) == lasting
            assert spec["rayVersion"] == pinned("ray")


def clusters_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    specs = [*inside(document, "rayClusterSpec"), *inside(document, "rayClusterConfig")]
    return specs + ([document["spec"]] if document["kind"] == "RayCluster" else [])


def pinned(package: str) -> str:
    text = (FOLDER.parent.parent / "constraints.txt").read_text(encoding="utf-8")
    return re.search(rf"(?m)^{package}==(.+)$", text)[1]


def test_the_workers_fit_into_the_pods():
    cluster = load_config(FOLDER / "run.yaml", []).cluster
    for _, doc in DOCUMENTS:
        for spec in clusters_of(doc):
            [group] = spec["workerGroupSpecs"]
            [container] = group["template"]["spec"]["containers"]
            assert cluster.spread and cluster.cpus_per_worker <= float(container["resources"]["limits"]["cpu"])
            assert (
                group["maxReplicas"] >= cluster.partitions
                and spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
            )


def test_the_service_is_an_application_that_ray_serve_takes():
    schemas = pytest.importorskip("ray.serve.schema")
    from unlearnrec.cluster.commands import serve_detached

    [service] = [doc for _, doc in DOCUMENTS if doc["kind"] == "RayService"]
    parsed = schemas.ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    [application] = parsed.applications
    module, _, name = application.import_path.partition(":")
    assert module == serve_detached.__name__ and getattr(serve_detached, name) is serve_detached.application
    assert application.args["config"] == "/etc/unlearnrec/run.yaml"
    assert not parsed.logging_config.enable_access_log  # paths name users


# ---- commands and schedules -------------------------------------------------------------------------------------------


def commands() -> list[str]:
    """All command lines in manifests and in the comments of files."""
    found = []
    for _, document in DOCUMENTS:
        found += inside(document, "entrypoint")
        found += [shlex.join(line) for line in inside(document, "command")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.yaml"))
    return found + re.findall(r"#.*?(unlearnrec submit .*)$", text, re.MULTILINE)


@pytest.mark.parametrize("line", commands())
def test_a_command_is_one_of_the_command_line(line: str):
    group: Any = typer.main.get_command(app)
    program, name, *arguments = shlex.split(line)
    assert program == "unlearnrec"
    values = group.commands[name].make_context(name, arguments).params  # raises for an option that is not there
    if name == "submit":
        name, *arguments = values["command"]
        assert values["address"] == "http://127.0.0.1:8265" and name in group.commands
        group.commands[name].make_context(name, arguments)
    else:
        assert values["config"] == Path("/etc/unlearnrec/run.yaml") and not values["overrides"]


def days_between(schedule: str) -> int:
    """The longest time in days between two runs of a cron schedule whose fields are *, */N, N or N,M."""
    _, _, day, month, weekday = schedule.split()
    assert month == "*"

    def means(field: str, value: int) -> bool:
        if field.startswith("*"):
            return value % int(field[2:] or 1) == 0 if "/" in field else True
        return value in map(int, field.split(","))

    days = [dt.date(2026, 1, 1) + dt.timedelta(n) for n in range(800)]
    runs = [date for date in days if means(day, date.day) and means(weekday, date.isoweekday() % 7)]
    return max((later - earlier).days for earlier, later in itertools.pairwise(runs))


def test_what_the_law_limits_runs_often_enough():
    assert days_between("0 5 1 * *") == 31 and days_between("0 5 29 * *") == 59 and days_between("0 5 * * 0") == 7
    found = {
        doc["metadata"]["name"]: doc["spec"]["schedule"] for _, doc in DOCUMENTS if doc["kind"].endswith("CronJob")
    }
    assert found.keys() == {"unlearnrec-watch", "unlearnrec-purge", "unlearnrec-drop"}
    assert all(days_between(schedule) <= LONGEST_DAYS for schedule in found.values())
    # A DROP batch that waits for something is run once more before the limit.
    assert 2 * days_between(found["unlearnrec-drop"]) <= LONGEST_DAYS


# ---- configuration and tokens -----------------------------------------------------------------------------------------


def test_the_configuration_is_one():
    config = load_config(FOLDER / "run.yaml", [])
    assert config.output == "s3://my-models/recommender" and config.cluster.address is None


def test_tokens_are_what_the_service_reads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("UNLEARNREC_TOKEN", raising=False)
    tokens = load_tokens("UNLEARNREC_TOKEN", str(FOLDER / "tokens.json"))
    scopes = {token.name: set(token.scopes) for token in tokens}
    assert scopes["prometheus"] == {"metrics:read"} and set().union(*scopes.values()) == set(SCOPES)
    assert not scopes["privacy-desk"] & {"requests:approve"}  # nobody approves what they asked for


# ---- metrics ----------------------------------------------------------------------------------------------------------

EXPRESSION = re.compile(rf"\b{PREFIX}[a-z0-9_]+")


def expressions() -> list[str]:
    rules = yaml.safe_load((FOLDER / "monitoring" / "alerts.yaml").read_text(encoding="utf-8"))
    dashboard = json.loads((FOLDER / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
    return [*inside(rules, "expr"), *inside(dashboard, "expr")]


def test_dashboard_and_alerts_know_only_metrics_that_there_are():
    named = {name.removeprefix(PREFIX) for text in expressions() for name in EXPRESSION.findall(text)}
    families = {family_name(name, FAMILIES) for name in named}
    assert families <= FAMILIES.keys()
    assert FAMILIES.keys() == families, "a metric that no panel and no alert shows"


def test_alerts_are_there_for_what_somebody_must_mend():
    rules = yaml.safe_load((FOLDER / "monitoring" / "alerts.yaml").read_text(encoding="utf-8"))
    names = set(inside(rules, "alert"))
    assert {"DeletionRequestsOverdue", "UnlearningBlocked", "GateMissed", "NoFreeWorkers"} <= names


ALERT_TESTS = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'unlearnrec_overdue_requests{{instance="a"}}', values: '0 0 2x30'}}
      - {{series: 'unlearnrec_blocked{{instance="a"}}', values: '1x40'}}
      - {{series: 'unlearnrec_open_requests{{instance="a", job="unlearnrec"}}', values: '3x40'}}
      - {{series: 'unlearnrec_blocked_reason{{instance="a", reason="NoRoom"}}', values: '1x40'}}
      - {{series: 'unlearnrec_workers_ready{{instance="a"}}', values: '0x40'}}
      - {{series: 'unlearnrec_workers_wanted{{instance="a"}}', values: '4x40'}}
      - {{series: 'unlearnrec_needs_retrain{{instance="a"}}', values: '0x40'}}
      - {{series: 'up{{job="unlearnrec"}}', values: '1x40'}}
    promql_expr_test:
      - {{expr: 'count by (alertname) (ALERTS{{alertstate="firing"}})', eval_time: 30m, exp_samples: [
          {{labels: '{{alertname="DeletionRequestsOverdue"}}', value: 1}},
          {{labels: '{{alertname="NoFreeWorkers"}}', value: 2}},
          {{labels: '{{alertname="UnlearningBlocked"}}', value: 1}}]}}
      - {{expr: 'count(ALERTS{{alertstate="firing"}})', eval_time: 1m, exp_samples: []}}
"""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on the PATH")
def test_prometheus_takes_the_rules_and_they_fire(tmp_path: Path):
    rules = FOLDER / "monitoring" / "alerts.yaml"
    (tmp_path / "test.yaml").write_text(ALERT_TESTS.format(rules=rules), encoding="utf-8")
    for arguments in (
        ["check", "rules", str(rules)],
        ["check", "config", "--syntax-only", str(FOLDER / "monitoring" / "prometheus.yaml")],
        ["test", "rules", str(tmp_path / "test.yaml")],
    ):
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# ---- the image, and machines without Kubernetes -----------------------------------------------------------------------


def test_the_image_is_clean():
    binary = Path(sys.executable).parent / "hadolint"
    if not binary.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([binary, FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_has_the_extras_that_the_manifests_need():
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    extras = set(re.search(r"ARG EXTRAS=(\S+)", text)[1].split(","))
    project = tomllib.loads((FOLDER.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"s3", "delta", "serve", "detached", "otel"} <= extras <= project["optional-dependencies"].keys()
    assert "TORCH_INDEX" in text and "USER 1000" in text


def test_the_file_for_ray_up_is_one():
    import ray

    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    config = yaml.safe_load((FOLDER / "ray-up.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(config, json.loads(schema.read_text(encoding="utf-8")))
    assert config["docker"]["image"] == IMAGE
    assert all("RAY_AUTH_MODE=token" in config[f"{kind}_start_ray_commands"][1] for kind in ("head", "worker"))


def test_the_values_for_helm_are_those_of_the_cluster():
    values = yaml.safe_load((FOLDER / "kuberay" / "helm-values.yaml").read_text(encoding="utf-8"))
    [cluster] = [doc["spec"] for _, doc in DOCUMENTS if doc["kind"] == "RayCluster"]
    head, [workers] = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert f"{values['image']['repository']}:{values['image']['tag']}" == IMAGE
    assert values["head"]["rayVersion"] == cluster["rayVersion"]
    assert values["head"]["rayStartParams"] == head["rayStartParams"]
    assert values["head"]["resources"] == head["template"]["spec"]["containers"][0]["resources"]
    assert values["worker"]["resources"] == workers["template"]["spec"]["containers"][0]["resources"]
    assert [values["worker"][key] for key in ("minReplicas", "maxReplicas")] == [
        workers[key] for key in ("minReplicas", "maxReplicas")
    ]


def test_the_map_names_each_file():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in FOLDER.rglob("*"):
        name = path.relative_to(FOLDER).as_posix()
        assert not path.is_file() or name == "README.md" or f"({name})" in text, name
