"""What a process takes a reply with: its claim, and all that a request for it may be made of, in one round trip."""

from __future__ import annotations

import json
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
from conversations.models import Reply
from conversations.policies import stored_preset

#: Seconds that a claim holds until the first checkpoint renews it: a process that dies in between is soon replaced.
FIRST_LEASE = 10
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
OR EXISTS (SELECT FROM memory_items i WHERE i.user_id = u.id AND i.scope = 'person' AND i.state = 'active')
OR EXISTS (SELECT FROM memory_items i WHERE i.conversation_id = {conversation})
OR EXISTS (SELECT FROM conversation_summaries s WHERE s.conversation_id = {conversation})
"""

#: What the model of the last request was shown first, for a strategy that goes on from there.
_FIRST = f"""
CASE WHEN coalesce(c.preset->>'strategy' NOT IN ({_CHOOSING}), true) THEN (c.cut->>'first_message_id')::uuid END
"""
_IS_DATED = f"coalesce(c.preset->>'strategy' = '{Strategy.IMPORTANCE}', false)"


def _view(last: str) -> str:
    """Of a path with more than that and no cut, what its first cut leaves (`Policy.cut_tokens`), and a quarter more.

    `_VIEW` is twice the high-water mark, and a cut leaves `cut_to_percent` of that mark.
    """
    return f"""
    CASE WHEN c.cut IS NULL AND coalesce(c.preset->>'strategy', '{Strategy.ADAPTIVE}') = '{Strategy.ADAPTIVE}'
        AND (SELECT path_tokens - token_count FROM messages WHERE id = {last}) > {_VIEW}
    THEN {_VIEW} * greatest({_number("cut_to_percent")}, 25) / 160 ELSE {_VIEW} END
    """


def _history(last: str, is_asked: str) -> str:
    return f"request_history({last}, {_FIRST}, {_view(last)}, {MOST_MESSAGES}, {is_asked}, {_IS_DATED})"


def known_of(asked_by: str, *, last: str, is_asked: str) -> str:
    """The columns of what is known of a conversation `c`, or of none yet, to its owner `u`. Needs `claim_values`.

    `last`: the last message of the path that is read, which is the question itself if `is_asked`; `asked_by`: the
    conversation's id.
    """
    return f"""
    u.fallback_model, c.cut, extract(epoch FROM now() - c.cut_at)::float8 AS cut_age,
    {_history(last, is_asked)} AS history,
    CASE WHEN {_HAS_BACKGROUND.format(conversation=asked_by)}
        THEN request_background({asked_by}, {last}, u.id, u.is_remembering, c.cut)
    END AS background
    """


#: In one row: what no send has claimed begins with it. Either must be on the disk before it is believed: a claim that
#: PostgreSQL lost with its process would be made again with the same epoch, and two runners would both be right.
CLAIM = f"""
WITH claimed AS (
    UPDATE replies r SET state = 'running', epoch = r.epoch + 1, runner = %(runner)s,
        started_at = coalesce(r.started_at, now()), lease_expires_at = now() + %(lease)s * interval '1 s'
    WHERE r.id = %(id)s AND (r.state = 'queued') IS TRUE
    RETURNING r.id AS reply_id, r.epoch, r.conversation_id, r.question_id, r.model, r.temperature, r.max_tokens,
        r.continues_id, r.user_id, r.stop_requested_at IS NOT NULL AS stop_requested
)
SELECT r.reply_id, r.epoch, r.conversation_id, r.question_id, r.model, r.temperature, r.max_tokens, r.user_id,
    r.stop_requested, c.system_prompt, c.reply_tokens, c.title_source = 'default' AS is_unnamed, c.preset,
    md5(c.preset::text) AS preset_digest, q.path_messages, q.path_tokens,
    (SELECT count(*) FROM reply_attempts a WHERE a.reply_id = r.reply_id)::int AS attempts,
    coalesce((SELECT content FROM messages m WHERE m.id = r.continues_id), '') AS continued_text,
    {known_of("c.id", last="q.id", is_asked="true")}
FROM claimed r JOIN conversations c ON c.id = r.conversation_id JOIN users u ON u.id = c.user_id
    JOIN messages q ON q.id = r.question_id
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


class Claimed(NamedTuple):
    """A reply that is this process's to answer."""

    claim: Claim
    known: Known

    def bounded(self, max_tokens: int) -> Claimed:
        """The same for a shorter answer."""
        return self._replace(claim=replace(self.claim, max_tokens=max_tokens))


def claim_values(reply_id: UUID, runner: str) -> dict[str, Any]:
    return {
        "id": reply_id,
        "runner": runner,
        "lease": min(settings.REPLY_LEASE, FIRST_LEASE),
        "high_water": stored_preset({}).high_water,
    }


def read_claim(row: Mapping[str, Any]) -> Claimed:
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
    return Claimed(Claim(preset=stored_preset(values.pop("preset")), **values), known)


def claim_of(reply: Reply, row: dict[str, Any], *, is_asked: bool) -> Claimed:
    """The claim that a send makes for its own process. `row`: what it has found, up to its question if `is_asked`."""
    conversation, question = reply.conversation, reply.question
    own = {
        "reply_id": reply.pk,
        "epoch": reply.epoch,
        "conversation_id": conversation.pk,
        "question_id": question.pk,
        "model": reply.model,
        "temperature": reply.temperature,
        "max_tokens": reply.max_tokens,
        "user_id": reply.user_id,
        "stop_requested": False,
        "system_prompt": conversation.system_prompt,
        "reply_tokens": conversation.reply_tokens,
        "preset": conversation.preset,
        "attempts": 0,
        "continued_text": reply.continues.content if reply.continues else "",
        # Django's connections leave these as text.
        "cut": json.loads(row["cut"]) if row["cut"] else None,
    }
    history = row["history"]
    if not is_asked:
        at = reply.created_at.timestamp()
        history = [*history, [str(question.pk), "user", question.content, question.token_count, False, at]]
    return read_claim(row | own | {"history": history})


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
