"""The vectors of messages: made by the workers, once a path is so long that parts of it leave its requests.

Recall is asked for nothing else, and most conversations are over before. What has no vector is found by its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from psycopg.rows import tuple_row

from conversations.database import plain_cursor
from conversations.llm.embeddings import HEAD_CHARACTERS, TAIL_CHARACTERS, as_sql, meaning, warm_up
from conversations.models import Conversation, MessagePlace
from conversations.models.conversation import ConversationQuerySet

#: Tokens of a path from which on its messages have vectors: half of what a request holds with the smallest preset of
#: Parley's own.
LONG = 2_000
#: Tokens of a path from which a process gets ready to embed a question: the default preset leaves out beyond 16,000.
SOON_ASKED = 10_000
#: Tokens that a path grows by from one time to the next: as many as each of them keeps of its end when it cuts.
STEP = 1_000
#: Messages that are locked and written together, and those of one run: 40 s, if each is as long as can be.
BATCH, MOST = 200, 5_000
#: More than a run takes; until then no other worker sets out.
LEASE = timedelta(minutes=5)
#: Runs in a row that did not end: then a conversation is left to `manage.py embed_messages`.
MOST_ATTEMPTS = 5

_MISSING = Q(embedding=None) | Q(pieces=None)

# The texts are read once their places are locked: who changes one takes its vector back, and waits for this lock.
_LOCK = (
    "SELECT id FROM message_places WHERE id = ANY(%(places)s) AND (embedding IS NULL OR pieces IS NULL)"
    " FOR UPDATE SKIP LOCKED"
)
_READ = """
SELECT p.id, CASE WHEN length(m.content) > %(head)s + %(tail)s
    THEN left(m.content, %(head)s) || E'\\n' || right(m.content, %(tail)s) ELSE m.content END
FROM message_places p JOIN messages m ON m.id = p.message_id WHERE p.id = ANY(%(places)s)
"""
_KEEP = """
UPDATE message_places p SET embedding = made.vector::vector, pieces = made.pieces
FROM unnest(%(places)s::bigint[], %(vectors)s::text[], %(pieces)s::bytea[]) AS made (id, vector, pieces)
WHERE p.id = made.id
"""


def are_due(*, before: int, after: int) -> bool:
    """Whether a path that grew from so many tokens to so many is worth a run."""
    return after >= LONG and after // STEP > before // STEP


def catch_up(conversation_id: UUID) -> int:
    """Make the vectors that a conversation lacks, if they are due and nobody else does. Returns how many it made.

    Safe to run twice, or at once. What is more than one run may do stays due, and so does what came meanwhile; without
    word vectors nothing does.
    """
    claimed = _claimable().filter(pk=conversation_id)
    if not claimed.update(vectors_due_at=Now() + LEASE, vectors_attempts=F("vectors_attempts") + 1):
        return 0
    here = Conversation.objects.filter(pk=conversation_id)
    if not warm_up():
        here.update(vectors_due_at=None, vectors_attempts=0)
        return 0
    missing = MessagePlace.objects.filter(_MISSING, conversation_id=conversation_id)
    places = list(missing.values_list("pk", flat=True)[:MOST])
    made = sum(_embed(places[at : at + BATCH]) for at in range(0, len(places), BATCH))
    is_cut_short = len(places) == MOST
    here.update(vectors_due_at=Now() if made and is_cut_short else None, vectors_attempts=0)
    # What came meanwhile found the mark that was ours, and left none: so it is looked for once ours is gone.
    if not is_cut_short and missing.exclude(pk__in=places).exists():
        here.filter(vectors_due_at=None).update(vectors_due_at=Now())
    return made


def due(*, limit: int) -> list[UUID]:
    """What may be claimed, the longest due first: its wake-up call was lost, or its worker died."""
    return list(_claimable().order_by("vectors_due_at").values_list("pk", flat=True)[:limit])


def embed_all() -> bool:
    """Make all vectors that are missing anywhere. False: there are no word vectors. It may run again at any time."""
    if not warm_up():
        return False
    missing = MessagePlace.objects.filter(_MISSING).order_by("pk").values_list("pk", flat=True)
    after = 0
    while places := list(missing.filter(pk__gt=after)[:BATCH]):
        _embed(places)
        after = places[-1]
    Conversation.objects.filter(vectors_due_at__isnull=False).update(vectors_due_at=None, vectors_attempts=0)
    return True


def _embed(places: Sequence[int]) -> int:
    """Make the vectors of these places that have none, in one transaction. Returns how many; some have no word."""
    with transaction.atomic(), plain_cursor(tuple_row) as cursor:
        cursor.execute(_LOCK, {"places": list(places)})
        locked = [place for (place,) in cursor]
        cursor.execute(_READ, {"places": locked, "head": HEAD_CHARACTERS, "tail": TAIL_CHARACTERS})
        made = {place: found for place, text in cursor if (found := meaning(text)) is not None}
        if made:
            vectors = [as_sql(one.vector) for one in made.values()]
            pieces = [one.pieces for one in made.values()]
            cursor.execute(_KEEP, {"places": list(made), "vectors": vectors, "pieces": pieces})
    return len(made)


def _claimable() -> ConversationQuerySet:
    return Conversation.objects.filter(
        vectors_due_at__lte=Now(), vectors_attempts__lt=MOST_ATTEMPTS, deleted_at=None
    )
