"""All metrics of the service, by name without the prefix `unlearnrec_`: what each is, for `/metrics`."""

from __future__ import annotations

from ..reporting.prometheus import Family

FAMILIES = {
    "open_requests": Family("gauge", "Deletion requests without an answer, held and failed ones among them."),
    "held_requests": Family("gauge", "Requests above forget.max_share that wait for an approval."),
    "failed_requests": Family("gauge", "Requests that failed and are not tried again until they are posted again."),
    "oldest_open_request_seconds": Family("gauge", "Age of the oldest request without an answer, 0 without one."),
    "overdue_requests": Family("gauge", "Requests without an answer after forget.deadline_hours."),
    "evidence_failed_requests": Family("gauge", "Committed requests of whose evidence a check failed."),
    "unreported_requests": Family("gauge", "Committed requests whose evidence is not written yet."),
    "requests_total": Family("counter", "Requests in the log by final state."),
    "versions_committed_total": Family("counter", "Versions in the log."),
    "current_version": Family("gauge", "Number of the current version, 0 without one."),
    "served_version": Family("gauge", "Number of the version that recommendations come from, 0 before the first."),
    "unlearning_debt_ratio": Family(
        "gauge", "Share of the interactions of the last training that was forgotten since."
    ),
    "needs_retrain": Family("gauge", "1 if the current version missed the gate since the last training."),
    "gate_verdicts_total": Family("counter", "Versions made by this process, by the gate's verdict on them."),
    "blocked": Family("gauge", "1 while an error keeps due requests waiting."),
    "blocked_reason": Family(
        "gauge", "1 for the class of the error that keeps requests waiting; NoRoom: no free workers."
    ),
    "workers_wanted": Family("gauge", "Workers that the service needs: cluster.partitions."),
    "workers_ready": Family("gauge", "Workers that have started and reach each other; 0 after a failure until all do."),
    "request_phase_seconds": Family(
        "histogram",
        "Seconds of a request in each phase, counted when this process has carried it out: waiting from the acceptance to "
        "its batch, the phases of the batch, total from the first acceptance to the answer.",
    ),
    "callbacks_waiting": Family("gauge", "Requests with news that a callback URL was not told yet."),
    "callbacks_delivered_total": Family("counter", "Callbacks that this process delivered."),
    "callbacks_retried_total": Family("counter", "Attempts at a callback that failed and are repeated."),
    "callbacks_given_up_total": Family("counter", "Callbacks given up after serve.callback_attempts."),
    "watch_blocked": Family("gauge", "1 while an error keeps deletions in watch.table from becoming requests."),
    "watch_requests_total": Family("counter", "Requests that this process made of deletions in watch.table."),
}
