"""The manifest of a version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # which imports torch
    from ...distributed.partition.results import WithFiles

Manifest = dict[str, Any]


def files_of(results: Iterable[WithFiles]) -> dict[str, dict[str, Any]]:
    """name -> {"sha256", "bytes"} of the files that workers wrote."""
    return {
        file["name"]: {"sha256": file["sha256"], "bytes": file["bytes"]}
        for result in results
        for file in result["files"]
    }


def needed_files(manifest: Manifest) -> list[str]:
    """The files that a version stands on."""
    graph, model = manifest["graph"], manifest["model"]
    names = [graph["user_file"], graph["item_file"], *graph["shard_files"], *model["embeddings"]]
    if model["dense"]:
        names.append(model["dense"])
    if model["encoder"]:
        names += [model["encoder"]["file"], *(model["encoder"]["tables"] or [])]
    return names
