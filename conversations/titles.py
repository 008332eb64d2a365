"""Names a conversation after its first exchange. A title that a person typed is never replaced."""

from __future__ import annotations

import logging
import re
import unicodedata
from datetime import timedelta
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from conversations import catalog
from conversations.background import complete
from conversations.budgets import BudgetRefused
from conversations.catalog import ModelEntry
from conversations.llm.errors import LLMError
from conversations.llm.types import ChatMessage, CompletionRequest, FinishReason
from conversations.models import Conversation, Message, Purpose
from conversations.models.conversation import ConversationQuerySet
from conversations.parking import parked
from conversations.prices import NoPrice

log = logging.getLogger(__name__)

LONGEST_TITLE = 60  # characters; what the sidebar shows of it on one line
MOST_WORDS = 12  # a longer "title" is an answer
EXCERPT = 600  # characters of the question, and as many of the answer
REPLY_TOKENS = 24
THINKING_TOKENS = 1_024  # for models whose thoughts count as output: with 24 they would say nothing
TIME_OUT = 10.0  # seconds for the whole call
LEASE = timedelta(seconds=30)  # more than the call takes: until then no second worker sets out
MOST_CALLS = 3  # of a model for one title; a worker that dies in the call has used one up
LOOKED_FOR = timedelta(days=1)  # how long a conversation without a title is worth a search

TASK = "Name this conversation in two to six words, in its own language. Reply with the name alone."

FENCED_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
LABEL = re.compile(
    r"^(?:(?:the\s+)?(?:conversation(?:'s)?\s+)?(?:title|name|subject|topic))\s*[:\-\u2013\u2014]\s*", re.I
)
# Control characters, those that turn the reading direction, byte-order mark, lone surrogates. Joiners stay:
# Persian and emoji need them.
UNWANTED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
QUOTES = " \"'`*\u00ab\u00bb\u2018-\u201f\u2039\u203a\u300c-\u300f"  # and Markdown's marks
DECORATED = re.compile(f"^[#{QUOTES}]+|[{QUOTES}]+$")


def title_due(conversation: Conversation) -> bool:
    """Nobody has named it yet, and it has a question with an answer."""
    return (
        conversation.is_unnamed
        and conversation.deleted_at is None
        and first_exchange(conversation.pk) is not None
    )


def write_title(conversation_id: UUID) -> str | None:
    """Ask the background model for a title and keep it, unless a person was faster. Safe to run twice, or at once.

    Returns the title that was kept. When no model gives a usable one, the question's first words serve.
    """
    conversation = Conversation.objects.filter(pk=conversation_id).first()
    if conversation is None or not title_due(conversation):
        return None
    exchange = first_exchange(conversation_id)
    if exchange is None:
        return None
    question, answer = exchange
    if not claim(conversation):
        return None
    try:
        asked = (
            _asked_title(conversation, question, answer) if conversation.title_attempts < MOST_CALLS else ""
        )
    except BudgetRefused:
        _give_back(conversation)
        return None
    title = asked or first_words(question) or first_words(answer)
    if not title:
        return None
    kept = Conversation.objects.filter(
        pk=conversation_id, title_source=Conversation.TitleSource.DEFAULT, deleted_at=None
    ).update(title=title, title_source=Conversation.TitleSource.MODEL)
    return title if kept else None


def claim(conversation: Conversation) -> bool:
    """Take the naming of it for `LEASE`: false while another worker has it, or when all tries are used up."""
    return bool(
        _claimable()
        .filter(pk=conversation.pk, title_attempts=conversation.title_attempts)
        .update(title_attempts=F("title_attempts") + 1, title_lease_expires_at=Now() + LEASE)
    )


def _give_back(conversation: Conversation) -> None:
    """No money is left today: it is tried again when the lease is over, and this was no try."""
    Conversation.objects.filter(pk=conversation.pk).update(title_attempts=F("title_attempts") - 1)


def missing(*, limit: int) -> list[UUID]:
    """Conversations of the last day that have an answer and no title, and that nobody is naming now."""
    answers = Message.objects.filter(
        conversation=OuterRef("pk"), role=Message.Role.ASSISTANT, is_set_aside=False
    ).exclude(content="")
    due = _claimable().filter(Exists(answers), last_updated__gt=Now() - LOOKED_FOR)
    entry = catalog.load_catalog().background()
    if entry is not None and not entry.is_free:
        if (without_money := parked()) is None:
            return []
        due = due.exclude(user_id__in=without_money)
    return list(due.order_by("last_updated").values_list("pk", flat=True)[:limit])


