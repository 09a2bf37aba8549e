"""Callbacks: which URLs may be called, which of them wait for news of which request, and what a message says.

A message follows OpenDSR's callback, and is signed as Standard Webhooks do it (docs/serving.md). `callback_sender` sends.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.storage import Store
from ..layout import CALLBACKS, callbacks_name, content_name, request_of

KEY_VARIABLE = "UNLEARNREC_CALLBACK_KEY"
SHORTEST_KEY = 24
LONGEST_URL, MOST_URLS = 2048, 4


def url_pattern(hosts: Sequence[str]) -> str:
    """The regular expression of the URLs that may be called: one of these origins, then nothing, a path or a query.

    hosts: `HOST[:PORT]` for https, or a whole origin `http://HOST[:PORT]`. Compared letter by letter: no user names, no
    other spelling of a host.
    """
    origins = [host if "://" in host else f"https://{host}" for host in hosts]
    escaped = "|".join(origin.replace(".", r"\.").replace("[", r"\[").replace("]", r"\]") for origin in origins)
    return rf"^(?:{escaped})(?:[/?][!-\[\]-~]*)?$"


def load_key() -> bytes:
    """The secret that messages are signed with.

    Raises:
        InputError: it is not set, not base64, or too short.
    """
    how = 'Set it to `echo "whsec_$(openssl rand -base64 32)"`, and give it to the receivers'
    text = os.environ.get(KEY_VARIABLE, "").strip().removeprefix("whsec_")
    if not text:
        raise InputError(f"serve.callback_hosts names hosts, and {KEY_VARIABLE} is not set. {how}")
    with contextlib.suppress(binascii.Error, ValueError):
        key = base64.b64decode(text, validate=True)
        if len(key) >= SHORTEST_KEY:
            return key
    raise InputError(f"{KEY_VARIABLE}: expected base64 of at least {SHORTEST_KEY} bytes. {how}")


def signature_headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of a message, by Standard Webhooks: HMAC-SHA256 of `id.timestamp.body`."""
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


@dataclass(frozen=True)
class News:
    """What there is to tell about a request. `event` tells it from earlier news; after `final` news, nothing follows."""

    event: str
    final: bool
    state: Mapping[str, Any]

    def message(self, request_id: str, url: str, before: int) -> tuple[str, bytes]:
        """The message for this URL: (id, body).

        before: how many events of this request the URL was told already. Every attempt has the same id. The body names no
        user and no item.
        """
        told = ("subject_request_id", "request_status", "status", "received_time")
        body = {"api_version": API_VERSION, "status_callback_url": url, **{name: self.state[name] for name in told}}
        if self.state["request_status"] == "completed":
            body["results_count"] = self.state.get("removed_interactions", 0)
        if self.state.get("evidence_failed"):
            body["evidence_failed"] = self.state["evidence_failed"]
        about = "\n".join([request_id, url, self.event, str(self.state["received_time"]), str(before)])
        message_id = f"msg_{hashlib.sha256(about.encode()).hexdigest()[:32]}"
        return message_id, json.dumps(body).encode()


@dataclass(frozen=True)
class Entry:
    """The callbacks of one request: its file, its URLs, and by URL the last event that was told or given up (`told`) and
    how many were (`counts`)."""

    name: str
    urls: tuple[str, ...]
    told: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def untold(self, event: str) -> list[str]:
        """The URLs that have not been told this event yet."""
        return [url for url in self.urls if self.told.get(url) != event]


class Outbox:
    """The requests of which somebody waits for news: one small file each, which goes when the last news are told.

    Called from any thread. What an earlier process left is read when it is first needed.

    Raises (every method): OSError of the store.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._read: dict[str, Entry] | None = None
        self.wake = Event()
        """Set when there may be news."""

    def add(self, request_id: str, urls: Sequence[str], content: str | None = None) -> None:
        """Write down who waits for news of a request; durable when it returns. Earlier URLs under this id are forgotten.

        content: the file with the request's content, after which this one is named.
        """
        self._put(request_id, Entry(callbacks_name(content or content_name(request_id)), tuple(dict.fromkeys(urls))))

    def mark_told(self, request_id: str, url: str, event: str) -> None:
        """Write down that a URL was told this event, or that it was given up; durable when it returns."""
        with self._lock:
            entry = self._entries()[request_id]
            counts = {**entry.counts, url: entry.counts.get(url, 0) + 1}
            self._write(request_id, replace(entry, told={**entry.told, url: event}, counts=counts))

    def drop(self, request_id: str) -> None:
        """Forget a request: nothing will follow."""
        with self._lock:
            if (entry := self._entries().pop(request_id, None)) is not None:
                with contextlib.suppress(FileNotFoundError):
                    self._store.remove(entry.name)

    def entries(self) -> dict[str, Entry]:
        """Request id -> entry."""
        with self._lock:
            return dict(self._entries())

    def _put(self, request_id: str, entry: Entry) -> None:
        with self._lock:
            self._write(request_id, entry)
        self.wake.set()

    def _write(self, request_id: str, entry: Entry) -> None:
        entries = self._entries()
        content = {"urls": entry.urls, "told": entry.told, "counts": entry.counts}
        self._store.write(entry.name, json.dumps(content).encode())
        entries[request_id] = entry

    def _entries(self) -> dict[str, Entry]:
        """As `entries`; called with the lock held."""
        if self._read is None:
            found = {}
            # Of several under one id the one after the last purge stays.
            named = [(by, name) for name in self._store.list(CALLBACKS) if (by := request_of(name))]
            for (request_id, _), name in sorted(named):
                with contextlib.suppress(FileNotFoundError):  # another service has told it meanwhile
                    content = json.loads(self._store.read(name))
                    found[request_id] = Entry(name, tuple(content["urls"]), content["told"], content.get("counts", {}))
            self._read = found
        return self._read


API_VERSION = "2.0"
"""The version of OpenDSR, whose names are used where they fit."""
