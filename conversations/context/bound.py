"""How many tokens a request can have at most, before it is planned: what its hold must pay for."""

from __future__ import annotations

from .policy import MESSAGE_OVERHEAD, Policy


def most_input_tokens(
    policy: Policy, *, system_tokens: int, path_tokens: int, path_messages: int, question_tokens: int
) -> int:
    """Tokens of a plan for a question at most, by `plan_context`'s own count.

    `path_tokens` and `path_messages` sum up the path from the root to the question, itself included. A path that does
    not pass the high-water mark is sent whole; of a longer one at most as much is, and always the question.
    """
    lead = system_tokens + MESSAGE_OVERHEAD if system_tokens else 0
    whole = lead + path_tokens + MESSAGE_OVERHEAD * path_messages
    least = lead + question_tokens + MESSAGE_OVERHEAD
    return min(whole, max(policy.high_water, least), max(policy.input_limit, lead))
