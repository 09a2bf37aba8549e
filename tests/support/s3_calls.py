"""A server like S3 that writes down each call, and what IAM would say of these calls under a policy."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from s3 import free_port, wait_until_open

from unlearnrec.partitioning.storage import StorageOptions

REQUEST = re.compile(r'"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/[\d.]+"')


class Call(NamedTuple):
    """A call as IAM sees it: the permission, bucket or bucket/key, and the prefix of a listing."""

    action: str
    place: str
    prefix: str = ""


def call_of(method: str, target: str) -> Call | None:
    """The permission that a call needs on AWS; None for one that needs none of a policy.

    Raises:
        ValueError: a call that is not known here.
    """
    url = urlsplit(target)
    bucket, _, key = unquote(url.path.lstrip("/")).partition("/")
    query = parse_qs(url.query, keep_blank_values=True)
    prefix = query.get("prefix", [""])[0]
    if not key:
        listings = {"versions": "ListBucketVersions", "uploads": "ListBucketMultipartUploads"}
        listings |= {"lifecycle": "GetLifecycleConfiguration", "list-type": "ListBucket"}
        action = next((listings[name] for name in listings if name in query), None)
        if method == "HEAD":
            action = "ListBucket"
        if method in ("GET", "HEAD") and action is not None:
            return Call(f"s3:{action}", bucket, prefix)
    elif method in ("GET", "HEAD"):
        return Call("s3:GetObjectVersion" if "versionId" in query else "s3:GetObject", f"{bucket}/{key}")
    elif method == "PUT" or (method == "POST" and query.keys() & {"uploads", "uploadId"}):
        return Call("s3:PutObject", f"{bucket}/{key}")
    elif method == "DELETE":
        return Call("s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", f"{bucket}/{key}")
    raise ValueError(f"{method} {target}: which permission does it need?")


def allowed(call: Call, policies: list[dict[str, Any]]) -> bool:
    """Whether one of the statements allows the call. All of them say Allow, and the one condition is s3:prefix."""
    for statement in (statement for policy in policies for statement in policy["Statement"]):
        assert statement["Effect"] == "Allow" and set(statement.get("Condition", {})) <= {"StringLike"}
        patterns = statement.get("Condition", {}).get("StringLike", {"s3:prefix": ["*"]})["s3:prefix"]
        if (
            call.action in statement["Action"]
            and any(fnmatchcase(f"arn:aws:s3:::{call.place}", resource) for resource in statement["Resource"])
            and any(fnmatchcase(call.prefix, pattern) for pattern in patterns)
        ):
            return True
    return False


@contextmanager
def watched_server(folder: Path, *buckets: str) -> Iterator[tuple[StorageOptions, Callable[[], list[Call]]]]:
    """(options that reach the server, a function that gives the calls since it was last called)."""
    import s3fs

    port, log = free_port(), folder / "calls.log"
    with open(log, "w") as file:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    try:
        wait_until_open(port, process)
        options = StorageOptions(endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1")
        for bucket in buckets:
            s3fs.S3FileSystem(endpoint_url=options.endpoint_url).mkdir(bucket)
        seen = log.stat().st_size

        def calls() -> list[Call]:
            nonlocal seen
            text = log.read_text(encoding="utf-8", errors="replace")[seen:]
            seen += len(text)
            found = (call_of(*match) for match in REQUEST.findall(text))
            return [call for call in found if call is not None]

        yield options, calls
    finally:
        process.terminate()
        process.wait(10)
