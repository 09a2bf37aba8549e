"""Types of id columns: what is exact as int64 or as text, and how it is made so.

A column of ids has one type over all files of a table: int64 if all are integers of 64 bits, else text. A decimal without
a fraction is an integer; a UUID, and 16 bytes of fixed length, are text in the canonical form of a UUID.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError

INT64, STRING, UUID = "int64", "string", "uuid"

_CANONICAL = r"^(0|-?[1-9][0-9]{0,18})$"
_MAY_NOT_FIT = r"^-?[1-9][0-9]{18}$"
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
# Where the 16 bytes of a UUID stand in its 36 characters, 8-4-4-4-12 with hyphens between.
_PLACES = np.array([0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34])


class IdFacts(NamedTuple):
    """What one file has in a column of ids."""

    uri: str
    kind: str | None
    """INT64 (integers of any width), STRING or UUID; None where it is of the type null."""
    fits: bool = True
    """Of integers: whether all are integers of 64 bits."""
    untyped: bool = False
    """Whether only its values say what it is: integers where all of the table's are, else text."""


def plain_type(column_type: pa.DataType) -> pa.DataType:
    """The type of the values of a column that may be dictionary-encoded."""
    return column_type.value_type if pa.types.is_dictionary(column_type) else column_type


def is_text(column_type: pa.DataType) -> bool:
    """Whether values of the type are text."""
    plain = plain_type(column_type)
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))


def id_kind(column_type: pa.DataType, name: str, uri: str) -> str | None:
    """INT64, STRING or UUID; None for the type null.

    Raises:
        InputError: ids of this type are not read.
    """
    plain = plain_type(column_type)
    if pa.types.is_null(plain):
        return None
    if pa.types.is_integer(plain) or pa.types.is_decimal(plain):
        return INT64
    if is_text(plain):
        return STRING
    if _is_uuid(plain):
        return UUID
    advice = "Cast the column"
    if pa.types.is_floating(plain):
        advice = "Cast the column, where its values are still exact: floats round large ids"
    elif pa.types.is_binary(plain) or pa.types.is_large_binary(plain) or pa.types.is_fixed_size_binary(plain):
        advice = "Cast the column, for instance to text: of binary ones only those of 16 bytes are read, as UUIDs"
    raise InputError(f"{uri}: column '{name}' is {column_type}; ids must be integers or strings. {advice}")


def may_not_fit(column_type: pa.DataType) -> bool:
    """Whether there are integers of this type that int64 does not hold, so that the values have to be looked at."""
    plain = plain_type(column_type)
    if pa.types.is_decimal(plain):
        return bool(plain.precision - plain.scale > 18)
    return bool(pa.types.is_uint64(plain))


def fits_int64(bounds: tuple[int, int] | None) -> bool:
    """Whether all integers between these are integers of 64 bits."""
    return bounds is None or (bounds[0] >= -(2**63) and bounds[1] < 2**63)


def are_integers(texts: pa.Array) -> bool:
    """Whether every text is an integer of 64 bits as we would write it; 0017 and +17 are not. Null is whatever you like."""
    if not pc.all(pc.match_substring_regex(texts, _CANONICAL), min_count=0).as_py():
        return False
    long = texts.filter(pc.fill_null(pc.match_substring_regex(texts, _MAY_NOT_FIT), False))
    try:
        long.cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def id_type(name: str, facts: Sequence[IdFacts]) -> pa.DataType:
    """The one type of a column: int64 or string.

    Raises:
        InputError: files disagree in what it holds. Both are named.
    """
    first: dict[str, str] = {}
    fits = True
    text = any(fact.untyped and fact.kind == STRING for fact in facts)
    for fact in facts:
        if fact.kind is not None:
            first.setdefault(STRING if text and fact.untyped else fact.kind, fact.uri)
            fits = fits and fact.fits
    if len(first) > 1:
        (kind, there), (other, here) = list(first.items())[:2]
        raise InputError(
            f"{here}: column '{name}' holds {other}, but {there} holds {kind}. Write the column with one type in all files"
        )
    return pa.int64() if INT64 in first and fits else pa.string()


def to_ids(
    column: pa.Array,
    target: pa.DataType,
    name: str,
    uri: str,
    rows: Sequence[int] | npt.NDArray[np.int64],
    nulls: bool = False,
) -> pa.Array:
    """A column of ids in its type.

    rows: where each row lies in its file, from 0, for messages. nulls: whether null is allowed.

    Raises:
        InputError: an id is null, has a fraction, or does not fit.
    """
    # Through the dictionary's own type: there is no cast from a dictionary of large strings to strings.
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if _is_uuid(plain.type):
        plain = _uuid_text(plain)
    if pa.types.is_decimal(plain.type) and plain.type.scale > 0:
        whole = pc.round(plain)
        if (at := pc.index(pc.not_equal(whole, plain), True).as_py()) >= 0:
            raise InputError(
                f"{uri}: column '{name}' has a fraction in row {rows[at] + 1}; ids must be whole. Cast the column"
            )
        plain = whole.cast(pa.decimal256(76, 0) if pa.types.is_decimal256(plain.type) else pa.decimal128(38, 0))
    try:
        cast = plain.cast(target)
    except pa.ArrowInvalid as error:
        raise InputError(f"{uri}: column '{name}' does not fit {target}: {error}. Use string ids") from error
    if cast.null_count and not nulls:
        raise null_error(cast, name, uri, rows)
    return cast


def null_error(column: pa.Array, name: str, uri: str, rows: Sequence[int] | npt.NDArray[np.int64]) -> InputError:
    """That the column is null, and in which row first."""
    at = rows[pc.index(pc.is_null(column), True).as_py()]
    return InputError(
        f"{uri}: column '{name}' is null in row {at + 1}. Every row needs a value there: drop the row or fill it in"
    )


def _is_uuid(plain: pa.DataType) -> bool:
    storage = plain.storage_type if isinstance(plain, pa.BaseExtensionType) else plain
    return bool(pa.types.is_fixed_size_binary(storage) and storage.byte_width == 16)


def _uuid_text(column: pa.Array) -> pa.Array:
    """UUIDs [n] as text in lower case with hyphens."""
    storage = column.storage if isinstance(column.type, pa.BaseExtensionType) else column
    filled = pc.fill_null(storage, pa.scalar(bytes(16), storage.type))
    buffer = filled.buffers()[1]
    octets = np.frombuffer(buffer, dtype=np.uint8)[filled.offset * 16 : (filled.offset + len(filled)) * 16].reshape(
        -1, 16
    )
    text = np.full((len(filled), 36), ord("-"), dtype=np.uint8)
    text[:, _PLACES], text[:, _PLACES + 1] = _HEX[octets >> 4], _HEX[octets & 15]
    offsets = pa.array(np.arange(len(filled) + 1, dtype=np.int32) * 36)
    strings = pa.StringArray.from_buffers(len(filled), offsets.buffers()[1], pa.py_buffer(text.tobytes()))
    return pc.if_else(pc.is_valid(storage), strings, pa.scalar(None, pa.string()))
