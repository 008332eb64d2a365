"""The versions of a conversation's summaries: which one is to be used, and what a person may do with them."""

from __future__ import annotations

from django.db import transaction
from django.db.models import Max

from conversations import catalog
from conversations.context.policy import Policy
from conversations.llm.tokens import kept_tokens
from conversations.models import Conversation, ConversationSummary, Message, User
from conversations.models.summary import SummaryQuerySet
from conversations.policies import policy_in, stored_preset
from conversations.text import clean_text

State, Origin = ConversationSummary.State, ConversationSummary.Origin

#: What is kept of a text that was refused, in characters: enough to see why.
KEPT_OF_REFUSED = 2_000
#: Where the conversation's model is not there any more.
USUAL_WINDOW, USUAL_OUTPUT = 32_000, 4_096

EDITED = "Edited: version {version} took its place."
RESTORED = "Version {version} was restored in its place."
REMOVED = "You removed it."


class NotOnPath(ValueError):
    """This summary stands for messages of another branch. Switch to that branch first."""

    def __str__(self) -> str:
        return self.__doc__ or ""


class SummaryTooLong(ValueError):
    def __init__(self, *, tokens: int, limit: int) -> None:
        super().__init__(
            f"A summary has at most {limit:,} tokens here, and this one has {tokens:,}. Shorten it."
        )


class EmptySummary(ValueError):
    """A summary without words stands for nothing. Remove it instead."""

    def __str__(self) -> str:
        return self.__doc__ or ""


def current(conversation: Conversation) -> ConversationSummary | None:
    """The one that the next cut uses: in force, on the path that is shown, and standing for the most of it."""
    return in_force(conversation).newest_first().first()


def in_force(conversation: Conversation) -> SummaryQuerySet:
    if conversation.leaf_id is None:
        return ConversationSummary.objects.none()
    return ConversationSummary.objects.of_path(conversation.pk, conversation.leaf_id)


def in_use(conversation: Conversation) -> str:
    """The id of the one that the last request showed; empty without any."""
    cut = conversation.cut
    return str(cut.get("summary_id") or "") if isinstance(cut, dict) else ""


def uses_summary(conversation: Conversation) -> bool:
    return policy_of(conversation).uses_summary


def policy_of(conversation: Conversation) -> Policy:
    """The numbers of its preset for its model, or for a usual one if that is not there any more."""
    try:
        return policy_in(conversation, catalog.load_catalog().get(conversation.model))
    except catalog.UnknownModel:
        return stored_preset(conversation.preset).policy(window=USUAL_WINDOW, max_output=USUAL_OUTPUT)


def most_tokens(conversation: Conversation) -> int:
    """Tokens of a summary that a person writes: a third of what there is for it."""
    policy = policy_of(conversation)
    whole = policy.budget if policy.strategy.has_fixed_budget and policy.budget else policy.low_water
    return max(whole // 3, policy.summary_tokens)


def keep(
    conversation: Conversation,
    *,
    text: str,
    covers_until: Message,
    made_from: ConversationSummary | None,
    reason: str = "",
    instead_of: ConversationSummary | None = None,
    by_person: bool = False,
    **fields: object,
) -> ConversationSummary | None:
    """A new version; with a `reason` it is a refused one. None: conversation, message or base are gone meanwhile.

    `instead_of`: a row that a person asked for, which becomes this version. `by_person`: the base need not be in force.
    """
    with transaction.atomic():
        if not lock(conversation) or not Message.objects.filter(pk=covers_until.pk).exists():
            return None
        if made_from is not None and not by_person and not reason:
            base = ConversationSummary.objects.filter(pk=made_from.pk, state=State.IN_FORCE)
            if not base.exists():
                return None
        row = instead_of or ConversationSummary(conversation=conversation, version=next_version(conversation))
        row.summary = shortened(text) if reason else text
        row.state = State.REFUSED if reason else State.IN_FORCE
        row.reason = reason[:300]
        row.covers_until = covers_until
        row.message_count_at_creation = covers_until.path_messages
        row.made_from = made_from
        row.token_count = kept_tokens(row.summary)
        for name, value in fields.items():
            setattr(row, name, value)
        row.save()
        return row


def next_version(conversation: Conversation) -> int:
    """Only under the conversation's lock."""
    last = conversation.summaries.aggregate(last=Max("version"))["last"]
    return (last or 0) + 1


def edit(summary: ConversationSummary, *, text: str, user: User) -> ConversationSummary:
    """A person's text in place of a version: a new one, used from the next message on.

    Raises SummaryTooLong, EmptySummary and NotOnPath with the sentence for that person.
    """
    return _put_in_force(summary, text=clean_text(text).text.strip(), user=user, because=EDITED)


def restore(summary: ConversationSummary, *, user: User) -> ConversationSummary:
    """An older version again, as a new one. Those that stand for as much or more are retired."""
    return _put_in_force(summary, text=summary.summary, user=user, because=RESTORED)


def remove(summary: ConversationSummary) -> None:
    """Take a version out of use; with the current one all of its path, so that the model sees the messages alone."""
    with transaction.atomic():
        conversation = summary.conversation
        lock(conversation)
        found = current(conversation)
        is_current = found is not None and found.pk == summary.pk
        gone = in_force(conversation) if is_current else conversation.summaries.filter(pk=summary.pk)
        gone.exclude(state=State.WANTED).update(state=State.RETIRED, reason=REMOVED)


def _put_in_force(
    summary: ConversationSummary, *, text: str, user: User, because: str
) -> ConversationSummary:
    conversation = summary.conversation
    if not text:
        raise EmptySummary
    tokens, limit = kept_tokens(text), most_tokens(conversation)
    if tokens > limit:
        raise SummaryTooLong(tokens=tokens, limit=limit)
    with transaction.atomic():
        if not lock(conversation) or summary.covers_until is None or not _is_on_path(conversation, summary):
            raise NotOnPath
        replaced = in_force(conversation).filter(
            message_count_at_creation__gte=summary.message_count_at_creation
        )
        reason = because.format(version=next_version(conversation))
        retired = list(replaced.values_list("pk", flat=True))
        ConversationSummary.objects.filter(pk__in=retired).update(state=State.RETIRED, reason=reason)
        made = keep(
            conversation,
            text=text,
            covers_until=summary.covers_until,
            made_from=summary,
            by_person=True,
            origin=Origin.PERSON if because == EDITED else summary.origin,
            model_used="" if because == EDITED else summary.model_used,
            acts_at_once=True,
            created_by=user,
        )
        if made is None:
            raise NotOnPath
        return made


def shortened(text: str) -> str:
    return text if len(text) <= KEPT_OF_REFUSED else text[:KEPT_OF_REFUSED].rstrip() + " …"


def _is_on_path(conversation: Conversation, summary: ConversationSummary) -> bool:
    path = Message.objects.of_path(conversation.pk, conversation.leaf_id)
    return summary.covers_until_id is not None and path.filter(pk=summary.covers_until_id).exists()


def lock(conversation: Conversation) -> bool:
    """Whoever numbers versions does it alone. False: the conversation is gone."""
    mine = Conversation.objects.select_for_update(no_key=True).filter(pk=conversation.pk, deleted_at=None)
    return mine.values_list("pk", flat=True).first() is not None
