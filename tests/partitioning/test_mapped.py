"""Files that are looked at in parts say what they say as a whole."""

import numpy as np
import pytest
from safetensors.numpy import save

from unlearnrec.partitioning.assignment import Assignment
from unlearnrec.partitioning.delta import RowsDelta, ShardDelta, with_rows
from unlearnrec.partitioning.files import digest_of
from unlearnrec.partitioning.ingest import after
from unlearnrec.partitioning.mapped import MappedRows, MappedShard, mapped_arrays
from unlearnrec.partitioning.shard import GraphShard, build_shards
from unlearnrec.partitioning.storage import Store

USERS, ITEMS = 30, 12


def shard_of(chain):
    return after([ShardDelta.from_bytes(data) for data in chain[1:]], GraphShard.from_bytes(chain[0]))


def chain_of(seed, timed):
    """The contents of a base and of four deltas, which remove interactions, thin others and drop nodes."""
    draw = np.random.default_rng(seed)
    users, items = np.nonzero(draw.random((USERS, ITEMS)) < 0.4)
    counts = draw.integers(1, 4, len(users)).astype(np.int32)
    times = np.arange(counts.sum()) if timed else None
    owners = Assignment(draw.integers(0, 2, USERS), draw.integers(0, 2, ITEMS), 2)
    shard = build_shards(users, items, counts, owners, times)[0]
    chain = [shard.to_bytes()]
    none = np.empty(0, dtype=np.int64)
    for number in range(4):
        (us, its), (us2, its2) = shard.entries()
        pairs = np.unique(np.concatenate([us, us2]) * ITEMS + np.concatenate([its, its2]))
        gone = draw.choice(pairs, min(len(pairs), 9), replace=False)
        thinned = (none, none, none, none)
        if timed and number < 3:
            many = [int(c) for c in np.setdiff1d(pairs, gone) if owners.owner_of_user[c // ITEMS] == 0][:3]
            small = shard.interactions()
            code = small[0].astype(np.int64) * ITEMS + small[1]
            keep = [c for c in many if small[2][np.searchsorted(code, c)] > 1]
            ends = np.cumsum(small[2])
            left = [
                shard.user_times[ends[p] - small[2][p] : ends[p] - 1] for p in (np.searchsorted(code, c) for c in keep)
            ]
            kept = np.array(keep, dtype=np.int64)
            lengths = np.array([len(x) for x in left], dtype=np.int64)
            thinned = kept // ITEMS, kept % ITEMS, lengths, np.concatenate([none, *left])
        if number == 2:  # a user as a whole
            gone = np.union1d(gone, pairs[pairs // ITEMS == shard.user_ids[0]])
        delta = ShardDelta(gone // ITEMS, gone % ITEMS, *thinned, none, none)
        after = delta.applied_to(shard)
        empty = [
            getattr(after, f"{side}_ids")[np.diff(getattr(after, f"{side}_indptr")) == 0] for side in ("user", "item")
        ]
        delta = ShardDelta(gone // ITEMS, gone % ITEMS, *thinned, *empty)
        shard = delta.applied_to(shard)
        chain.append(delta.to_bytes())
    return chain


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_looks_at_a_shard_in_its_files_find_what_the_whole_shard_has(seed, timed):
    chain = chain_of(seed, timed)
    whole, mapped = shard_of(chain), MappedShard.of([memoryview(data) for data in chain])
    assert np.array_equal(mapped.user_ids, whole.user_ids) and np.array_equal(mapped.item_ids, whole.item_ids)
    assert len(mapped.user_ids) < len(shard_of(chain[:1]).user_ids)
    assert mapped.entries == len(whole.user_neighbours) + len(whole.item_neighbours)
    users, items = (x.ravel() for x in np.meshgrid(np.arange(USERS), np.arange(ITEMS), indexing="ij"))
    for side, (us, its) in zip(("user", "item"), whole.entries(), strict=True):
        expected = np.zeros((USERS, ITEMS), dtype=np.int64)
        expected[us, its] = getattr(whole, f"{side}_counts")
        assert np.array_equal(mapped.counts(side, users, items), expected.ravel())
        nodes = np.arange(USERS if side == "user" else ITEMS)
        assert np.array_equal(np.flatnonzero(mapped.has_rows(side, nodes)), getattr(whole, f"{side}_ids"))
        assert np.array_equal(mapped.degrees(side, nodes), (expected > 0).sum(axis=1 if side == "user" else 0))
    everyone, everything = np.arange(USERS), np.arange(ITEMS)
    assert mapped.rows(everyone, everything).to_bytes() == whole.to_bytes()
    some = mapped.rows(everyone[::3], everything[:4])
    assert set(some.user_ids) == set(whole.user_ids) & set(everyone[::3].tolist())
    inside = np.isin(whole.entries()[0][0], everyone[::3])
    assert np.array_equal(some.user_neighbours, whole.user_neighbours[inside])
    if timed:
        assert np.array_equal(some.user_times, whole.user_times[np.repeat(inside, whole.user_counts)])
    drawn = mapped.at(np.arange(mapped.drawn_from))
    assert set(zip(*(x.tolist() for x in drawn), strict=True)) == set(
        zip(*(x.tolist() for x in whole.user_entries()), strict=True)
    )


def test_looks_at_rows_in_their_files_find_what_the_whole_table_has():
    draw = np.random.default_rng(0)
    base, total, deltas = draw.normal(size=(20, 4)).astype(np.float32), 20, []
    for _ in range(4):
        rows = np.sort(draw.choice(total, 5, replace=False))
        gone = np.sort(draw.choice(total, 2, replace=False))
        deltas.append(RowsDelta(rows, draw.normal(size=(5, 4)).astype(np.float32), gone))
        total -= len(gone)
    contents = [save({"e0": base}), *(delta.to_bytes() for delta in deltas)]
    mapped, whole = MappedRows.of([memoryview(data) for data in contents]), with_rows(base.copy(), deltas)
    assert len(mapped) == len(whole) == total
    assert np.array_equal(mapped.values(mapped.places), whole)
    alone = MappedRows.of([memoryview(contents[0])])
    assert np.array_equal(alone.values(alone.places), base) and not len(alone.changed.rows)


def test_a_mapped_file_stays_as_it_was(tmp_path):
    store = Store(str(tmp_path))
    data = save({"e0": np.arange(6, dtype=np.float32).reshape(2, 3)})
    store.write("a", data)
    store.write("empty", b"")
    content = store.mapped("a")
    assert store.size("a") == len(data) and digest_of(content) == store.sha256(data)
    assert digest_of(store.mapped("empty")) == store.sha256(b"") and store.size("empty") == 0
    store.write("a", b"another")
    assert bytes(content) == data and mapped_arrays(content)["e0"].tolist() == [[0, 1, 2], [3, 4, 5]]
    store.remove("a")
    assert bytes(content) == data
    for look in (store.mapped, store.size):
        with pytest.raises(FileNotFoundError):
            look("a")
