"""Checkpoints of a training run: each rank writes a file, and then a manifest is written, which makes the files
count."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from ...partitioning.storage import Store
from ..comm import Comm

_DTYPES = {torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.uint8: "U8"}
"""The types of tensors that are written, in the order in which safetensors puts them into a file."""


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of a safetensors file, the same that the library makes. Equal tensors give equal bytes.

    The library copies each tensor, and then all of them together; a checkpoint of a large table would hold its tables twice
    more. Here the bytes are the only copy.

    Raises:
        KeyError: a tensor has a type that is not in _DTYPES.
    """
    arrays = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    order = list(_DTYPES)
    names = sorted(arrays, key=lambda name: (order.index(arrays[name].dtype), name))
    header, end = {}, 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        shape = list(arrays[name].shape)
        header[name] = {"dtype": _DTYPES[arrays[name].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(arrays[name].numpy().data for name in names)])


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """The inverse of `to_bytes`."""
    return dict(load(data))


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run in a folder of the store. The last complete one counts."""

    store: Store
    folder: str

    def _manifest(self) -> str:
        return f"{self.folder}/manifest.json"

    def _file(self, epoch: int, rank: int) -> str:
        return f"{self.folder}/epoch-{epoch:05d}-{rank:03d}.safetensors"

    def read_manifest(self) -> dict[str, Any] | None:
        """{"epoch", "sha256" of each rank's file} of the last complete checkpoint; None if there is none."""
        try:
            found: dict[str, Any] = json.loads(self.store.read(self._manifest()))
        except FileNotFoundError:
            return None
        return found

    def save(self, comm: Comm, epoch: int, state: dict[str, Tensor]) -> None:
        """Write the states of this epoch. All ranks call it. The files of the checkpoint before are removed
        afterwards."""
        data = to_bytes(state)
        self.store.write(self._file(epoch, comm.rank), data)
        digest = torch.tensor(list(bytes.fromhex(self.store.sha256(data))), dtype=torch.uint8, device=comm.device)
        digests = [bytes(x[0].tolist()).hex() for x in comm.all_gather(digest[None])]
        if comm.rank == 0:
            before = self.read_manifest()
            text = json.dumps({"epoch": epoch, "sha256": digests})
            self.store.write(self._manifest(), text.encode())
            if before is not None and before["epoch"] != epoch:
                for rank in range(len(before["sha256"])):
                    self._remove(self._file(before["epoch"], rank))

    def load(self, comm: Comm) -> tuple[int, dict[str, Tensor]] | None:
        """(epoch, state of this rank) of the last complete checkpoint; None if there is none for this number of ranks.

        Raises:
            OSError: the file is damaged.
        """
        manifest = self.read_manifest()
        if manifest is None or len(manifest["sha256"]) != comm.size:
            return None
        name = self._file(manifest["epoch"], comm.rank)
        data = self.store.read(name)
        if self.store.sha256(data) != manifest["sha256"][comm.rank]:
            raise OSError(f"{self.store.root_uri}/{name} is damaged: its SHA-256 is not the manifest's")
        return manifest["epoch"], from_bytes(data)

    def clear(self) -> None:
        """Remove all files of the folder, the manifest first."""
        for name in [self._manifest(), *self.store.list(self.folder)]:
            self._remove(name)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.store.remove(name)
