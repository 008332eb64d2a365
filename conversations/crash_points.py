"""Named places at which a process can be told to die, as if by SIGKILL: what `make chaos` proves promises with.

`PARLEY_CRASH_AT=mid_stream` ends the process where it passes that place, `mid_stream:3` at the third pass. Without the
variable a place costs one look at a constant.
"""

from __future__ import annotations

import asyncio
import os
import signal

#: In the order of a reply's life; the last two belong to its process.
NAMES = (
    "before_hold",
    "after_hold",
    "before_commit",
    "after_commit",
    "between_claim_and_plan",
    "after_request_sent",
    "before_first_delta",
    "mid_stream",
    "between_checkpoints",
    "before_finish",
    "in_finish",
    "between_finish_and_publish",
    "in_recovery",
    "in_drain",
)

_armed = ""
_passes_left = 0


def arm(order: str) -> None:
    """Choose the place: a name, or a name and the number of the pass. Empty: none. Raises ValueError."""
    global _armed, _passes_left
    name, _, passes = order.partition(":")
    if name and name not in NAMES:
        raise ValueError(f"PARLEY_CRASH_AT names no crash point: {name}")
    _armed, _passes_left = name, int(passes or 1)


def crash_point(name: str, *, after: float = 0.0) -> None:
    """Die here if this place was chosen; with `after`, so many seconds later, while the event loop goes on."""
    if _armed and name == _armed:
        _pass(after)


def _pass(after: float) -> None:
    global _passes_left
    _passes_left -= 1
    if _passes_left == 0:
        if after:
            asyncio.get_running_loop().call_later(after, _die)
        else:
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("PARLEY_CRASH_AT", ""))
