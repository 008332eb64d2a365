"""What a send adds and the article of a reply that has ended come from stencils, and are what the templates make."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from unittest.mock import patch
from uuid import uuid4

import pytest
from django.template.loader import render_to_string

from conversations.models import Conversation, Message, Reply, ReplyAttempt, ReplyState
from conversations.reports import Paid
from conversations.thread import Item
from conversations.views import stencil
from conversations.views.composer import Composer

from .base import entry

ASKED = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
PAID = Paid(
    calls=1,
    charged_calls=1,
    held=21_000_000,
    charged=1_234_567,
    released=19_765_433,
    is_free=False,
    is_estimated=False,
    is_underestimate=False,
    max_tokens=1_024,
    entry_id=uuid4(),
    day=date(2026, 11, 20),
)
FREE = replace(PAID, held=0, charged=0, released=0, is_free=True)


SENT = {
    "sections": [
        {"kind": "memory", "tokens": 9, "ids": ["a", "b"]},
        {"kind": "summary", "tokens": 9, "ids": ["c"], "facts": {"version": 3}},
        {"kind": "question", "tokens": 9, "ids": ["d"]},
    ],
    "figures": {"compression": 0.12},
}


def ended(
    *,
    model: str = "openai/gpt",
    waited: float = 0.0,
    paid: Paid | None = PAID,
    text: str = "Hello **Alice**",
    reasoning: str = "",
    state: ReplyState = ReplyState.COMPLETE,
    cached: int = 0,
    **attempt: object,
) -> Item:
    begun = ASKED + timedelta(seconds=waited)
    reply = Reply(
        id=uuid4(),
        conversation_id=uuid4(),
        model=model,
        state=state,
        max_tokens=1_024,
        created_at=ASKED,
        started_at=begun,
        first_token_at=begun + timedelta(seconds=1.5),
        finished_at=begun + timedelta(seconds=200),
    )
    message = Message(id=uuid4(), role="assistant", content=text, reasoning=reasoning, model_used=model)
    values = {"number": 1, "model": model, "input_tokens": 1_200, "output_tokens": 34, "usage_reported": True}
    last = ReplyAttempt(**values | {"manifest": {}, "cached_tokens": cached} | attempt)
    return Item(message=message, reply=reply, attempt=last, paid=paid, is_last=True)


USUAL = {
    "paid": ended(),
    "free": ended(paid=FREE),
    "not in the ledger": ended(paid=None),
    "about": ended(paid=replace(PAID, is_estimated=True), usage_reported=False),
    "cached": ended(cached=900),
    "with its request": ended(manifest=SENT, cached=900),
    "without tokens": ended(input_tokens=None),
    "after a wait": ended(waited=61.0),
    "awkward model": ended(model='openai/<b>"free" & <model/> <text/> 1,000,000,000,000 in'),
    "awkward text": ended(text="`<text/>` <model/> $1,000,000,000.00 & 1001 min 0 s\n\n```html\n<b>\n```"),
}
UNUSUAL = {
    "stopped": ended(state=ReplyState.STOPPED),
    "with thoughts": ended(reasoning="Let me think."),
    "cut by its length": ended(finish_reason="length"),
    "with a request and no tokens": ended(manifest=SENT, input_tokens=None),
    "second try": ended(number=2),
    "nothing charged": ended(paid=replace(PAID, charged=0)),
    "without words": ended(text="[a]: https://example.org"),
    "one of two": ended(),
}
UNUSUAL["one of two"].siblings = [uuid4(), UNUSUAL["one of two"].message.pk]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [*USUAL, *UNUSUAL])
def test_it_is_as_the_templates_make_it(name: str) -> None:
    item = (USUAL | UNUSUAL)[name]
    assert item.reply is not None
    conversation = Conversation(id=item.reply.conversation_id)
    shown = render_to_string("conversations/thread.html#reply", {"item": item, "conversation": conversation})
    for _ in range(2):
        assert stencil.fill_ended(item) == shown


@pytest.mark.parametrize("name", USUAL)
def test_what_is_usual_needs_no_template(name: str) -> None:
    """It takes a tenth of the time, of which every reply in the process has its share."""
    stencil.fill_ended(USUAL[name])
    with patch.object(stencil, "render_to_string") as rendered:
        stencil.fill_ended(USUAL[name])
    rendered.assert_not_called()


def just_sent(
    *, held: int = 19_500_000, title: str = "Bergen", preset: str = "", label: str = "Large"
) -> Composer:
    conversation = Conversation(id=uuid4(), title=title, preset={"name": preset} if preset else {})
    conversation.reply_state = ReplyState.RUNNING  # type: ignore[attr-defined]
    running = Reply(id=uuid4(), state=ReplyState.RUNNING)
    running.held = held
    return Composer(
        action="",
        conversation=conversation,
        leaf_id=uuid4(),
        running=running,
        version=f"{uuid4()}.{running.pk}.running.",
        chosen=entry(label, label=label),
    )


@pytest.mark.parametrize(
    "composer",
    [
        just_sent(),
        just_sent(held=0),
        just_sent(title="", preset="Mine & yours"),
        just_sent(
            title='<title/> "<b>" <preset/> $1,000,000,000.00',
            preset="'<title/>",
            label="<version/> <model/>",
        ),
    ],
    ids=["paid", "free", "named preset", "awkward"],
)
def test_what_a_send_changes_beside_its_articles_is_as_the_templates_make_it(composer: Composer) -> None:
    context = {"composer": composer, "conversation": composer.conversation}
    shown = render_to_string("conversations/sent.html#beside", context)
    for _ in range(2):
        assert stencil.fill_beside(composer) == shown
