"""Every folder and file name under `output`, once. Nothing here reads or writes.

config.yaml                          the resolved configuration
graph/manifest.json, graph/...       what the last `ingest` left (partitioning/ingest.py names these files)
versions/000001/manifest.json, ...   copies of the manifests, and the files of each version
log/000000001.json                   a segment of the log; checkpoint-000000001.json and cut-000001.json beside it
requests/ID.json                     what a request names; requests/key: the secret of derived request ids
outcomes/ID@VERSION.json             which entries of a request removed nothing from a version
callbacks/ID.json                    who is to be told about a request
leases/000001-ID.json                who reads a version at present
watch/cursor.json                    how far a table was followed (`watch`)
suppression/000000001.json           an entry of the suppression list
reports/evidence-ID.json, .html      the evidence of a request
reports/receipt-ID@1.json, @2, ...   the states of its receipt; receipt-ID.html: the newest as a page
reports/receipt-ID@1-SHA256.sig      a signature of one
reports/lineage-ID.json              the same in short, as an event of OpenLineage
checkpoints/GRAPH-RUN/               a training that is under way
pretrain/GRAPH-RUN/                  counterfactual runs of a pre-training that is under way
"""

from __future__ import annotations

import posixpath
import re

from ..partitioning.manifest import MANIFEST as GRAPH_MANIFEST

CONFIG = "config.yaml"
GRAPH = posixpath.dirname(GRAPH_MANIFEST)
VERSIONS = "versions"
LOG = "log"
REQUESTS = "requests"
REQUEST_KEY = f"{REQUESTS}/key"
"""The secret under which ids of requests are derived from their content."""
OUTCOMES = "outcomes"
CALLBACKS = "callbacks"
LEASES = "leases"
SUPPRESSION = "suppression"
WATCH = "watch"
WATCH_CURSOR = f"{WATCH}/cursor.json"
"""How far a table was followed. It names versions, no ids."""
REPORTS = "reports"
CHECKPOINTS = "checkpoints"
PRETRAIN = "pretrain"

SEARCHED = (VERSIONS, GRAPH, CHECKPOINTS, PRETRAIN, REQUESTS, OUTCOMES, CALLBACKS)
"""Folders in which a purge looks for files that hold deleted data."""
FOLDERS = (*SEARCHED, LEASES, LOG, REPORTS, SUPPRESSION, WATCH)
"""All folders of the output."""
COPIED = (GRAPH, VERSIONS, LOG, REQUESTS, OUTCOMES, SUPPRESSION, REPORTS)
"""Folders that a copy of an output needs. The others belong to who works on the output: a copy calls nobody back."""

REQUEST_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
"""A request id names files: one that begins with a dot would be hidden, or taken for a write that did not end."""

SegmentId = tuple[int, int]
"""A segment of the log: (number of its first record, how many files before it were torn to nothing)."""

_SEGMENT = re.compile(rf"{LOG}/([0-9]{{9,}})(?:-([1-9][0-9]*))?\.json")
_CUT = re.compile(rf"{LOG}/cut-([0-9]{{6,}})\.json")
_CHECKPOINT = re.compile(rf"{LOG}/checkpoint-([0-9]{{9,}})\.json")
_RECEIPT = re.compile(rf"{REPORTS}/receipt-({REQUEST_ID.pattern})@([1-9][0-9]*)\.json")
_CONTENT = re.compile(rf"(?:{REQUESTS}|{CALLBACKS})/({REQUEST_ID.pattern})(?:@([0-9]+))?\.json")


# ---- the log ---------------------------------------------------------------------------------------------------------


def segment_name(segment: SegmentId) -> str:
    """The file of a segment of the log."""
    number, attempt = segment
    return f"{LOG}/{number:09d}{f'-{attempt}' if attempt else ''}.json"


def segment_id(name: str) -> SegmentId | None:
    """The segment that this file is, None for another file."""
    found = _SEGMENT.fullmatch(name)
    segment = (int(found[1]), int(found[2] or 0)) if found else None
    return segment if segment is not None and segment_name(segment) == name else None


def cut_name(number: int) -> str:
    """The file that announces cut `number` of the log."""
    return f"{LOG}/cut-{number:06d}.json"


