"""What every message needs of a page, cut out once for each model: from one to the next, a few words differ.

Two articles are added by a send, with what it changes beside them; one takes the place of its reply when that ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from html import escape  # as Django's does, which looks first whether what it is given is lazy
from typing import cast
from uuid import UUID

from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe

from conversations.catalog import ModelEntry
from conversations.models import UNFINISHED, Conversation, Message, Reply, ReplyAttempt, ReplyState
from conversations.money import closely
from conversations.receipts import Receipt, receipt
from conversations.reports import Paid
from conversations.thread import Item

from .composer import Composer

# What stands in a stencil for what differs: two ids, two times, and the text as HTML. None can come out of the name of
# a model: quotes and brackets in it are escaped.
QUESTION_ID, REPLY_ID, TEXT = UUID(int=1), UUID(int=2), SafeString("<text/>")
ASKED, BEGUN = (datetime(2000, 1, 1, hour, hour) for hour in (3, 4))


#: A section that no request has: what is said of it differs from all else.
SEEN = {"kind": "summary", "tokens": 1, "facts": {"version": 10**14}}


def fits(question: Item, answer: Item) -> bool:
    """Whether a stencil shows all there is: a message of usual length, and a reply to it that has not begun."""
    reply = answer.reply
    is_new = reply is not None and reply.state in UNFINISHED and not reply.text and not reply.continues_id
    is_plain = not (question.is_shortened or question.siblings or question.waiting or question.remembered)
    return is_new and is_plain


def fill(question: Message, text: SafeString, reply: Reply) -> SafeString:
    """What `thread.html#item` makes of a message and of the reply to it; `text` is the message's HTML."""
    values = {
        str(QUESTION_ID): str(question.pk),
        str(REPLY_ID): str(reply.pk),
        _clock(ASKED): _clock(timezone.localtime(question.created_at)),
        _clock(BEGUN): _clock(timezone.localtime(reply.created_at)),
        TEXT: text,
    }
    return _filled(_stencil(reply.model, reply.state), values)


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """A model, as far as the composer names it."""

    id: str = SafeString("<model/>")
    label: str = SafeString("<label/>")


CHOSEN, VERSION, PRESET, TITLE = _Chosen(), *map(SafeString, ("<version/>", "<preset/>", "<title/>"))
CONVERSATION_ID, LEAF_ID, KEY, HELD = UUID(int=3), UUID(int=4), UUID(int=5), 10**18


def fill_beside(composer: Composer) -> SafeString:
    """What `sent.html#beside` makes of a composer whose reply is on its way, and that has nothing to tell."""
    conversation, running, chosen = composer.conversation, composer.running, composer.chosen
    assert running is not None and chosen is not None and not composer.place
    values = {
        str(CONVERSATION_ID): str(conversation.pk),
        str(REPLY_ID): str(running.pk),
        str(LEAF_ID): str(composer.leaf_id),
        str(KEY): str(composer.key),
        VERSION: escape(composer.version),
        CHOSEN.id: escape(chosen.id),
        CHOSEN.label: escape(chosen.label),
        PRESET: escape(composer.preset_name),
        TITLE: escape(conversation.title),
        closely(HELD): closely(composer.held),
    }
    return _filled(_beside(bool(composer.held)), values)


@cache
def _beside(is_held: bool) -> list[str]:
    conversation = Conversation(id=CONVERSATION_ID, title=TITLE, preset={"name": PRESET})
    conversation.reply_state = ReplyState.QUEUED  # type: ignore[attr-defined]
    running = Reply(id=REPLY_ID, state=ReplyState.QUEUED)
    running.held = HELD if is_held else 0
    composer = Composer(
        action="",
        conversation=conversation,
        key=KEY,
        leaf_id=LEAF_ID,
        running=running,
        version=VERSION,
        chosen=cast(ModelEntry, CHOSEN),
    )
    html = render_to_string(
        "conversations/sent.html#beside", {"composer": composer, "conversation": conversation}
    )
    words = (VERSION, CHOSEN.id, CHOSEN.label, PRESET, TITLE, closely(HELD))
    return _cut(html, *map(str, (CONVERSATION_ID, REPLY_ID, LEAF_ID, KEY)), *words)


def _filled(pieces: list[str], values: Mapping[str, str]) -> SafeString:
    return mark_safe("".join(map(values.get, pieces, pieces)))


def _clock(moment: datetime) -> str:
    """As it ends the name of an article."""
    return f', {moment:%H:%M}"'


