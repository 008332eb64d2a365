"""Whether a summary that a model wrote may stand for the messages it was made from. Nobody is called.

Each reason is the sentence that a person reads beside the text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EMPTY = "The model wrote nothing."
CUT_OFF = "The text was cut off before its end."
REASONING = "The model wrote its own thoughts in place of a summary."
TOOL = "The model wrote a tool call in place of a summary."
ECHO = "The model repeated its task in place of a summary."
REPEATS = "The model said the same again and again."
TOO_LONG = "The summary is longer than it may be."
LONGER = "The summary is longer than what it stands for."
LANGUAGE = "The summary is in another language than the conversation."
ORDERS = "The text gives orders to the model that would read it."


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a summary was made from, and what it must keep to."""

    text: str  #: the summary before it, and the messages since
    tokens: int
    limit: int  #: tokens that the new one may have
    before: str = ""  #: the summary before it
    since: str = ""  #: the messages since
    pinned: Sequence[str] = ()  #: lines of memory that no summary may lose
    #: Languages of the messages, and of the new text, where they are known: PostgreSQL's names.
    languages: frozenset[str] = frozenset()
    language: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    text: str  #: without what stands around a summary
    reason: str = ""  #: why it is refused; empty: it is adopted

    @property
    def is_adopted(self) -> bool:
        return not self.reason


def examine(said: str, *, tokens: int, is_whole: bool, source: Source) -> Verdict:
    """The text as it may be used, or why not. `tokens` are those of `said`; `is_whole`: it came to its end."""
    text = unwrapped(said)
    return Verdict(text=text, reason=_reason(said, text, tokens, is_whole, source))


def _reason(said: str, text: str, tokens: int, is_whole: bool, source: Source) -> str:
    if not _says_something(text):
        return REASONING if _OPENED_THOUGHT.search(said) else EMPTY
    if _OPENED_THOUGHT.search(text) or _THINKS_ALOUD.match(text):
        return REASONING
    if _is_tool_call(text):
        return TOOL
    if not is_whole:
        return CUT_OFF
    if tokens > source.limit:
        return TOO_LONG
    if tokens >= source.tokens or len(text) > len(source.text):
        return LONGER
    if _ECHOED.search(text):
        return ECHO
    if repeats(text):
        return REPEATS
    if is_foreign(text, source):
        return LANGUAGE
    if gives_orders(text):
        return ORDERS
    missing = missing_facts(text, source)
    return f"It leaves out what must be kept: {_listed(missing)}." if missing else ""


# --- What stands around a summary ---------------------------------------------------------------------------

_OPENING = re.compile(r"<(?:think(?:ing)?|reasoning)>", re.IGNORECASE)
_CLOSING = re.compile(r"</(?:think(?:ing)?|reasoning)>", re.IGNORECASE)
_OPENED_THOUGHT = re.compile(r"</?(?:think(?:ing)?|reasoning)>", re.IGNORECASE)
_FENCE = re.compile(r"\A```[\w-]*\n(.*)\n```\Z", re.DOTALL)
#: "Sure, here is the summary:", "Summary:", "**Updated summary**"
_ANNOUNCED = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok|here(?:'s| is| are))\b[^\n]{0,120}:\s*(?:\n|$)"
    r"|[#*_\s]*(?:the\s+)?(?:new |updated |conversation )?(?:summary|zusammenfassung|résumé|resumen)[^\n:]{0,40}?"
    r"[*_]*(?::[*_]*\s|\s*\n))",
    re.IGNORECASE,
)
_OFFER = re.compile(
    r"(?<!\s)[^\S\n]*+\n\s*+(?:let me know|feel free|please let me know|is there anything|would you like)\b[^\n]*\Z",
    re.IGNORECASE,
)


def unwrapped(said: str) -> str:
    """The text without thoughts that end, without the fence around it, its announcement and an offer of more."""
    text = _without_thoughts(said).strip()
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    text = _ANNOUNCED.sub("", text, count=1).strip()
    return _OFFER.sub("", text).strip()


def _without_thoughts(said: str) -> str:
    """The text outside of thoughts that end; one pass, whatever a model writes."""
    kept, at = [], 0
    while opened := _OPENING.search(said, at):
        closed = _CLOSING.search(said, opened.end())
        if closed is None:
            break
        kept.append(said[at : opened.start()])
        at = closed.end()
    return "".join(kept) + said[at:]


def _says_something(text: str) -> bool:
    return any(unicodedata.category(char)[0] in "LN" for char in text)


# --- What is no summary -------------------------------------------------------------------------------------

