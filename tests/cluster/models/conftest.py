"""What tests of trainings and of their runs share."""

import functools
from typing import Any

import pytest

from unlearnrec.distributed.partition.partition import Partition


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Of each training from now on: whether it leaves something out, and the number of its epochs."""
    found: list[tuple[bool, int]] = []
    train = Partition.train

    @functools.wraps(train)  # calls go by the name of the method
    def watched(self: Partition, *arguments: Any) -> Any:
        result = train(self, *arguments)
        found.append((bool(arguments[2].removal), len(result["curve"])))
        return result

    monkeypatch.setattr(Partition, "train", watched)
    return found
