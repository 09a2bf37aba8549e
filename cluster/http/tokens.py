"""Who may do what over HTTP: bearer tokens with scopes, of which only digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ...partitioning.errors import InputError

Scope = Literal["requests:write", "requests:read", "requests:approve", "recommendations:read", "metrics:read"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

SHORTEST_TOKEN = 16
DEFAULT_NAME = "default"
"""The name of the token in the environment, which has all scopes."""


@dataclass(frozen=True)
class Token:
    """`name` is written down with a request as its requester; `digest` is the SHA-256 of the token itself."""

    name: str
    digest: bytes
    scopes: frozenset[str]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[list[Scope], Field(min_length=1)]


def load_tokens(variable: str, file: str | None) -> tuple[Token, ...]:
    """The token of the environment variable, if it is set, and those of the JSON file, if there is one.

    Raises:
        InputError: a token is too short, the file is unreadable, an entry is malformed, or two have one name or token.
    """
    token = os.environ.get(variable) or None
    found = [] if token is None else [Token(DEFAULT_NAME, _digest(_checked(token, variable)), frozenset(SCOPES))]
    if file is not None:
        found += _read(file)
    for what in ("name", "digest"):
        if len({getattr(token, what) for token in found}) < len(found):
            raise InputError(
                f"serve.tokens_file {file}: two tokens have the same {'name' if what == 'name' else 'sha256'}, here or in "
                f"{variable} (its name is {DEFAULT_NAME!r}): give each its own"
            )
    return tuple(found)


def find_token(tokens: Sequence[Token], authorization: bytes) -> Token | None:
    """The token of an Authorization header, None where it has none of these.

    It is compared with all of them, and with each in constant time, so that the time of an answer tells nothing.
    """
    scheme, _, given = authorization.partition(b" ")
    digest = hashlib.sha256(given).digest()
    matching = [token for token in tokens if hmac.compare_digest(digest, token.digest)]
    return matching[0] if matching and scheme.lower() == b"bearer" else None


def _checked(token: str, variable: str) -> str:
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"{variable}: a token has at least {SHORTEST_TOKEN} characters, all ASCII and no space. Make one with "
            "`openssl rand -hex 32`"
        )
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _read(file: str) -> list[Token]:
    try:
        entries = TypeAdapter(list[_Entry]).validate_python(json.loads(Path(file).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"serve.tokens_file {file}: {error.strerror or error}") from None
    except ValidationError as error:
        wrong = error.errors()[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in wrong["loc"])
        raise InputError(f"serve.tokens_file {file}: entry {place or 'list'}: {wrong['msg']}. {_SHAPE}") from None
    except ValueError as error:
        raise InputError(f"serve.tokens_file {file}: not JSON in UTF-8 ({error}). {_SHAPE}") from None
    return [Token(entry.name, bytes.fromhex(entry.sha256), frozenset(entry.scopes)) for entry in entries]


_SHAPE = (
    'Expected a list of {"name": 1 to 64 letters, digits, ".", "_" or "-", "sha256": 64 hex digits, "scopes": some of '
    + ", ".join(SCOPES)
    + "}"
)
