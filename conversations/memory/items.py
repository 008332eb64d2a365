"""The only writer of memory: what is remembered, changed, confirmed, forgotten and brought back."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.core import signing
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from conversations import summaries
from conversations.forgotten import traces_of
from conversations.llm.tokens import kept_tokens
from conversations.models import Conversation, MemoryItem, Message, User
from conversations.models.memory import MemoryQuerySet
from conversations.models.message import texts_of
from conversations.text import clean_text

from .stating import Stated, stated

log = logging.getLogger(__name__)

Kind, Scope, State, Origin = MemoryItem.Kind, MemoryItem.Scope, MemoryItem.State, MemoryItem.Origin

#: Characters of one fact; facts that hold in all of a person's conversations; facts of one conversation.
LONGEST, MOST_OF_PERSON, MOST_OF_CONVERSATION = 300, 200, 60
#: Proposals of one conversation that wait for a yes: of more than these, the oldest make room.
MOST_PROPOSED = 20
#: Seconds for which a page can take a forgetting back: the text is in the page alone, and signed.
UNDO_SECONDS = 600

_UNDO = "conversations.memory.undo"


class MemoryRefused(Exception):
    """Nothing was changed."""

    @property
    def sentence(self) -> str:
        return str(self) or inspect.cleandoc(self.__doc__ or "")


class FactEmpty(MemoryRefused):
    """Write what to remember first."""


class FactTooLong(MemoryRefused):
    """A fact has at most 300 characters. Write it shorter, or as two."""


class MemoryFull(MemoryRefused):
    """There is no room for more facts here. Forget one that is not needed any more."""


class FactGone(MemoryRefused):
    """This fact has changed or was forgotten meanwhile."""


class NowhereElse(MemoryRefused):
    """This fact belongs to no conversation, so it holds in all of yours."""


class TooLate(MemoryRefused):
    """This was forgotten too long ago to be brought back."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What is to be remembered."""

    kind: MemoryItem.Kind
    text: str
    scope: MemoryItem.Scope = Scope.CONVERSATION


# --- By a person --------------------------------------------------------------------------------------------------


def remember(user: User, fact: Fact, *, conversation: Conversation | None = None) -> MemoryItem:
    """Keep what a person wrote on a page; what is known already stays as it is. Raises MemoryRefused.

    Without a conversation it holds in all of theirs.
    """
    text = one_line(fact.text)
    scope = fact.scope if conversation else Scope.PERSON
    with transaction.atomic():
        lock_memory(user.pk)
        if known := _same(_reach(user, conversation, scope), text):
            return known
        make_room(user.pk, conversation.pk if conversation else None, scope, evict=False)
        _allow_again(user.pk, text)
        return MemoryItem.objects.create(
            user=user,
            conversation=conversation,
            scope=scope,
            kind=fact.kind,
            text=text,
            token_count=kept_tokens(text),
            origin=Origin.PERSON,
        )


def note_stated(user: User, message: Message) -> list[MemoryItem]:
    """Keep what a message states plainly, in the transaction that sends it. Never a reason for a send to fail.

    Costs nothing for nearly every message: see `stated`.
    """
    if not user.is_remembering:
        return []
    found = stated(message.content)
    if not found:
        return []
    try:
        with transaction.atomic():
            lock_memory(user.pk)
            return [item for one in found if (item := _keep_stated(user, message, one))]
    except DatabaseError as error:
        log.warning("what a message states could not be kept: %s", type(error).__name__)
        return []


def _keep_stated(user: User, message: Message, one: Stated) -> MemoryItem | None:
    conversation_id: UUID = message.conversation_id
    text = one_line(one.text)
    told = MemoryItem.objects.told_in(user, conversation_id, message.pk)
    if _same(told, text):
        return None
    try:
        make_room(user.pk, conversation_id, one.scope, evict=True)
    except MemoryFull:
        return None
    _allow_again(user.pk, text)
    item = MemoryItem(
        user=user,
        conversation_id=conversation_id,
        scope=one.scope,
        kind=one.kind,
        text=text,
        token_count=kept_tokens(text),
        origin=Origin.PERSON,
        source=message,
    )
    if one.slot:
        for known in told:
            if any(said.slot == one.slot for said in stated(known.text)) and supersede(known, message.pk):
                item.supersedes = item.supersedes or known
    item.save(force_insert=True)
    return item


