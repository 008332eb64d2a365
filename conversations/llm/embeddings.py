"""Meaning as 256 numbers: the mean of static word vectors, from the wheel `wordllama`, read in place.

The wheel is used as data. Its own loader brings pydantic and requests along, and looks on the network. Where the wheel
is not installed nothing has an embedding, and recall goes by words alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from conversations.allocator import give_back_memory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

DIMENSIONS = 256
#: Characters; embedding a longer text would hold up the other replies of an event loop.
EMBEDDED_AT_ONCE = 2_000
#: Of a long text the beginning and the end are embedded, because what is asked often stands below what was pasted.
HEAD_CHARACTERS, TAIL_CHARACTERS = 6_000, 2_000
#: The same bound in tokens: Chinese has three a character.
HEAD_TOKENS, TAIL_TOKENS = 3_072, 1_024

#: Kinds of pieces of a text that are kept: with the vector they fit into a row that PostgreSQL leaves in one.
MOST_PIECES = 400
#: Numbers of pieces as they are kept.
PIECE = np.dtype("<u2")
#: Pieces that say something: two letters or digits, or one character from beyond Latin, and no single bytes of one.
_TELLING = re.compile(r"(?!<0x)\W*(\w*[^\W_]{2}|[^\x00-\u024f\W])")
#: Vectors that are made floats of at once, so that they stay in the processor's cache.
_WEIGHED_AT_ONCE = 1_024

_WHEEL = "wordllama"
_WEIGHTS = "wordllama/weights/l2_supercat_256.safetensors"
_TOKENIZER = "wordllama/tokenizers/l2_supercat_tokenizer_config.json"

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _WordVectors:
    tokenizer: Tokenizer
    vectors: npt.NDArray[np.float16]  #: one row per token, mapped from the file: processes share its memory

    @cached_property
    def are_telling(self) -> npt.NDArray[np.bool_]:
        """By number of the piece. 0.03 s, for those who keep pieces."""
        pieces = (self.tokenizer.id_to_token(number) or "" for number in range(len(self.vectors)))
        return np.array([bool(_TELLING.match(piece)) for piece in pieces])


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What is kept of a message beside its words."""

    vector: Vector  #: of length 1
    pieces: bytes  #: numbers of the telling pieces it has, each once, as `PIECE`


_loaded: _WordVectors | None = None
_is_missing = False
_loading = threading.Lock()


def embed(text: str) -> Vector | None:
    """A vector of length 1, or None without the wheel or without a word. 0.3 ms per 1,000 characters, at most 3 ms.

    Safe in any thread.
    """
    words = _loaded or _load()
    return None if words is None else _mean(words, text, _pieces(words, text))


def meaning(text: str) -> Meaning | None:
    """The vector and the pieces of a text, or None where `embed` is. As long as that, and 5 % more."""
    words = _loaded or _load()
    if words is None:
        return None
    ids = _pieces(words, text)
    vector = _mean(words, text, ids)
    if vector is None:
        return None
    telling = np.array(ids)[words.are_telling[ids]]
    kinds, first = np.unique(telling, return_index=True)
    kept = kinds[np.argsort(first)][:MOST_PIECES]
    return Meaning(vector=vector, pieces=kept.astype(PIECE).tobytes())


def likeness(texts: Sequence[str], pieces: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32] | None:
    """The cosine of each text to each piece; a row for each text that has a vector, None without any.

    0.4 ms for 1,000 pieces. What is no piece here is like nothing.
    """
    vectors = [vector for text in texts if (vector := embed(text)) is not None]
    if not vectors or _loaded is None:
        return None
    known = _loaded.vectors
    found = np.zeros((len(vectors), len(pieces)), np.float32)
    here = np.minimum(pieces, len(known) - 1)
    for at in range(0, len(pieces), _WEIGHED_AT_ONCE):
        weighed = known[here[at : at + _WEIGHED_AT_ONCE]].astype(np.float32)
        # Their lengths are not kept: to take them once would bring all of the file into memory.
        weighed /= np.maximum(np.linalg.norm(weighed, axis=1, keepdims=True), 1e-9)
        np.matmul(np.array(vectors), weighed.T, out=found[:, at : at + _WEIGHED_AT_ONCE])
    found[:, pieces >= len(known)] = 0
    return found