def _claimable() -> ConversationQuerySet:
    # One try more than calls: the last makes do without a model.
    return Conversation.objects.filter(
        Q(title_lease_expires_at=None) | Q(title_lease_expires_at__lt=Now()),
        title_source=Conversation.TitleSource.DEFAULT,
        deleted_at=None,
        title_attempts__lte=MOST_CALLS,
    )


def first_exchange(conversation_id: UUID) -> tuple[str, str] | None:
    """The first question that has an answer, and that answer, both shortened for the prompt."""
    answer = (
        Message.objects.filter(
            conversation_id=conversation_id,
            role=Message.Role.ASSISTANT,
            is_set_aside=False,
            parent__role=Message.Role.USER,
        )
        .exclude(content="")
        .select_related("parent")
        .order_by("created_at", "id")
        .first()
    )
    if answer is None or answer.parent is None:
        return None
    return answer.parent.content[:EXCERPT], answer.content[:EXCERPT]


def clean_title(text: str) -> str:
    """A model's reply as one line of at most `LONGEST_TITLE` characters; empty if it is no title."""
    text = FENCED_THOUGHT.sub("", text)
    line = next((line for raw in text.splitlines() if (line := _undecorated(raw))), "")
    line = _undecorated(LABEL.sub("", line)).rstrip(".,;:")
    folded = line.casefold()
    echoed = folded in TASK.casefold() or folded.startswith(("question:", "answer:", "user:"))
    says_something = any(unicodedata.category(char)[0] in "LNS" for char in line)
    if echoed or not says_something or len(line.split()) > MOST_WORDS:
        return ""
    return _shortened(line)


def first_words(question: str) -> str:
    """The beginning of the question as a title; empty if it has no visible character."""
    return _shortened(_one_line(question))


def _asked_title(conversation: Conversation, question: str, answer: str) -> str:
    """What the background model proposes, or nothing: a missing title is no reason to fail. Raises BudgetRefused."""
    try:
        entry = catalog.load_catalog().background()
        title = clean_title(_ask(conversation, entry, question, answer)) if entry else ""
    except (LLMError, catalog.UnknownModel, NoPrice, ValueError) as error:
        log.info("no title from the model: %s", type(error).__name__)
        return ""
    # Small models say the answer again: then the question's own words are the better name.
    repeats = len(title.split()) > 3 and _one_line(answer).casefold().startswith(title.casefold())
    return "" if repeats else title


def _ask(conversation: Conversation, entry: ModelEntry, question: str, answer: str) -> str:
    """The model's words; none if it did not come to an end on its first line."""
    request = CompletionRequest(
        model_id=entry.model_id,
        messages=(ChatMessage(role="user", content=f"Question: {question}\n\nAnswer: {answer}\n\n{TASK}"),),
        max_tokens=THINKING_TOKENS if entry.thinks else REPLY_TOKENS,
        temperature=0.3 if entry.supports_temperature else None,
    )
    said = complete(
        entry,
        request,
        purpose=Purpose.TITLE,
        user_id=conversation.user_id,
        conversation_id=conversation.pk,
        seconds=TIME_OUT,
    )
    return "" if said.reason is FinishReason.LENGTH and "\n" not in said.text.strip() else said.text


def _one_line(text: str) -> str:
    """The text on one line without characters that break a page; empty if none of the rest can be seen."""
    line = " ".join(UNWANTED.sub("", " ".join(text.split())).split())
    return line if any(unicodedata.category(char)[0] in "LNPS" for char in line) else ""


def _undecorated(line: str) -> str:
    return DECORATED.sub("", _one_line(line))


def _shortened(line: str) -> str:
    """At most `LONGEST_TITLE` characters, cut behind a word where there is one."""
    if len(line) <= LONGEST_TITLE:
        return line
    head = line[: LONGEST_TITLE - 1]
    cut = head if line[LONGEST_TITLE - 1].isspace() else head.rpartition(" ")[0] or head
    return f"{cut.rstrip(' .,;:')}…"
