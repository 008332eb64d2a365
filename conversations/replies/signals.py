"""What the rest of the product may do once a reply is over."""

from __future__ import annotations

from django.dispatch import Signal

#: Sent on the event loop after a reply's end is committed, with `conversation_id: UUID`, `state: str`,
#: `is_unnamed: bool` (the conversation has no title yet), `compaction_due: bool` (its next summary and memory lines
#: are wanted now) and `vectors_due: bool` (so are the vectors of its messages). Receivers only hand work on, and
#: never wait.
reply_finished = Signal()
