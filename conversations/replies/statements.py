"""The statements of a send, as raw SQL: the ORM would take several times their own time.

Each runs inside `transaction.atomic()` on Django's connection, so that the ORM may be used beside them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Model
from psycopg.rows import class_row, dict_row, scalar_row, tuple_row
from psycopg.types.json import Jsonb

from conversations.context.bound import NOTHING_BESIDE, Beside
from conversations.database import plain_cursor
from conversations.models import Conversation, Reply, ReplyState

from .claims import Claimed, claim_of, claim_values, known_of


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A conversation as a send finds it, while all other sends of its owner wait."""

    id: UUID
    title: str
    model: str
    system_prompt: str
    temperature: float | None
    reply_tokens: int | None
    leaf_id: UUID | None
    leaf_role: str | None
    leaf_parent_id: UUID | None
    preset: str  #: JSON
    is_busy: bool  #: a reply is on its way in it, or waits to be
    running: int  #: replies of its owner that are on their way, here and elsewhere
    told: list[int]  #: sums of what is remembered: see `TOLD`
    summary_tokens: int
    inserts: int
    was_cut: bool

    @property
    def conversation(self) -> Conversation:
        """As the ORM has it, which reads the other columns when they are asked for."""
        # In the order of the model: Django takes the values as they come.
        names = ("id", "title", "system_prompt", "model", "temperature", "reply_tokens", "leaf_id")
        values = [getattr(self, name) for name in names]
        return Conversation.from_db("default", (*names, "preset"), [*values, json.loads(self.preset)])

    @property
    def beside(self) -> Beside:
        return _beside(self.told, self.summary_tokens, self.inserts, self.was_cut)


# A statement of its own: the next one must see what the send before this one has committed.
LOCK_SENDER = "SELECT FROM users WHERE id = %s FOR NO KEY UPDATE"

RUNNING = "SELECT count(*) FROM replies WHERE user_id = %(user)s AND state IN ('queued', 'running')"

_LINE = """
SELECT CASE WHEN i.token_count = 0 THEN octet_length(i.text) ELSE i.token_count END AS tokens,
    i.is_pinned OR i.kind = 'constraint' AS is_constraint
FROM memory_items i WHERE i.user_id = %(user)s
"""


def _told(lines: str) -> str:
    return f"""(
        SELECT ARRAY[count(*), coalesce(sum(tokens), 0), count(*) FILTER (WHERE is_constraint),
            coalesce(sum(tokens) FILTER (WHERE is_constraint), 0)] FROM ({lines}) AS line
    )"""


#: What is remembered and may be told in any conversation: lines, their tokens, and both of those that are always told.
_OF_PERSON = f"""
{_LINE} AND i.scope = 'person' AND (SELECT is_remembering FROM users WHERE id = %(user)s)
"""
TOLD = _told(f"{_OF_PERSON} AND i.state = 'active'")
#: The same for a conversation `c`: what was said in it, and what is superseded of what the last request showed.
_SHOWN = """i.state = 'superseded' AND i.id = ANY (ARRAY(
    SELECT jsonb_path_query(c.cut, '$.**{0 to 2}.memory[*]') #>> '{}')::uuid[])
"""
TOLD_IN = _told(f"""
{_LINE} AND i.conversation_id = c.id AND (i.state = 'active' OR {_SHOWN})
UNION ALL
{_OF_PERSON} AND i.conversation_id IS DISTINCT FROM c.id AND i.state IN ('active', 'superseded')
    AND (i.state = 'active' OR {_SHOWN})
""")
#: What a request in it may show beside the path and what is remembered.
_BESIDE = f"""
{TOLD_IN} AS told,
coalesce((SELECT max(CASE WHEN s.token_count = 0 THEN octet_length(s.summary) ELSE s.token_count END)
    FROM conversation_summaries s WHERE s.conversation_id = c.id AND s.state = 'in_force'), 0) AS summary_tokens,
coalesce(jsonb_array_length(c.cut->'inserts'), 0) AS inserts,
EXISTS (SELECT FROM messages m WHERE m.id = (c.cut->>'first_message_id')::uuid AND m.parent_id IS NOT NULL) AS was_cut
"""
BESIDE = f"SELECT {_BESIDE} FROM conversations c WHERE c.id = %(conversation)s AND c.user_id = %(user)s"