async def embed_aside(text: str) -> Vector | None:
    """The same on the event loop: a long text is embedded in a thread, and so is the first one of a process."""
    if len(text) > EMBEDDED_AT_ONCE or (_loaded is None and not _is_missing):
        return await asyncio.to_thread(embed, text)
    return embed(text)


def are_missing() -> bool:
    """Whether it is known that nothing has an embedding here."""
    return _is_missing


def as_sql(vector: Sequence[float] | Vector | None) -> str | None:
    """The vector as pgvector reads it."""
    return None if vector is None else "[" + ",".join([f"{value:.5g}" for value in vector]) + "]"


def warm_up() -> bool:
    """Load now (0.1 s, 25 MB), unless that was done. False: there are no embeddings here."""
    return (_loaded or _load()) is not None


def may_load() -> bool:
    """Whether nobody has loaded yet what may be there."""
    return _loaded is None and not _is_missing and not _loading.locked()


def load_aside() -> None:
    """Begin to load in a thread, unless that was begun."""
    if may_load():
        threading.Thread(target=_load, name="embeddings", daemon=True).start()


def _pieces(words: _WordVectors, text: str) -> list[int]:
    ids: list[int] = words.tokenizer.encode(_shortened(text), add_special_tokens=False).ids
    if len(ids) > HEAD_TOKENS + TAIL_TOKENS:
        ids = ids[:HEAD_TOKENS] + ids[-TAIL_TOKENS:]
    return ids


def _mean(words: _WordVectors, text: str, ids: Sequence[int]) -> Vector | None:
    mean: Vector = words.vectors[ids].sum(axis=0, dtype=np.float32)
    length = float(np.linalg.norm(mean))
    return mean / length if text.strip() and length > 0 else None


def _shortened(text: str) -> str:
    if len(text) <= HEAD_CHARACTERS + TAIL_CHARACTERS:
        return text
    return f"{text[:HEAD_CHARACTERS]}\n{text[-TAIL_CHARACTERS:]}"


def _load() -> _WordVectors | None:
    global _loaded, _is_missing
    with _loading:
        if _loaded is None and not _is_missing:
            try:
                _loaded = _read()
                give_back_memory()  # 15 MB, which the arena of this thread would keep for nothing
            except (ImportError, OSError, ValueError, KeyError) as error:
                _is_missing = True
                logger.warning("no embeddings, recall goes by words alone: %s", type(error).__name__)
        return _loaded


def _read() -> _WordVectors:
    from tokenizers import Tokenizer

    wheel = metadata.distribution(_WHEEL)
    tokenizer = Tokenizer.from_file(str(wheel.locate_file(_TOKENIZER)))
    # It would keep the last 10,000 short texts with their pieces, 9 kB each: for words it is quicker, for texts not.
    tokenizer.model._resize_cache(0)
    return _WordVectors(
        tokenizer=tokenizer,
        vectors=_mapped(Path(str(wheel.locate_file(_WEIGHTS)))),
    )


def _mapped(path: Path) -> npt.NDArray[np.float16]:
    """The only tensor of a safetensors file: eight bytes say how long the JSON header is, the numbers follow it."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    (tensor,) = (found for name, found in header.items() if name != "__metadata__")
    rows, columns = tensor["shape"]
    if tensor["dtype"] != "F16" or columns != DIMENSIONS:
        raise ValueError(f"{path.name} holds {tensor['dtype']} {tensor['shape']}")
    return np.memmap(
        path, dtype=np.float16, mode="r", offset=8 + size + tensor["data_offsets"][0], shape=(rows, columns)
    )
