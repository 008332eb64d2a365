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
    "From when a process took a reply up to the first text of its answer.",
    ["model"],
    buckets=(0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120),
    registry=registry,
)
REPLY_TIME = Histogram(
    "parley_reply_seconds",
    "From when a process took a reply up to its end.",
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
CONTEXT_TOKENS = Histogram(
    "parley_context_tokens",
    "Tokens of the last request for a reply, by our own count.",
    ["model"],
    buckets=(250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 1_000_000),
    registry=registry,
)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
CONTEXT_USED = Histogram(
    "parley_context_used_share",
    "Tokens of a request, of those that it could have had.",
    buckets=SHARES,
    registry=registry,
)
CONTEXT_SENT = Histogram(
    "parley_context_sent_share",
    "Tokens of a request, of those of the whole history: above 1 where memory takes more than it stands for.",
    buckets=(*SHARES, 1.25, 1.5, 2),
    registry=registry,
)
MEMORY_RETAINED = Histogram(
    "parley_memory_retained_share",
    "Remembered items whose line or source is in a request, of all that are in force.",
    buckets=SHARES,
    registry=registry,
)
PROMPT_TOKENS = Counter(
    "parley_prompt_tokens", "Tokens of prompts as providers count them.", ["model", "from"], registry=registry
)
REPLY_COST = Counter(
    "parley_reply_cost_nano_usd",
    "Of the last calls of replies: estimated by our own count without a cache, and billed.",
    ["model", "kind"],
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
