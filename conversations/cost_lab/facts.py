"""Which earlier messages a turn draws on, found without a model: those that said its names and numbers first."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from conversations.context.simulate import Turn

#: Turns that lie between a fact and the turn that comes back to it: what is nearer is in any request.
APART = 2
#: A name that more messages have is what the conversation is about, and no single message's fact.
MOST_MESSAGES = 6

# Numbers, and words with digits, capitals or signs in them: versions, addresses, files, names. Each is looked for from
# its beginning alone, so that a long line of signs or letters is read once.
_FACT = re.compile(
    r"(?<![\w.:/@%€$+-])[\w.:/@%€$+-]*\d[\w.:/@%€$+-]*|(?<!\w)\w+[_/@]\w[\w./@-]*|"
    r"(?<=[^.!?:\s]\s)[^\W\d_a-z]\w{3,}",
    re.ASCII | re.MULTILINE,
)


def facts_of(text: str) -> set[str]:
    """Names and numbers of a text, in lower case. A capital at the beginning of a sentence makes no name."""
    found = (match.strip(".:/-+").lower() for match in _FACT.findall(text[:20_000]))
    return {fact for fact in found if len(fact) > 2}


def with_cites(turns: Sequence[Turn]) -> list[Turn]:
    """The same turns, each with the messages that were the first to say what its question or answer says again."""
    said: dict[str, tuple[int, UUID]] = {}
    having: dict[str, int] = defaultdict(int)
    messages = [
        (number, message, facts_of(message.content))
        for number, turn in enumerate(turns)
        for message in (turn.question, turn.answer)
        if message is not None
    ]
    for number, message, facts in messages:
        for fact in facts:
            having[fact] += 1
            said.setdefault(fact, (number, message.id))
    cites: dict[int, dict[UUID, None]] = defaultdict(dict)
    for number, _, facts in messages:
        for fact in sorted(facts):
            first, pk = said[fact]
            if number - first > APART and having[fact] <= MOST_MESSAGES:
                cites[number][pk] = None
    return [replace(turn, cites=tuple(cites[number])) for number, turn in enumerate(turns)]
