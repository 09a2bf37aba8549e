"""What an operator wants to see of an output as a whole: its versions with their measures, and the suppression list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from threading import Lock
from typing import Any

from ...partitioning.errors import InputError
from ..layout import SUPPRESSION, manifest_name
from ..lifecycle.suppression import environment_key, open_list
from ..log.records import iso
from ..output.manifest import Manifest, read_manifest
from ..output.session import Session

MOST_ENTRIES = 5000
"""Of a suppression list with more entries (one a version that removed something), only the entries are counted: to count
what they name, all of them are read."""


class Overview:
    """Reads and remembers what never changes: summaries of versions, and the counts of a list of so many entries."""

    def __init__(self, session: Session) -> None:
        self._session, self._lock = session, Lock()
        self._summaries: dict[int, dict[str, Any]] = {}
        self._counted: tuple[int, dict[str, int]] | None = None

    def versions(self, before: int | None, limit: int) -> dict[str, Any]:
        """The versions before number `before` (None: all), newest first: `versions`, and `next`, the `before` of the next
        page (None: there is none). A version whose copy of the manifest is not there is left out."""
        ledger = self._session.ledger()
        newest = ledger.current.version if ledger.current else 0
        start = newest if before is None else min(before - 1, newest)
        end = max(0, start - limit)
        found = []
        for number in range(start, end, -1):
            summary = self._summary(number, ledger.current)
            if summary is not None:
                at = ledger.commits.get(str(number))
                state = {"committed_at": None if at is None else iso(at), "current": number == newest}
                found.append(summary | state)
        return {"versions": found, "next": end + 1 if end else None}

    def _summary(self, number: int, current: Manifest | None) -> dict[str, Any] | None:
        with self._lock:
            known = self._summaries.get(number)
        if known is not None:
            return known
        if current is not None and current.version == number:
            manifest = current
        else:
            name = manifest_name(number)
            try:
                manifest = read_manifest(json.loads(self._session.store.read(name)), name)
            except (FileNotFoundError, InputError, ValueError):
                return None
        summary = _summarised(manifest)
        with self._lock:
            self._summaries[number] = summary
        return summary

    def suppressed(self) -> dict[str, Any]:
        """The size of the suppression list: `entries`, `key_set` (whether this process has its key), and `counts` by kind of
        what is on it; None where the key is missing or wrong, or there are more than MOST_ENTRIES."""
        store = self._session.store
        entries = len(store.list(SUPPRESSION))
        answer: dict[str, Any] = {"entries": entries, "key_set": False, "counts": None}
        try:
            answer["key_set"] = environment_key() is not None
            listed = open_list(store)
            if listed is None or entries > MOST_ENTRIES:
                return answer
            with self._lock:
                if self._counted is None or self._counted[0] != entries:
                    there, _ = listed.state()
                    self._counted = entries, {kind: len(digests) for kind, digests in there.items()}
                return answer | {"counts": dict(self._counted[1])}
        except InputError:  # the key is wrong or an entry damaged: the error stands where requests are carried out
            return answer


def _summarised(manifest: Manifest) -> dict[str, Any]:
    """What a page or a client shows of a version; no id of a user or item."""
    graph = manifest.graph
    # All requests of a version share one gate; its answers differ in their counts only.
    gates = [answer["gate"] for answer in manifest.answers.values() if "gate" in answer]
    return {
        "version": manifest.version,
        "reason": manifest.reason,
        "base": manifest.base,
        "rolled_back_to": manifest.rolled_back_to,
        "users": graph.live("user"),
        "items": graph.live("item"),
        "interactions": graph.interactions,
        "requests": len(manifest.answers),
        "needs_retrain": manifest.needs_retrain,
        "gate": _gate(gates[0]) if gates else None,
    }


def _gate(gate: Mapping[str, Any]) -> dict[str, Any]:
    measures = {name: {k: v for k, v in one.items() if k != "pooled"} for name, one in gate.get("measures", {}).items()}
    return {"status": gate.get("status"), "missed": list(gate.get("missed", ())), "measures": measures}