_THINKS_ALOUD = re.compile(
    r"\A(?:(?:okay|ok|alright|hmm+|well|so)[,.]?\s+)?"
    r"(?:(?:the user|they) (?:wants|want|asked|asks|is asking|would like)(?: for)?(?: me)?(?: to)? "
    r"(?:\w+ ){0,4}?summar\w+"
    r"|let me (?:think|see|start|summari\w+|write|read|look|go|analy\w+)|let's (?:see|start|summari\w+)"
    r"|i (?:need|have|should|must|will|am asked|'ll)(?: to)? (?:\w+ ){0,3}?"
    r"(?:summar\w+|condense|write|update|keep|produce)"
    r"|first,? i\b|we (?:need|have|should|must) (?:to )?(?:\w+ ){0,3}?(?:summar\w+|produce|write|update))",
    re.IGNORECASE,
)
_TOOL_MARK = re.compile(
    r"<\|?/?(?:tool_call|tool_calls|function_call|function=|invoke)|\[TOOL_CALLS\]|\A\s*<\w+\s+name=",
    re.IGNORECASE,
)
#: Words of the task that `conversations.summaries` sets.
_ECHOED = re.compile(r"write one summary that stands for|between the two lines of the record", re.IGNORECASE)


def _is_tool_call(text: str) -> bool:
    if _TOOL_MARK.search(text):
        return True
    if text[0] not in "{[":
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return bool(re.match(r'[{\[]\s*[{"]', text))


#: Words from which on a text has a rhythm, and the least share of its triples of words that differ.
_ENOUGH_TO_REPEAT, _LEAST_DIFFERENT = 40, 0.5


def repeats(text: str) -> bool:
    """Whether it goes round in circles, as small models do."""
    words = text.casefold().split()
    if len(words) < _ENOUGH_TO_REPEAT:
        return False
    return len(set(zip(words, words[1:], words[2:], strict=False))) < _LEAST_DIFFERENT * len(words)


