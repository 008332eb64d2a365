"""The summaries of a conversation: what stands for its older part, in all versions, and what people do with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID
from zlib import crc32

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_http_methods

from conversations import summaries
from conversations.models import Conversation, ConversationSummary, Message
from conversations.models.message import texts_of
from conversations.prices import NoPrice
from conversations.summaries import EmptySummary, NotOnPath, OverBudget, SummaryTooLong, TooManyAtOnce

from .conversations import show_conversation
from .http import PersonRequest

State = ConversationSummary.State

#: Versions that the panel shows, the newest first.
SHOWN = 30

USED_NEXT = "The next message uses it."
REMOVED_CURRENT = (
    "Removed. Until a new one is written, the model sees the newest messages, and earlier ones that help."
)
NOTHING_YET = "There is nothing to summarise yet."


@dataclass(frozen=True, kw_only=True)
class Version:
    """A row of the panel."""

    row: ConversationSummary
    is_current: bool  #: the next cut uses it
    is_in_use: bool  #: the last request showed it
    is_here: bool  #: it stands for a part of the path that is shown
    replaces: int  #: tokens of the messages that it stands for

    @property
    def status(self) -> str:
        match self.row.state:
            case State.WANTED:
                return "being written"
            case State.REFUSED:
                return "refused" if self.row.summary else "failed"
            case State.RETIRED:
                return "not used"
        if self.is_in_use:
            return "in use"
        if self.is_current:
            return "next message" if self.row.acts_at_once else "ready"
        return "earlier" if self.is_here else "another branch"

    @property
    def is_usable(self) -> bool:
        """It can be put into use here."""
        return self.is_here and bool(self.row.summary) and self.row.state != State.WANTED

    @property
    def made_by(self) -> str:
        row = self.row
        if row.origin == ConversationSummary.Origin.PERSON:
            return "edited by you" if row.created_by_id else "without what you wanted forgotten"
        before = row.made_from
        if before is None or (before.summary, before.covers_until_id) != (row.summary, row.covers_until_id):
            return ""
        return f"version {before.version} again"


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def conversation_summaries(request: PersonRequest, pk: UUID) -> HttpResponse:
    """A panel beside the conversation. `?edit=` opens a version as a form."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    if request.method != "POST":
        return show(request, shown, edits=_edited(request, shown))
    match request.POST.get("act"):
        case "write":
            return write(request, shown)
        case "save":
            return save(request, shown)
        case "restore":
            return restore(request, shown)
        case "remove":
            return remove(request, shown)
    raise Http404


def write(request: PersonRequest, shown: Conversation) -> HttpResponse:
    """Ask for a new one. It is written in the background."""
    try:
        asked = summaries.want(shown, request.user)
    except OverBudget as refused:
        return show(request, shown, refused=str(refused), status=402)
    except TooManyAtOnce as refused:
        return show(request, shown, refused=str(refused), status=409)
    except NoPrice as refused:
        return show(request, shown, refused=refused.sentence, status=409)
    return show(request, shown, said="" if asked else NOTHING_YET)


def save(request: PersonRequest, shown: Conversation) -> HttpResponse:
    """A person's own text in place of a version."""
    edited, text = _named(request, shown), request.POST.get("text", "")
    try:
        made = summaries.edit(edited, text=text, user=request.user)
    except (SummaryTooLong, EmptySummary) as refused:
        return show(request, shown, edits=edited, text=text, refused=str(refused), status=422)
    except NotOnPath as refused:
        return show(request, shown, edits=edited, text=text, refused=str(refused), status=409)
    return show(request, shown, said=f"Saved as version {made.version}. {USED_NEXT}")


def restore(request: PersonRequest, shown: Conversation) -> HttpResponse:
    wanted = _named(request, shown)
    try:
        made = summaries.restore(wanted, user=request.user)
    except (SummaryTooLong, EmptySummary, NotOnPath) as refused:
        return show(request, shown, refused=str(refused), status=409)
    said = f"Version {wanted.version} is back, as version {made.version}. {USED_NEXT}"
    return show(request, shown, said=said)


def remove(request: PersonRequest, shown: Conversation) -> HttpResponse:
    unwanted = _named(request, shown)
    was_current = unwanted == summaries.current(shown)
    summaries.remove(unwanted)
    said = REMOVED_CURRENT if was_current else f"Version {unwanted.version} is not used any more."
    return show(request, shown, said=said, undo=unwanted if unwanted.state == State.IN_FORCE else None)


def show(
    request: PersonRequest,
    shown: Conversation,
    *,
    said: str = "",
    refused: str = "",
    undo: ConversationSummary | None = None,
    edits: ConversationSummary | None = None,
    text: str | None = None,
    status: int = 200,
) -> HttpResponse:
    """The panel, with what was done or why it was not."""
    found, most = versions_of(shown), summaries.most_tokens(shown)
    panel: dict[str, Any] = {
        "versions": found,
        "version": version_of(found),
        "is_writing": any(version.row.state == State.WANTED for version in found),
        "uses_summary": summaries.uses_summary(shown),
        "has_more": shown.summaries.count() > len(found),
        "said": said,
        "refused": refused,
        "undo_summary": undo,
        "edits": edits,
        "text": text if text is not None or edits is None else edits.summary,
        "most_tokens": most,
        "most_words": most * 3 // 4,
        "summaries_panel": True,
    }
    if not request.htmx:
        response = show_conversation(request, shown, **panel)
        response.status_code = status
        return response
    part = "#list" if request.GET.get("part") == "list" else ""
    if part and request.GET.get("known") == panel["version"]:
        return HttpResponse(status=204)
    context = {"conversation": shown, **panel}
    return render(request, f"conversations/summaries.html{part}", context, status=status)


def version_of(found: list[Version]) -> str:
    """What the list shows, in short: who asks for it again by and by is told nothing while it is the same."""
    return str(crc32(repr([(one.row.pk, one.status, one.is_usable) for one in found]).encode()))


def versions_of(shown: Conversation) -> list[Version]:
    """The newest versions of all branches, each with what it is to the path that is shown."""
    found = shown.summaries.select_related("covers_until", "made_from").defer(*texts_of("covers_until"))
    rows = list(found.order_by("-version")[:SHOWN])
    covered = [row.covers_until_id for row in rows if row.covers_until_id]
    path = Message.objects.of_path(shown.pk, shown.leaf_id)
    here = set(path.filter(pk__in=covered).values_list("pk", flat=True))
    current = summaries.current(shown)
    in_use = summaries.in_use(shown)
    return [
        Version(
            row=row,
            is_current=row == current,
            is_in_use=str(row.pk) == in_use and row.state == State.IN_FORCE and row.covers_until_id in here,
            is_here=row.covers_until_id in here,
            replaces=row.covers_until.path_tokens if row.covers_until else 0,
        )
        for row in rows
    ]


def _named(request: PersonRequest, shown: Conversation) -> ConversationSummary:
    return _found(shown, request.POST.get("summary", ""))


def _edited(request: PersonRequest, shown: Conversation) -> ConversationSummary | None:
    named = request.GET.get("edit")
    return _found(shown, named) if named else None


def _found(shown: Conversation, named: str) -> ConversationSummary:
    """A version of this conversation that has been written; 404 for any other."""
    try:
        pk = UUID(named)
    except ValueError:
        raise Http404 from None
    found = get_object_or_404(shown.summaries.exclude(state=State.WANTED), pk=pk)
    found.conversation = shown
    return found
