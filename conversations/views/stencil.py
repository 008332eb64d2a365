"""The two articles that a send adds, cut out once for each model: from one send to the next, five things differ."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe

from conversations.models import Message, Reply, ReplyState
from conversations.thread import Item

# What stands in a stencil for what differs: two ids, two times, and the text as HTML. None can come out of the name of
# a model: quotes and brackets in it are escaped.
QUESTION_ID, REPLY_ID, TEXT = UUID(int=1), UUID(int=2), SafeString("<text/>")
ASKED, BEGUN = (datetime(2000, 1, 1, hour, hour) for hour in (3, 4))


def fits(question: Item, answer: Item) -> bool:
    """Whether a stencil shows all there is: a message of usual length, and a reply to it that has not begun."""
    reply = answer.reply
    is_new = (
        reply is not None and reply.state == ReplyState.QUEUED and not reply.text and not reply.continues_id
    )
    return is_new and not question.is_shortened and not question.siblings and not question.waiting


def fill(question: Message, text: SafeString, reply: Reply) -> SafeString:
    """What `thread.html#item` makes of a message and of the reply to it; `text` is the message's HTML."""
    values = {
        str(QUESTION_ID): str(question.pk),
        str(REPLY_ID): str(reply.pk),
        _clock(ASKED): _clock(timezone.localtime(question.created_at)),
        _clock(BEGUN): _clock(timezone.localtime(reply.created_at)),
        TEXT: text,
    }
    return mark_safe("".join(values.get(piece, piece) for piece in _stencil(reply.model)))


def _clock(moment: datetime) -> str:
    """As it ends the name of an article."""
    return f', {moment:%H:%M}"'


@lru_cache(maxsize=100)
def _stencil(model: str) -> list[str]:
    here = timezone.get_current_timezone()
    question = Item(message=Message(id=QUESTION_ID, role="user", created_at=ASKED.replace(tzinfo=here)))
    question.html = TEXT
    reply = Reply(id=REPLY_ID, model=model, created_at=BEGUN.replace(tzinfo=here))
    items = (question, Item(reply=reply, is_last=True))
    html = [
        render_to_string("conversations/thread.html#item", {"item": item, "request": True}) for item in items
    ]
    marks = (str(QUESTION_ID), str(REPLY_ID), _clock(ASKED), _clock(BEGUN), TEXT)
    return re.split(f"({'|'.join(map(re.escape, marks))})", "".join(html))