_QUOTED = re.compile(r"“[^“”]*”|„[^„“”]*[“”]|«[^«»]*»|\"[^\"\n]*\"|`[^`]*`|(?<!\w)'[^'\n]*'(?!\w)")
_SENTENCE = re.compile(r"(?:\A|(?<=[.!?。！？:])\s+|\n)[\s>*•\-\d.)#]*")
_ORDER = re.compile(
    r"(?:please\s+)?(?:"
    r"(?:ignore|disregard|forget|override)\s+(?:all|any|every|everything|the|your|previous|prior|above|earlier|these|those)\b"
    r"|you\s+(?:must|should|shall|are\s+now|are\s+to|have\s+to|will\s+now|need\s+to)\b"
    r"|from\s+now\s+on\b,?\s*(?:you|answer|reply|respond|act|always|never|ignore)"
    r"|(?:act|pretend|behave)\s+as\s+(?:if|an?|the)\b|(?:reveal|print|repeat|output)\s+(?:the|your)\s+(?:system|hidden|secret)"
    r"|(?:system|assistant|developer|user|human)\s*:\s|new\s+instructions?\b|\[/?INST\]|<\|"
    r"|ignorier\w*\s+(?:alle|die|deine|vorherige\w*)|du\s+(?:musst|bist\s+(?:jetzt|nun|ab))|ab\s+(?:jetzt|sofort)\s+(?:antwort|musst|bist)"
    r"|ignore[zr]?\s+(?:toutes?|tous|les|vos)|(?:vous\s+devez|tu\s+dois)\b|ignor[ae]\s+(?:todas?|las|le|tutte)|(?:debes|devi)\b"
    r")",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(
    r"<\|(?:im_start|im_end|system|user|assistant|endoftext)|\[/?INST\]|<<SYS>>", re.IGNORECASE
)


def gives_orders(text: str) -> bool:
    """Whether a sentence of it speaks to the model that reads it. What is quoted is told, not ordered."""
    if _ANYWHERE.search(text):
        return True
    told = _QUOTED.sub("…", text)
    return any(_ORDER.match(told, found.end()) for found in _SENTENCE.finditer(told))


# --- Its language -------------------------------------------------------------------------------------------

#: Languages that a few words do not tell apart.
_ALIKE = ({"norwegian", "danish", "swedish"}, {"spanish", "portuguese", "italian"}, {"german", "dutch"})
#: Words from which on a text's language is known.
_ENOUGH_WORDS = 12
_LOOKED_AT = 20_000  # characters
_KANA = ("HIRAGANA", "KATAKANA")


def is_foreign(text: str, source: Source) -> bool:
    """Whether it is written in another script, or in another language, than any that the messages are in."""
    own, given = scripts(text), scripts(source.text)
    main = max(own, key=lambda script: own[script], default="")
    if main and given and given.get(main, 0.0) < 0.05:
        return True
    if main == "CJK" and _kana(given) > 0.1 and _kana(own) < 0.02:
        return True
    if source.language is None or not source.languages or len(text.split()) < _ENOUGH_WORDS:
        return False
    near = next((group for group in _ALIKE if source.language in group), {source.language})
    return not near & source.languages


def scripts(text: str) -> dict[str, float]:
    """The share of each script among the letters: LATIN, CYRILLIC, CJK and so on."""
    step = max(len(text) // _LOOKED_AT, 1)
    letters = [char for char in text[::step] if char.isalpha()]
    counts = Counter(unicodedata.name(char, "?").partition(" ")[0] for char in letters)
    return {script: count / len(letters) for script, count in counts.items()}


def _kana(shares: dict[str, float]) -> float:
    return sum(shares.get(script, 0.0) for script in _KANA)


# --- What must be kept --------------------------------------------------------------------------------------

_NUMBER = re.compile(r"\d+(?:[.,:'\u2019\u00a0\u202f]\d+)*")
_SPACED_NUMBER = re.compile(r"(?<!\d)\d{1,3}(?: \d{3})+(?!\d)")
_WORD = re.compile(r"[^\W\d_][\w'\u2019-]*")
#: Above this share of words with a capital inside sentences a capital tells nothing: headings, or German.
_CAPITALS_TELL = 0.3


def missing_facts(text: str, source: Source) -> list[str]:
    """Numbers and names that it must hold and does not.

    All that pinned lines hold and the source repeats; of what the summary before held and the messages since repeat,
    a quarter may go, so that a subject may end.
    """
    has_names = "german" not in source.languages and _capitals_tell(source.text)
    said = facts(source.text, has_names=has_names)
    kept, folded = _forms(text), text.casefold()

    def lost(wanted: Iterable[str]) -> list[str]:
        return [
            fact
            for fact in wanted
            if (not kept & {_digits(fact)} if fact[0].isdigit() else fact.casefold() not in folded)
        ]

    pinned = lost(
        dict.fromkeys(f for line in source.pinned for f in facts(line, has_names=has_names) if f in said)
    )
    since = facts(source.since, has_names=has_names)
    repeated = [fact for fact in facts(source.before, has_names=has_names) if fact in since]
    gone = lost(repeated)
    return pinned or (gone if len(gone) > max(len(repeated) // 4, 1) else [])


def facts(text: str, *, has_names: bool = True) -> dict[str, None]:
    """The numbers of two digits and more, and the names, in their order. A name begins with a capital inside a
    sentence, or has one further inside, or a digit."""
    found: dict[str, None] = {}
    for match in _NUMBER.finditer(text):
        if len(_digits(match[0])) > 1:
            found[match[0]] = None
    for match in _WORD.finditer(text):
        word = match[0].rstrip("'\u2019-")
        is_odd = any(char.isupper() or char.isdigit() for char in word[1:])
        is_name = has_names and word[:1].isupper() and _is_inside(text, match.start())
        if len(word) > 1 and (is_odd or (is_name and word not in _NO_NAMES)):
            found[word.removesuffix("'s").removesuffix("\u2019s")] = None
    return found


_NO_NAMES = {
    "I",
    "I'm",
    "I'd",
    "I'll",
    "I've",
    "OK",
    "Ok",
    "The",
    "This",
    "It",
    "We",
    "You",
    "He",
    "She",
    "They",
    "My",
}


def _is_inside(text: str, at: int) -> bool:
    """Whether a word stands inside a sentence and not at its beginning."""
    before = text[max(at - 3, 0) : at].rstrip(" \t\"“'(*_")
    return bool(before) and before[-1] not in ".!?:;\n>#-\u2013\u2014•|[" and not before.isspace()


def _capitals_tell(text: str) -> bool:
    inside = [m[0][:1].isupper() for m in _WORD.finditer(text[:_LOOKED_AT]) if _is_inside(text, m.start())]
    return not inside or sum(inside) / len(inside) < _CAPITALS_TELL


def _digits(number: str) -> str:
    return re.sub(r"\D", "", number)


def _forms(text: str) -> set[str]:
    """The numbers of a text, each as a whole and in its parts: 29.11. holds 29. Spaces may group digits, too."""
    numbers = [*_NUMBER.findall(text), *_SPACED_NUMBER.findall(text)]
    return {_digits(number) for number in numbers} | {
        part for number in numbers for part in re.findall(r"\d+", number)
    }


def _listed(missing: Sequence[str]) -> str:
    shown = ", ".join(f"“{fact[:40]}”" for fact in missing[:4])
    return f"{shown} and {len(missing) - 4} more" if len(missing) > 4 else shown


# --- Its sentences ------------------------------------------------------------------------------------------

_SENTENCES = re.compile(r"(?<=[.!?。！？])(?:\s+|(?=[^\s\d.!?]))|\n+")


def sentences(text: str) -> list[str]:
    return [part for raw in _SENTENCES.split(text) if (part := raw.strip())]


def without(text: str, unwanted: Iterable[str]) -> str:
    """The text without these sentences of it, its lines kept."""
    gone = set(unwanted)
    lines = []
    for line in text.split("\n"):
        parts = sentences(line)
        kept = [part for part in parts if part not in gone]
        if not parts or kept:
            lines.append(line if len(kept) == len(parts) else " ".join(kept))
    result = "\n".join(lines).strip()
    return result if _says_something(result) else ""
