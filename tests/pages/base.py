"""What the page tests share: two models, a signed-in person, and short ways to say things."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from django.http import HttpResponse
from django.test import Client, TestCase
from django.urls import reverse

from conversations.catalog import Catalog, ModelEntry
from conversations.models import Conversation, Message, Reply, ReplyState, User
from conversations.providers import replaced
from tests import cast
from tests.prices.cheap import a_price

HTMX = {"HX-Request": "true"}


def entry(model_id: str = "large", **fields: Any) -> ModelEntry:
    values: dict[str, Any] = {
        "id": f"scripted/{model_id}",
        "provider": "scripted",
        "provider_label": "Scripted",
        "model_id": model_id,
        "label": model_id,
        "dialect": "openai",
        "context_window": 8_192,
        "max_output": 2_048,
        "price": a_price(f"scripted/{model_id}"),
    }
    return ModelEntry(**(values | fields))


LARGE = entry("large")
LOCAL = entry(
    "SmolLM2-135M",
    id="local/SmolLM2-135M",
    provider="local",
    provider_label="This machine",
    is_free=True,
    is_local=True,
    price=None,
)


class PageTests(TestCase):
    """Alice is signed in; `scripted/large` and the local model are there, and no reply runs by itself."""

    models: tuple[ModelEntry, ...] = (LARGE, LOCAL)
    alice: User

    @classmethod
    def setUpTestData(cls) -> None:
        cls.alice = cast.alice()

    def setUp(self) -> None:
        self.enterContext(replaced(Catalog(entries=self.models), {}))
        self.client = signed_in(self.alice)

    def page(self, name: str, *args: object, **query: str) -> str:
        response = self.client.get(reverse(name, args=args), query)
        self.assertEqual(response.status_code, 200)
        return response.content.decode()

    def fragment(self, name: str, *args: object, **query: str) -> str:
        return self.client.get(reverse(name, args=args), query, headers=HTMX).content.decode()

    def act(self, name: str, *args: object, htmx: bool = True, **data: Any) -> HttpResponse:
        """Press a button or send a form, with script or without."""
        return cast_response(self.client.post(reverse(name, args=args), data, headers=HTMX if htmx else {}))


def cast_response(response: Any) -> HttpResponse:
    assert isinstance(response, HttpResponse)
    return response


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def conversation_of(user: User, title: str = "Harbour fees", **fields: Any) -> Conversation:
    return Conversation.objects.create(user=user, title=title, model=LARGE.id, **fields)


def say(conversation: Conversation, text: str, *, answer: str = "", under: Message | None = None) -> Message:
    """A question below the leaf (or `under` another message), with its answer if there is one."""
    parent_id = under.pk if under else conversation.leaf_id
    last = Message.objects.create(conversation=conversation, parent_id=parent_id, role="user", content=text)
    if answer:
        reply_to(conversation, last, answer=answer)
        last = Message.objects.get(reply__question=last)
    conversation.leaf = last
    conversation.save()
    return last


def reply_to(
    conversation: Conversation,
    question: Message,
    *,
    state: str = ReplyState.COMPLETE,
    answer: str = "",
    **fields: Any,
) -> Reply:
    message = None
    if answer:
        message = Message.objects.create(
            conversation=conversation,
            parent=question,
            role="assistant",
            content=answer,
            model_used=LARGE.id,
            is_set_aside=state == ReplyState.INTERRUPTED,
        )
        Conversation.objects.filter(pk=conversation.pk).update(leaf=message)
    values: dict[str, Any] = {
        "model": LARGE.id,
        "max_tokens": 100,
        "idempotency_key": uuid4(),
        "body_hash": "x",
    }
    return Reply.objects.create(
        user=conversation.user,
        conversation=conversation,
        question=question,
        answer=message,
        state=state,
        **(values | fields),
    )


def form(text: str, *, leaf: UUID | None = None, key: UUID | None = None, **more: str) -> dict[str, Any]:
    """The composer as a browser sends it."""
    return {"text": text, "key": str(key or uuid4()), "leaf": str(leaf or ""), "model": LARGE.id, **more}
