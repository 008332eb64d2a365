"""What is counted and logged of a reply: names and numbers, nobody's words."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from conversations.llm.types import Usage
from conversations.metrics import (
    CONTEXT_SENT,
    CONTEXT_TOKENS,
    CONTEXT_USED,
    FIRST_TOKEN,
    MEMORY_RETAINED,
    PROMPT_TOKENS,
    PROVIDER_ERRORS,
    QUEUE_TIME,
    REPLIES_ENDED,
    REPLY_COST,
    REPLY_TIME,
)
from conversations.models.fields import time_of_id
from conversations.prices import Price

from .context import Sent
from .store import Outcome

logger = logging.getLogger(__name__)


def provider_failed(model: str, error: str) -> None:
    """A call of the model's provider ended with this error."""
    PROVIDER_ERRORS.labels(provider_of(model), error).inc()


def reply_ended(
    *,
    reply_id: UUID,
    model: str,
    outcome: Outcome,
    taken_up_at: datetime | None = None,
    attempts: int | None = None,
    sent: Sent | None = None,
    price: Price | None = None,
) -> None:
    """Count an end that is committed, and log one line of it.

    The times, what was `sent` and its `price` are known to the process that ran it.
    """
    times: dict[str, float] = {}
    if taken_up_at is not None:
        times["queue"] = seconds_between(time_of_id(reply_id), taken_up_at)
        times["total"] = seconds_between(taken_up_at, datetime.now(UTC))
        QUEUE_TIME.observe(times["queue"])
        REPLY_TIME.labels(model).observe(times["total"])
        if outcome.first_token_at is not None:
            times["ttft"] = seconds_between(taken_up_at, outcome.first_token_at)
            FIRST_TOKEN.labels(model).observe(times["ttft"])
    REPLIES_ENDED.labels(outcome.state, outcome.error_code).inc()
    fields = {
        "reply": str(reply_id),
        "state": str(outcome.state),
        "error": outcome.error_code or None,
        "model": model,
        "provider": provider_of(model),
        "attempts": attempts,
        "input_tokens": outcome.input_tokens,
        "output_tokens": outcome.output_tokens,
        **{f"{name}_ms": round(seconds * 1000) for name, seconds in times.items()},
        **(of_context(sent, model, outcome) if sent else {}),
        **(of_cost(sent, price, model, outcome) if sent and price and not price.is_free else {}),
    }
    logger.info("reply ended", extra={"fields": fields})


def of_context(sent: Sent, model: str, outcome: Outcome) -> dict[str, Any]:
    """How well the last request used its place, and how much of it the provider had in its cache."""
    figures = sent.figures
    CONTEXT_TOKENS.labels(model).observe(sent.input_tokens)
    CONTEXT_USED.observe(figures.efficiency)
    CONTEXT_SENT.observe(figures.compression)
    if figures.retention is not None:
        MEMORY_RETAINED.observe(figures.retention)
    cached_share = None
    if outcome.usage_reported and outcome.input_tokens:
        cached = min(outcome.cached_tokens or 0, outcome.input_tokens)
        cached_share = round(cached / outcome.input_tokens, 4)
        PROMPT_TOKENS.labels(model, "cache").inc(cached)
        PROMPT_TOKENS.labels(model, "new").inc(outcome.input_tokens - cached)
    return {
        "context_tokens": sent.input_tokens,
        "efficiency": figures.efficiency,
        "compression": figures.compression,
        "cached_share": cached_share,
        "retention": figures.retention,
    }


def of_cost(sent: Sent, price: Price, model: str, outcome: Outcome) -> dict[str, int]:
    """What the last call was billed, beside what it would have been by our own count with nothing in a cache."""
    if outcome.billed is None:
        return {}
    counted = Usage(input_tokens=sent.input_tokens, output_tokens=outcome.billed.output_tokens)
    costs = {"estimated": price.cost(counted), "billed": price.cost(outcome.billed)}
    for kind, nano in costs.items():
        REPLY_COST.labels(model, kind).inc(nano)
    return {"estimated_cost_nano": costs["estimated"], "cost_nano": costs["billed"]}


def provider_of(model: str) -> str:
    return model.partition("/")[0]


def seconds_between(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
