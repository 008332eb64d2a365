"""What a runner takes a reply with: its claim, and all that a request for it may be made of, in one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from django.conf import settings

from conversations.context.cut import Cut
from conversations.context.policy import FIXED_BUDGET, Strategy
from conversations.context.presets import Preset
from conversations.policies import stored_preset

#: Messages that are read of a path at most.
MOST_MESSAGES = 2_000
#: Tokens that are read of a path without a cut, for a strategy that shows all that the largest window holds.
MOST_TOKENS = 2_000_000

#: Those that choose anew from all that they may show.
_CHOOSING = ", ".join(f"'{each}'" for each in Strategy if not each.is_append_only)
_FIXED = ", ".join(f"'{each}'" for each in Strategy if each.has_fixed_budget)


def _number(name: str) -> str:
    """A number of a preset; NULL for what is not one: whatever is stored there, its replies must be claimed."""
    path = f"$.{name}.floor() ? (@ >= 1 && @ <= {MOST_TOKENS})"
    return f"jsonb_path_query_first(c.preset, '{path}', silent => true)::bigint"


#: `Policy.view_tokens`, or more: the window is not known here.
_VIEW = f"""
2 * CASE
    WHEN c.preset = '{{}}' THEN %(high_water)s
    WHEN c.preset->>'strategy' IN ({_FIXED}) THEN coalesce({_number("token_budget")}, {FIXED_BUDGET})
    WHEN c.preset->>'strategy' = '{Strategy.FULL}' THEN coalesce({_number("token_budget")}, {MOST_TOKENS})
    ELSE coalesce({_number("high_water")}, %(high_water)s)
END::bigint
"""

#: Whether there is anything beside the path that a request may show, or must not.
_HAS_BACKGROUND = """
c.cut->'inserts' <> '[]' OR c.cut->'memory' <> '[]'
OR EXISTS (SELECT FROM memory_items i WHERE i.user_id = c.user_id AND i.scope = 'person' AND i.state = 'active')
OR EXISTS (SELECT FROM memory_items i WHERE i.conversation_id = c.conversation_id)
OR EXISTS (SELECT FROM conversation_summaries s WHERE s.conversation_id = c.conversation_id)
"""

#: In one row: every reply begins with it. It must be on the disk before it is believed: a claim that PostgreSQL lost
#: with its process would be made again with the same epoch, and two runners would both be right.
#:
#: `line`: the unforked lines that make up the path to the question, each with the depth up to which it belongs to it.
#: What is not on them is not in a request. `path` goes up to where the last request began, if that is on it, however
#: long its messages are; and else as far as `view_tokens` reach without the question, of which no message takes more
#: than half.
CLAIM = f"""
WITH RECURSIVE claimed AS (
    UPDATE replies r SET state = 'running', epoch = r.epoch + 1, runner = %(runner)s,
        started_at = coalesce(r.started_at, now()), lease_expires_at = now() + %(lease)s * interval '1 s'
    FROM conversations c JOIN users u ON u.id = c.user_id
    WHERE r.id = %(id)s AND r.state = 'queued' AND c.id = r.conversation_id
    RETURNING r.id AS reply_id, r.epoch, r.conversation_id, r.question_id, r.model, r.temperature, r.max_tokens,
        r.continues_id, c.system_prompt, c.reply_tokens, c.title_source = 'default' AS is_unnamed, r.user_id,
        u.fallback_model, u.is_remembering, r.stop_requested_at IS NOT NULL AS stop_requested,
        (SELECT count(*) FROM reply_attempts a WHERE a.reply_id = r.id)::int AS attempts,
        c.preset, md5(c.preset::text) AS preset_digest, {_VIEW} AS view_tokens,
        c.cut, extract(epoch FROM now() - c.cut_at)::float8 AS cut_age
), line AS (
    SELECT m.branch_id AS id, m.path_messages AS until FROM claimed c JOIN messages m ON m.id = c.question_id
    UNION ALL
    SELECT b.parent_id, least(line.until, b.until)
    FROM line JOIN message_branches b ON b.id = line.id WHERE b.parent_id IS NOT NULL
), start AS (
    SELECT m.id FROM claimed c JOIN messages m ON m.id = (c.cut->>'first_message_id')::uuid
        JOIN line ON line.id = m.branch_id AND m.path_messages <= line.until
    WHERE coalesce(c.preset->>'strategy' NOT IN ({_CHOOSING}), true)
), path AS (
    SELECT m.id, m.parent_id, m.role, m.content, m.token_count, m.is_set_aside, m.created_at, m.path_messages,
        m.path_tokens, 1 AS step, 0::bigint AS total
    FROM claimed c JOIN messages m ON m.id = c.question_id
    UNION ALL
    SELECT m.id, m.parent_id, m.role, m.content, m.token_count, m.is_set_aside, m.created_at, m.path_messages,
        m.path_tokens, path.step + 1,
        path.total + least(m.token_count, (SELECT view_tokens / 2 FROM claimed))
    FROM path JOIN messages m ON m.id = path.parent_id
    WHERE path.step < {MOST_MESSAGES} AND path.id IS DISTINCT FROM (SELECT id FROM start)
        AND (path.total <= (SELECT view_tokens FROM claimed) OR EXISTS (SELECT FROM start))
)
SELECT c.reply_id, c.epoch, c.conversation_id, c.question_id, c.model, c.temperature, c.max_tokens, c.system_prompt,
    c.reply_tokens, c.is_unnamed, c.user_id, c.fallback_model, c.attempts, c.stop_requested, c.preset, c.preset_digest,
    c.cut, c.cut_age,
    CASE WHEN c.continues_id IS NULL THEN ''
        ELSE coalesce((SELECT content FROM messages m WHERE m.id = c.continues_id), '') END AS continued_text,
    (
        SELECT json_agg(json_build_array(id, role, content, token_count, is_set_aside,
            CASE WHEN c.preset->>'strategy' = '{Strategy.IMPORTANCE}' THEN extract(epoch FROM created_at) END)
            ORDER BY step DESC) FROM path
    ) AS history,
    (SELECT path_messages FROM path WHERE step = 1) AS path_messages,
    (SELECT path_tokens FROM path WHERE step = 1) AS path_tokens,
    CASE WHEN {_HAS_BACKGROUND}
        THEN request_background(c.conversation_id, c.question_id, c.user_id, c.is_remembering, c.cut)
    END AS background
