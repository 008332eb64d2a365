"""What stands between a reply and a provider: limits, a circuit breaker and the delay before another try.

All processes share it through Redis; while Redis is away, each works from its own memory.
"""

from .books import Rules, State
from .gate import Gate, Passage
from .look import in_words, look
from .retries import retry_delay

__all__ = ["Gate", "Passage", "Rules", "State", "in_words", "look", "retry_delay"]