def cut_number(name: str) -> int | None:
    """Which cut this file announces, None for another file."""
    found = _CUT.fullmatch(name)
    number = int(found[1]) if found else None
    return number if number is not None and cut_name(number) == name else None


def checkpoint_name(number: int) -> str:
    """The file of the checkpoint that stands for the first `number` records."""
    return f"{LOG}/checkpoint-{number:09d}.json"


def checkpoint_number(name: str) -> int | None:
    """For how many records this checkpoint stands, None for another file."""
    found = _CHECKPOINT.fullmatch(name)
    number = int(found[1]) if found else None
    return number if number is not None and checkpoint_name(number) == name else None


# ---- versions --------------------------------------------------------------------------------------------------------


def version_file(number: int, name: str) -> str:
    """A file of version `number`."""
    return f"{VERSIONS}/{number:06d}/{name}"


def manifest_name(number: int) -> str:
    """The copy of the manifest of version `number`."""
    return version_file(number, "manifest.json")


def lease_name(number: int, unique: str) -> str:
    """A lease on version `number`."""
    return f"{LEASES}/{number:06d}-{unique}.json"


def training_folder(graph: str, run: str) -> str:
    """The checkpoints of a training. `graph` names its graph, `run` all else that its result depends on."""
    return f"{CHECKPOINTS}/{graph}-{run}"


def pretraining_folder(graph: str, run: str) -> str:
    """The counterfactual runs of a pre-training; the arguments are those of `training_folder`."""
    return f"{PRETRAIN}/{graph}-{run}"


def graph_of_folder(name: str) -> str:
    """What `training_folder` or `pretraining_folder` was called with as `graph`, from a file in that folder."""
    return name.split("/")[1].partition("-")[0]


# ---- requests --------------------------------------------------------------------------------------------------------


def content_name(request_id: str, purge: int = 0) -> str:
    """The file that holds the content of a request; which one it is, `Ledger.content_name` says.

    purge: the record of the last purge that took, or may take at any time, what an attempt to be accepted under this id
    had left.
    """
    return f"{REQUESTS}/{request_id}@{purge}.json" if purge else f"{REQUESTS}/{request_id}.json"


def callbacks_name(content: str) -> str:
    """The file that says whom to tell about the request with this content."""
    return f"{CALLBACKS}/{posixpath.basename(content)}"


def request_of(name: str) -> tuple[str, int] | None:
    """(request, purge) of a file that `content_name` or `callbacks_name` names; None for other files."""
    found = _CONTENT.fullmatch(name)
    return (found[1], int(found[2] or 0)) if found else None


def outcome_name(request_id: str, version: int) -> str:
    """The note about a request's entries that removed nothing from `version`."""
    return f"{OUTCOMES}/{request_id}@{version}.json"


def request_of_outcome(name: str) -> str:
    """The request that a file of OUTCOMES is about; its id has no `@`."""
    return name.removeprefix(f"{OUTCOMES}/").partition("@")[0]


def report_name(request_id: str, suffix: str = "json") -> str:
    """The evidence of a request; `suffix` "json" or "html"."""
    return f"{REPORTS}/evidence-{request_id}.{suffix}"


def receipt_name(request_id: str, number: int) -> str:
    """State `number` of a request's receipt, from 1; it never changes."""
    return f"{REPORTS}/receipt-{request_id}@{number}.json"


def receipt_of(name: str) -> tuple[str, int] | None:
    """(request, number) of a file that `receipt_name` names; None for other files."""
    found = _RECEIPT.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def receipt_page_name(request_id: str) -> str:
    """The newest state of a receipt as a page."""
    return f"{REPORTS}/receipt-{request_id}.html"


def signature_name(receipt: str, sha256: str) -> str:
    """The signature of a state of a receipt with this SHA-256: two writers of one number do not write the same file."""
    return f"{receipt.removesuffix('.json')}-{sha256[:16]}.sig"


def lineage_name(request_id: str) -> str:
    """The event of OpenLineage about a request."""
    return f"{REPORTS}/lineage-{request_id}.json"


def suppression_name(number: int) -> str:
    """Entry `number` of the suppression list."""
    return f"{SUPPRESSION}/{number:09d}.json"
