"""One conversation under each strategy: tokens of each turn, cached share, cost with several models, what it kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

from django.db.models import Sum

from conversations.catalog import Catalog, ModelEntry
from conversations.context.caching import rules_for
from conversations.context.policy import Policy, Strategy
from conversations.context.presets import Preset
from conversations.context.simulate import Request, Simulation, Turn, bill, replay
from conversations.context.view import HistoryMessage
from conversations.llm.tokens import count_tokens, recounted
from conversations.models import Conversation, LedgerEntry, Message, Purpose, ReplyAttempt
from conversations.policies import policy_of
from conversations.presets import change, preset_of
from conversations.prices import Price

from .facts import with_cites
from .recollection import Recollection

#: A replay takes some 10 ms a turn over all strategies.
MOST_TURNS = 200
#: Messages of a path that is replayed while its page is made.
AT_ONCE = 60
#: Counts that are further apart are no estimate's error.
LEAST_SHARE, MOST_SHARE = 0.5, 2.0
#: Models beside each other.
MOST_MODELS = 3
#: Replays that are kept.
KEPT = 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A strategy with its usual numbers."""

    key: str
    name: str
    note: str
    numbers: Mapping[str, Any]

    def preset(self, base: Preset) -> Preset:
        """The preset of a conversation with this strategy in place of its own; how it answers stays as it is."""
        usual: dict[str, Any] = {
            "token_budget": None,
            "recall_tokens": None,
            "uses_summary": None,
            "uses_memory": None,
            "high_water": 16_000,
            "cut_to_percent": 25,
            "on_overflow": "cut",
        }
        return replace(base, **(usual | dict(self.numbers)))


