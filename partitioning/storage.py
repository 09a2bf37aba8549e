"""Where everything durable lies: one root, local or S3, with atomic writes and exclusive creation.

Exclusive creation is what the log's numbering stands on: of two writers of one name exactly one succeeds. Locally that
is a complete, fsynced temporary file and `os.link` (opening with O_EXCL would leave an empty file that owns the name
after a crash); on S3 it is a put with If-None-Match.
"""

import contextlib
import errno
import hashlib
import os
import posixpath
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

import pyarrow.fs as pafs

from .errors import InputError
from .failpoints import ENVIRONMENT, FailingFiles

_TEMPORARY = ".tmp-"


@dataclass(frozen=True)
class StorageOptions:
    """How to reach S3. Credentials come from the usual provider chain only (environment, profile, instance role)."""

    endpoint_url: str | None = None
    """Of an S3-compatible service, with scheme: http://localhost:9000. None is AWS. A path after it is for `Store` only."""
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
"""On S3: what s3fs makes of 500 and 503 and of answers that it does not know; locally: of a disk behind a network."""


def is_away(error: OSError) -> bool:
    """Whether the store does not answer at the moment, so that another attempt is worth it: no connection, a time-out, or
    a service that is down. Not what somebody has to mend first, such as credentials, or a bucket that is not there."""
    return isinstance(error, ConnectionError | TimeoutError) or error.errno in _PASSING


class Details(NamedTuple):
    """Of a file: its bytes, and when it was last written, in seconds since the epoch by the clock of this machine, or of the
    service."""

    bytes: int
    modified: float


class _Files(Protocol):
    def read(self, path: str) -> bytes: ...
    def write(self, path: str, data: bytes) -> None: ...
    def create(self, path: str, data: bytes) -> None: ...
    def exists(self, path: str) -> bool: ...
    def details(self, prefix: str) -> dict[str, Details]: ...
    def remove(self, path: str) -> None: ...
    def modified(self, path: str) -> float: ...


class Store:
    """Files under one root. Paths are relative to it, with forward slashes.

    Raises (every method): OSError of the file system or of the service; FileNotFoundError for a file that is not there.
    """

    def __init__(self, root_uri: str, options: StorageOptions = AWS) -> None:
        """root_uri: a local path, file:// or s3://bucket/prefix. Nothing is touched yet.

        Raises:
            InputError: as `split_uri`, or s3fs is not installed.
        """
        scheme, path = split_uri(root_uri)
        self.root_uri = root_uri.rstrip("/") or "/"
        self.options = options
        self.is_local = scheme != "s3"
        self._files: _Files = _LocalFiles(path) if self.is_local else _S3Files(path, options)
        if ENVIRONMENT in os.environ:
            self._files = FailingFiles(self._files)

    def read(self, path: str) -> bytes:
        """The whole file."""
        return self._files.read(path)

    def write(self, path: str, data: bytes) -> None:
        """Replace or make a file, atomically and durably: a reader sees the old bytes or the new ones."""
        self._files.write(path, data)

    def create(self, path: str, data: bytes) -> None:
        """Make a file that must not exist, atomically and durably.

        On S3 a file that already holds exactly `data` counts as success, since a repeated request cannot tell its own
        earlier success from another writer's: where writers compete, put a nonce of the writer into the data.

        Raises:
            FileExistsError: another writer won the name.
        """
        self._files.create(path, data)

    def exists(self, path: str) -> bool:
        """Whether there is a file of this name."""
        return self._files.exists(path)

    def list(self, prefix: str = "") -> list[str]:
        """All files in the folder `prefix` and below, as sorted paths relative to the root. Empty if there is none."""
        return [name for name in self.details(prefix) if not is_temporary(name)]

    def details(self, prefix: str = "") -> dict[str, Details]:
        """The files of `list`, in its order, and the temporary ones (`is_temporary`); on S3 no more requests than `list`."""
        return self._files.details(prefix.strip("/"))

    def remove(self, path: str) -> None:
        """Delete a file."""
        self._files.remove(path)

    def modified(self, path: str) -> float:
        """When a file was last written, as in its `Details`."""
        return self._files.modified(path)

    def sha256(self, data: bytes) -> str:
        """The checksum that manifests carry."""
        return hashlib.sha256(data).hexdigest()

    def check(self) -> None:
        """Try out writing and exclusive creation with a small file, which is removed again.

        Raises:
            InputError: the root cannot be written, or the store lets a second writer have the same name.
        """
        name = f"{_TEMPORARY}check-{uuid.uuid4().hex}"
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


def is_temporary(path: str) -> bool:
    """Whether this is a file of a write under way, or of one that a crash ended."""
    return posixpath.basename(path).startswith(_TEMPORARY)


