"""Generated tables look like the real data sets, repeat themselves, and know how good a recommender can be."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearnrec.benchmarks.generate import Layout, generate, main, sizes
from unlearnrec.benchmarks.synthetic.ideal import Ideal
from unlearnrec.benchmarks.synthetic.profiles import PROFILES, describe
from unlearnrec.benchmarks.synthetic.world import activity, draw_items, expected_degrees, make_world

TINY = sizes("gowalla", 400, 300, 6000)


def read(folder: Path, name: str) -> pa.Table:
    return pq.read_table(folder / f"{name}.parquet")


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_those_of_the_real_data(name: str) -> None:
    """At full size: expected degrees with chance (Poisson) on top have the published numbers."""
    profile = PROFILES[name]
    size = (profile.users, profile.items, profile.interactions)
    degrees = np.random.default_rng(0).poisson(expected_degrees(profile, *size))
    assert (degrees > 0).sum() == pytest.approx(profile.items, rel=0.01)
    active = activity(profile, profile.users, profile.interactions, profile.items, np.random.default_rng(0))
    assert active.sum() == profile.interactions
    found = {f"user {key}": value for key, value in describe(active).items()}
    found |= {f"item {key}": value for key, value in describe(degrees).items()}
    for key, value in profile.published.items():
        # Shares and the Gini coefficient to .03. Medians are whole numbers.
        assert found[key] == pytest.approx(value, abs=0.03 if value < 1 else max(0.07 * value, 1.0)), key


@pytest.mark.parametrize(("name", "part"), [("gowalla", 4), ("movielens", 4), ("taobao", 200)])
def test_tables_have_the_degrees_of_their_profile(name: str, part: int) -> None:
    """Taste, and that nobody meets an item twice, do not change how popular items are."""
    profile = PROFILES[name]
    world = make_world(profile, profile.users // part, profile.items // part, profile.interactions // part, seed=3)
    steps_V, degree_V = world.steps(), np.zeros(len(world.target_V), dtype=np.int64)
    for first, end, draw in world.blocks():
        count_B = world.activity_U[first:end]
        drawn = draw_items(world, steps_V, world.tastes(draw, len(count_B)), count_B, draw)
        degree_V += np.bincount(drawn % len(degree_V), minlength=len(degree_V))
    assert degree_V.sum() == world.activity_U.sum() == profile.interactions // part
    wanted = describe(np.random.default_rng(0).poisson(world.target_V))
    for key, value in describe(degree_V).items():
        near = {"largest": 0.3 * value}.get(key, 0.03 if value < 1 else max(0.1 * value, 1.0))  # that is a single item
        assert value == pytest.approx(wanted[key], abs=near), key


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_rows(tmp_path: Path) -> None:
    for folder, seed in (("one", 5), ("two", 5), ("other", 6)):
        generate(tmp_path / folder, TINY, Layout(days=3), seed=seed)
    for name in ("train", "test"):
        one, two, other = ((tmp_path / x / f"{name}.parquet").read_bytes() for x in ("one", "two", "other"))
        assert one == two != other


@pytest.mark.parametrize("text", [False, True])
def test_what_is_written(tmp_path: Path, text: bool) -> None:
    about = generate(tmp_path, TINY, Layout(test_share=0.25, test_users=0.5, days=7, text=text), seed=1)
    train, test = read(tmp_path, "train"), read(tmp_path, "test")
    assert train.schema == test.schema
    assert train.schema.types == [pa.string() if text else pa.int64()] * 2 + [pa.timestamp("ms")]
    days = (pa.concat_tables([train, test])["time"].cast(pa.int64()).to_numpy() - 1_704_067_200_000) // 86_400_000
    assert set(days.tolist()) == set(range(7))
    pairs = [list(zip(t["user_id"].to_pylist(), t["item_id"].to_pylist(), strict=True)) for t in (train, test)]
    assert len(set(pairs[0] + pairs[1])) == len(pairs[0]) + len(pairs[1]) == about["interactions"] == 6000
    assert (len(pairs[0]), len(pairs[1])) == (about["train_interactions"], about["test_interactions"])
    users, held = {user for user, _ in pairs[0]}, {user for user, _ in pairs[1]}
    assert len(users) == about["users"] == 400 and held < users
    assert 0.35 < len(held) / len(users) < 0.65
    for user in list(held)[:20]:
        mine = [sum(u == user for u, _ in part) for part in pairs]
        assert mine[1] == int(0.25 * sum(mine))
    assert len({item for part in pairs for _, item in part}) == about["items"]
    # Neither the rows nor the ids are in the order in which they were made.
    assert train["user_id"].to_pylist() != sorted(train["user_id"].to_pylist())


def test_no_ranking_is_better_than_the_best_possible(tmp_path: Path) -> None:
    """With the truth at hand: rankings by P(i | u) with noise lose Recall, the more noise the more; popularity is worse."""
    size = sizes("gowalla", 3000, 2000, 60_000)
    world = make_world(PROFILES["gowalla"], size.users, size.items, size.interactions, seed=0)
    steps_V, share_V = world.steps(), world.shares()
    catalogue, noise = len(steps_V), np.random.default_rng(0)
    ideal, found = Ideal(world), {0.0: [], 0.5: [], 2.0: []}
    for first, end, draw in world.blocks():
        count_B = world.activity_U[first:end]
        tastes_BG = world.tastes(draw, len(count_B))
        drawn = draw_items(world, steps_V, tastes_BG, count_B, draw)
        for b in range(0, len(count_B), 3):
            items = draw.permutation(drawn[drawn // catalogue == b] % catalogue)
            seen, test = np.split(items, [len(items) * 4 // 5])
            ideal.add(tastes_BG[b], seen, test)
            chance_V = tastes_BG[b][world.group_V] * share_V
            chance_V[seen] = 0
            for spread, recalls in found.items():
                ranked = np.argsort(-chance_V * np.exp(spread * noise.normal(size=catalogue)), kind="stable")[:20]
                recalls.append(np.isin(ranked, test).sum() / len(test))
    result = ideal.result()
    exact, little, much = (float(np.mean(recalls)) for recalls in found.values())
    assert result["best_possible"]["recall@20"] == pytest.approx(exact, abs=1e-3)  # the search leaves nothing out
    assert exact > little + 0.005 > much + 0.01 > result["popularity"]["recall@20"]
    assert result["best_possible"]["users"] == len(found[0.0])
    assert 0 < result["best_possible"]["standard_error"] < 0.02


def test_everybody_has_as_many_as_wanted_even_half_of_all_items() -> None:
    """Where a few items have nearly all of the chance, the rounds of draws do not come to an end."""
    world = make_world(PROFILES["movielens"], 30, 60, 700, seed=0)
    count_B = np.full(30, 30)
    draw = np.random.default_rng(0)
    tastes_BG = world.tastes(draw, 30) ** 8
    drawn = draw_items(world, world.steps(), tastes_BG / tastes_BG.sum(axis=1, keepdims=True), count_B, draw)
    assert len(np.unique(drawn)) == 900
    np.testing.assert_array_equal(np.bincount(drawn // len(world.target_V)), count_B)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--users", "0"], "--users 0"),
        (["--items", "10"], "40 items are wanted"),
        (["--users", "10", "--items", "40", "--interactions", "300"], "from 10 to 200"),
        (["--test-share", "1.5"], r"--test-share 1.5: it must be from 0 to 1"),
        (["--profile", "nowhere"], "invalid choice"),
    ],
)
def test_sizes_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--output", str(tmp_path / "data"), *arguments])
    assert error.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--users", "200", "--items", "100", "--interactions", "2000", "--ideal-users", "50"]
    main(["--output", str(tmp_path), *arguments])
    assert capsys.readouterr().out == (tmp_path / "about.json").read_text(encoding="utf-8")
