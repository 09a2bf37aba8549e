"""Identifiers as DROP standardises and hashes them: SHA-256 of the UTF-8 text, 32 bytes.

Only lists of one identifier are here. Names (NDZ, NameVIN) need DROP's own table of transliterations, which is not public
to us: a name that is folded otherwise would be reported as not found. Their hashes have to come from a column.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable


def email(text: str) -> str | None:
    """Without any white space, in small letters; dots and plus signs stay."""
    return "".join(text.split()).lower() or None


def phone(text: str) -> str | None:
    """The last ten digits, or all where there are fewer."""
    return re.sub(r"[^0-9]", "", text)[-10:] or None


def maid(text: str) -> str | None:
    """A mobile advertising id: its 32 hexadecimal digits in small letters; None where it has another number of them."""
    digits = re.sub(r"[^0-9a-f]", "", text.lower())
    return digits if len(digits) == 32 else None


def ctvid(text: str) -> str | None:
    """An id of a television: 8 to 32 letters and digits, small; None where it has another number of them."""
    signs = re.sub(r"[^0-9a-z]", "", text.lower())
    return signs if 8 <= len(signs) <= 32 else None


STANDARD: dict[str, Callable[[str], str | None]] = {"Email": email, "Phone": phone, "MAID": maid, "CTVID": ctvid}
"""By list; what gives None cannot be on the list."""


def hashed(list_type: str, text: str) -> bytes | None:
    """The hash of an identifier as the list has it, None where it cannot be on the list."""
    standard = STANDARD[list_type](text)
    return None if standard is None else hashlib.sha256(standard.encode()).digest()
