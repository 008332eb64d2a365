"""What an answer would cost before it is asked for, and who else could give one: by the arithmetic of the hold."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from conversations.budgets import Ask, Quote, Room, quote_in
from conversations.catalog import ModelEntry, load_catalog
from conversations.context.bound import NOTHING_BESIDE, Beside
from conversations.llm.tokens import COUNTED_AT_ONCE, count_tokens, scaled
from conversations.models import Conversation
from conversations.policies import policy_in

from .bounds import ask_before

#: A longer draft is counted in so many pieces of it, and the rest as the densest of them. Characters.
PIECES = 5
PIECE = COUNTED_AT_ONCE // PIECES


@dataclass(frozen=True, kw_only=True)
class Words:
    """A message that is not sent yet, or pieces from all over one that is longer."""

    text: str = ""
    length: int = 0  #: characters of the whole message

    def tokens(self, model_id: str) -> int:
        """Exact for a message of usual length; of a longer one rather too many."""
        length = max(self.length, len(self.text))
        if length <= COUNTED_AT_ONCE:
            return count_tokens(self.text, model_id)
        step = max((len(self.text) - PIECE) // (PIECES - 1), 0)
        counts = [count_tokens(self.text[n * step : n * step + PIECE], model_id) for n in range(PIECES)]
        return -(-length * max(counts) // min(PIECE, max(len(self.text), 1)))


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What somebody is about to ask, whichever model answers."""

    user_id: int
    conversation: Conversation  #: not saved where a new one begins
    earlier_tokens: int = 0  #: kept of what was said before
    path_messages: int = 0  #: the question among them if it is stored
    words: Words | None = None  #: the question; None: it is stored
    question_tokens: int = 0  #: kept of a stored question
    continued: str = ""
    beside: Beside = NOTHING_BESIDE

    def ask(self, entry: ModelEntry, *, reply_id: UUID | None = None) -> Ask:
        """What a hold would be asked to cover. Raises NoPrice."""
        stored = scaled(self.question_tokens, entry.model_id)
        policy = policy_in(self.conversation, entry)
        return ask_before(
            entry,
            policy,
            user_id=self.user_id,
            conversation_id=self.conversation.pk,
            reply_id=reply_id,
            max_tokens=policy.reply_tokens,
            system_prompt=self.conversation.system_prompt,
            earlier_tokens=self.earlier_tokens,
            path_messages=self.path_messages + (self.words is not None),
            question_tokens=stored if self.words is None else self.words.tokens(entry.model_id),
            continued=self.continued,
            beside=self.beside,
        )


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Another model that could answer with what is left."""

    entry: ModelEntry
    quote: Quote


def offers(prospect: Prospect, room: Room, *, but: ModelEntry) -> list[Offer]:
    """The strongest other paid model that fits, if possible with a whole answer; and a free one if there is one."""
    others = [entry for entry in load_catalog().entries if entry.price is not None and entry.id != but.id]
    fitting = [
        Offer(entry=entry, quote=quote)
        for entry in others
        if (quote := quote_in(room, prospect.ask(entry))).fits
    ]
    paid = [offer for offer in fitting if not offer.entry.is_free]
    free = [offer for offer in fitting if offer.entry.is_free]
    return sorted(paid, key=_strength)[-1:] + free[:1]


def _strength(offer: Offer) -> tuple[bool, int]:
    """Whole answers before shortened ones, then by what they cost: the only thing a catalogue knows of strength."""
    return offer.quote.shrunk_max_tokens is None, offer.quote.held
