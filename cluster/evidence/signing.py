"""Sign receipts with Ed25519: a detached signature over the bytes of the file, with the user's own key.

The bytes of a receipt are canonical JSON, so that somebody else can check a signature without this package
(docs/evidence.md).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.storage import canonical_uri
from ..config.schema import Config

ENVIRONMENT = "UNLEARNREC_SIGNING_KEY"
"""The variable that may hold the private key in PEM. It counts before `evidence.signing_key`."""
_MAKE = "Make one with `openssl genpkey -algorithm ed25519 -out KEY.pem`"


@dataclass(frozen=True)
class Key:
    """An Ed25519 key with its private part."""

    private: Any
    """The private key, as an object of the package cryptography."""
    public: bytes
    """The public key, 32 bytes."""

    def sign(self, data: bytes) -> bytes:
        """The signature over the data, 64 bytes."""
        return bytes(self.private.sign(data))


def signing_key(config: Config) -> Key | None:
    """The key that signs receipts; None if none is configured.

    Raises:
        InputError: it is not an Ed25519 private key in PEM, it has a password, its file lies under `output` or cannot be
            read, or cryptography is not installed.
    """
    text, path = os.environ.get(ENVIRONMENT), config.evidence.signing_key
    if not text and path is None:
        return None
    where = ENVIRONMENT if text else f"evidence.signing_key: {path}"
    if text:
        data = text.encode()
    else:
        assert path is not None
        _check_outside(path, config)
        data = _read(path, where)
    from_pem = _serialization().load_pem_private_key
    try:
        private = from_pem(data, password=None)
        public = private.public_key().public_bytes_raw()
        private.sign  # noqa: B018 - a key for key exchange has no `sign`, and is refused here
    except Exception as error:  # cryptography raises many kinds, whose messages may quote the key
        raise InputError(f"{where} is no Ed25519 private key in PEM without a password. {_MAKE}") from error
    if type(private).__name__ != "Ed25519PrivateKey":
        raise InputError(f"{where} is a private key of another kind than Ed25519. {_MAKE}")
    return Key(private, public)


def known_keys(config: Config) -> set[bytes]:
    """The public keys whose signatures count: those of `evidence.public_keys`, and that of the signing key if this machine
    has it.

    Raises:
        InputError: as `signing_key`; or a file of `evidence.public_keys` is not a public key.
    """
    found = set()
    for path in config.evidence.public_keys:
        where = f"evidence.public_keys: {path}"
        data = _read(path, where)
        try:
            found.add(_serialization().load_pem_public_key(data).public_bytes_raw())
        except InputError:
            raise
        except Exception as error:
            advice = "Make it with `openssl pkey -in KEY.pem -pubout -out PUBLIC.pem`"
            raise InputError(f"{where} is no Ed25519 public key in PEM. {advice}") from error
    try:
        own = signing_key(config)
    except InputError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        own = None  # the key's file is on another machine, which signs; this one only checks
    return found | ({own.public} if own else set())


def verifies(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` (64 bytes) over the data was made with the key whose public part is `public` (32 bytes).

    Raises:
        InputError: cryptography is not installed.
    """
    _serialization()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public: bytes) -> str:
    """The SHA-256 of a public key's 32 bytes, in hexadecimal. It is short enough that two people can compare it aloud."""
    return hashlib.sha256(public).hexdigest()


def _serialization() -> Any:
    """The module of the package cryptography that reads keys.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise InputError(
            "receipts are signed and checked with the package cryptography: pip install 'unlearnrec[signing]'"
        ) from error
    return serialization


def _check_outside(path: str, config: Config) -> None:
    """Raise InputError if the key lies under the output, where everybody who can change a receipt could read it."""
    folder, place = canonical_uri(config.output), os.path.realpath(os.path.expanduser(path))
    if place.startswith(folder.rstrip("/") + "/"):
        raise InputError(
            f"evidence.signing_key: {path} lies under `output`, where whoever can change a receipt could sign it again. "
            "Move the key elsewhere"
        )


def _read(path: str, where: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror}. Name a local file in PEM") from error
