"""Every folder and file name under `output`, in one place. Nothing here reads or writes.

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
reports/audit-000001-ID.json, .html  the outcome of an audit of a version
checkpoints/GRAPH-RUN/               a training that is under way
pretrain/GRAPH-RUN/                  counterfactual runs of a pre-training that is under way
audit/GRAPH-RUN/                     what attackers see of the runs of an audit
tables/KEY-NAME/part-00000.parquet   a table that Python handed over (output/handed.py names these files)
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
"""The file with the secret key under which the id of a request is derived from its content, where it came without one."""
OUTCOMES = "outcomes"
CALLBACKS = "callbacks"
LEASES = "leases"
SUPPRESSION = "suppression"
WATCH = "watch"
WATCH_CURSOR = f"{WATCH}/cursor.json"
"""The file that says how far a table was followed. It holds versions of the table and no ids of users or items."""
REPORTS = "reports"
CHECKPOINTS = "checkpoints"
PRETRAIN = "pretrain"
AUDIT = "audit"
TABLES = "tables"

SEARCHED = (VERSIONS, GRAPH, CHECKPOINTS, PRETRAIN, AUDIT, REQUESTS, OUTCOMES, CALLBACKS, TABLES)
"""The folders in which a purge looks for files that hold deleted data."""
FOLDERS = (*SEARCHED, LEASES, LOG, REPORTS, SUPPRESSION, WATCH)
"""All folders that an output may have."""
COPIED = (GRAPH, VERSIONS, LOG, REQUESTS, OUTCOMES, SUPPRESSION, REPORTS)
"""The folders that a copy of an output needs. The other folders belong to the processes that work on the original output:
a copy must not send callbacks, for example."""

REQUEST_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
"""What a request id may look like. The id is part of file names, so it must not begin with a dot: the file would be hidden,
or taken for the temporary file of a write that did not end."""

SegmentId = tuple[int, int]
"""A segment of the log: (number of its first record, attempt). The attempt is 0, and one more for each file with the same
number before it that holds no whole record because its end was torn off."""

_SEGMENT = re.compile(rf"{LOG}/([0-9]{{9,}})(?:-([1-9][0-9]*))?\.json")
_CUT = re.compile(rf"{LOG}/cut-([0-9]{{6,}})\.json")
_CHECKPOINT = re.compile(rf"{LOG}/checkpoint-([0-9]{{9,}})\.json")
_RECEIPT = re.compile(rf"{REPORTS}/receipt-({REQUEST_ID.pattern})@([1-9][0-9]*)\.json")
_CONTENT = re.compile(rf"(?:{REQUESTS}|{CALLBACKS})/({REQUEST_ID.pattern})(?:@([0-9]+))?\.json")


# ---- the log ---------------------------------------------------------------------------------------------------------


def segment_name(segment: SegmentId) -> str:
    """The name of the file that holds a segment of the log."""
    number, attempt = segment
    return f"{LOG}/{number:09d}{f'-{attempt}' if attempt else ''}.json"


def segment_id(name: str) -> SegmentId | None:
    """The segment that the file of this name holds; None for a name that `segment_name` does not give."""
    found = _SEGMENT.fullmatch(name)
    segment = (int(found[1]), int(found[2] or 0)) if found else None
    return segment if segment is not None and segment_name(segment) == name else None


def cut_name(number: int) -> str:
    """The name of the file that announces cut `number` of the log. Cuts are numbered from 1."""
    return f"{LOG}/cut-{number:06d}.json"


def cut_number(name: str) -> int | None:
    """The number of the cut that the file of this name announces; None for a name that `cut_name` does not give."""
    found = _CUT.fullmatch(name)
    number = int(found[1]) if found else None
    return number if number is not None and cut_name(number) == name else None


def checkpoint_name(number: int) -> str:
    """The name of the file with the checkpoint that stands for records 1 to `number` of the log."""
    return f"{LOG}/checkpoint-{number:09d}.json"


def checkpoint_number(name: str) -> int | None:
    """The number of records that the checkpoint of this name stands for; None for a name that `checkpoint_name` does not
    give."""
    found = _CHECKPOINT.fullmatch(name)
    number = int(found[1]) if found else None
    return number if number is not None and checkpoint_name(number) == name else None


# ---- versions --------------------------------------------------------------------------------------------------------


def version_file(number: int, name: str) -> str:
    """The path of the file `name` of version `number`, under the output."""
    return f"{VERSIONS}/{number:06d}/{name}"


def manifest_name(number: int) -> str:
    """The name of the copy of the manifest of version `number`. The manifest itself is in the log."""
    return version_file(number, "manifest.json")


def lease_name(number: int, unique: str) -> str:
    """The name of a lease on version `number`. unique: random characters, so that each lease has a file of its own."""
    return f"{LEASES}/{number:06d}-{unique}.json"


def training_folder(graph: str, run: str) -> str:
    """The folder with the checkpoints of a training.

    graph: the key of the graph that it trains on (`output.ingests.graph_key`). run: a name for everything else that the
    result depends on.
    """
    return f"{CHECKPOINTS}/{graph}-{run}"


def pretraining_folder(graph: str, run: str) -> str:
    """The folder with the counterfactual runs of a pre-training. The arguments are those of `training_folder`."""
    return f"{PRETRAIN}/{graph}-{run}"


def auditing_folder(graph: str, run: str) -> str:
    """The folder with what attackers see of the runs of an audit. The arguments are those of `training_folder`."""
    return f"{AUDIT}/{graph}-{run}"


def graph_of_folder(name: str) -> str:
    """The argument `graph` of the folder of a training, of a pre-training or of an audit in which the file `name` lies."""
    return name.split("/")[1].partition("-")[0]


# ---- requests --------------------------------------------------------------------------------------------------------


def content_name(request_id: str, purge: int = 0) -> str:
    """A name of a file that may hold the content of a request. `Ledger.content_name` says which name a request has.

    purge: 0, or the number of the record of a purge. An attempt to accept a request under this id had left a file, and this
    purge removed the file or may still remove it at any time. A later request of this id therefore gets another name.
    """
    return f"{REQUESTS}/{request_id}@{purge}.json" if purge else f"{REQUESTS}/{request_id}.json"


def callbacks_name(content: str) -> str:
    """The name of the file that says whom to tell about a request. content: the name of the file with its content."""
    return f"{CALLBACKS}/{posixpath.basename(content)}"


def request_of(name: str) -> tuple[str, int] | None:
    """(request id, purge): the arguments with which `content_name` or `callbacks_name` gives this name; None for another
    name."""
    found = _CONTENT.fullmatch(name)
    return (found[1], int(found[2] or 0)) if found else None


def outcome_name(request_id: str, version: int) -> str:
    """The name of the file that lists the entries of a request that removed nothing from `version`."""
    return f"{OUTCOMES}/{request_id}@{version}.json"


def request_of_outcome(name: str) -> str:
    """The id of the request that a file of OUTCOMES is about. The id ends at the first `@`, which no id contains."""
    return name.removeprefix(f"{OUTCOMES}/").partition("@")[0]


def report_name(request_id: str, suffix: str = "json") -> str:
    """The name of the file with the evidence of a request. suffix: "json", or "html" for the page."""
    return f"{REPORTS}/evidence-{request_id}.{suffix}"


def run_report_name(suffix: str = "json") -> str:
    """The name of the report of the run. suffix: "json", or "html" for the page."""
    return f"{REPORTS}/report.{suffix}"


def receipt_name(request_id: str, number: int) -> str:
    """The name of the file with state `number` of a request's receipt. States count from 1, and their files never change."""
    return f"{REPORTS}/receipt-{request_id}@{number}.json"


def receipt_of(name: str) -> tuple[str, int] | None:
    """(request id, number): the arguments with which `receipt_name` gives this name; None for another name."""
    found = _RECEIPT.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def receipt_page_name(request_id: str) -> str:
    """The name of the page that shows the newest state of a receipt."""
    return f"{REPORTS}/receipt-{request_id}.html"


def signature_name(receipt: str, sha256: str) -> str:
    """The name of the file with the signature of a state of a receipt.

    receipt: the file of the state. sha256: the SHA-256 of that file. It is a part of the name because two processes may
    write different states under one number; their signatures then have different names.
    """
    return f"{receipt.removesuffix('.json')}-{sha256[:16]}.sig"


def audit_name(version: int, unique: str, suffix: str = "json") -> str:
    """The name of the file with the outcome of an audit of a version. unique: a name for what was audited."""
    return f"{REPORTS}/audit-{version:06d}-{unique}.{suffix}"


def lineage_name(request_id: str) -> str:
    """The name of the file with the OpenLineage event about a request."""
    return f"{REPORTS}/lineage-{request_id}.json"


def suppression_name(number: int) -> str:
    """The name of the file with entry `number` of the suppression list. Entries count from 1."""
    return f"{SUPPRESSION}/{number:09d}.json"
