"""The statements of a send, as raw SQL: the ORM would take several times their own time.

Each runs inside `transaction.atomic()` on Django's connection, so that the ORM may be used beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db.models import Model
from psycopg import Cursor
from psycopg.rows import class_row, dict_row, tuple_row
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
    leaf_tokens: int | None  #: of the path to it
    leaf_messages: int | None
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

# What a send decides by is read under the lock, by the function: the rest may be as old as the statement.
STANDING = f"""
SELECT c.id, c.title, c.model, c.system_prompt, c.temperature, c.reply_tokens, s.*, c.preset::text AS preset, {_BESIDE}
FROM lock_sender(%(user)s, %(conversation)s) s CROSS JOIN conversations c
WHERE c.id = %(conversation)s AND c.user_id = %(user)s AND c.deleted_at IS NULL
"""
STANDING_OF_PERSON = f"SELECT s.running, {TOLD} AS told FROM lock_sender(%(user)s, NULL) s"

CONVERSATION = """
INSERT INTO conversations (
    id, user_id, title, system_prompt, model, preset, temperature, reply_tokens, leaf_id, created_at, last_updated
) VALUES (
    %(conversation)s, %(user)s, %(title)s, %(system_prompt)s, %(model)s, %(preset)s, %(own_temperature)s,
    %(own_reply_tokens)s, %(question)s, %(now)s, %(now)s
) RETURNING id
"""
#: What the path to it sums up to, a trigger fills in.
ASKED = """
INSERT INTO messages (id, conversation_id, parent_id, role, content, token_count, created_at)
VALUES (%(question)s, %(conversation)s, %(parent)s, 'user', %(content)s, %(token_count)s, %(now)s)
RETURNING path_tokens, path_messages
"""
LEAF = """
UPDATE conversations SET leaf_id = %(question)s, model = %(model)s, last_updated = %(now)s WHERE id = %(conversation)s
RETURNING id
"""
# Not `now()`, when the transaction began: it may have waited for another send since.
REPLY = """
INSERT INTO replies (
    id, user_id, conversation_id, question_id, continues_id, model, temperature, max_tokens, state, idempotency_key,
    body_hash, created_at, epoch, runner, started_at, lease_expires_at, text, reasoning, journal_position, error_code,
    error_detail
) VALUES (
    %(reply)s, %(user)s, %(conversation)s, %(question)s, %(continues)s, %(model)s, %(temperature)s, %(max_tokens)s,
    %(state)s, %(key)s, %(body_hash)s, %(now)s, %(epoch)s, %(runner)s,
    CASE WHEN %(epoch)s > 0 THEN statement_timestamp() END,
    CASE WHEN %(epoch)s > 0 THEN statement_timestamp() + %(lease)s * interval '1 s' END, '', '', '', '', ''
) RETURNING id
"""


@dataclass(frozen=True, eq=False)
class Sending:
    """A reply with what comes into being beside it: all of it or nothing."""

    written: Mapping[str, str]
    is_begun: bool = False  #: with it the conversation begins
    is_asked: bool = False  #: its question is there already

    @property
    def known(self) -> str:
        """The columns of what the request is made of, for the process that takes the reply."""
        last, is_asked = ("%(question)s::uuid", "true") if self.is_asked else ("%(parent)s::uuid", "false")
        is_unnamed = "true" if self.is_begun else "c.title_source = 'default'"
        # The preset that the send was decided by, which the row may not have any more.
        named = f"{is_unnamed} AS is_unnamed, md5((%(preset)s::jsonb)::text) AS preset_digest"
        return f"{named}, {known_of('%(conversation)s::uuid', last=last, is_asked=is_asked)}"


@lru_cache(maxsize=32)
def _statement(sending: Sending, *, is_taken: bool, then: str) -> str:
    """Returns the sums of the question's path; where this process takes the reply, what its request is made of.

    `then`: another statement of one row, as `given`. Everything is written before it is run: what it locks is locked
    last.
    """
    written = ", ".join(f"{name} AS ({sql})" for name, sql in sending.written.items())
    columns, tables = "asked.path_tokens, asked.path_messages", " CROSS JOIN ".join(sending.written)
    if then:
        columns += f", (SELECT row_to_json(given) FROM ({then}) AS given) AS given"
    if is_taken:
        columns += f", {sending.known}"
        tables += """ CROSS JOIN users u LEFT JOIN conversations c ON c.id = %(conversation)s
        WHERE u.id = %(user)s"""
    return f"WITH {written} SELECT {columns} FROM {tables}"


BEGIN = Sending({"begun": CONVERSATION, "asked": ASKED, "replied": REPLY}, is_begun=True)
ASK = Sending({"asked": ASKED, "shown": LEAF, "replied": REPLY})
ASK_BEHIND = Sending({"asked": ASKED, "replied": REPLY})
ASK_AGAIN = Sending(
    {
        "asked": "SELECT path_tokens, path_messages FROM messages WHERE id = %(question)s",
        "shown": LEAF,
        "replied": REPLY,
    },
    is_asked=True,
)

SHORTEN = "UPDATE replies SET max_tokens = %s, is_shortened = true WHERE id = %s"


def lock_sender(user_id: int) -> None:
    """One send of a person at a time decides where it goes and whether it waits."""
    with plain_cursor(tuple_row) as cursor:
        cursor.execute(LOCK_SENDER, [user_id])


def read_standing_of(user_id: int) -> tuple[int, Beside]:
    """Replies of a person that are on their way, and what is remembered of them, while all their other sends wait."""
    with plain_cursor(tuple_row) as cursor:
        found = cursor.execute(STANDING_OF_PERSON, {"user": user_id}).fetchone()
    assert found is not None
    running, told = found
    return running, _beside(told)


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


class Saving:
    """A cursor that saves a new reply together with the first statement it is given, of one row: both or neither.

    Raises IntegrityError: the reply's key was used, for one.
    """

    def __init__(self, cursor: Cursor[tuple[Any, ...]], sending: Sending, reply: Reply) -> None:
        self._cursor = cursor
        self._sending = sending
        self._reply = reply
        self._rows: list[Any] | None = None  #: of the statement that went with it
        self.is_saved = False
        self.claimed: Claimed | None = None  #: where this process takes the reply

    @property
    def connection(self) -> Any:
        return self._cursor.connection

    def execute(self, sql: Any, params: Any = None) -> None:
        if self.is_saved:
            self._cursor.execute(sql, params)
        else:
            given = self._save(_renamed(sql), {f"given_{name}": params[name] for name in params})
            self._rows = [tuple(given.values())]

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, None
        return self._cursor.fetchall() if rows is None else rows

    def save(self) -> None:
        """Save the reply by itself, unless it is saved."""
        if not self.is_saved:
            self._save("", {})

    def _save(self, then: str, values: dict[str, Any]) -> dict[str, Any]:
        reply, question, is_taken = self._reply, self._reply.question, self._reply.state == ReplyState.RUNNING
        statement = _statement(self._sending, is_taken=is_taken, then=then)
        with Cursor(self._cursor.connection, row_factory=dict_row) as cursor:
            row = cursor.execute(statement, _values(self._sending, reply) | values).fetchone()
        assert row is not None
        given: dict[str, Any] = row.pop("given", {})
        question.path_tokens, question.path_messages = row["path_tokens"], row["path_messages"]
        for stored in (reply.conversation, question, reply):
            _is_stored(stored)
        if is_taken:
            self.claimed = claim_of(reply, row, is_asked=self._sending.is_asked)
        self.is_saved = True
        return given


@lru_cache(maxsize=8)
def _renamed(sql: str) -> str:
    """With names of its own for its values."""
    return sql.replace("%(", "%(given_")


def _values(sending: Sending, reply: Reply) -> dict[str, Any]:
    conversation, question = reply.conversation, reply.question
    values = {
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
        "preset": Jsonb(conversation.preset),
        **claim_values(reply.pk, reply.runner),
    }
    if sending.is_begun:
        values |= {
            "title": conversation.title,
            "system_prompt": conversation.system_prompt,
            "own_temperature": conversation.temperature,
            "own_reply_tokens": conversation.reply_tokens,
        }
    return values


def shorten(reply: Reply, max_tokens: int) -> None:
    """Bound a reply that was just saved by what its budget has room for."""
    with plain_cursor(tuple_row) as cursor:
        cursor.execute(SHORTEN, [max_tokens, reply.pk])
    reply.max_tokens, reply.is_shortened = max_tokens, True


def _is_stored(row: Model) -> None:
    row._state.adding, row._state.db = False, "default"
