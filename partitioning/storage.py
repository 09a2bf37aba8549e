"""The store of all durable files: one root, local or on S3, with atomic writes and exclusive creation.

The numbering of the log relies on exclusive creation: of two writers of one name exactly one succeeds. A local file is
written completely to a temporary file, fsynced, and then linked to its name with `os.link`: opening the name with O_EXCL
would leave an empty file under it after a crash. On S3 it is a put with If-None-Match.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

import pyarrow.fs as pafs

from .errors import InputError
from .failpoints import ENVIRONMENT, FailingFiles

_TEMPORARY = ".tmp-"
_PIECE = 16 << 20


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


class Details(NamedTuple):
    """The size of a file in bytes, and when it was last written, in seconds since the epoch, by the clock of this machine or
    of the service."""

    bytes: int
    modified: float


class _Files(Protocol):
    def read(self, path: str) -> bytes: ...
    def mapped(self, path: str, folder: str | None) -> memoryview: ...
    def size(self, path: str) -> int: ...
    def write(self, path: str, data: bytes) -> None: ...
    def write_file(self, path: str, file: BinaryIO) -> None: ...
    def create(self, path: str, data: bytes) -> None: ...
    def exists(self, path: str) -> bool: ...
    def details(self, prefix: str) -> dict[str, Details]: ...
    def remove(self, path: str) -> None: ...
    def modified(self, path: str) -> float: ...


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
        self._files: _Files = _LocalFiles(path) if self.is_local else _S3Files(path, options)
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
    """Whether this is the temporary file of a write that is under way, or that a crash ended."""
    return posixpath.basename(path).startswith(_TEMPORARY)


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


class _LocalFiles:
    def __init__(self, root: str) -> None:
        self.root = Path(os.path.abspath(root))

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def mapped(self, path: str, folder: str | None) -> memoryview:
        with open(self.root / path, "rb") as file:
            return _mapped(file)

    def size(self, path: str) -> int:
        return (self.root / path).stat().st_size

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        temporary = self._temporary(target, data)
        os.replace(temporary, target)
        _fsync_folder(target.parent)  # the new name survives a power cut only once its folder is on the disk

    def write_file(self, path: str, file: BinaryIO) -> None:
        target = self.root / path
        os.replace(self._temporary(target, file), target)
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
            with contextlib.suppress(FileNotFoundError):  # another process removes it at this moment
                about = path.stat()
                found[path.relative_to(self.root).as_posix()] = Details(about.st_size, about.st_mtime)
        return dict(sorted(found.items()))

    def remove(self, path: str) -> None:
        target = self.root / path
        target.unlink()
        _fsync_folder(target.parent)

    def modified(self, path: str) -> float:
        return (self.root / path).stat().st_mtime

    def _temporary(self, target: Path, data: bytes | BinaryIO) -> Path:
        """Write a complete, fsynced temporary file in the folder of the target; returns its path."""
        _make_folder(target.parent)
        temporary = target.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "xb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    shutil.copyfileobj(data, file, _PIECE)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _mapped(file: BinaryIO) -> memoryview:
    """The content of an open file, mapped into memory."""
    size = os.fstat(file.fileno()).st_size
    return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")


def digest_of(data: memoryview) -> str:
    """The SHA-256 of a content in hexadecimal, as `Store.sha256`. Pages of a mapped file are let go again."""
    found = hashlib.sha256()
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        found.update(piece)
        if isinstance(data.obj, mmap.mmap):
            data.obj.madvise(mmap.MADV_DONTNEED, start, len(piece))
    return found.hexdigest()


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, as `mkdir -p`; every new entry survives a power cut."""
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
def s3_connection() -> Iterator[None]:
    """Turn errors of the connection to S3 into OSError. s3fs does that only for errors that the service itself answers."""
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

    @s3_connection()
    def read(self, path: str) -> bytes:
        return bytes(self.fs.cat_file(self._key(path)))

    @s3_connection()
    def mapped(self, path: str, folder: str | None) -> memoryview:
        key, size = self._key(path), self.size(path)
        with tempfile.TemporaryFile(dir=folder, prefix="unlearnrec-") as file:
            for start in range(0, size, _PIECE):
                file.write(self.fs.cat_file(key, start=start, end=min(start + _PIECE, size)))
            file.flush()
            return _mapped(file)

    @s3_connection()
    def size(self, path: str) -> int:
        return int(self.fs.info(self._key(path))["size"])

    @s3_connection()
    def write(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(self._key(path), data)

    @s3_connection()
    def write_file(self, path: str, file: BinaryIO) -> None:
        # In parts: the object appears when the last of them is complete.
        target = self.fs.open(self._key(path), "wb", block_size=_PIECE)
        try:
            shutil.copyfileobj(file, target, _PIECE)
        except BaseException:
            target.discard()
            raise
        target.close()

    def create(self, path: str, data: bytes) -> None:
        try:
            with s3_connection():
                self.fs.pipe_file(self._key(path), data, mode="create")
        except OSError as error:
            # A refusal may come from our own put: s3fs repeats a put whose answer was lost. And an error may mean that only
            # the answer of a put was lost that succeeded. So the content that is there now decides.
            there = None
            with contextlib.suppress(FileNotFoundError):
                there = self.read(path)
            if there is None:
                raise
            if there != data:
                raise FileExistsError(f"s3://{self._key(path)} exists already") from error

    @s3_connection()
    def exists(self, path: str) -> bool:
        # Not `isfile` of s3fs, which returns False when the service cannot be reached.
        try:
            return str(self.fs.info(self._key(path))["type"]) == "file"
        except FileNotFoundError:
            return False

    @s3_connection()
    def details(self, prefix: str) -> dict[str, Details]:
        folder = self._key(prefix).rstrip("/") + "/"
        # Left out are the folder itself, which s3fs lists when the first file is written into it at the same moment, and
        # empty objects whose keys end with a slash, which consoles make to stand for folders.
        files = (
            (
                str(name).removeprefix(self.root).lstrip("/"),
                Details(int(about["size"]), about["LastModified"].timestamp()),
            )
            for name, about in self.fs.find(folder.rstrip("/"), detail=True).items()
            if name.startswith(folder) and not name.endswith("/")
        )
        return dict(sorted(files))

    @s3_connection()
    def remove(self, path: str) -> None:
        # S3 reports no error for a file that is not there; the local store does, and both have to behave the same.
        if not self.exists(path):
            raise FileNotFoundError(f"s3://{self._key(path)} does not exist")
        self.fs.rm_file(self._key(path))

    @s3_connection()
    def modified(self, path: str) -> float:
        return float(self.fs.info(self._key(path))["LastModified"].timestamp())
