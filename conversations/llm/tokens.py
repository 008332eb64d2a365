"""How many tokens a text has for a model: exact for OpenAI's, an estimate on the high side for others.

The ranks come from the wheel `llama-index-core`, which carries them under the names that TIKTOKEN_CACHE_DIR
expects. Nothing is ever fetched.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
import os
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import tiktoken

from conversations.llm.known_models import bare_name

#: Characters; counting those of a longer text would hold up the other replies of an event loop.
COUNTED_AT_ONCE = 20_000

_WHEEL, _WHEEL_FOLDER = "llama-index-core", "llama_index/core/_static/tiktoken_cache"

# Name of the file (SHA-1 of the URL it once came from) and SHA-256 of its content, both tiktoken's own. A
# file that does not match would make tiktoken delete it and go to the network.
_RANK_FILES = {
    "o200k_base": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
}

#: Its vocabulary is the one that most models' counts are taken from.
USUAL_MODEL, _USUAL = "gpt-4o", "o200k_base"

_CL100K = ("gpt-3.5", "gpt-4-", "gpt-35", "text-embedding-")  # and gpt-4 itself
_O200K = ("gpt-", "chatgpt-", "o1", "o3", "o4")

# Tokens per o200k token. Anthropic says that the tokenizer since 4.7 makes 30 % more of the same text than
# the one before, which is itself some 20 % above o200k in English. The others have vocabularies of 100 to 260
# thousand entries; what is not known gets the factor of a small vocabulary (SmolLM2: 49 thousand).
_FACTORS = {
    "claude": 1.6,
    "claude-2": 1.2,
    "claude-3": 1.2,
    "claude-opus-4": 1.25,
    "claude-opus-4-7": 1.6,
    "claude-opus-4-8": 1.6,
    "claude-sonnet-4": 1.25,
    "claude-haiku-4": 1.25,
    "gemini": 1.15,
    "gemma": 1.15,
    "deepseek": 1.15,
}
_UNKNOWN_FACTOR = 1.25

# A million spaces in one piece make tiktoken panic (its regular expression's stack overflows), and other long runs
# of one kind cost four times as much. In slices the cost is linear and the count at most two tokens too high per cut.
_SLICE = 16_384

_encodings: dict[str, tiktoken.Encoding] = {}
_loading = threading.Lock()


class RanksMissing(RuntimeError):
    """The tokenizer's rank files are not installed. Install the pinned requirements again."""


def count_tokens(text: str, model_id: str) -> int:
    """Tokens of the text alone, without its message's overhead. Safe in any thread; 0.1 ms per KB."""
    name, factor = _encoding_of(model_id)
    encoding = _encodings.get(name) or _load(name)
    count = sum(len(encoding.encode_ordinary(part)) for part in _slices(text))
    return count if factor == 1.0 else math.ceil(count * factor)


def kept_tokens(text: str) -> int:
    """What is kept of a message that one model may be sent, and later another: its tokens in the usual vocabulary."""
    return count_tokens(text, USUAL_MODEL)


def scaled(kept: int, model_id: str) -> int:
    """Tokens of a text for a model, by what `kept_tokens` said of it; for the older of OpenAI's, a guess."""
    return math.ceil(kept * _encoding_of(model_id)[1])


def recounted(text: str, kept: int, model_id: str) -> int:
    """The same by the text, too, for models whose own vocabulary makes up to seven times as much of some scripts."""
    encoding, factor = _encoding_of(model_id)  # once: it is asked of each message of a path
    return math.ceil(kept * factor) if encoding == _USUAL else count_tokens(text, model_id)


def is_scaled(model_id: str) -> bool:
    """Whether a model's tokens follow from those of the usual vocabulary."""
    return _encoding_of(model_id)[0] == _USUAL


def is_exact(model_id: str) -> bool:
    """Whether a model's tokens are counted and not estimated."""
    return _encoding_of(model_id)[1] == 1.0


async def count_tokens_aside(text: str, model_id: str) -> int:
    """The same on the event loop: a long text is counted in a thread."""
    if len(text) > COUNTED_AT_ONCE:
        return await asyncio.to_thread(count_tokens, text, model_id)
    return count_tokens(text, model_id)


def warm_up() -> None:
    """Load the usual vocabulary now (0.2 s) and not in somebody's first request. Raises RanksMissing."""
    count_tokens("", USUAL_MODEL)


@functools.lru_cache(maxsize=1_000)
def _encoding_of(model_id: str) -> tuple[str, float]:
    name = bare_name(model_id)
    if name == "gpt-4" or name.startswith(_CL100K):
        return "cl100k_base", 1.0
    if name.startswith(_O200K):
        return _USUAL, 1.0
    prefix = max((prefix for prefix in _FACTORS if name.startswith(prefix)), key=len, default="")
    return _USUAL, _FACTORS.get(prefix, _UNKNOWN_FACTOR)


def _slices(text: str) -> Iterator[str]:
    """The text in slices, cut before white space where there is some."""
    start = 0
    while len(text) - start > _SLICE:
        end = start + _SLICE
        space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
        if space > start + _SLICE // 2:
            end = space
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def _load(name: str) -> tiktoken.Encoding:
    with _loading:
        if name not in _encodings:
            os.environ["TIKTOKEN_CACHE_DIR"] = str(_folder_with(name))
            encoding = tiktoken.get_encoding(name)
            # Once built, an encoding needs its ranks for pickling alone: 35 MB of 80.
            encoding._mergeable_ranks.clear()
            _encodings[name] = encoding
        return _encodings[name]


def _folder_with(name: str) -> Path:
    """The folder with an undamaged rank file: TIKTOKEN_CACHE_DIR if someone has set it, else the wheel's."""
    file_name, digest = _RANK_FILES[name]
    for folder in _folders():
        path = folder / file_name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            return folder
    raise RanksMissing(f"{RanksMissing.__doc__} ({name})")


def _folders() -> Iterator[Path]:
    if folder := os.environ.get("TIKTOKEN_CACHE_DIR"):
        yield Path(folder)
    try:
        # By its metadata, because importing it takes seconds and pulls in what Parley does not install.
        yield Path(str(metadata.distribution(_WHEEL).locate_file(_WHEEL_FOLDER)))
    except metadata.PackageNotFoundError:
        return
