"""What can be said against a command before torch and Ray are loaded, which takes seconds: its output is no folder, or holds
no graph or no model; a file that it is to read is not there.

These checks save the wait and decide nothing: each command looks again, with the whole of the log, when it runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.manifest import MANIFEST, no_graph_text
from ...partitioning.storage import StorageOptions, Store, split_uri
from ..config.schema import Config
from ..layout import LOG
from ..requests.request import check_place


def open_store(output: str, options: StorageOptions) -> Store:
    """The store of an output.

    Raises:
        InputError: the output is a file, or lies below one.
    """
    scheme, path = split_uri(output)
    if scheme == "file":
        folder = Path(os.path.abspath(path))
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir():
            raise InputError(f"output {output}: {there} is a file. Name a folder; it need not be there yet")
    return Store(output, options)


def no_model_text(output: str, ingested: bool = True) -> str:
    """The message for an output without a version."""
    missing = "`unlearnrec train`" if ingested else "`unlearnrec ingest` and `unlearnrec train`"
    return f"{output} holds no trained model. Run {missing} first{'' if ingested else ', or check `output`'}"


def check_ingested(config: Config) -> None:
    """Raise InputError if the output holds no graph."""
    store = open_store(config.output, StorageOptions(**config.storage.model_dump()))
    with suppress(OSError):  # where the storage does not answer, the command itself says so, or waits
        if not store.exists(MANIFEST):
            raise InputError(no_graph_text(store))


def check_trained(config: Config, reference: str | None = None) -> None:
    """Raise InputError if the output holds no trained model. reference: another output that must hold one."""
    options = StorageOptions(**config.storage.model_dump())
    store = open_store(config.output, options)
    with suppress(OSError):
        # The first commit makes the first record of an output's log.
        if not store.list(LOG):
            raise InputError(no_model_text(config.output, store.exists(MANIFEST)))
        if reference is not None and not open_store(reference, options).list(LOG):
            raise InputError(no_reference_text(reference))


def no_reference_text(reference: str) -> str:
    """The message for a `--reference` without a version."""
    return (
        f"--reference {reference}: holds no trained model. Run `unlearnrec ingest` and `unlearnrec train --without` "
        "with output set to it"
    )


def check_named(config: Config, named: Mapping[str, Any]) -> None:
    """Raise InputError if a local file of what is named is not there. named: as `parse_request` takes it, by option, or a
    list of such values."""
    options = StorageOptions(**config.storage.model_dump())
    for option, value in named.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                check_place(option, one, options)
