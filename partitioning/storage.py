"""The store of all durable files: one root, local or on S3, with atomic writes and exclusive creation.

The numbering of the log relies on exclusive creation: of two writers of one name exactly one succeeds. A local file is
written completely to a temporary file, fsynced, and then linked to its name with `os.link`: opening the name with O_EXCL
would leave an empty file under it after a crash. On S3 it is a put with If-None-Match.
"""

import errno
import hashlib
import os
import uuid
from dataclasses import astuple, dataclass
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import pyarrow.fs as pafs

from .errors import InputError
from .failpoints import ENVIRONMENT, FailingFiles
from .files import TEMPORARY, Details, Files, is_temporary
from .local_files import LocalFiles
from .s3_files import S3Files


@dataclass(frozen=True)
class StorageOptions:
    """How to reach S3. Credentials come only from the usual sources of AWS: environment, profile, instance role."""

    endpoint_url: str | None = None
    """The URL of a service like S3, such as http://localhost:9000; None means AWS. Only `Store` takes one with a path."""
    region: str | None = None
    anonymous: bool = False


AWS = StorageOptions()
"""The default: AWS itself, region and credentials from the environment."""


_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EIO,
    getattr(errno, "EREMOTEIO", errno.EIO),
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
"""Errors that may pass: s3fs turns 500, 503 and unknown answers of S3 into them; a disk behind a network may give them."""


def is_away(error: OSError) -> bool:
    """Whether the store does not answer at the moment, so that another attempt may succeed: no connection, a time-out, or a
    service that is down. Not what somebody has to mend first, such as wrong credentials or a missing bucket."""
    return isinstance(error, ConnectionError | TimeoutError) or error.errno in _PASSING


class Store:
    """Files under one root. Paths are relative to the root, with forward slashes.

    Raises (every method): OSError of the file system or of the service; FileNotFoundError for a file that is not there.
    """

    def __init__(self, root_uri: str, options: StorageOptions = AWS) -> None:
        """root_uri: a local path, file:// or s3://bucket/prefix. Nothing is read or written here.

        Raises:
            InputError: as `split_uri`, or s3fs is not installed.
        """
        scheme, path = split_uri(root_uri)
        self.root_uri = root_uri.rstrip("/") or "/"
        self.options = options
        self.is_local = scheme != "s3"
        self._files: Files = LocalFiles(path) if self.is_local else S3Files(path, *astuple(options))
        if ENVIRONMENT in os.environ:
            self._files = FailingFiles(self._files)

    def read(self, path: str) -> bytes:
        """The content of a file."""
        return self._files.read(path)

    def mapped(self, path: str, folder: str | None = None) -> memoryview:
        """The content of a file of which only parts are looked at: memory is that of these parts. It stays as it is when the
        file is removed or replaced.

        A local file is mapped. One on S3 is copied in pieces to a temporary file without a name, which is mapped. folder:
        for the temporary file; None: the system's.
        """
        return self._files.mapped(path, folder)

    def size(self, path: str) -> int:
        """The size of a file in bytes. Its content is not read."""
        return self._files.size(path)

    def write(self, path: str, data: bytes) -> None:
        """Replace or make a file, atomically and durably: a reader sees the old content or the new one, and never a part."""
        self._files.write(path, data)

    def write_file(self, path: str, file: BinaryIO) -> None:
        """As `write`, with the rest of an open file as data. Memory is that of a piece of it."""
        self._files.write_file(path, file)

    def create(self, path: str, data: bytes) -> None:
        """Make a file that must not exist yet, atomically and durably. Of several writers of one name exactly one succeeds.

        On S3, a file that already holds exactly `data` counts as success: a repeated request cannot tell its own earlier
        success from another writer's. Where writers compete, each has to put a nonce of its own into the data.

        Raises:
            FileExistsError: there is a file of this name.
        """
        self._files.create(path, data)

    def exists(self, path: str) -> bool:
        """Whether there is a file of this name."""
        return self._files.exists(path)

    def list(self, prefix: str = "") -> list[str]:
        """The sorted paths, relative to the root, of all files in `prefix` and below that are no temporary ones."""
        return [name for name in self.details(prefix) if not is_temporary(name)]

    def details(self, prefix: str = "") -> dict[str, Details]:
        """Path -> details, also of temporary files (`is_temporary`), sorted. On S3 it costs as many requests as `list`."""
        return self._files.details(prefix.strip("/"))

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._files.remove(path)

    def modified(self, path: str) -> float:
        """When a file was last written, in seconds since the epoch, as in its `Details`."""
        return self._files.modified(path)

    def sha256(self, data: bytes) -> str:
        """The checksum that manifests hold: SHA-256 in hexadecimal."""
        return hashlib.sha256(data).hexdigest()

    def check(self) -> None:
        """Try out writing and exclusive creation with a small file, which is removed again.

        Raises:
            InputError: the root cannot be written, or the service lets a second writer create the same name.
        """
        name = f"{TEMPORARY}check-{uuid.uuid4().hex}"
        try:
            self.create(name, b"first")
            try:
                self.create(name, b"second")
            except FileExistsError:
                return
            finally:
                self.remove(name)
        except Exception as error:
            advice = "Name a place that you may write to"
            if not self.is_local:
                advice += (
                    f", or mend the credentials, storage.endpoint_url ({self.options.endpoint_url}) and storage.region "
                    f"({self.options.region})"
                )
            raise InputError(f"output {self.root_uri} cannot be written: {error}. {advice}") from error
        raise InputError(
            f"output {self.root_uri}: this service ignores the condition of an exclusive put (If-None-Match), so two "
            "writers could undo each other. Use AWS S3, MinIO 2024-09 or newer, or a local path"
        )