def split_uri(uri: str) -> tuple[str, str]:
    """("file", local path) or ("s3", bucket/key).

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
    """One text for each place, however it is written: s3://bucket/key, or the real path. Of a table that is named with its
    format (delta://PLACE) the place; a table of a catalog (iceberg://CATALOG/NAMESPACE.TABLE) stays as it is.

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


class _LocalFiles:
    def __init__(self, root: str) -> None:
        self.root = Path(os.path.abspath(root))

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        temporary = self._temporary(target, data)
        os.replace(temporary, target)
        _fsync_folder(target.parent)

    def create(self, path: str, data: bytes) -> None:
        target = self.root / path
        temporary = self._temporary(target, data)
        try:
            os.link(temporary, target)
        finally:
            os.unlink(temporary)
        _fsync_folder(target.parent)

    def exists(self, path: str) -> bool:
        return (self.root / path).is_file()

    def details(self, prefix: str) -> dict[str, Details]:
        found = {}
        for path in filter(Path.is_file, (self.root / prefix).rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # somebody removes it at this moment
                about = path.stat()
                found[path.relative_to(self.root).as_posix()] = Details(about.st_size, about.st_mtime)
        return dict(sorted(found.items()))

    def remove(self, path: str) -> None:
        target = self.root / path
        target.unlink()
        _fsync_folder(target.parent)

    def modified(self, path: str) -> float:
        return (self.root / path).stat().st_mtime

    def _temporary(self, target: Path, data: bytes) -> Path:
        """A complete, fsynced file beside the target."""
        _make_folder(target.parent)
        temporary = target.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _make_folder(folder: Path) -> None:
    """mkdir -p whose every new entry survives a power cut."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _fsync_folder(folder.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _connection() -> Iterator[None]:
    """What goes wrong on the way to S3 and back as an OSError. s3fs translates only what the service itself answers."""
    from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise PermissionError(f"S3: {error}") from error
    except (BotoCoreError, TimeoutError) as error:
        raise ConnectionError(f"S3: {error}") from error


class _S3Files:
    def __init__(self, root: str, options: StorageOptions) -> None:
        try:
            import s3fs
        except ImportError as error:
            raise InputError(f"s3://{root} needs the package s3fs: pip install 'unlearnrec[s3]'") from error
        self.root = root
        client: dict[str, Any] = {"region_name": options.region} if options.region else {}
        # A cached listing would hide what another process has written.
        self.fs = s3fs.S3FileSystem(
            anon=options.anonymous,
            endpoint_url=options.endpoint_url,
            client_kwargs=client,
            use_listings_cache=False,
        )

    def _key(self, path: str) -> str:
        return posixpath.join(self.root, path)

    @_connection()
    def read(self, path: str) -> bytes:
        return bytes(self.fs.cat_file(self._key(path)))

    @_connection()
    def write(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(self._key(path), data)

    def create(self, path: str, data: bytes) -> None:
        try:
            with _connection():
                self.fs.pipe_file(self._key(path), data, mode="create")
        except OSError as error:
            # A refusal may be the echo of our own put: s3fs repeats a put whose answer was lost. And a lost answer may
            # stand for a put that worked. What lies there now decides.
            there = None
            with contextlib.suppress(FileNotFoundError):
                there = self.read(path)
            if there is None:
                raise
            if there != data:
                raise FileExistsError(f"s3://{self._key(path)} exists already") from error

    @_connection()
    def exists(self, path: str) -> bool:
        # Not s3fs's isfile, which says no when the service cannot be reached.
        try:
            return str(self.fs.info(self._key(path))["type"]) == "file"
        except FileNotFoundError:
            return False

    @_connection()
    def details(self, prefix: str) -> dict[str, Details]:
        folder = self._key(prefix).rstrip("/") + "/"
        # s3fs names the folder itself when its first file is written while it looks. Empty objects whose keys end with a
        # slash stand for folders: consoles make them.
        files = (
            (
                str(name).removeprefix(self.root).lstrip("/"),
                Details(int(about["size"]), about["LastModified"].timestamp()),
            )
            for name, about in self.fs.find(folder.rstrip("/"), detail=True).items()
            if name.startswith(folder) and not name.endswith("/")
        )
        return dict(sorted(files))

    @_connection()
    def remove(self, path: str) -> None:
        # S3 deletes what is not there without a word; the local store does not.
        if not self.exists(path):
            raise FileNotFoundError(f"s3://{self._key(path)} does not exist")
        self.fs.rm_file(self._key(path))

    @_connection()
    def modified(self, path: str) -> float:
        return float(self.fs.info(self._key(path))["LastModified"].timestamp())