def edit(item: MemoryItem, fact: Fact) -> MemoryItem:
    """Write a fact anew: another row, which replaces this one from the next request on. Raises MemoryRefused."""
    text = one_line(fact.text)
    if (text, fact.kind) == (item.text, item.kind):
        return item
    with transaction.atomic():
        lock_memory(item.user_id)
        now = timezone.now()
        if not _current(item).update(state=State.REPLACED, ended_at=now):
            raise FactGone
        _allow_again(item.user_id, text)
        return MemoryItem.objects.create(
            user_id=item.user_id,
            conversation_id=item.conversation_id,
            scope=item.scope,
            kind=fact.kind,
            text=text,
            token_count=kept_tokens(text),
            is_pinned=item.is_pinned,
            origin=Origin.PERSON,
            source_id=item.source_id,
            supersedes=item,
        )


def change_scope(item: MemoryItem, scope: MemoryItem.Scope) -> None:
    """Let a fact hold in all of a person's conversations, or in its own alone. Raises MemoryRefused."""
    if scope == item.scope:
        return
    if item.conversation_id is None:
        raise NowhereElse
    with transaction.atomic():
        lock_memory(item.user_id)
        make_room(item.user_id, item.conversation_id, scope, evict=False)
        if not _current(item).update(scope=scope):
            raise FactGone
    item.scope = scope


def pin(item: MemoryItem, *, on: bool) -> None:
    """Let a fact stand on top of each request, as a constraint does, or no more. Raises FactGone."""
    if not _current(item).update(is_pinned=on):
        raise FactGone
    item.is_pinned = on


def confirm(item: MemoryItem) -> None:
    """Say yes to what a model has proposed; what it contradicts is replaced. Raises MemoryRefused."""
    with transaction.atomic():
        lock_memory(item.user_id)
        make_room(item.user_id, item.conversation_id, Scope(item.scope), evict=False)
        proposed = MemoryItem.objects.filter(pk=item.pk, state=State.PROPOSED)
        if not proposed.update(state=State.ACTIVE, note="", origin=Origin.PERSON):
            raise FactGone
        if item.supersedes_id:
            contradicted = MemoryItem.objects.filter(pk=item.supersedes_id, user=item.user_id)
            contradicted.filter(state=State.ACTIVE).update(state=State.REPLACED, ended_at=timezone.now())
    item.state, item.note = State.ACTIVE, ""


# --- Forgetting ---------------------------------------------------------------------------------------------------


def forget(item: MemoryItem, *, is_mistake: bool = False) -> str:
    """Erase a fact and all its versions, so that only digests are left by which it is known when it comes back.

    A mistake is one that should not have been kept: the message that said it may still be quoted, and summaries may
    tell it. So is a proposal: to forget it is to say no. Returns what brings it back: signed, and in the answer alone.
    """
    with transaction.atomic():
        lock_memory(item.user_id)
        versions = _versions(item)
        is_mistake = is_mistake or any(one.state == State.PROPOSED for one in versions)
        erased = [_as_it_was(one) for one in versions]
        texts = [one.text for one in versions]
        for one in versions:
            one.traces = traces_of(one.user_id, one.text)
            one.text, one.note, one.token_count, one.is_pinned = "", "", 0, False
            one.state, one.ended_at = State.FORGOTTEN, timezone.now()
            if is_mistake:
                one.source = None
        MemoryItem.objects.bulk_update(versions, [*_ERASED, "source", "traces", "ended_at"])
        if versions and not is_mistake:
            summaries.forget(item.user_id, texts)
    return signing.dumps([item.user_id, erased], salt=_UNDO, compress=True) if erased else ""


#: What of a fact is erased, and comes back with it.
_ERASED = ("text", "note", "token_count", "is_pinned", "state")


def _as_it_was(item: MemoryItem) -> dict[str, Any]:
    source_id = str(item.source_id) if item.source_id else None
    return {"pk": str(item.pk), "source_id": source_id} | {name: getattr(item, name) for name in _ERASED}


