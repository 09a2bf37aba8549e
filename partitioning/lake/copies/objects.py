"""What lies in a folder in a bounded number of calls: files, and on S3 what a listing does not show: noncurrent versions,
delete markers and unfinished uploads, each with the time at which a rule of the bucket removes it."""

import datetime as dt
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.fs as pafs

from ...errors import InputError
from ...s3_files import s3_connection
from ...storage import StorageOptions, split_uri

PAGE = 1000
"""Entries that one call to S3 lists at most."""


@dataclass(frozen=True)
class Stored:
    """An object, or a version of one."""

    path: str
    """As pyarrow's file systems take it: a local path, or bucket/key."""
    bytes: int
    modified: dt.datetime
    version: str | None = None
    """Of a noncurrent version on S3: its id."""
    until: dt.datetime | None = None
    """When a rule of the bucket removes a noncurrent version or an unfinished upload; None: no rule does."""


@dataclass(frozen=True)
class Missing:
    """What was not looked at."""

    what: str
    count: int | None
    """None where nobody knows."""
    why: str
    rows: bool = True
    """Whether rows may lie there; False where only times are not known."""


@dataclass
class Listing:
    """What lies below a place."""

    files: list[Stored] = field(default_factory=list)
    noncurrent: list[Stored] = field(default_factory=list)
    uploads: list[Stored] = field(default_factory=list)
    delete_markers: int = 0
    whole: bool = True
    """Whether `files` are all that there are."""
    missing: list[Missing] = field(default_factory=list)


def list_objects(place: str, options: StorageOptions, limit: int) -> Listing:
    """All that lies at a place or below: at most `limit` entries, in at most limit / 1000 + 3 calls on S3.

    place: a file or folder, local or s3://.

    Raises:
        InputError: as `split_uri`, or s3fs is not installed.
        OSError: it cannot be listed.
    """
    scheme, path = split_uri(place)
    if scheme == "file":
        return _local(os.path.abspath(path), limit)
    with s3_connection():
        return _s3(path, options, limit)


def versions_filesystem(options: StorageOptions) -> pafs.FileSystem:
    """One that reads `bucket/key?versionId=ID`.

    Raises:
        InputError: s3fs is not installed.
    """
    return pafs.PyFileSystem(pafs.FSSpecHandler(_client(options)))


def _local(root: str, limit: int) -> Listing:
    found = Listing()
    for path in _walk(root):
        if len(found.files) == limit:
            found.whole = False
            found.missing.append(Missing("files in the folder", None, f"only {limit} files are listed"))
            break
        try:
            about = os.stat(path)
        except FileNotFoundError:  # somebody removes it at this moment
            continue
        found.files.append(Stored(path, about.st_size, dt.datetime.fromtimestamp(about.st_mtime, dt.UTC)))
    return found


def _walk(root: str) -> Iterator[str]:
    if os.path.isfile(root):
        yield root
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from (os.path.join(folder, name) for name in sorted(names))


def _client(options: StorageOptions) -> Any:
    try:
        import s3fs
    except ImportError as error:
        raise InputError("versions on S3 are listed with the package s3fs: pip install 'unlearnrec[s3]'") from error
    client = {"region_name": options.region} if options.region else {}
    return s3fs.S3FileSystem(
        anon=options.anonymous,
        endpoint_url=options.endpoint_url,
        client_kwargs=client,
        use_listings_cache=False,
        version_aware=True,
    )


def _s3(path: str, options: StorageOptions, limit: int) -> Listing:
    client, (bucket, _, key) = _client(options), path.partition("/")
    found = Listing()
    rules = _rules(client, bucket, found)
    try:
        _versions(client, bucket, key, limit, rules, found)
    except PermissionError:
        found.missing.append(
            Missing("noncurrent versions", None, f"listing versions of {bucket} is not permitted (ListBucketVersions)")
        )
        _current(client, bucket, key, limit, found)
    try:
        _uploads(client, bucket, key, rules, found)
    except (PermissionError, NotImplementedError):
        why = f"listing uploads to {bucket} is not permitted (ListBucketMultipartUploads)"
        found.missing.append(Missing("unfinished uploads", None, why))
    return found


