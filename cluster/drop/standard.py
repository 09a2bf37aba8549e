"""Standardises and hashes identifiers as DROP does: SHA-256 of the UTF-8 text, 32 bytes.

Only the lists with a single identifier are here. Lists with names (NDZ, NameVIN) need DROP's own table of transliterations,
which is not public. With another table a name could get another hash, and be reported as not found. So the hashes for these
lists have to come from a column.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable


def email(text: str) -> str | None:
    """An address without white space, in small letters. Dots and plus signs stay. None where nothing is left."""
    return "".join(text.split()).lower() or None


def phone(text: str) -> str | None:
    """The last ten digits of a phone number, or all digits where there are fewer; None where there are none."""
    return re.sub(r"[^0-9]", "", text)[-10:] or None


def maid(text: str) -> str | None:
    """The 32 hexadecimal digits of a mobile advertising id, in small letters; None where there are more or fewer."""
    digits = re.sub(r"[^0-9a-f]", "", text.lower())
    return digits if len(digits) == 32 else None


def ctvid(text: str) -> str | None:
    """The 8 to 32 letters and digits of the id of a television, in small letters; None where there are more or fewer."""
    signs = re.sub(r"[^0-9a-z]", "", text.lower())
    return signs if 8 <= len(signs) <= 32 else None


STANDARD: dict[str, Callable[[str], str | None]] = {"Email": email, "Phone": phone, "MAID": maid, "CTVID": ctvid}
"""List -> the function that standardises its identifiers. An identifier for which it returns None cannot be on the list."""


def hashed(list_type: str, text: str) -> bytes | None:
    """The hash of an identifier as the list has it, 32 bytes; None where it cannot be on the list."""
    standard = STANDARD[list_type](text)
    return None if standard is None else hashlib.sha256(standard.encode()).digest()