@lru_cache(maxsize=100)
def _stencil(model: str, state: ReplyState) -> list[str]:
    here = timezone.get_current_timezone()
    question = Item(message=Message(id=QUESTION_ID, role="user", created_at=ASKED.replace(tzinfo=here)))
    question.html = TEXT
    reply = Reply(id=REPLY_ID, model=model, state=state, created_at=BEGUN.replace(tzinfo=here))
    items = (question, Item(reply=reply, is_last=True))
    html = [
        render_to_string("conversations/thread.html#item", {"item": item, "request": True}) for item in items
    ]
    return _cut("".join(html), str(QUESTION_ID), str(REPLY_ID), _clock(ASKED), _clock(BEGUN), TEXT)


def _cut(html: str, *marks: str) -> list[str]:
    return re.split(f"({'|'.join(map(re.escape, marks))})", html)


# --- The end of a reply -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """Which words the article of a complete reply has: the words themselves differ from one to the next."""

    has_tokens: bool
    has_seen: bool
    is_free: bool | None  #: None: the ledger says nothing
    has_ledger: bool
    waited: bool


def fill_ended(item: Item) -> SafeString:
    """What `thread.html#reply` makes of a reply that has ended."""
    message, reply, figures = item.message, item.reply, receipt(item)
    assert reply is not None
    if message is not None and _is_usual(item, figures):
        pieces, marks = _ended(_shape_of(item, reply, figures))
        if len(marks) == len(words := _words(message, reply, figures)):
            return _filled(pieces, dict(zip(marks, map(escape, words), strict=True)) | {TEXT: item.html})
    conversation = Conversation(id=reply.conversation_id)
    return render_to_string("conversations/thread.html#reply", {"item": item, "conversation": conversation})


def _is_usual(item: Item, figures: Receipt) -> bool:
    """Whether all went well: there is a text, one version of it, and nothing to be told beside the figures."""
    message, reply, paid = item.message, item.reply, item.paid
    if message is None or reply is None or reply.state != ReplyState.COMPLETE or not item.is_last:
        return False
    is_priced = paid is None or paid.is_free or paid.charged > 0
    return is_priced and bool(item.html) and not (message.reasoning or item.siblings or figures.notes)


def _shape_of(item: Item, reply: Reply, figures: Receipt) -> _Shape:
    return _Shape(
        has_tokens=bool(figures.tokens),
        has_seen=bool(figures.seen),
        is_free=item.paid.is_free if item.paid else None,
        has_ledger=bool(figures.ledger),
        waited=len(figures.times) > 2,
    )


def _words(message: Message, reply: Reply, figures: Receipt) -> list[str]:
    words = [
        str(message.pk),
        str(reply.pk),
        figures.model,
        *figures.tokens,
        figures.ledger,
        figures.seen,
        *figures.times,
    ]
    return [word for word in (*words, "" if figures.money == "free" else figures.money) if word]


@lru_cache(maxsize=200)
def _ended(shape: _Shape) -> tuple[list[str], list[str]]:
    """The article in pieces, and which of them are replaced, in the order of `_words`."""
    begun = datetime(2000, 1, 1, tzinfo=UTC)
    started = begun + timedelta(minutes=1001) if shape.waited else begun
    reply = Reply(
        id=REPLY_ID,
        conversation_id=UUID(int=3),
        model="any/<model/>",
        state=ReplyState.COMPLETE,
        created_at=begun,
        started_at=started,
        first_token_at=started + timedelta(minutes=2002),
        finished_at=begun + timedelta(minutes=4004),
    )
    message = Message(id=QUESTION_ID, role="assistant", content="any")
    item = Item(message=message, reply=reply, is_last=True)
    item.html = TEXT
    if shape.has_tokens:
        item.attempt = ReplyAttempt(
            model=reply.model,
            number=1,
            input_tokens=10**12,
            output_tokens=10**13,
            usage_reported=True,
            manifest={"sections": [SEEN]} if shape.has_seen else {},
        )
    if shape.is_free is not None:
        item.paid = Paid(
            calls=1,
            charged_calls=1,
            held=0,
            charged=0 if shape.is_free else 10**18,
            released=0,
            is_free=shape.is_free,
            is_estimated=False,
            is_underestimate=False,
            max_tokens=None,
            entry_id=UUID(int=4),
            day=date(2000, 1, 1) if shape.has_ledger else None,
        )
    html = render_to_string("conversations/thread.html#reply", {"item": item, "conversation": None})
    marks = [escape(word) for word in _words(message, reply, receipt(item))]
    return _cut(html, *marks, TEXT), marks
