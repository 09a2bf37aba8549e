"""What stands on top of the report of a run: the verdict, and the tiles with the numbers that are to be seen first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .html import Head, State, Tile, moment

Document = Mapping[str, Any]
ORIGINAL, UNLEARNED, RETRAINED = "original", "unlearned", "retrained"
ALIKE = 0.01
"""AUCs that differ by no more count as equal. It is about the standard error of an AUC of 1,000 forgotten pairs."""
WIDE = 0.02
"""An interval of the difference of two AUCs whose half is wider than this tells nothing."""
KINDS = ("alike", "differs", "not told")


def title_of(name: str) -> str:
    """A measure as texts write it: "Recall@20", not "recall@20". Other names are returned as they are."""
    kind, at, cutoff = name.partition("@")
    written = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "hit_rate": "hit rate"}
    return f"{written.get(kind, kind)}{at}{cutoff}" if at else name


def alike(comparison: Mapping[str, Any]) -> str:
    """One of KINDS: whether the attack does as well on the unlearned model as on the retrained one.

    It does if the AUCs differ by at most ALIKE, or by chance: the 95% interval of the difference holds 0 and is not wide.
    """
    rows = rows_of(comparison)
    after, target = (rows.get(name, {}).get("attack AUC") for name in (UNLEARNED, RETRAINED))
    if after is None or target is None:
        return "not told"
    low, high = comparison.get("auc_difference_interval") or (after - target, after - target)
    if (high - low) / 2 > WIDE:
        return "not told" if low <= 0 <= high else "differs"
    return "alike" if abs(after - target) <= ALIKE or low <= 0 <= high else "differs"


def rows_of(comparison: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rows of a comparison by the name of the model."""
    return {row["model"]: row for row in comparison.get("models", ())}


def head_of(document: Document) -> Head:
    """The top of the page of this document."""
    comparison = document.get("comparison") or {}
    requests = document.get("requests") or []
    kind = alike(comparison) if comparison else "not told"
    colours: dict[str, State] = {"alike": "good", "differs": "bad"}
    state = colours.get(kind, "unknown")
    made = document.get("made") or {}
    shown = (moment(made.get("written")), made.get("command") and f"`{made['command']}`")
    line = " · ".join(str(part) for part in shown if part)
    lead = " ".join(part for part in (_lead(document, kind), document.get("verdict")) if part)
    if kind == "differs" and document.get("passed"):
        state = "unknown"  # it came near enough for the command, but an attacker sees a difference
    tiles = [*_forgotten_tile(document, requests), *_attack_tile(comparison, kind, state)]
    tiles += [*_recall_tile(document, comparison), *_seconds_tiles(comparison)]
    return Head(lead, state if comparison else "", tiles, line)


def _lead(document: Document, kind: str) -> str:
    if not document.get("comparison"):
        return (
            "This page shows a run by itself. Whether forgetting left something behind only a model that was "
            "retrained without the request can show: train one with `unlearnrec train --without`, and run "
            "`unlearnrec evaluate --reference`."
        )
    return {
        "alike": "Forgotten: by the attack on scores, the model cannot be told from one retrained without the request.",
        "differs": "By the attack on scores, the model can be told from one retrained without the request.",
        "not told": "There are too few forgotten pairs to tell the model from one retrained without the request.",
    }[kind]


def _forgotten_tile(document: Document, requests: Sequence[Mapping[str, Any]]) -> list[Tile]:
    totals = document.get("forgotten") or {}
    if not totals and not requests:
        return [Tile("interactions forgotten", "0", "no request was carried out yet")]
    removed = totals.get("interactions", sum(r.get("removed_interactions") or 0 for r in requests))
    users = totals.get("users", sum(r.get("deleted_users") or 0 for r in requests))
    count = totals.get("requests", len(requests))
    about = f"in {count:,} {'request' if count == 1 else 'requests'}"
    if users:
        about += f", {users:,} whole users among them"
    return [Tile("interactions forgotten", f"{removed:,}", about)]


def _attack_tile(comparison: Mapping[str, Any], kind: str, state: State) -> list[Tile]:
    name = "indistinguishable from a retrain"
    rows = rows_of(comparison)
    if "attack AUC" not in rows.get(UNLEARNED, {}) or "attack AUC" not in rows.get(RETRAINED, {}):
        return [Tile(name, "not measured", "no retrained model was at hand", "unknown")]
    after, target = rows[UNLEARNED]["attack AUC"], rows[RETRAINED]["attack AUC"]
    about = f"by the attack AUC: {after:.3f}, retrained {target:.3f}"
    if "attack AUC" in rows.get(ORIGINAL, {}):
        about += f", before {rows[ORIGINAL]['attack AUC']:.3f}"
    tiles = [Tile(name, {"alike": "yes", "differs": "no", "not told": "cannot be told"}[kind], about, state)]
    if (share := comparison.get("gap_closed")) is not None:
        interval = comparison.get("gap_closed_interval")
        between = f"95% interval {interval[0]:.2f} to {interval[1]:.2f}" if interval else ""
        tiles.append(Tile("gap closed", f"{share:.0%}", between))
    return tiles


def _recall_tile(document: Document, comparison: Mapping[str, Any]) -> list[Tile]:
    rows = rows_of(comparison)
    metric = next((key for key in rows.get(UNLEARNED, {}) if key.startswith("recall@")), None)
    if metric is not None and rows.get(RETRAINED, {}).get(metric):
        own, target = rows[UNLEARNED][metric], rows[RETRAINED][metric]
        return [
            Tile(
                f"{title_of(metric)} kept", f"{own / target:.1%}", f"{own:.4f}, and {target:.4f} in the retrained model"
            )
        ]
    quality = document.get("quality") or {}
    metric = next((key for key in quality if key.startswith("recall@")), None)
    if metric is None:
        return []
    return [Tile(title_of(metric), f"{quality[metric]:.4f}", "of the current version")]


def _seconds_tiles(comparison: Mapping[str, Any]) -> list[Tile]:
    seconds = comparison.get("seconds") or {}
    tiles = []
    about = "from the request to the committed version"
    if seconds.get("retrain"):
        about += f"; a retrain took {seconds['retrain']:.1f} s here"
    if "forget" in seconds:
        tiles.append(Tile("seconds to forget", f"{seconds['forget']:.2f} s", about))
    if RETRAINED not in rows_of(comparison):
        return tiles
    against = comparison.get("against", "a retrain without the request, with the same configuration and random draws")
    return [*tiles, Tile("compared with", "a retrain", against)]
