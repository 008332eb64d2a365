"""Whether a fact that a model has put in words is what a person said: whose words it has, and what they try to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from conversations.forgotten import content_words, is_telling

from .stating import LONGEST_MESSAGE, own_words

#: Characters of a paragraph that was typed, where so much follows or goes before it that the rest was pasted.
LONGEST_TYPED = 500

_MASKS = re.compile("\N{OBJECT REPLACEMENT CHARACTER}+")
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_WORD = re.compile(r"[^\W\d_][\w'\u2019-]*")
#: How a fact begins that is no name.
_OPENING_WORDS = """
    a about adopted agreed all allergic also always an answers any asked asks at avoid avoids based born budget
    call called calls chose chosen concise customer customers decided decision deadline deploys does don't each
    every expects for from goes has hates have he her his if in interested is it its keeps knows learning likes
    lives long looking loves main mention mentions must name named needs never no not on one only open our owns
    pays person plans prefers project pronouns reads runs self she should short speaks starts still studies team
    the their they this to uses user user's users vegan vegetarian wants was we what when where whether which
    who why will with without works writes der die das ein eine nutzer nutzerin person heißt wohnt arbeitet mag
    möchte will hat ist le la les un une utilisateur utilisatrice préfère veut habite travaille est el los las
    una uno usuario usuaria prefiere quiere vive trabaja es
"""
_OPENERS = frozenset(_OPENING_WORDS.split())

#: Text that would speak to the model in place of telling about the person.
_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instruction|prompt|rule|previous|above|prior|message|guideline)|"
    r"\b(?:system|assistant|developer|user|human)\s*:|<\|?/?(?:im_start|im_end|system|assistant|user|s|inst)\b|\[/?INST\]|"
    r"\byou\s+are\s+(?:now|a|an|no\s+longer)\b|\bact\s+as\b|\bpretend\s+(?:to|you)\b|\bfrom\s+now\s+on\s+you\b|"
    r"\b(?:new|real|actual|secret|hidden)\s+(?:instructions?|system|prompt)|\bsystem\s+prompt\b|\bjailbreak|\bdeveloper\s+mode\b|"
    r"\b(?:reveal|print|repeat|leak|exfiltrate)\b.{0,40}\b(?:prompt|instruction|key|password|secret)|"
    r"\b(?:ignorier\w*|vergiss)\b.{0,40}\b(?:anweisung|regel|vorherig|bisherig)\w*|\bdu\s+bist\s+(?:jetzt|nun|ab)\b|"
    r"\b(?:ignore[zs]?|oublie[zs]?)\b.{0,40}\b(?:consigne|instruction|précédent)\w*|\btu\s+es\s+(?:maintenant|désormais)\b|"
    r"\b(?:ignora|olvida)\b.{0,40}\b(?:instruccion|anterior|regla)\w*|\b(?:ahora\s+eres|eres\s+ahora)\b|```|\{\{|https?://",
    re.IGNORECASE,
)


class Ground(Enum):
    OWN = auto()  # in the person's own words
    FOREIGN = auto()  # in what they quoted or pasted, or in an answer
    NONE = auto()  # nowhere: made up


@dataclass(frozen=True, kw_only=True)
class Said:
    """What facts are looked for in."""

    numbers: frozenset[str]
    words: frozenset[str]

    def __or__(self, other: Said) -> Said:
        return Said(numbers=self.numbers | other.numbers, words=self.words | other.words)

    def bears(self, fact: str) -> bool:
        return (
            numbers(fact) <= self.numbers
            and _names(fact) <= self.words
            and bool(content_words(fact) & self.words)
        )


def said_in(text: str) -> Said:
    if not text.strip():
        return Said(numbers=frozenset(), words=frozenset())
    return Said(numbers=numbers(text), words=content_words(text))


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a message says, apart by who said it."""

    own: str
    foreign: str = ""

    @cached_property
    def said(self) -> Said:
        return said_in(self.own)

    @cached_property
    def shown(self) -> Said:
        """Whoever said it. A message may be a megabyte, and each fact is looked for in it."""
        return said_in(f"{self.own}\n{self.foreign}")


def words_of_message(content: str) -> Words:
    """The person's own words, and what they quoted or pasted. Nothing is lost between the two."""
    masked = own_words(content)
    own = _MASKS.sub(" … ", masked)
    if len(content) > LONGEST_MESSAGE:
        paragraphs = [part for part in re.split(r"\n\s*\n", masked) if part.strip()]
        ends = {0, len(paragraphs) - 1}
        typed = (part for n, part in enumerate(paragraphs) if n in ends and len(part) <= LONGEST_TYPED)
        own = _MASKS.sub(" … ", "\n\n".join(typed))
    return Words(own=own.strip(), foreign="" if own == content else content)


def ground_of(fact: str, words: Words, answer: str = "") -> Ground:
    """Where the numbers, the names and something of the rest of a fact come from."""
    if words.said.bears(fact):
        return Ground.OWN
    return Ground.FOREIGN if (words.shown | said_in(answer)).bears(fact) else Ground.NONE


def gives_orders(fact: str) -> bool:
    """Whether a line would tell the model what to be or to do, and not what is."""
    return bool(_ORDERS.search(fact))


def numbers(text: str) -> frozenset[str]:
    """Numbers, dates and times without what sets their thousands apart."""
    found = (re.sub(r"(?<=\d)[,.](?=\d{3}(?!\d))", "", number) for number in _NUMBER.findall(text))
    return frozenset(part.lstrip("0") or "0" for number in found for part in re.split(r"[,:/-]", number))


def _names(fact: str) -> frozenset[str]:
    """Words with a capital, which must have been said; the first one has one anyway, so it may be any usual word."""
    words = _WORD.findall(fact)
    named = [word for word in words[1:] if word != word.lower()]
    if words and words[0] != words[0].lower() and words[0].lower().replace("\u2019", "'") not in _OPENERS:
        named.append(words[0])
    return frozenset().union(*map(content_words, filter(is_telling, named)))