# Each state is asked for as one of the partial indexes has it: a conversation may have thousands of replies.
STANDING = f"""
SELECT c.id, c.title, c.model, c.system_prompt, c.temperature, c.reply_tokens, c.leaf_id,
    c.preset::text AS preset, {_BESIDE},
    leaf.role AS leaf_role, leaf.parent_id AS leaf_parent_id, ({RUNNING}) AS running,
    EXISTS (SELECT FROM replies r WHERE r.conversation_id = c.id AND r.state IN ('queued', 'running'))
        OR EXISTS (SELECT FROM replies r WHERE r.user_id = c.user_id AND r.state = 'waiting'
            AND r.conversation_id = c.id) AS is_busy
FROM conversations c LEFT JOIN messages leaf ON leaf.id = c.leaf_id
WHERE c.id = %(conversation)s AND c.user_id = %(user)s AND c.deleted_at IS NULL
"""

CONVERSATION = """
INSERT INTO conversations (
    id, user_id, title, system_prompt, model, preset, temperature, reply_tokens, leaf_id, created_at, last_updated
) VALUES (
    %(conversation)s, %(user)s, %(title)s, %(system_prompt)s, %(model)s, %(preset)s, %(own_temperature)s,
    %(own_reply_tokens)s, %(question)s, %(now)s, %(now)s
)
"""
QUESTION = """
INSERT INTO messages (id, conversation_id, parent_id, role, content, token_count, created_at)
VALUES (%(question)s, %(conversation)s, %(parent)s, 'user', %(content)s, %(token_count)s, %(now)s)
"""
LEAF = """
UPDATE conversations SET leaf_id = %(question)s, model = %(model)s, last_updated = %(now)s WHERE id = %(conversation)s
"""
REPLY = """
INSERT INTO replies (
    id, user_id, conversation_id, question_id, continues_id, model, temperature, max_tokens, state, idempotency_key,
    body_hash, created_at, epoch, runner, started_at, lease_expires_at, text, reasoning, journal_position, error_code,
    error_detail
) VALUES (
    %(reply)s, %(user)s, %(conversation)s, %(question)s, %(continues)s, %(model)s, %(temperature)s, %(max_tokens)s,
    %(state)s, %(key)s, %(body_hash)s, %(now)s, %(epoch)s, %(runner)s, CASE WHEN %(epoch)s > 0 THEN now() END,
    CASE WHEN %(epoch)s > 0 THEN now() + %(lease)s * interval '1 s' END, '', '', '', '', ''
)
"""

#: A message that is asked for the first time. What the path to it sums up to, a trigger fills in.
_ASKED = f"asked AS ({QUESTION} RETURNING path_tokens, path_messages)"


@dataclass(frozen=True)
class Sending:
    """A reply with what comes into being beside it: all of it or nothing. Returns the sums of the question's path."""

    queued: str
    taken: str  #: by this process, with all that its request may be made of

    @classmethod
    def of(cls, beside: str, *, is_begun: bool = False, is_asked: bool = False) -> Sending:
        """`is_begun`: with it the conversation begins. `is_asked`: its question is there already."""
        told = f", {TOLD} AS told" if is_begun else ""
        last, asked = ("%(question)s::uuid", "true") if is_asked else ("%(parent)s::uuid", "false")
        own = """
        c.title_source = 'default' AS is_unnamed, md5(c.preset::text) AS preset_digest
        """
        new = "true AS is_unnamed, md5((%(preset)s::jsonb)::text) AS preset_digest"
        return cls(
            queued=f"""
            WITH {beside}, replied AS ({REPLY}) SELECT path_tokens, path_messages{told} FROM asked
            """,
            taken=f"""
            WITH {beside}, replied AS ({REPLY})
            SELECT asked.path_tokens, asked.path_messages{told}, {new if is_begun else own},
                {known_of("%(conversation)s::uuid", last=last, is_asked=asked)}
            FROM asked CROSS JOIN users u LEFT JOIN conversations c ON c.id = %(conversation)s
            WHERE u.id = %(user)s
            """,
        )


