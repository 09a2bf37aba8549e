"""Objects of S3, or of a service like it, as files."""

import contextlib
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from . import files
from .errors import InputError
from .files import PIECE, Details


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


class S3Files:
    """As `files.Files`, under a prefix of a bucket."""

    def __init__(self, root: str, endpoint_url: str | None, region: str | None, anonymous: bool) -> None:
        """root: bucket/prefix. The others as in `storage.StorageOptions`.

        Raises:
            InputError: s3fs is not installed.
        """
        try:
            import s3fs
        except ImportError as error:
            raise InputError(f"s3://{root} needs the package s3fs: pip install 'unlearnrec[s3]'") from error
        self.root = root
        client: dict[str, Any] = {"region_name": region} if region else {}
        # A cached listing would hide what another process has written.
        self.fs = s3fs.S3FileSystem(
            anon=anonymous,
            endpoint_url=endpoint_url,
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
            for start in range(0, size, PIECE):
                file.write(self.fs.cat_file(key, start=start, end=min(start + PIECE, size)))
            file.flush()
            return files.mapped(file)

    @s3_connection()
    def size(self, path: str) -> int:
        return int(self.fs.info(self._key(path))["size"])

    @s3_connection()
    def write(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(self._key(path), data)

    @s3_connection()
    def write_file(self, path: str, file: BinaryIO) -> None:
        # In parts: the object appears when the last of them is complete.
        target = self.fs.open(self._key(path), "wb", block_size=PIECE)
        try:
            shutil.copyfileobj(file, target, PIECE)
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
