"""What the usual models can do, where their providers do not say. Found by the longest prefix that fits.

Windows and limits are from the providers' model pages, read in November 2026. Prices belong elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

UNKNOWN_WINDOW = 32_000  #: tokens, for a model that nobody says anything about
UNKNOWN_MAX_OUTPUT = 4_096


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    context_window: int = UNKNOWN_WINDOW  #: tokens, prompt and reply together
    max_output: int = UNKNOWN_MAX_OUTPUT  #: tokens of one reply, reasoning included
    supports_temperature: bool = True
    thinks: bool = False  #: may be silent for minutes before its first word
    supports_prefill: bool = False  #: goes on from a trailing assistant message
    is_known: bool = True


_UNKNOWN = KnownModel(is_known=False)

_GPT_5 = KnownModel(context_window=400_000, max_output=128_000, supports_temperature=False, thinks=True)
_GPT_5_LONG = replace(_GPT_5, context_window=1_050_000)
_GPT_CHAT = KnownModel(context_window=128_000, max_output=16_384)
_O_SERIES = KnownModel(context_window=200_000, max_output=100_000, supports_temperature=False, thinks=True)
_CLAUDE_3 = KnownModel(context_window=200_000, max_output=8_192, supports_prefill=True)
_CLAUDE_4 = KnownModel(context_window=200_000, max_output=64_000, supports_prefill=True)
_CLAUDE_4_OPUS = KnownModel(context_window=200_000, max_output=32_000, supports_prefill=True)
# From 4.7 on sampling parameters are refused; prefill is refused from 4.6 on.
_CLAUDE_5 = KnownModel(context_window=1_000_000, max_output=128_000, supports_temperature=False, thinks=True)
_GEMINI = KnownModel(context_window=1_048_576, max_output=65_536, thinks=True)
_DEEPSEEK_4 = KnownModel(context_window=1_000_000, max_output=384_000, thinks=True)

_BY_PREFIX: dict[str, KnownModel] = {
    # OpenAI
    "gpt-3.5": KnownModel(context_window=16_385, max_output=4_096),
    "gpt-4": KnownModel(context_window=8_192, max_output=8_192),
    "gpt-4-32k": KnownModel(context_window=32_768, max_output=8_192),
    "gpt-4-turbo": KnownModel(context_window=128_000, max_output=4_096),
    "gpt-4-1106": KnownModel(context_window=128_000, max_output=4_096),
    "gpt-4-0125": KnownModel(context_window=128_000, max_output=4_096),
    "gpt-4o": _GPT_CHAT,
    "gpt-4o-2024-05-13": KnownModel(context_window=128_000, max_output=4_096),
    "chatgpt-4o": _GPT_CHAT,
    "gpt-4.1": KnownModel(context_window=1_047_576, max_output=32_768),
    "gpt-5": _GPT_5,
    "gpt-5-chat": _GPT_CHAT,
    "gpt-5.1-chat": KnownModel(context_window=128_000, max_output=16_384, supports_temperature=False),
    "gpt-5.2-chat": KnownModel(context_window=128_000, max_output=16_384, supports_temperature=False),
    "gpt-5.4": _GPT_5_LONG,
    "gpt-5.4-mini": _GPT_5,
    "gpt-5.4-nano": _GPT_5,
    "gpt-5.5": _GPT_5_LONG,
    "gpt-5.6": _GPT_5_LONG,
    "gpt-5.6-luna": _GPT_5,
    "gpt-6": _GPT_5_LONG,
    "gpt-oss": KnownModel(context_window=131_072, max_output=131_072, thinks=True),
    "o1": _O_SERIES,
    "o3": _O_SERIES,
    "o4": _O_SERIES,
    # Anthropic
    "claude": _CLAUDE_5,  # whatever comes next is more like the newest than like the oldest
    "claude-2": KnownModel(context_window=100_000, max_output=4_096, supports_prefill=True),
    "claude-3-haiku": KnownModel(context_window=200_000, max_output=4_096, supports_prefill=True),
    "claude-3-opus": KnownModel(context_window=200_000, max_output=4_096, supports_prefill=True),
    "claude-3-sonnet": KnownModel(context_window=200_000, max_output=4_096, supports_prefill=True),
    "claude-3-5": _CLAUDE_3,
    "claude-3.5": _CLAUDE_3,
    "claude-3-7": _CLAUDE_4,
    "claude-3.7": _CLAUDE_4,
    "claude-sonnet-4": _CLAUDE_4,
    "claude-sonnet-4-6": KnownModel(context_window=1_000_000, max_output=64_000),
    "claude-haiku-4": _CLAUDE_4,
    "claude-opus-4": _CLAUDE_4_OPUS,
    "claude-opus-4-5": _CLAUDE_4,
    "claude-opus-4-6": KnownModel(context_window=1_000_000, max_output=128_000),
    "claude-opus-4-7": _CLAUDE_5,
    "claude-opus-4-8": _CLAUDE_5,
    # Google
    "gemini": _GEMINI,
    "gemini-1.5-pro": KnownModel(context_window=2_097_152, max_output=8_192),
    "gemini-1.5-flash": KnownModel(context_window=1_048_576, max_output=8_192),
    "gemini-2.0": KnownModel(context_window=1_048_576, max_output=8_192),
    "gemma": KnownModel(context_window=131_072, max_output=8_192),
    # DeepSeek; the first two names are aliases of V4 where they still answer
    "deepseek-chat": KnownModel(context_window=64_000, max_output=8_192),
    "deepseek-reasoner": KnownModel(context_window=64_000, max_output=32_768, thinks=True),
    "deepseek-v3": KnownModel(context_window=128_000, max_output=8_192),
    "deepseek-v4": _DEEPSEEK_4,
    # The model that Parley brings along
    "smollm2": KnownModel(context_window=8_192, max_output=2_048),
}

#: Tokens of a repeated beginning below which nothing is cached, from the providers' pages on prompt caching. A new
#: Claude or Gemini is taken to want as much as the most demanding one.
_CACHEABLE: dict[str, int | None] = {
    "gpt-": 1_024,
    "gpt-3.5": None,  # older than the cache
    "gpt-4": None,
    "gpt-4.1": 1_024,
    "gpt-4.5": 1_024,
    "gpt-4o": 1_024,
    "gpt-4o-2024-05-13": None,
    "gpt-oss": None,
    "chatgpt-4o": 1_024,
    "o1": 1_024,
    "o3": 1_024,
    "o4": 1_024,
    "claude": 4_096,
    "claude-3-haiku": 2_048,
    "claude-3-5-haiku": 2_048,
    "claude-3.5-haiku": 2_048,
    "claude-3-opus": 1_024,
    "claude-3-5-sonnet": 1_024,
    "claude-3.5-sonnet": 1_024,
    "claude-3-7": 1_024,
    "claude-3.7": 1_024,
    "claude-sonnet": 1_024,
    "claude-opus-4": 1_024,
    "claude-opus-4-5": 4_096,
    "claude-opus-4-6": 4_096,
    "claude-opus-4-7": 2_048,
    "claude-opus-5": 512,
    "claude-fable-5": 512,
    "claude-mythos-5": 512,
    "gemini": 4_096,
    "gemini-1": None,
    "gemini-2.0": None,
    "gemini-2.5": 2_048,
    "deepseek": 64,
}

# Listed beside the chat models by /models, and of no use in a chat.
_OTHER_KINDS = (
    "embed", "tts", "whisper", "dall-e", "moderation", "image", "realtime", "audio", "transcribe",
    "translate", "sora", "veo", "imagen", "lyria", "-live", "aqa", "babbage", "davinci", "instruct-0914",
    "computer-use", "deep-research", "search-api", "robotics", "rerank", "guard", "ocr",
)  # fmt: skip


@functools.lru_cache(maxsize=1024)
def lookup(model_id: str) -> KnownModel:
    """What is known of a model by any of its names: `gpt-4o`, `openai/gpt-4o`, `models/gemini-2.5-flash`."""
    longest = _longest_prefix(model_id, _BY_PREFIX)
    return _UNKNOWN if longest is None else _BY_PREFIX[longest]


@functools.lru_cache(maxsize=1024)
def min_cacheable_prefix(model_id: str) -> int | None:
    """Tokens that the beginning of a prompt must have to be cached by its provider; None: no cache that we know of."""
    longest = _longest_prefix(model_id, _CACHEABLE)
    return None if longest is None else _CACHEABLE[longest]


def _longest_prefix(model_id: str, table: Iterable[str]) -> str | None:
    name = bare_name(model_id)
    return max((prefix for prefix in table if name.startswith(prefix)), key=len, default=None)


def bare_name(model_id: str) -> str:
    """Without vendor and case; OpenRouter writes Claude's versions with a dot."""
    name = model_id.rsplit("/", 1)[-1].lower()
    return name.replace(".", "-") if name.startswith("claude-") and not name.startswith("claude-3.") else name


def looks_like_chat(model_id: str) -> bool:
    """Whether a listed model is worth offering for a chat, by its name."""
    name = model_id.rsplit("/", 1)[-1].lower()
    return not any(kind in name for kind in _OTHER_KINDS)