def restore(user: User, undo: str) -> list[MemoryItem]:
    """Bring back what a page has just forgotten. Raises TooLate, and MemoryFull when others took its place."""
    try:
        owner, erased = signing.loads(undo, salt=_UNDO, max_age=UNDO_SECONDS)
    except signing.BadSignature:
        raise TooLate from None
    if owner != user.pk:
        raise TooLate
    with transaction.atomic():
        lock_memory(user.pk)
        back = [pk for values in erased if (pk := _bring_back(user, **values))]
        for conversation_id, scope in set(_active(back).values_list("conversation_id", "scope")):
            make_room(user.pk, conversation_id, Scope(scope), evict=False, needed=0)
    current = MemoryItem.objects.filter(pk__in=back, state__in=[State.ACTIVE, State.PROPOSED])
    return list(current.order_by("id"))


def _active(pks: Sequence[str]) -> MemoryQuerySet:
    return MemoryItem.objects.filter(pk__in=pks, state=State.ACTIVE)


def _bring_back(user: User, *, pk: str, source_id: str | None, **values: Any) -> str | None:
    """The id of a version that was forgotten and is not any more."""
    has_ended = values["state"] not in {State.ACTIVE, State.PROPOSED}
    source = Message.objects.filter(pk=source_id, conversation__user=user).first() if source_id else None
    forgotten = MemoryItem.objects.filter(pk=pk, user=user, state=State.FORGOTTEN)
    ended_at = timezone.now() if has_ended else None
    return pk if forgotten.update(**values, source=source, traces=[], ended_at=ended_at) else None


def unsay(message_id: UUID) -> None:
    """A message is taken back: so is what it stated, and what that had superseded holds again."""
    said = MemoryItem.objects.filter(source=message_id)
    MemoryItem.objects.filter(state=State.SUPERSEDED, superseded_by__in=said).update(
        state=State.ACTIVE, ended_at=None
    )
    said.delete()


def outlive(conversations: Iterable[Conversation]) -> None:
    """Conversations are removed for good: what holds in all of a person's stays."""
    MemoryItem.objects.filter(scope=Scope.PERSON, conversation__in=conversations).update(conversation=None)


# --- Reading ------------------------------------------------------------------------------------------------------


def history(item: MemoryItem) -> list[MemoryItem]:
    """The versions before this one, the newest first."""
    return histories([item]).get(item.pk, [])


def histories(items: Sequence[MemoryItem]) -> dict[UUID, list[MemoryItem]]:
    """The versions before each of these, the newest first, in one query for all of one person's."""
    if not any(item.supersedes_id for item in items):
        return {}
    ended = MemoryItem.objects.filter(
        user=items[0].user_id, state__in=[State.SUPERSEDED, State.REPLACED]
    ).select_related("source")
    by_id = {item.pk: item for item in ended.defer(*texts_of("source"))}
    found: dict[UUID, list[MemoryItem]] = {}
    for item in items:
        before = by_id.get(item.supersedes_id) if item.supersedes_id else None
        while before and before not in found.setdefault(item.pk, []):
            found[item.pk].append(before)
            before = by_id.get(before.supersedes_id) if before.supersedes_id else None
    return found


def said_by(message_ids: Iterable[UUID]) -> dict[UUID, list[MemoryItem]]:
    """What is remembered of some messages, by message."""
    items = MemoryItem.objects.in_force().filter(source__in=list(message_ids))
    found: dict[UUID, list[MemoryItem]] = {}
    for item in items:
        found.setdefault(item.source_id, []).append(item)  # type: ignore[arg-type]  # by the filter
    return found


# --- What the writers share ---------------------------------------------------------------------------------------


def lock_memory(user_id: int) -> None:
    """One writer of a person's memory at a time: bounds are counted."""
    User.objects.lock(user_id)


def one_line(text: str) -> str:
    """A fact as it is kept. Raises FactEmpty and FactTooLong."""
    line = " ".join(clean_text(text).text.split())
    if not line:
        raise FactEmpty
    if len(line) > LONGEST:
        raise FactTooLong
    return line


def supersede(item: MemoryItem, by_message: UUID) -> bool:
    """Let a fact be superseded by what a later message says; not where another branch goes on from it."""
    if item.scope == Scope.CONVERSATION and item.source_id and _forks_between(item, by_message):
        return False
    return bool(_current(item).update(state=State.SUPERSEDED, ended_at=timezone.now()))


def _current(item: MemoryItem) -> MemoryQuerySet:
    return MemoryItem.objects.filter(pk=item.pk, state=State.ACTIVE)


