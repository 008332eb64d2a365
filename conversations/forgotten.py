"""Knows again what somebody has asked to forget, by keyed digests of its words: the words themselves are erased."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings
from django.utils.crypto import salted_hmac

from conversations.models import MemoryItem

#: Of the words of a forgotten fact, the share that makes a sentence say it again.
SHARE = 0.6
#: Letters of a word that count: "prices" and "price" are one word, and so are "mention" and "mentioning".
STEM = 5
#: Forgotten facts of one person that a sentence is compared with, the newest first.
MOST = 2_000

_WORD = re.compile(r"[^\W_]+")
#: Written without spaces: read in pairs of characters.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")

#: Words that say nothing of a fact, in the languages that `memory` knows rules for.
_EMPTY_WORDS = """
    a about all also always am an and any are as at be been being but by can could did do does doing done
    for from had has have he her hers him his i if in into is it its just me more most my never no nor not
    now of on only or our ours please she should so some such than that the their them then there these they
    this those to too us user very was we were what when which who will with would you your yours aber alle
    als am an auf aus bei bin bis bitte da das dass dein dem den der des die dies diese dieser du ein eine
    einem einen einer er es euch für haben hat hatte ich ihm ihn ihr immer ist ja kein keine man mehr mein
    meine mich mir mit nach nicht nie niemals noch nur ob oder sehr sein sich sie sind so und uns von vor
    war was wenn wer wie wir zu zum zur au aux avec ce ces cet cette dans de des du elle elles en est et eux
    il ils jamais je la le les leur lui ma mais mes moi mon ne nos notre nous on ou par pas plus pour qu que
    qui sa sans se ses son sont suis sur ta te tes toi ton toujours tu un une vos votre vous al como con
    cual de del el ella ellas ellos en era eres es esa ese eso esta este esto ha he la las lo los me mi mis
    muy más no nos o para pero por que se ser si siempre sin sobre son soy su sus también te tu tus un una
    unas uno unos usted y ya yo nunca jamás
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())


def content_words(text: str) -> frozenset[str]:
    """The words that carry a text, each by its beginning. Of a text without such words: all of them."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = [piece for word in _WORD.findall(plain) for piece in _pieces(word)]
    telling = [word for word in words if word not in _EMPTY and (len(word) > 1 or word.isdigit())]
    return frozenset(word if word.isdigit() else word[:STEM] for word in telling or words)


def is_telling(word: str) -> bool:
    """Whether a word says something by itself."""
    return word.casefold() not in _EMPTY


def traces_of(user_id: int, text: str) -> list[str]:
    """What is kept of a text that its owner wants forgotten: nobody without the key can read a word in it."""
    return sorted(_digest(user_id, word, settings.SECRET_KEY) for word in content_words(text))


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What one person wants forgotten, read once for many sentences."""

    user_id: int
    facts: tuple[frozenset[str], ...]

    @classmethod
    def by(cls, user_id: int) -> Forgotten:
        rows = MemoryItem.objects.filter(user=user_id, state=MemoryItem.State.FORGOTTEN).order_by("-id")
        traces = rows.values_list("traces", flat=True)[:MOST]
        return cls(user_id=user_id, facts=tuple(frozenset(found) for found in traces if found))

    def holds(self, sentence: str) -> bool:
        """Whether a sentence says again what was to be forgotten."""
        if not self.facts:
            return False
        words = content_words(sentence)
        keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)  # a digest may be older than the key
        said = {_digest(self.user_id, word, key) for word in words for key in keys}
        return any(len(fact & said) >= SHARE * len(fact) for fact in self.facts)


def is_forgotten(user_id: int, sentence: str) -> bool:
    """Whether this person has asked to forget what a sentence says. For many sentences: `Forgotten.by`."""
    return Forgotten.by(user_id).holds(sentence)


def share_of_words(text: str, others: Iterable[str]) -> float:
    """How much of what a text says, by its words, stands in others, too."""
    words = content_words(text)
    found = frozenset[str]().union(*map(content_words, others))
    return len(words & found) / len(words) if words else 0.0


def _pieces(word: str) -> list[str]:
    if not _UNSPACED.search(word):
        return [word]
    return [word[place : place + 2] for place in range(max(len(word) - 1, 1))]


def _digest(user_id: int, word: str, key: str) -> str:
    salt = f"conversations.forgotten:{user_id}"
    return salted_hmac(salt, word, secret=key, algorithm="sha256").hexdigest()[:24]
