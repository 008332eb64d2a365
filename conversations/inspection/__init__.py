"""What a model was shown for a reply, what it cost and what it left out: read from the record, not planned again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from conversations.models import Hold, LedgerEntry, Reply, ReplyAttempt

from . import words
from .bill import Against, Bill, BillLine, bill_of
from .request import ShownLeftOut, ShownRequest
from .rows import read_rows
from .sections import Part, ShownSection

__all__ = [
    "Against",
    "Bill",
    "BillLine",
    "Inspection",
    "NoSuchAttempt",
    "Part",
    "ShownLeftOut",
    "ShownRequest",
    "ShownSection",
    "file_name",
    "inspect",
    "request_json",
]

#: Attempts that are read of a reply: more than there can be.
MOST_ATTEMPTS = 50


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A reply and its attempts, one of which is shown."""

    reply: Reply
    attempts: tuple[ReplyAttempt, ...]  #: without their manifests
    request: ShownRequest | None  #: None: no provider was called

    @property
    def why_not(self) -> str:
        """Why there is no request."""
        return "" if self.request else words.without_request(self.reply)


class NoSuchAttempt(LookupError):
    """This reply has no attempt with that number."""


def inspect(reply: Reply, *, number: int | None = None) -> Inspection:
    """A reply with the request of one attempt, the last one by default. Raises NoSuchAttempt.

    At most nine queries, and no more rows than the manifest names.
    """
    attempts = tuple(reply.attempts.defer("manifest").order_by("number")[:MOST_ATTEMPTS])
    if not attempts and number is None:
        return Inspection(reply=reply, attempts=(), request=None)
    chosen = attempts[-1].number if number is None else number
    if chosen not in {attempt.number for attempt in attempts}:
        raise NoSuchAttempt
    attempt = reply.attempts.get(number=chosen)
    attempt.reply = reply
    hold = Hold.objects.filter(attempt_id=attempt.pk).first()
    line = LedgerEntry.objects.filter(reply_id=reply.pk, attempt_id=attempt.pk).first()
    manifest: Mapping[str, Any] = attempt.manifest
    request = ShownRequest(
        reply=reply,
        attempt=attempt,
        bill=bill_of(attempt, hold, line, planned=int(manifest.get("input_tokens", 0))),
        max_tokens=_max_tokens(reply, manifest, hold),
        rows=read_rows(reply, manifest),
    )
    return Inspection(reply=reply, attempts=attempts, request=request)


def _max_tokens(reply: Reply, manifest: Mapping[str, Any], hold: Hold | None) -> int:
    """What the call was sent with: the hold knows it, and for a free one the manifest."""
    if hold is not None:
        return hold.max_tokens
    return int(manifest.get("call", {}).get("max_tokens", reply.max_tokens))


def request_json(request: ShownRequest) -> dict[str, Any]:
    """The request as Parley handed it to the provider's dialect, with what is known of its truth."""
    call = request.manifest.get("call", {})
    return {
        "model": call.get("model", request.attempt.model),
        "messages": [{"role": message.role, "content": message.content} for message in request.chat_messages],
        "max_tokens": request.max_tokens,
        "temperature": call.get("temperature", request.reply.temperature),
        "parley": {
            "reply": str(request.reply.pk),
            "attempt": request.attempt.number,
            "begun_at": request.attempt.started_at.isoformat(),
            "sha256": request.digest,
            "is_exact": request.is_exact,
            "gone": request.gone,
        },
    }


def file_name(reply_id: UUID, number: int) -> str:
    return f"request-{reply_id}-{number}.json"
