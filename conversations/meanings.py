"""The vectors of messages: what a message is about, stored beside the words that recall looks for."""

from __future__ import annotations

from conversations.llm.embeddings import embed
from conversations.models import Message, MessagePlace


def keep_meaning(message: Message) -> None:
    """Store the vector of a message that the ORM has just written, in the same transaction."""
    vector = embed(message.content)
    if vector is not None:
        MessagePlace.objects.filter(message=message).update(embedding=vector)


def embed_missing(*, after: int = 0, limit: int = 500) -> int | None:
    """Give the next `limit` messages beyond place `after` their vectors. The last place looked at; None at the end."""
    places = MessagePlace.objects.filter(pk__gt=after).order_by("pk").only("pk")[:limit]
    last = max((place.pk for place in places), default=None)
    if last is None:
        return None
    missing = MessagePlace.objects.filter(pk__gt=after, pk__lte=last, embedding=None).select_related(
        "message"
    )
    changed = []
    for place in missing.only("pk", "message__content"):
        place.embedding = embed(place.message.content)
        if place.embedding is not None:
            changed.append(place)
    MessagePlace.objects.bulk_update(changed, ["embedding"])
    return last
