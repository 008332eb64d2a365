"""What one process counts of itself, in Prometheus' terms. Labels are names of models, providers, states and errors.

Nothing here is touched for every delta: those are plain integers of the journal's writer, read when somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

registry = CollectorRegistry()
ProcessCollector(registry=registry)

REPLIES_ENDED = Counter(
    "parley_replies_ended", "Replies that ended in this process.", ["state", "error"], registry=registry
)
QUEUE_TIME = Histogram(
    "parley_reply_queue_seconds",
    "From the commit of a question until a process took it up.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300),
    registry=registry,
)
FIRST_TOKEN = Histogram(
    "parley_reply_first_token_seconds",
    "From the claim of a reply to the first text of its answer.",
    ["model"],
    buckets=(0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120),
    registry=registry,
)
REPLY_TIME = Histogram(
    "parley_reply_seconds",
    "From the claim of a reply to its end.",
    ["model"],
    buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600),
    registry=registry,
)
PROVIDER_ERRORS = Counter(
    "parley_provider_errors",
    "Calls of a provider that failed, by kind.",
    ["provider", "error"],
    registry=registry,
)
HOLD_UNDERESTIMATES = Counter(
    "parley_hold_underestimates",
    "Calls that cost more than was held for them, by purpose: a defect of the estimate.",
    ["purpose"],
    registry=registry,
)
LOOP_LAG = Histogram(
    "parley_event_loop_lag_seconds",
    "How much later than asked the event loop woke a timer, twice a second.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
    registry=registry,
)

#: Counters of the Celery workers, which answer no HTTP: fields of one Redis hash, `name|label|label`.
WORKER_COUNTERS = "parley:counters"


@dataclass
class RequestThreads:
    """The threads that answer requests, each with a database connection. Counted on the event loop."""

    size: int
    asked: int = 0  #: requests in a thread, or waiting for one

    @property
    def in_use(self) -> int:
        return min(self.asked, self.size)

    @property
    def waiting(self) -> int:
        return max(0, self.asked - self.size)


request_threads = RequestThreads(settings.REQUEST_THREADS)