def split_uri(uri: str) -> tuple[str, str]:
    """Split a location into its scheme and its path: ("file", local path) or ("s3", "bucket/key").

    Raises:
        InputError: another scheme, or two slashes in a row within an S3 path.
    """
    if "://" not in uri:
        return "file", os.path.expanduser(uri)
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return "file", unquote(parts.path)
    # Not urlsplit's path: an S3 key may hold ? and #.
    if parts.scheme == "s3" and parts.netloc:
        path = uri.removeprefix("s3://").strip("/")
        if "//" in path:
            raise InputError(f"{uri}: has two slashes in a row, and what lies there could not be listed. Write one")
        return "s3", path
    raise InputError(f"{uri}: unknown location. Write a local path, file:///path or s3://bucket/prefix")


def canonical_uri(uri: str) -> str:
    """The same text for each way to write a place: s3://bucket/key, or the real path of a local file. A table that is named
    with its format (delta://PLACE) has the text of its place; one of a catalog (iceberg://CATALOG/NAMESPACE.TABLE) stays.

    Raises:
        InputError: as `split_uri`.
    """
    for prefix in ("delta://", "iceberg://"):
        if uri.startswith(prefix):
            place = uri.removeprefix(prefix).partition("?")[0]
            if prefix == "iceberg://" and "://" not in place and not place.startswith(("/", ".", "~")):
                return uri
            return canonical_uri(place)
    scheme, path = split_uri(uri)
    return f"s3://{path}" if scheme == "s3" else os.path.realpath(path)


def filesystem_for(uri: str, options: StorageOptions) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system that reads `uri`, and the path in it.

    Raises:
        InputError: as `split_uri`, or the endpoint has a path.
    """
    scheme, path = split_uri(uri)
    if scheme == "file":
        return pafs.LocalFileSystem(), os.path.abspath(path)
    # pyarrow ignores AWS_ENDPOINT_URL, and wants host and scheme apart.
    endpoint = urlsplit(options.endpoint_url) if options.endpoint_url else None
    if endpoint and endpoint.path.strip("/"):
        raise InputError(
            f"{uri}: storage.endpoint_url is {options.endpoint_url}, and Parquet and files of ids are read without the "
            f"path {endpoint.path}. Only `output` can lie there: put this elsewhere, for instance on a local disk"
        )
    return (
        pafs.S3FileSystem(
            anonymous=options.anonymous,
            region=options.region or ("us-east-1" if endpoint else None),
            endpoint_override=endpoint.netloc if endpoint else None,
            scheme=endpoint.scheme if endpoint else "https",
            connect_timeout=10,
            request_timeout=60,
        ),
        path,
    )
