"""Finds the users that the hashes of a batch lead to. The table of a list is read as a stream, in bounded memory."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...partitioning.errors import InputError
from ...partitioning.lake import columns_of, open_table, read_columns
from ...partitioning.storage import StorageOptions
from ..config.request_sections import DropList
from .standard import hashed

_HASH = r"^(?:[A-Za-z0-9+/]{43}=|[0-9A-Fa-f]{64})$"


@dataclass
class Looked:
    """What was found in the table of a list, and how much was looked at.

    rows: the number of rows that were read. users: hash of the batch -> the ids of its users.
    """

    list: str
    table: str
    state: Mapping[str, Any]
    """The state of the table that was read, as `lake.Table.pinned`, without the schema."""
    rows: int = 0
    identifiers: int = 0
    """The number of rows that have an identifier."""
    users: dict[bytes, set[str]] = field(default_factory=dict, repr=False)
    nameless: set[bytes] = field(default_factory=set, repr=False)
    """The hashes of the batch that stand in a row without a user."""

    def document(self) -> dict[str, Any]:
        """The JSON object in the answer of the command; it holds no hash and no user."""
        names = ("list", "table", "rows", "identifiers", "state")
        return {name: getattr(self, name) for name in names}


def key_of(variable: str) -> bytes:
    """The key of keyed hashes, from this variable of the environment.

    Raises:
        InputError: the variable is not set.
    """
    key = os.environ.get(variable, "")
    if not key:
        raise InputError(
            f"{variable} is not set, and a column of the section drop holds keyed hashes. Set it to their key"
        )
    return key.encode()


def match(
    list_type: str, settings: DropList, wanted: Collection[bytes], options: StorageOptions, key: bytes = b""
) -> Looked:
    """Find the users of a table whose identifier has one of the wanted hashes.

    list_type: the list of the hashes. settings: the section of the configuration for that list. wanted: SHA-256, 32 bytes
    each. key: that of the hashes in the table, where these are keyed.

    Raises:
        InputError: the table cannot be read, lacks a column, or has no identifier; or its column of hashes holds values that
            are no hashes: a user might then not be found only because the column is wrong.
    """
    place = f"drop.{list_type.lower()}"
    table = open_table(settings.table, options)
    column = settings.hash or settings.value or ""
    there = columns_of(table)
    for name in (settings.user, column):
        if name not in there:
            raise InputError(f"{settings.table}: no column '{name}' ({place}); it has {', '.join(there)}")
    state = {name: value for name, value in table.pinned.items() if name != "schema"}
    looked = Looked(list_type, settings.table, state)
    stored = {
        (hmac.new(key, digest, hashlib.sha256).digest() if settings.keyed else digest): digest for digest in wanted
    }
    # A column of text may hold hashes in Base64 or in hexadecimal.
    texts = {base64.b64encode(form).decode(): digest for form, digest in stored.items()}
    texts |= {form.hex(): digest for form, digest in stored.items()}
    for batch in read_columns(table, [settings.user], [column], options):
        users, values = batch.column(0), _plain(batch.column(1), settings.table, column, place)
        looked.rows += batch.num_rows
        looked.identifiers += batch.num_rows - values.null_count
        if settings.value:
            hits = _by_value(list_type, values, stored)
        elif pa.types.is_binary(values.type):
            hits = _by_bytes(values, stored, settings.table, column, place)
        else:
            hits = _by_text(values, texts, settings.table, column, place)
        for at, digest in hits.items():
            user = users[at].as_py()
            if user is None:
                looked.nameless.add(digest)
            else:
                looked.users.setdefault(digest, set()).add(str(user))
    if not looked.identifiers:
        raise InputError(
            f"{settings.table}: column '{column}' ({place}) has no identifier in {looked.rows} rows, so that nobody could "
            "be found there. Check the table and the column"
        )
    return looked


def _plain(values: pa.Array, table: str, column: str, place: str) -> pa.Array:
    """The values as text or binary. A text of white space alone counts as missing.

    Raises:
        InputError: the column is of another type.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_null(kind):
        return values.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return values.cast(pa.binary())
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = values.cast(pa.string())
        return pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), pa.scalar(None, pa.string()), texts)
    raise InputError(f"{table}: column '{column}' ({place}) is {kind}; it must be text or binary")


def _not_hashes(count: int, table: str, column: str, place: str) -> InputError:
    """The error for a column of hashes that holds other values."""
    return InputError(
        f"{table}: column '{column}' ({place}) holds {count} or more values that are no SHA-256 (44 characters of Base64, "
        "64 hexadecimal digits, or 32 bytes). Mend them or make them null; for identifiers that are not hashed set "
        f"{place}.value instead of {place}.hash"
    )


def _by_text(values: pa.Array, texts: Mapping[str, bytes], table: str, column: str, place: str) -> dict[int, bytes]:
    """Row -> the wanted hash that it holds, in a column of hashes as text."""
    wrong = values.drop_null().filter(pc.invert(pc.match_substring_regex(values.drop_null(), _HASH)))
    if len(wrong):
        raise _not_hashes(len(wrong), table, column, place)
    forms = pc.if_else(pc.equal(pc.utf8_length(values), 64), pc.utf8_lower(values), values)
    hits = pc.indices_nonzero(pc.is_in(forms, value_set=pa.array(texts, pa.string()))).to_pylist()
    return {at: texts[forms[at].as_py()] for at in hits}


def _by_bytes(values: pa.Array, stored: Mapping[bytes, bytes], table: str, column: str, place: str) -> dict[int, bytes]:
    """Row -> the wanted hash that it holds, in a column of hashes as bytes."""
    wrong = pc.sum(pc.not_equal(pc.binary_length(values), 32)).as_py() or 0
    if wrong:
        raise _not_hashes(wrong, table, column, place)
    hits = pc.indices_nonzero(pc.is_in(values, value_set=pa.array(stored, pa.binary()))).to_pylist()
    return {at: stored[values[at].as_py()] for at in hits}


def _by_value(list_type: str, values: pa.Array, stored: Mapping[bytes, bytes]) -> dict[int, bytes]:
    """Row -> the wanted hash of its identifier, in a column of plain identifiers."""
    found = {}
    for at, text in enumerate(values.cast(pa.string()).to_pylist()):
        digest = None if text is None else hashed(list_type, text)
        if digest is not None and digest in stored:
            found[at] = stored[digest]
    return found
