"""Why a message was not sent, in words, and what can be done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from conversations.budgets import BudgetRefused
from conversations.replies.quoting import Offer
from conversations.replies.sending import LeafMoved, ModelUnpriced, NoMoney, SendRefused

COMPOSER = "composer-form"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    heading: str
    sentence: str
    has_choices: bool = False  #: where the message goes is to be chosen
    needs_price: bool = False
    money: BudgetRefused | None = None
    offers: list[Offer] = field(default_factory=list)
    form_id: str = COMPOSER  #: the form that an offer sends
    address: str = ""  #: where an offer leads; empty: where its form leads, with its draft

    @property
    def notice_id(self) -> str:
        """Where a script shows it."""
        return "composer-notice" if self.form_id == COMPOSER else f"{self.form_id}-notice"


def refusal_of(refused: SendRefused, *, edits: UUID | None = None, address: str = "") -> Refusal:
    """The first sentence as a heading, the rest below it.

    `edits`: the message that was written again; `address`: what was asked for in place of sending a message.
    """
    first, _, rest = refused.sentence.partition(". ")
    return Refusal(
        heading=f"{first.rstrip('.')}.",
        sentence=rest,
        has_choices=isinstance(refused, LeafMoved),
        needs_price=isinstance(refused, ModelUnpriced),
        money=refused.refused if isinstance(refused, NoMoney) else None,
        offers=refused.offers() if isinstance(refused, NoMoney) else [],
        form_id=f"edit-{edits}" if edits else COMPOSER,
        address=address,
    )
