"""Who has just sent a message: their page opens the stream of its reply next, with the session of the send."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from conversations.models import UNFINISHED, Reply
from conversations.sessions import SessionStore

from .http import PersonRequest

#: What a send has found out of its person holds for so long (seconds), and for one stream.
KEPT_SECONDS = 5.0
#: Of people whose page never came for the stream, in one process.
MOST_KEPT = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Sender:
    user_id: int
    state: str  #: of the reply, when it was sent
    proof: tuple[str, str]  #: session data and password, as the send found them
    at: float


class ExpectedStreams:
    """The streams that senders will open in this process. Safe in any thread."""

    def __init__(self) -> None:
        self._senders: OrderedDict[tuple[str, UUID], Sender] = OrderedDict()
        self._lock = threading.Lock()

    def expect(self, request: PersonRequest, reply: Reply) -> None:
        session = request.session
        if not isinstance(session, SessionStore) or not session.stored or reply.state not in UNFINISHED:
            return
        proof = session.stored, request.user.password
        sender = Sender(user_id=request.user.pk, state=reply.state, proof=proof, at=time.monotonic())
        with self._lock:
            self._senders[session.session_key or "", reply.pk] = sender
            while len(self._senders) > MOST_KEPT or self._is_late(next(iter(self._senders.values()))):
                self._senders.popitem(last=False)

    def take(self, session: str, reply_id: UUID) -> Sender | None:
        """Who opens this stream, if it is the one that their send is followed by: only the first time, and soon."""
        with self._lock:
            sender = self._senders.pop((session, reply_id), None)
        return None if sender is None or self._is_late(sender) else sender

    def _is_late(self, sender: Sender) -> bool:
        return time.monotonic() - sender.at > KEPT_SECONDS


expected_streams = ExpectedStreams()