def _reach(user: User, conversation: Conversation | None, scope: MemoryItem.Scope) -> MemoryQuerySet:
    """Where the same words would be the same fact."""
    mine = MemoryItem.objects.owned_by(user).in_force()
    if scope == Scope.CONVERSATION and conversation:
        return MemoryItem.objects.told_in(user, conversation.pk, conversation.leaf_id)
    return mine.filter(scope=Scope.PERSON)


def _same(items: Iterable[MemoryItem], text: str) -> MemoryItem | None:
    words = words_of(text)
    return next((item for item in items if words_of(item.text) == words), None)


def words_of(text: str) -> list[str]:
    """What two texts have in common that say the same."""
    return "".join(char if char.isalnum() else " " for char in text.casefold()).split()


def make_room(
    user_id: int, conversation_id: UUID | None, scope: MemoryItem.Scope, *, evict: bool, needed: int = 1
) -> None:
    """Raises MemoryFull when there is no room for one more; `evict`: the oldest that a model found makes it."""
    held = MemoryItem.objects.filter(user=user_id, state=State.ACTIVE, scope=scope)
    most = MOST_OF_PERSON
    if scope == Scope.CONVERSATION:
        held, most = held.filter(conversation=conversation_id), MOST_OF_CONVERSATION
    surplus = held.count() + needed - most
    if surplus <= 0:
        return
    found = held.filter(origin=Origin.MODEL, is_pinned=False).exclude(kind=Kind.CONSTRAINT).order_by("id")
    oldest = list(found.values_list("pk", flat=True)[:surplus]) if evict else []
    if len(oldest) < surplus:
        raise MemoryFull
    MemoryItem.objects.filter(pk__in=oldest).update(state=State.SUPERSEDED, ended_at=timezone.now())


def _allow_again(user_id: int, text: str) -> None:
    """A person says again what they had forgotten: it may stay, and nothing of the forgotten one is kept."""
    said = set(traces_of(user_id, text))
    forgotten = MemoryItem.objects.filter(user=user_id, state=State.FORGOTTEN).exclude(traces=[])
    again = [pk for pk, traces in forgotten.values_list("pk", "traces") if said and said >= set(traces)]
    if again:
        MemoryItem.objects.filter(pk__in=again).delete()


def _versions(item: MemoryItem) -> list[MemoryItem]:
    """All versions of a fact that have a text; a proposal has none but itself."""
    mine = MemoryItem.objects.filter(user=item.user_id).exclude(state=State.FORGOTTEN)
    own = mine.filter(pk=item.pk).first()
    if own is None:
        return []
    found = {own.pk: own}
    frontier = [] if own.state == State.PROPOSED else [own]
    settled = mine.exclude(state=State.PROPOSED)
    while frontier:
        before = [one.supersedes_id for one in frontier if one.supersedes_id]
        beside = [*settled.filter(pk__in=before), *settled.filter(supersedes__in=frontier)]
        frontier = [one for one in beside if one.pk not in found]
        found |= {one.pk: one for one in frontier}
    return list(found.values())


#: Whether the tree goes on elsewhere from between two messages of one path: with a line that leaves it there, or with
#: the line that the path itself has left there. Read by the conversation: of lines there is no index.
_FORKS = """
WITH RECURSIVE line AS (
    SELECT branch_id AS id, depth AS until FROM message_places WHERE message_id = %(later)s
    UNION ALL
    SELECT b.parent_id, least(line.until, b.until)
    FROM line JOIN message_branches b ON b.id = line.id WHERE b.parent_id IS NOT NULL
), fork AS (
    SELECT b.until AS depth FROM line JOIN message_branches b ON b.parent_id = line.id
    WHERE b.conversation_id = %(conversation)s AND b.until <= line.until AND b.id NOT IN (SELECT id FROM line)
    UNION ALL
    SELECT line.until FROM line JOIN message_places p ON p.branch_id = line.id AND p.depth = line.until + 1
    WHERE p.conversation_id = %(conversation)s
)
SELECT EXISTS (
    SELECT FROM fork, message_places earlier, message_places later
    WHERE earlier.message_id = %(earlier)s AND later.message_id = %(later)s
        AND fork.depth >= earlier.depth AND fork.depth < later.depth
)
"""


def _forks_between(item: MemoryItem, later: UUID) -> bool:
    values = {"conversation": item.conversation_id, "earlier": item.source_id, "later": later}
    with connection.cursor() as cursor:
        cursor.execute(_FORKS, values)
        (found,) = cursor.fetchone()
    return bool(found)