PLANS = {
    plan.key: plan
    for plan in (
        Plan(
            key="adaptive",
            name="Adaptive",
            note="grows to 16,000 tokens, then is cut in one step; summary, memory, recall",
            numbers={"strategy": Strategy.ADAPTIVE},
        ),
        Plan(
            key="adaptive-small",
            name="Adaptive, small",
            note="grows to 4,000 tokens, with 500 of recall",
            numbers={"strategy": Strategy.ADAPTIVE, "high_water": 4_000, "recall_tokens": 500},
        ),
        Plan(
            key="full",
            name="Full history",
            note="every message, up to what the model can read",
            numbers={"strategy": Strategy.FULL},
        ),
        Plan(
            key="sliding-window",
            name="Last turns",
            note="the newest questions and answers, another beginning each time",
            numbers={"strategy": Strategy.SLIDING_WINDOW},
        ),
        Plan(
            key="importance",
            name="Importance",
            note="what scores highest by age, role, code and words",
            numbers={"strategy": Strategy.IMPORTANCE},
        ),
        Plan(
            key="summary",
            name="Summary",
            note="a summary and the newest messages",
            numbers={"strategy": Strategy.SUMMARY},
        ),
        Plan(
            key="memory",
            name="Memory",
            note="remembered facts and the newest messages",
            numbers={"strategy": Strategy.MEMORY},
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One strategy in all turns."""

    key: str  #: of PLANS; nothing: the conversation's own numbers
    name: str
    note: str
    is_current: bool
    simulation: Simulation  #: with the first model
    costs: tuple[int | None, ...]  #: nano-USD with each model; None: a request would not fit into its window
    over_full: int | None  #: percent that it costs more than the full history, with the first model

    @property
    def kept(self) -> int:
        return sum(turn.present for turn in self.simulation.turns)

    @property
    def cited(self) -> int:
        return sum(turn.cited for turn in self.simulation.turns)

    @property
    def kept_percent(self) -> int:
        return round(100 * self.kept / self.cited) if self.cited else 0

    @property
    def cache_percent(self) -> int:
        return round(100 * self.simulation.cache_share)


@dataclass(frozen=True, kw_only=True)
class Reality:
    """What the replies on this path have used, by their lines in the ledger. Other branches are not in it."""

    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    charged: int  #: nano-USD of the replies
    background: int  #: nano-USD of titles, summaries and memory of the whole conversation

    @property
    def cache_percent(self) -> int:
        return round(100 * self.cached_tokens / self.input_tokens) if self.input_tokens else 0


@dataclass(frozen=True, kw_only=True)
class Lab:
    entry: ModelEntry
    models: tuple[ModelEntry, ...]  #: the first is the conversation's
    other_models: int  #: that have a price and are not shown
    rows: tuple[Row, ...]
    turns: int
    turns_before: int  #: that are not replayed
    reality: Reality

    @property
    def current(self) -> Row:
        return next(row for row in self.rows if row.is_current)

    @property
    def full(self) -> Row:
        return next(row for row in self.rows if row.key == "full")


_kept: OrderedDict[tuple[Any, ...], Lab] = OrderedDict()
_replaying = threading.Lock()


class OneAtATime(Exception):
    """Another conversation is being replayed."""


def lab_of(conversation: Conversation, catalog: Catalog, entry: ModelEntry) -> Lab | None:
    """The replay of a conversation's path; None for fewer than two turns. Kept until something of it changes.

    One conversation at a time in a process: replies go on beside it. Raises OneAtATime, because a process has few
    threads for requests, and one that waits answers nobody.
    """
    key = _key(conversation, catalog, entry)
    lab = _kept.get(key)
    if lab is None:
        if not _replaying.acquire(blocking=False):
            raise OneAtATime
        try:
            lab = _replayed(conversation, catalog, entry)
            if lab is None:
                return None
            _kept[key] = lab
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
        finally:
            _replaying.release()
    return replace(lab, reality=reality_of(conversation))


def is_ready(conversation: Conversation, catalog: Catalog, entry: ModelEntry) -> bool:
    """It is shown at once: it is short, or was replayed before."""
    leaf = conversation.leaf
    return leaf is None or leaf.path_messages <= AT_ONCE or _key(conversation, catalog, entry) in _kept


def use(conversation: Conversation, plan: Plan) -> None:
    """Let a conversation go on with a strategy, from the next message on."""
    change(conversation, plan.preset(preset_of(conversation)))


def _key(conversation: Conversation, catalog: Catalog, entry: ModelEntry) -> tuple[Any, ...]:
    prices = tuple((one.id, one.price) for one in _models(catalog, entry)[0])
    preset = preset_of(conversation).to_json()
    return (
        conversation.pk,
        conversation.leaf_id,
        str(sorted(preset.items())),
        conversation.reply_tokens,
        prices,
    )


def _models(catalog: Catalog, entry: ModelEntry) -> tuple[tuple[ModelEntry, ...], int]:
    """The conversation's, the usual one, the cheapest one, and the strongest ones of the other providers."""
    priced = [one for one in catalog.entries if one.price is not None]
    first_of_each = {one.provider: one for one in reversed(priced)}.values()
    wanted = [entry, catalog.default(), catalog.cheapest(), *reversed(first_of_each), *priced]
    found = {one.id: one for one in wanted if one is not None and one.price is not None}
    shown = tuple(found.values())[:MOST_MODELS]
    return shown, len(priced) - len(shown)


def _path(conversation: Conversation, limit: int) -> list[Message | None]:
    """The newest messages of the path, None before them if there are more."""
    path: list[Message | None] = [*Message.objects.path_to(conversation.leaf_id, limit=limit + 1)]
    return [None, *path[1:]] if len(path) > limit else path


def turns_of(messages: Sequence[Message], model_id: str) -> Iterator[Turn]:
    """Each message of a person and what answered it."""
    waiting: HistoryMessage | None = None
    for message in messages:
        said = HistoryMessage(
            id=message.pk,
            role="user" if message.is_from_user else "assistant",
            content=message.content,
            tokens=recounted(message.content, message.token_count, model_id),
            is_set_aside=message.is_set_aside,
            created_at=message.created_at,
        )
        if said.role == "user":
            if waiting:
                yield Turn(question=waiting)
            waiting = said
        elif waiting:
            yield Turn(question=waiting, answer=said)
            waiting = None
    if waiting:
        yield Turn(question=waiting)


def _replayed(conversation: Conversation, catalog: Catalog, entry: ModelEntry) -> Lab | None:
    path = _path(conversation, 2 * MOST_TURNS)
    messages = [message for message in path if message is not None]
    turns = with_cites([turn for turn in turns_of(messages, entry.model_id) if turn.question.content.strip()])
    if len(turns) < 2:
        return None
    shown, others = _models(catalog, entry)
    summary = catalog.summary()
    counted = reported_share(conversation, entry)
    background = summary.price if summary else None
    run = partial(_run, turns, entry, conversation.system_prompt, counted, background, shown)
    own = policy_of(entry, preset_of(conversation), reply_tokens=conversation.reply_tokens)
    rows = []
    for plan in PLANS.values():
        policy = policy_of(
            entry, plan.preset(preset_of(conversation)), reply_tokens=conversation.reply_tokens
        )
        rows.append(run(policy, key=plan.key, name=plan.name, note=plan.note, is_current=policy == own))
    if not any(row.is_current for row in rows):
        name = Preset.stored(conversation.preset).name
        rows.insert(0, run(own, key="", name=name, note="with numbers of its own", is_current=True))
    full = next(row.simulation.cost for row in rows if row.key == "full")
    before = messages[0].path_messages - 1 if messages else 0
    return Lab(
        entry=entry,
        models=shown,
        other_models=others,
        rows=tuple(
            replace(row, over_full=round(100 * (row.simulation.cost - full) / full) if full else None)
            for row in rows
        ),
        turns=len(turns),
        turns_before=before // 2,
        reality=Reality(
            calls=0, input_tokens=0, cached_tokens=0, output_tokens=0, charged=0, background=0
        ),
    )  # fmt: skip


def _run(
    turns: Sequence[Turn],
    entry: ModelEntry,
    system_prompt: str,
    counted: float,
    background: Price | None,
    models: Sequence[ModelEntry],
    policy: Policy,
    *,
    key: str,
    name: str,
    note: str,
    is_current: bool,
) -> Row:
    requests = [
        corrected(request, counted) for request in requests_of(turns, policy, entry.model_id, system_prompt)
    ]
    priced = [_billed(requests, model, background) for model in models]
    most = priced[0].most_tokens
    return Row(
        key=key,
        name=name,
        note=note,
        is_current=is_current,
        simulation=priced[0],
        costs=tuple(
            one.cost if most <= model.context_window - policy.reply_tokens else None
            for one, model in zip(priced, models, strict=True)
        ),
        over_full=None,
    )


def requests_of(
    turns: Sequence[Turn], policy: Policy, model_id: str, system_prompt: str = ""
) -> list[Request]:
    """The requests of a policy, counted for a model. Its provider's cache decides when it is cold.

    What it would refuse is replayed as if it were cut: the replies are there, after all.
    """
    rules = rules_for(model_id)
    count: Callable[[str], int] = partial(count_tokens, model_id=model_id)
    return replay(
        turns,
        policy=replace(policy, refuses_overflow=False),
        count_tokens=count,
        system_prompt=system_prompt,
        recall=Recollection(overhead=policy.message_overhead) if policy.recall_tokens else None,
        cache_lifetime=rules.lifetime if rules else None,
    )


def reported_share(conversation: Conversation, entry: ModelEntry) -> float:
    """How many tokens its provider counted for each one that we did, in this conversation; 1 if it never said."""
    attempts = ReplyAttempt.objects.filter(
        reply__conversation=conversation, model=entry.id, usage_reported=True, input_tokens__gt=0
    )
    rows = attempts.order_by("-id").values_list("input_tokens", "manifest__input_tokens")[:MOST_TURNS]
    pairs = [
        (reported, planned)
        for reported, planned in rows
        if reported and isinstance(planned, int) and planned > 0
    ]
    if not pairs:
        return 1.0
    share = sum(reported for reported, _ in pairs) / sum(planned for _, planned in pairs)
    return min(max(share, LEAST_SHARE), MOST_SHARE)


def corrected(request: Request, share: float) -> Request:
    return replace(
        request,
        input_tokens=round(request.input_tokens * share),
        repeated_tokens=round(request.repeated_tokens * share),
        marks=tuple(round(mark * share) for mark in request.marks),
    )


def _billed(requests: Sequence[Request], entry: ModelEntry, background: Price | None) -> Simulation:
    return bill(
        requests,
        price=entry.known_price(),
        rules=rules_for(entry.model_id),
        background_price=background,
    )


def reality_of(conversation: Conversation) -> Reality:
    """What was charged for the replies to the messages of the path that is shown, and for the work beside them."""
    path = Message.objects.of_path(conversation.pk, conversation.leaf_id).values("pk")
    lines = LedgerEntry.objects.filter(conversation_id=conversation.pk)
    replies: list[UUID] = list(conversation.replies.filter(question__in=path).values_list("pk", flat=True))
    own = lines.filter(reply_id__in=replies, purpose=Purpose.REPLY)
    sums = own.aggregate(
        **{name: Sum(name) for name in ("input_tokens", "cached_tokens", "output_tokens", "charged")}
    )
    aside = lines.exclude(purpose=Purpose.REPLY).aggregate(charged=Sum("charged"))["charged"]
    return Reality(calls=own.count(), background=aside or 0, **{name: sums[name] or 0 for name in sums})
