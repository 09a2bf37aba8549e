"""The page of a report, and the sample data."""

import re

import pyarrow.parquet as pq

from unlearnrec.cluster.reporting.html import Head, Section, Tile, render_report, write_report
from unlearnrec.cluster.reporting.style import STYLE
from unlearnrec.partitioning.sample import make_sample

ATTACK = """<img src=x onerror="1">'&"""
ESCAPED = "&lt;img src=x onerror=&quot;1&quot;&gt;&#x27;&amp;"


def test_everything_is_escaped(tmp_path):
    head = Head(ATTACK, "bad", [Tile(ATTACK, ATTACK, ATTACK)], ATTACK)
    table = [{ATTACK: ATTACK, "b": f"`{ATTACK}`"}]
    section = Section(ATTACK, ATTACK, table, code=ATTACK, meanings={ATTACK: ATTACK})
    write_report(tmp_path / "r" / "page.html", ATTACK, [section], head)
    page = (tmp_path / "r" / "page.html").read_text()
    assert "<img" not in page and page.count(ESCAPED) >= 15
    assert f"<code>{ESCAPED}</code>" in page  # text between backticks


def test_a_page_needs_nothing_from_elsewhere_and_runs_nothing():
    page = render_report("T", [Section("H")])
    assert not re.search(r"<script|<link|<iframe|@import|@font-face|url\(|https?:|//|\bon\w+=", page)


def test_numbers_stand_right_and_texts_left():
    rows = [
        {"a": "x", "n": 12345, "f": 0.123456, "t": "0.5 [0.1, 0.9]", "w": "12 of 13 files", "none": None, "yes": True}
    ]
    page = render_report("T", [Section("H", table=rows)])
    cells = re.findall(r'<td(?: class="(\w+)[^"]*")? data-label="(\w+)">([^<]*)</td>', page)
    assert {name: (kind == "number", text) for kind, name, text in cells} == {
        "n": (True, "12,345"),
        "f": (True, "0.1235"),
        "t": (True, "0.5 [0.1, 0.9]"),
        "w": (False, "12 of 13 files"),
        "none": (False, "not known"),
        "yes": (False, "yes"),
    }


def test_rows_may_lack_keys_and_hashes_may_wrap():
    page = render_report("T", [Section("H", table=[{"": "a", "x": 1}, {"": "b", "sha": "ab" * 32}])])
    assert f"<code>{'ab' * 32}</code>" in page and page.count("<td></td>") == 2


def test_terms_are_explained_where_they_stand():
    table = [{"model": "a", "attack AUC": 0.5, "Recall@10": 0.1, "MI-BF": 1.0}]
    page = render_report(
        "T", [Section("First", table=table), Section("Second", table=[{"": "edge cut", "value": 0.2}])]
    )
    first, second = page.split("<h2>")[1:]
    for term in ("attack AUC", "Recall@10", "MI-BF"):
        assert f"<dt>{term}</dt>" in first and f"<dt>{term}</dt>" not in second
    assert (
        render_report("T", [Section("First", table=table), Section("Under", table=table, under=True)]).count("<dt>")
        == 3
    )
    assert "10 best" in first and "<dt>edge cut</dt>" in second and "<dt>model</dt>" not in page


def test_the_style_fits_a_phone_paper_and_a_dark_screen():
    """390 pixels: no width or least width that is wider, and tables in a box of their own."""
    assert all(float(rem) * 16 <= 350 for rem in re.findall(r"(?<![-\w])(?:min-)?width: ?([\d.]+)rem", STYLE))
    assert not re.search(r"(?<![-\w])(?:min-)?width: ?\d{3,}px", STYLE)
    assert "prefers-color-scheme:dark" in STYLE and "@media print" in STYLE and ".scroll { overflow-x: auto" in STYLE
    page = render_report("T", [Section("H", table=[{"a": 1, "b": 2}])])
    assert '<div class="scroll" tabindex="0" role="region" aria-label="H"><table' in page
    assert 'name="viewport" content="width=device-width' in page


def test_the_sample_is_seeded_and_splits_each_user(tmp_path):
    sizes = {"users": 300, "items": 200}
    made = make_sample(tmp_path / "a", seed=3, **sizes)
    make_sample(tmp_path / "b", seed=3, **sizes)
    make_sample(tmp_path / "c", seed=4, **sizes)
    read = {name: (tmp_path / name / "train.parquet").read_bytes() for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
    train, test = pq.read_table(made["train"]), pq.read_table(made["test"])
    columns = ([table["user_id"].to_pylist(), table["item_id"].to_pylist()] for table in (train, test))
    pairs = [set(zip(*both, strict=True)) for both in columns]
    assert not pairs[0] & pairs[1]
    assert len(pairs[0]) == train.num_rows == made["train_interactions"]
    assert len(pairs[1]) == test.num_rows == made["test_interactions"]
    assert set(test["user_id"].to_pylist()) == set(train["user_id"].to_pylist())
    assert 0.15 < len(pairs[1]) / len(pairs[0]) < 0.25