def _pages(client: Any, method: str, limit: int, markers: Mapping[str, str], **arguments: Any) -> Iterator[Any]:
    """Answers of a call until the last page, or until `limit` entries could have been listed; then None."""
    more: dict[str, Any] = {}
    for _ in range(-(-limit // PAGE)):
        page = client.call_s3(method, **arguments, **more)
        yield page
        if not page.get("IsTruncated"):
            return
        more = {argument: page[answer] for argument, answer in markers.items() if page.get(answer)}
    yield None


def _below(name: str, key: str) -> bool:
    """Whether an object is the place, or lies in it; the rest of those that begin with its name do not count."""
    return not key or name == key or name.startswith(key.rstrip("/") + "/")


def _versions(
    client: Any, bucket: str, key: str, limit: int, rules: Sequence[Mapping[str, Any]], found: Listing
) -> None:
    newer: tuple[str, dt.datetime] | None = None
    markers = {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
    for page in _pages(client, "list_object_versions", limit, markers, Bucket=bucket, Prefix=key):
        if page is None:
            found.whole = False
            found.missing.append(Missing("objects and versions", None, f"only {limit} are listed"))
            return
        entries = [(one, False) for one in page.get("Versions", ())]
        entries += [(one, True) for one in page.get("DeleteMarkers", ())]
        # Of one key the newest first: that is what made the older one noncurrent.
        entries.sort(
            key=lambda entry: (entry[0]["Key"], not entry[0]["IsLatest"], -entry[0]["LastModified"].timestamp())
        )
        for one, marker in entries:
            name, modified = one["Key"], one["LastModified"]
            replaced = newer[1] if newer is not None and newer[0] == name else modified
            newer = name, modified
            if not _below(name, key) or name.endswith("/"):
                continue
            if marker:
                found.delete_markers += 1
            elif one["IsLatest"]:
                found.files.append(Stored(f"{bucket}/{name}", one["Size"], modified))
            else:
                until = _expiry(rules, name, "NoncurrentVersionExpiration", "NoncurrentDays", replaced)
                found.noncurrent.append(Stored(f"{bucket}/{name}", one["Size"], modified, one["VersionId"], until))


def _current(client: Any, bucket: str, key: str, limit: int, found: Listing) -> None:
    markers = {"ContinuationToken": "NextContinuationToken"}
    for page in _pages(client, "list_objects_v2", limit, markers, Bucket=bucket, Prefix=key):
        if page is None:
            found.whole = False
            found.missing.append(Missing("objects", None, f"only {limit} are listed"))
            return
        for one in page.get("Contents", ()):
            if _below(one["Key"], key) and not one["Key"].endswith("/"):
                found.files.append(Stored(f"{bucket}/{one['Key']}", one["Size"], one["LastModified"]))


def _uploads(client: Any, bucket: str, key: str, rules: Sequence[Mapping[str, Any]], found: Listing) -> None:
    page = client.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
    for one in page.get("Uploads", ()):
        if _below(one["Key"], key):
            begun = one["Initiated"]
            until = _expiry(rules, one["Key"], "AbortIncompleteMultipartUpload", "DaysAfterInitiation", begun)
            found.uploads.append(Stored(f"{bucket}/{one['Key']}", 0, begun, one["UploadId"], until))
    if page.get("IsTruncated"):
        found.missing.append(Missing("unfinished uploads", None, f"only {PAGE} are listed"))


def _rules(client: Any, bucket: str, found: Listing) -> Sequence[Mapping[str, Any]]:
    try:
        answer = client.call_s3("get_bucket_lifecycle_configuration", Bucket=bucket)
    except PermissionError:
        why = (
            f"reading the rules of {bucket} is not permitted (GetLifecycleConfiguration): when they expire is not known"
        )
        found.missing.append(Missing("lifecycle rules", None, why, rows=False))
        return []
    except (OSError, NotImplementedError):
        return []  # there are none, or a service that has none
    return [rule for rule in answer.get("Rules", ()) if rule.get("Status") == "Enabled"]


def _expiry(
    rules: Sequence[Mapping[str, Any]], name: str, action: str, days: str, since: dt.datetime
) -> dt.datetime | None:
    """When the first of the rules that hold for an object removes it; S3 rounds up to midnight UTC. Rules with other
    conditions than a prefix are left out."""
    found = []
    for rule in rules:
        condition = rule.get("Filter", {"Prefix": rule.get("Prefix", "")})
        wanted = rule.get(action, {})
        if set(condition) - {"Prefix"} or set(wanted) != {days} or not name.startswith(condition.get("Prefix") or ""):
            continue
        due = since.astimezone(dt.UTC) + dt.timedelta(days=wanted[days])
        midnight = due.replace(hour=0, minute=0, second=0, microsecond=0)
        found.append(midnight if midnight == due else midnight + dt.timedelta(days=1))
    return min(found, default=None)
