"""Fields of KubeRay's resources, as a JSON Schema that refuses any other: to find one that is misspelt or misplaced.

It is no copy of KubeRay's CRDs, which are many times as long. Names and types are those of the Go types that the CRDs are
made from (github.com/ray-project/kuberay, ray-operator/apis/ray/v1, Apache License 2.0), as of KubeRay 1.7. Rules between
fields, which the operator checks, are not in it; pod templates are checked against Kubernetes's own schema elsewhere.
"""

from typing import Any

TEXT, WHOLE, FLAG, MAP = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
LIST = {"type": "array"}


def only(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


CREDENTIAL = only(value=TEXT, valueFrom=MAP)
STORAGE = only(
    claimName=TEXT,
    size=TEXT,
    storageClassName=TEXT,
    accessModes=LIST,
    subPath=TEXT,
    deletionPolicy=one_of("DeleteWithCluster", "Retain"),
)
GROUP = {"template": MAP, "rayStartParams": TEXTS, "resources": TEXTS, "labels": TEXTS}
HEAD = only(
    ("template",),
    **GROUP,
    headService=MAP,
    enableIngress=FLAG,
    ingressOptions=MAP,
    serviceType=TEXT,
)
WORKERS = only(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    **GROUP,
    groupName=TEXT,
    suspend=FLAG,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    idleTimeoutSeconds=WHOLE,
    priority=WHOLE,
    scaleStrategy=MAP,
    numOfHosts=WHOLE,
)
CLUSTER = only(
    ("headGroupSpec",),
    upgradeStrategy=only(type=one_of("Recreate", "None")),
    authOptions=only(enableK8sTokenAuth=FLAG, secretName=TEXT, mode=one_of("disabled", "token")),
    suspend=FLAG,
    managedBy=TEXT,
    autoscalerOptions=only(
        resources=MAP,
        image=TEXT,
        imagePullPolicy=TEXT,
        securityContext=MAP,
        idleTimeoutSeconds=WHOLE,
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        version=one_of("v1", "v2"),
        env=LIST,
        envFrom=LIST,
        volumeMounts=LIST,
        command=LIST,
        args=LIST,
    ),
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=only(
        backend=one_of("redis", "rocksdb"),
        redisUsername=CREDENTIAL,
        redisPassword=CREDENTIAL,
        externalStorageNamespace=TEXT,
        redisAddress=TEXT,
        storage=STORAGE,
    ),
    historyServerOptions=MAP,
    networkPolicy=MAP,
    tlsOptions=only(enabled=FLAG),
    headGroupSpec=HEAD,
    rayVersion=TEXT,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB = only(
    activeDeadlineSeconds=WHOLE,
    backoffLimit=WHOLE,
    rayClusterSpec=CLUSTER,
    submitterPodTemplate=MAP,
    metadata=TEXTS,
    clusterSelector=TEXTS,
    submitterConfig=only(backoffLimit=WHOLE),
    managedBy=TEXT,
    deletionStrategy=MAP,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointResources=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=WHOLE,
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
)
SERVICE = only(
    serveConfigV2=TEXT,
    rayClusterConfig=CLUSTER,
    serveService=MAP,
    upgradeStrategy=MAP,
    excludeHeadPodFromServeSvc=FLAG,
    rayClusterDeletionDelaySeconds=WHOLE,
    serviceUnhealthySecondThreshold=WHOLE,
    deploymentUnhealthySecondThreshold=WHOLE,
)
CRON_JOB = only(("jobTemplate", "schedule"), jobTemplate=JOB, schedule=TEXT, suspend=FLAG)

SPECS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayService": SERVICE, "RayCronJob": CRON_JOB}


def schema(kind: str) -> dict[str, Any]:
    """The schema of a whole resource of this kind."""
    metadata = only(("name",), name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    return only(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion=one_of("ray.io/v1"),
        kind=one_of(kind),
        metadata=metadata,
        spec=SPECS[kind],
    )
