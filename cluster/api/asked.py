"""What is to be forgotten, as Python has it: lists, arrays, columns and tables, or the texts of the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.storage import StorageOptions
from ..config.schema import Config
from ..requests.request import Request, check_request_id, make_request, parse_request
from ..requests.rows import COLUMNS, INTERACTIONS, ITEMS, KINDS, USERS, Row, parse_row


@dataclass(frozen=True)
class Asked:
    """What a request names, as `Session.forget` got it."""

    users: Any = None
    items: Any = None
    interactions: Any = None
    requests: Any = None

    @property
    def named(self) -> list[str]:
        """The arguments that were given."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def request(self, request_id: str | None, options: StorageOptions, key: bytes, method: str = "forget") -> Request:
        """The request in canonical form. The arguments are those of `requests.request.parse_request`. method: the one that
        was called, for messages.

        Raises:
            InputError: nothing is named, a value is of a wrong type, or as `parse_request`.
        """
        given = (self.users, self.items, self.interactions, self.requests)
        if not self.named:
            raise InputError(f"{method}: nothing is named; give users, items, interactions or requests")
        texts = [os.fspath(x) if isinstance(x, str | os.PathLike) else None for x in given]
        if all(text is not None or value is None for text, value in zip(texts, given, strict=True)):
            users, items, interactions, requests = texts
            return parse_request(users, items, interactions, requests, request_id, options, key)
        if any(text is not None for text in texts):
            raise InputError(f"{method}: give all that is named as files, or all as values; not a part of it as a file")
        named: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        named[USERS] += ids_of("users", self.users)
        named[ITEMS] += ids_of("items", self.items)
        named[INTERACTIONS] += _pairs(self.interactions)
        rows = tuple(_rows(self.requests))
        for row in rows:
            if not isinstance(row, str):
                named[row[0]].append(row[1])
        if not any(named.values()) and not rows:
            raise InputError(f"{method}: names no user, item or interaction. Give at least one")
        check_request_id(request_id)
        return make_request(named[USERS], named[ITEMS], named[INTERACTIONS], request_id, key, named["ranges"], rows)


def left_out_of(what: str, without: Any, config: Config) -> list[str | Request]:
    """What a training is to leave out, as `commands.train.train` takes it. what: the argument, for messages.

    Raises:
        InputError: it is neither a file, a list of files nor arguments of `forget`; or as `Asked.request`. A row that is
            invalid is refused too.
    """
    if isinstance(without, str):
        return [without]
    if not isinstance(without, Mapping):
        if isinstance(without, Sequence) and all(isinstance(one, str) for one in without):
            return list(without)
        raise InputError(
            f'{what}: got {type(without).__name__}, expected a file, or what to leave out: {{"users": [17]}}'
        )
    known = [field.name for field in fields(Asked)]
    if unknown := [str(key) for key in without if key not in known]:
        raise InputError(f"{what}: {unknown[0]}: unknown; expected some of {', '.join(known)}")
    request = Asked(**without).request(None, StorageOptions(**config.storage.model_dump()), b"", what)
    for number, row in enumerate(request.rows, start=1):
        if isinstance(row, str):
            raise InputError(f"{what}: requests: row {number}: {row}. Drop the row or correct it")
    return [request]


def ids_of(what: str, values: Any) -> list[int | str]:
    """The ids in a list, an array, a column of pandas or Arrow, or a single id.

    Raises:
        InputError: one is neither an integer nor a text.
    """
    if values is None:
        return []
    if isinstance(values, str | int) and not isinstance(values, bool):
        return [values]
    return [_id(what, value) for value in _listed(what, values)]


def _id(what: str, value: Any) -> int | str:
    """One id. A user who is named as 17.0 or as None is a mistake that would name nobody."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bool):
        try:
            return int(value.__index__())
        except AttributeError:
            pass
    raise InputError(f"{what}: got {value!r} ({type(value).__name__}), expected integers or texts")


def _listed(what: str, values: Any) -> Iterable[Any]:
    """The values one by one, as Python's own types where the container can give them."""
    for method in ("to_pylist", "tolist"):  # of Arrow; of NumPy and pandas
        if hasattr(values, method):
            values = getattr(values, method)()
            break
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise InputError(f"{what}: got {type(values).__name__}, expected a list of ids")
    return values


def _pairs(values: Any) -> list[tuple[int | str, int | str]]:
    """The (user, item) pairs in a list, or in a table with the columns user_id and item_id."""
    if values is None:
        return []
    if hasattr(values, "columns") or hasattr(values, "column_names"):
        table = _columns("interactions", values)
        missing = [name for name in COLUMNS[:2] if name not in table]
        if missing:
            raise InputError(f"interactions: no column '{missing[0]}'; it has {', '.join(table) or 'none'}")
        return list(zip(*(ids_of("interactions", table[name]) for name in COLUMNS[:2]), strict=True))
    found = []
    for pair in _listed("interactions", values):
        if isinstance(pair, str) or not isinstance(pair, Iterable) or len(ids := list(pair)) != 2:
            raise InputError(f"interactions: got {pair!r}, expected pairs (user, item)")
        found.append((_id("interactions", ids[0]), _id("interactions", ids[1])))
    return found


def _rows(values: Any) -> list[Row]:
    """The rows of a list of dictionaries, or of a table, with user_id, item_id, since and until: as those of a file."""
    if values is None:
        return []
    if hasattr(values, "columns") or hasattr(values, "column_names"):
        table = _columns("requests", values)
        lines = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    else:
        lines = list(_listed("requests", values))
    for line in lines:
        if not isinstance(line, Mapping) or not set(line) <= set(COLUMNS):
            raise InputError(f"requests: got a row of {_shown(line)}, expected some of {', '.join(COLUMNS)}")
    return [parse_row(*(line.get(name) for name in COLUMNS)) for line in lines]


def _columns(what: str, table: Any) -> dict[str, list[Any]]:
    """The columns of a table of pandas, Arrow or anything that Arrow can read, by name."""
    from .tables import to_arrow

    found = to_arrow(what, table)
    return {name: found[name].to_pylist() for name in found.column_names}


def _shown(line: Any) -> str:
    """The keys of a row, or its type. Never its values, which are ids."""
    return ", ".join(map(str, line)) if isinstance(line, Mapping) else type(line).__name__