BEGIN = Sending.of(f"begun AS ({CONVERSATION}), {_ASKED}", is_begun=True)
ASK = Sending.of(f"{_ASKED}, shown AS ({LEAF})")
ASK_BEHIND = Sending.of(_ASKED)
ASK_AGAIN = Sending.of(
    f"asked AS (SELECT path_tokens, path_messages FROM messages WHERE id = %(question)s), shown AS ({LEAF})",
    is_asked=True,
)

SHORTEN = "UPDATE replies SET max_tokens = %s, is_shortened = true WHERE id = %s"


def lock_sender(user_id: int) -> None:
    """One send of a person at a time decides where it goes and whether it waits."""
    with plain_cursor(tuple_row) as cursor:
        cursor.execute(LOCK_SENDER, [user_id])


def count_running(user_id: int) -> int:
    with plain_cursor(scalar_row) as cursor:
        return int(cursor.execute(RUNNING, {"user": user_id}).fetchone() or 0)


def read_standing(user_id: int, conversation_id: UUID) -> Standing:
    """Raises Conversation.DoesNotExist: also when it is somebody else's, or deleted."""
    with plain_cursor(class_row(Standing)) as cursor:
        cursor.execute(STANDING, {"user": user_id, "conversation": conversation_id})
        found = cursor.fetchone()
    if found is None:
        raise Conversation.DoesNotExist
    return found


def read_beside(user_id: int, conversation_id: UUID | None) -> Beside:
    """What a request may show beside the path, in a conversation of this person's or in one that is yet to begin."""
    with plain_cursor(tuple_row) as cursor:
        values = {"user": user_id, "conversation": conversation_id}
        found = cursor.execute(BESIDE if conversation_id else f"SELECT {TOLD}", values).fetchone()
    return NOTHING_BESIDE if found is None else _beside(*found)


def _beside(told: list[int], summary_tokens: int = 0, inserts: int = 0, was_cut: bool = False) -> Beside:
    lines, line_tokens, constraints, constraint_tokens = map(int, told)
    return Beside(
        lines=lines,
        line_tokens=line_tokens,
        constraints=constraints,
        constraint_tokens=constraint_tokens,
        summary_tokens=summary_tokens,
        inserts=inserts,
        was_cut=was_cut,
    )


def write(sending: Sending, reply: Reply) -> tuple[Beside, Claimed | None]:
    """Save a new reply, and what is saved with it. Raises IntegrityError: its key was used, for one.

    Returns what is remembered of its owner, where the conversation begins with it; and where this process takes the
    reply, its claim.
    """
    conversation, question = reply.conversation, reply.question
    values: dict[str, Any] = {
        "user": reply.user_id,
        "conversation": conversation.pk,
        "question": question.pk,
        "parent": question.parent_id,
        "content": question.content,
        "token_count": question.token_count,
        "reply": reply.pk,
        "continues": reply.continues_id,
        "model": reply.model,
        "temperature": reply.temperature,
        "max_tokens": reply.max_tokens,
        "state": reply.state,
        "key": reply.idempotency_key,
        "body_hash": reply.body_hash,
        "now": reply.created_at,
        "epoch": reply.epoch,
        **claim_values(reply.pk, reply.runner),
    }
    if sending is BEGIN:
        values |= {
            "title": conversation.title,
            "system_prompt": conversation.system_prompt,
            "preset": Jsonb(conversation.preset),
            "own_temperature": conversation.temperature,
            "own_reply_tokens": conversation.reply_tokens,
        }
    is_taken = reply.state == ReplyState.RUNNING
    with plain_cursor(dict_row) as cursor:
        row = cursor.execute(sending.taken if is_taken else sending.queued, values).fetchone()
    assert row is not None
    question.path_tokens, question.path_messages = row["path_tokens"], row["path_messages"]
    for stored in (conversation, question, reply):
        _is_stored(stored)
    beside = _beside(row.pop("told")) if sending is BEGIN else NOTHING_BESIDE
    return beside, claim_of(reply, row, is_asked=sending is ASK_AGAIN) if is_taken else None


def shorten(reply: Reply, max_tokens: int) -> None:
    """Bound a reply that was just saved by what its budget has room for."""
    with plain_cursor(tuple_row) as cursor:
        cursor.execute(SHORTEN, [max_tokens, reply.pk])
    reply.max_tokens, reply.is_shortened = max_tokens, True


def _is_stored(row: Model) -> None:
    row._state.adding, row._state.db = False, "default"
