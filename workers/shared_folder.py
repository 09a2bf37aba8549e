"""Whether every machine of a Ray cluster sees the same folder: a local `output` needs that, S3 does not."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.client import ray as ray_client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..partitioning.errors import InputError
from ..partitioning.storage import split_uri
from .connection import connect_to_ray

ANSWER_SECONDS = 60.0


def runs_on_a_cluster(address: str | None) -> bool:
    """Whether commands connect to a Ray cluster instead of starting Ray on this machine."""
    return (address or os.environ.get("RAY_ADDRESS") or "local") != "local"


def check_folder_on_cluster(uri: str, address: str | None) -> None:
    """Raise InputError unless every machine of the cluster that commands connect to sees this folder as this one does.
    Connects to the cluster for the while. S3 is seen by everybody."""
    if split_uri(uri)[0] != "file" or not runs_on_a_cluster(address):
        return
    owns_ray = connect_to_ray(address)
    try:
        check_folder(uri)
    finally:
        if owns_ray:
            ray.shutdown()


def check_folder(uri: str) -> None:
    """Raise InputError unless every machine of the cluster sees this folder as this one does. Ray is connected.

    The folder need not be there yet: then its nearest parent is looked at. A file that is put there for the while, and
    looked for everywhere, tells one folder from another of the same name.
    """
    scheme, path = split_uri(uri)
    others = other_nodes() if scheme == "file" else {}
    if not others:
        return
    folder = Path(os.path.abspath(path))
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    marker = there / f".tmp-{uuid.uuid4().hex}"
    try:
        marker.touch()
    except OSError:  # whoever may only read here has no workers that write
        return
    try:
        blind = unseen_by(str(marker), others, _ask)
    finally:
        marker.unlink(missing_ok=True)
    if blind:
        raise InputError(
            f"output {uri}: the machines {', '.join(blind)} of the Ray cluster do not see the folder {folder} of this "
            "machine. Give a folder that all machines share, at the same absolute path, or s3://bucket/path"
        )


def other_nodes() -> dict[str, str]:
    """Node id -> address of the machines of the cluster, without this one. Over ray:// this machine is none of them."""
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    own = None if ray_client.is_connected() else ray.get_runtime_context().get_node_id()
    return {node: address for node, address in nodes.items() if node != own}


def unseen_by(marker: str, nodes: Mapping[str, str], ask: Callable[[str, list[str]], Mapping[str, bool]]) -> list[str]:
    """The addresses of the nodes (id -> address) on which the file is not there. ask: (file, node ids) -> whether it is
    there, by node id; a node that does not answer is left out, because it has other troubles."""
    answers = ask(marker, list(nodes))
    return sorted({nodes[node] for node, there in answers.items() if not there})


def _exists(path: str) -> bool:
    return os.path.exists(path)


def _ask(marker: str, nodes: list[str]) -> dict[str, bool]:
    task = ray.remote(num_cpus=0, max_retries=0)(_exists)
    refs = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(marker)
        for node in nodes
    }
    found = {}
    for node, ref in refs.items():
        try:
            found[node] = bool(ray.get(ref, timeout=ANSWER_SECONDS))
        except (RayError, GetTimeoutError):
            continue
    return found
