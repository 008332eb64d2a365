"""Whether each provider is called now, for those who only look. Other processes notice nothing of it."""

from __future__ import annotations

from collections.abc import Sequence

from asgiref.sync import async_to_sync
from django.conf import settings
from redis.exceptions import RedisError

from conversations import journal

from .books import Answer, RedisBook, Rules, State, Statement


@async_to_sync
async def look(providers: Sequence[str]) -> dict[str, Answer]:
    """What the shared book says of these providers, by slug; nothing while Redis is away."""
    client = journal.connect(settings.REDIS_URL)
    statements = [Statement(process="looks", provider=provider) for provider in providers]
    try:
        answers = await RedisBook(client, Rules.from_settings()).sync(statements) if statements else []
    except (RedisError, OSError):
        return {}
    finally:
        await client.aclose()
    return dict(zip(providers, answers, strict=True))


def in_words(answer: Answer) -> str:
    """One sentence for people."""
    if answer.state is State.OPEN:
        return f"left alone after failures, tried again in {max(1, round(answer.retry_in))} s"
    if answer.state is State.HALF_OPEN:
        return "left alone after failures, the next call tries whether it answers again"
    if answer.failures:
        calls = "1 call" if answer.failures == 1 else f"{answer.failures} calls"
        return f"called; {calls} failed in the last {settings.BREAKER_WINDOW:.0f} s"
    return "called"
