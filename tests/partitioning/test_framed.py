"""Files that are written in parts are those that the library writes."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from unlearnrec.partitioning.framed import parts_of, write_parts
from unlearnrec.partitioning.storage import Store


@pytest.mark.parametrize("lengths", [(5, 3, 2), (0, 3, 0), (0, 0, 0), (5_000_000, 1, 2)])
def test_a_file_in_parts_is_that_of_the_library(tmp_path, lengths):
    names, types = ("b", "header", "a"), (np.int32, np.int64, np.int64)
    arrays = {n: np.arange(k, dtype=t) for n, k, t in zip(names, lengths, types, strict=True)}
    store = Store(str(tmp_path))
    file = write_parts(store, "x", parts_of(arrays))
    data = store.read("x")
    assert data == save(arrays) and (file.sha256, file.bytes) == (store.sha256(data), len(data))
    assert all(np.array_equal(array, arrays[name]) for name, array in load(data).items())
