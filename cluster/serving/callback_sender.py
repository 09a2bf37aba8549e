"""Sends callbacks, in threads of its own, so that no request and no batch ever waits for a receiver."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import requests

from .callbacks import News, Outbox, signature_headers

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 10.0
LONGEST_BACKOFF_SECONDS = 3600.0
THREADS, THREADS_A_HOST = 8, 2
"""A host that does not answer keeps few threads, and the others go on."""
SHORTEST_PAUSE_SECONDS = 0.05

log = logging.getLogger(__name__)

Post = Callable[[str, bytes, Mapping[str, str]], bool]
"""Sends (URL, body, headers), and says whether the receiver took it."""
Key = tuple[str, str]
"""(request id, URL)."""


@dataclass(frozen=True)
class Attempts:
    """How often an event was tried in vain, and when it is tried again."""

    event: str
    made: int = 0
    not_before: float = 0.0


def backoff(made: int, draw: float) -> float:
    """Seconds after the attempt number `made` failed: doubled each time, and spread over its second half by `draw`,
    uniform in [0, 1), so that receivers that come back are not met by everybody at once."""
    return min(LONGEST_BACKOFF_SECONDS, 2.0 ** (made - 1)) * (0.5 + 0.5 * draw)


def post_message(url: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """Post a message; says whether the receiver took it.

    Redirects are not followed, because they could lead anywhere. The body of the answer is not read.
    """
    try:
        with requests.post(
            url,
            data=body,
            headers=dict(headers),
            timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
            allow_redirects=False,
            stream=True,
        ) as answer:
            return 200 <= answer.status_code < 300
    except requests.RequestException:
        return False


@dataclass(frozen=True)
class SendingRules:
    """Whom to send to, signed with what, and how often."""

    key: bytes = field(repr=False)
    """The secret that messages are signed with (`callbacks.load_key`)."""
    url_pattern: str
    """Of the URLs that may be called (`callbacks.url_pattern`)."""
    max_attempts: int
    """After so many attempts a state is given up."""
    poll_seconds: float
    """How often the log is looked at where nothing wakes the sender."""


@dataclass(frozen=True)
class Effects:
    """What a sender does in the world; tests put in their own."""

    submit: Callable[..., object]
    """Calls a function with arguments in another thread."""
    post: Post = post_message
    clock: Callable[[], float] = time.monotonic


class Sender:
    """Sends, at least once and in order, the newest state of each request to each of its URLs; older ones that a
    receiver missed are skipped. `step` decides; `run` repeats it in a thread until `close`.
    """

    def __init__(
        self,
        outbox: Outbox,
        news: Callable[[Collection[str]], Mapping[str, News]],
        rules: SendingRules,
        effects: Effects | None = None,
    ) -> None:
        """news: what there is to tell about these requests (`Intake.news_of`)."""
        self._outbox, self._news, self._rules = outbox, news, rules
        self._allowed = re.compile(rules.url_pattern)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="callback")
        self._effects = effects or Effects(submit=self._pool.submit)
        self._lock = threading.Lock()
        self._attempts: dict[Key, Attempts] = {}
        self._under_way: set[Key] = set()
        self._counts: Counter[str] = Counter()
        self._closed = threading.Event()

    def start(self) -> None:
        """Start to send; what an earlier process left is sent too."""
        threading.Thread(target=self._run, name="callbacks", daemon=True).start()

    def close(self) -> None:
        """Start no further attempt. What is not delivered is sent by the next process."""
        self._closed.set()
        self._outbox.wake.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def gauges(self) -> dict[str, float]:
        """For `/metrics`: requests with news to tell, and what this process delivered, tried in vain, and gave up."""
        names = ("delivered", "retried", "given_up")
        with self._lock:
            counts = {f"callbacks_{name}_total": float(self._counts[name]) for name in names}
        return {"callbacks_waiting": len(self._outbox.entries()), **counts}

    def step(self) -> float:
        """Send what is due, and forget the requests of which all was told. Returns the seconds until the next step."""
        entries = self._outbox.entries()
        if not entries:
            return self._rules.poll_seconds
        now, wait = self._effects.clock(), self._rules.poll_seconds
        for request_id, news in self._news(entries).items():
            missing = entries[request_id].untold(news.event)
            if news.final and not missing:
                self._outbox.drop(request_id)
            for url in missing:
                before = entries[request_id].counts.get(url, 0)
                wait = min(wait, self._send(request_id, url, news, before, now))
        return wait

    def _send(self, request_id: str, url: str, news: News, before: int, now: float) -> float:
        """Start one attempt if it is due. Returns the seconds until the next step should look at it again."""
        key = request_id, url
        with self._lock:
            attempts = self._attempts.get(key)
            if attempts is None or attempts.event != news.event:
                attempts = Attempts(news.event)
            busy = sum(_host(other) == _host(url) for _, other in self._under_way)
            if key in self._under_way or busy >= THREADS_A_HOST:
                return self._rules.poll_seconds  # the end of an attempt wakes this thread
            if attempts.not_before > now:
                return attempts.not_before - now
            self._under_way.add(key)
        self._effects.submit(self._attempt, key, news, before, attempts)
        return self._rules.poll_seconds

    def _attempt(self, key: Key, news: News, before: int, attempts: Attempts) -> None:
        request_id, url = key
        try:
            message_id, body = news.message(request_id, url, before)
            headers = {
                "Content-Type": "application/json",
                **signature_headers(self._rules.key, message_id, int(time.time()), body),
            }
            # The list of hosts may be another than when the request was accepted.
            allowed = self._allowed.fullmatch(url) is not None
            delivered = allowed and self._effects.post(url, body, headers)
            made = attempts.made + 1
            if delivered or not allowed or made >= self._rules.max_attempts:
                self._outbox.mark_told(request_id, url, news.event)
                self._record_attempt("delivered" if delivered else "given_up", key, None)
                if not delivered:
                    log.warning("request %s: its callback was given up after %d attempts", request_id, made)
            else:
                again = self._effects.clock() + backoff(made, random.random())
                self._record_attempt("retried", key, Attempts(news.event, made, again))
        except Exception as error:  # such as a store that fails: delivered perhaps, and sent once more
            log.warning("request %s: its callback failed with %s", request_id, type(error).__name__)
            again = self._effects.clock() + backoff(attempts.made + 1, random.random())
            self._record_attempt("retried", key, Attempts(news.event, attempts.made + 1, again))
        finally:
            with self._lock:
                self._under_way.discard(key)
            self._outbox.wake.set()

    def _record_attempt(self, what: str, key: Key, attempts: Attempts | None) -> None:
        with self._lock:
            self._counts[what] += 1
            if attempts is None:
                self._attempts.pop(key, None)
            else:
                self._attempts[key] = attempts

    def _run(self) -> None:
        while not self._closed.is_set():
            self._outbox.wake.clear()
            try:
                wait = self.step()
            except Exception as error:
                log.warning("callbacks wait: %s", type(error).__name__)
                wait = self._rules.poll_seconds
            time.sleep(SHORTEST_PAUSE_SECONDS)
            self._outbox.wake.wait(wait)


def _host(url: str) -> str:
    return urlsplit(url).netloc
