"""What the C library keeps of memory that was freed."""

from __future__ import annotations

import ctypes


def give_back_memory() -> None:
    """Give the system what loading took for a moment and the C library would keep: 1 to 5 ms, in which others wait
    who ask the library for memory.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