FROM claimed c
"""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a runner knows of the reply that it has just claimed."""

    reply_id: UUID
    epoch: int
    conversation_id: UUID
    question_id: UUID
    model: str
    temperature: float | None
    max_tokens: int
    system_prompt: str
    reply_tokens: int | None  #: what the conversation wishes its replies to have at most
    is_unnamed: bool
    user_id: int
    fallback_model: str
    continued_text: str  #: the cut-off text that this reply goes on from, or nothing
    attempts: int
    stop_requested: bool
    preset: Preset
    preset_digest: str  #: of it as it is stored


class Said(NamedTuple):
    """A message on the path to the question, as it is stored."""

    id: UUID
    role: Literal["user", "assistant"]
    content: str
    tokens: int  #: in the usual vocabulary: see `llm.tokens.kept_tokens`
    is_set_aside: bool
    created_at: datetime | None = None  #: for the strategy that asks for it


class Remembered(NamedTuple):
    """A fact that may be told, as it is stored."""

    id: UUID
    kind: str
    text: str
    tokens: int
    is_pinned: bool
    is_superseded: bool
    source_id: UUID | None


class Summed(NamedTuple):
    """A summary of the beginning of the path, as it is stored: the one that the last request shows, and the newest."""

    id: UUID
    version: int
    text: str
    tokens: int
    covers_until: UUID
    covered_messages: int
    acts_at_once: bool


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a request may be made of, before it is counted for a model."""

    history: Sequence[Said]  #: the path to the question, oldest first
    path_messages: int
    path_tokens: int
    memory: Sequence[Remembered] = ()
    summaries: Sequence[Summed] = ()
    recalled_before: Sequence[Said] = ()
    #: Messages that are not quoted back: what one of them said is to be forgotten.
    forgotten: Sequence[UUID] = ()
    cut: Cut | None = None
    cut_age: float | None = None  #: seconds since the request before this one had its reply


def claim_values(reply_id: UUID, runner: str) -> dict[str, Any]:
    return {
        "id": reply_id,
        "runner": runner,
        "lease": settings.REPLY_LEASE,
        "high_water": stored_preset({}).high_water,
    }


def read_claim(row: Mapping[str, Any]) -> tuple[Claim, Known]:
    """The values in the row of a claim."""
    values = dict(row)
    cut, cut_age = values.pop("cut"), values.pop("cut_age")
    known = Known(
        history=[_said(each) for each in values.pop("history")],
        path_messages=values.pop("path_messages"),
        path_tokens=values.pop("path_tokens"),
        cut=_cut(cut),
        cut_age=cut_age,
    )
    if background := values.pop("background"):
        forgotten = [UUID(pk) for pk in background["forgotten"] or ()]
        before = [_said(each) for each in background["recalled_before"] or ()]
        known = replace(
            known,
            memory=[_remembered(each) for each in background["memory"] or ()],
            summaries=[_summed(each) for each in background["summaries"] or ()],
            recalled_before=[said for said in before if said.id not in forgotten],
            forgotten=forgotten,
        )
    return Claim(preset=stored_preset(values.pop("preset")), **values), known


def _cut(stored: dict[str, Any] | None) -> Cut | None:
    """What another version of Parley has stored may not be read: then the next request begins anew."""
    with suppress(KeyError, TypeError, ValueError):
        return Cut.from_json(stored) if stored else None
    return None


def _said(row: list[Any]) -> Said:
    pk, role, content, tokens, is_set_aside, at = row
    return Said(
        UUID(pk), role, content, tokens, is_set_aside, None if at is None else datetime.fromtimestamp(at, UTC)
    )


def _remembered(row: list[Any]) -> Remembered:
    pk, kind, text, tokens, is_pinned, is_superseded, source_id = row
    source = UUID(source_id) if source_id else None
    return Remembered(UUID(pk), kind, text, tokens, is_pinned, is_superseded, source)


def _summed(row: list[Any]) -> Summed:
    pk, version, text, tokens, covers_until, *rest = row
    return Summed(UUID(pk), version, text, tokens, UUID(covers_until), *rest)
