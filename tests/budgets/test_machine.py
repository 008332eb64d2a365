"""Ten thousand random movements of money, each compared with a model that is a few lists in memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.test import override_settings
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from conversations import budgets
from conversations.budgets import UNLIMITED
from conversations.budgets.days import day_at
from conversations.budgets.opening import EVER
from conversations.models import Conversation, GroupLimit, User
from tests.budgets.common import FREE, ask, usage
from tests.cast import alice, bob

FIRST = datetime(2026, 3, 28, 12, tzinfo=UTC)  # the day before Oslo's clocks go forward
ZONES = ["UTC", "Europe/Oslo", "America/St_Johns", "Pacific/Apia", "Pacific/Honolulu", "Africa/Cairo"]
DEFAULT = 4_000

amounts = st.one_of(st.sampled_from([0, 1, 1_000, 5_000]), st.integers(0, 12_000))
tokens = st.integers(0, 3_000)
which = st.integers(0, 1_000)

#: Of each budget: what it says, what its ledger says, what its open holds say.
SUMS = """
SELECT b.scope, b.subject, b.starts_at, b.spent, b.held, b."limit" + b.extra, b.ends_at,
    (SELECT coalesce(sum(charged), 0)::bigint FROM ledger_entries l
        WHERE b.id IN (l.conversation_budget_id, l.user_budget_id, l.installation_budget_id)),
    (SELECT coalesce(sum(amount), 0)::bigint FROM budget_holds h WHERE h.state = 'held'
        AND b.id IN (h.conversation_budget_id, h.user_budget_id, h.installation_budget_id))
FROM budgets b
"""


@dataclass(eq=False)
class Row:
    """A budget in the model."""

    starts_at: datetime
    ends_at: datetime | None
    limit: int | None
    extra: int = 0
    spent: int = 0
    held: int = 0

    @property
    def whole(self) -> int | None:
        return None if self.limit is None else self.limit + self.extra

    @property
    def room(self) -> int | None:
        return None if self.whole is None else self.whole - self.spent - self.held


@dataclass(eq=False)
class ModelHold:
    """A hold in the model."""

    id: UUID
    conversation: Conversation | None
    amount: int
    input_tokens: int
    made_at: datetime
    day: Row
    cap: Row | None
    installation: Row | None
    was_sent: bool = False
    charged: int | None = None  #: None: open

    @property
    def rows(self) -> list[Row]:
        return [row for row in (self.cap, self.day, self.installation) if row is not None]


@dataclass
class Model:
    now: datetime = FIRST
    days: dict[int, list[Row]] = field(default_factory=dict)
    installation: list[Row] = field(default_factory=list)
    caps: dict[UUID, Row] = field(default_factory=dict)
    holds: list[ModelHold] = field(default_factory=list)

    def current(self, rows: list[Row]) -> Row | None:
        last = rows[-1] if rows else None
        return last if last is not None and last.ends_at is not None and last.ends_at > self.now else None

    def open(self, rows: list[Row], time_zone: str, limit: int | None) -> Row:
        previous_end = rows[-1].ends_at if rows else None
        day = day_at(self.now, time_zone, previous_end=previous_end)
        rows.append(Row(day.starts_at, day.ends_at, limit))
        return rows[-1]

    def day_of(self, user: User) -> Row:
        rows = self.days.setdefault(user.pk, [])
        return self.current(rows) or self.open(rows, user.time_zone, limit_of(user))

    def take_over(self, row: Row, holds: list[ModelHold]) -> None:
        row.spent = sum(hold.charged for hold in holds if hold.charged is not None)
        row.held = sum(hold.amount for hold in holds if hold.charged is None)


def limit_of(user: User) -> int | None:
    if user.daily_limit is not None:
        return user.daily_limit
    group = GroupLimit.objects.filter(group__user=user).first()
    if user.is_unlimited or (group and group.daily_limit is None):
        return None
    return DEFAULT if group is None else group.daily_limit


class Money(RuleBasedStateMachine):
    operations = 0

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.installation_limit: int | None = None
        self.default_cap: int | None = None
        self.tidy = ExitStack()

    # --- The world ----------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.tidy.enter_context(transaction.atomic())
        self.tidy.callback(transaction.set_rollback, True)
        self.tidy.enter_context(override_settings(DAILY_LIMIT=DEFAULT))
        self.cursor = self.tidy.enter_context(connection.cursor())
        self.users = [alice(), bob()]
        self.group = Group.objects.create(name="Authors")
        self.users[0].groups.add(self.group)
        self.conversations = [
            Conversation.objects.create(user=user, model="openai/test")
            for user in (self.users[0], self.users[0], self.users[1])
        ]

    def teardown(self) -> None:
        self.tidy.close()

    @rule(seconds=st.one_of(st.integers(0, 100_000), st.integers(-7_200, -1)))
    def time_passes_or_jumps_back(self, seconds: int) -> None:
        self.model.now += timedelta(seconds=seconds)

    @rule(user=which, zone=st.sampled_from(ZONES))
    def move(self, user: int, zone: str) -> None:
        person = self.users[user % 2]
        person.time_zone = zone
        person.save()

    @rule(limit=st.one_of(st.none(), amounts), cap=st.one_of(st.none(), amounts))
    def change_settings(self, limit: int | None, cap: int | None) -> None:
        self.installation_limit, self.default_cap = limit, cap
        changed = override_settings(INSTALLATION_DAILY_LIMIT=limit, CONVERSATION_CAP=cap)
        self.tidy.enter_context(changed)
        budgets.apply_limits(now=self.model.now)
        self.limits_changed()  # of days, too, that go on because the clock has jumped back
        if row := self.model.current(self.model.installation):
            row.limit = limit
        for conversation in self.conversations:
            if row := self.model.caps.get(conversation.pk):
                row.limit = cap if conversation.cost_cap is None else conversation.cost_cap

    # --- Limits -------------------------------------------------------------------------------------------

    @rule(user=which, limit=st.one_of(st.none(), st.just(UNLIMITED), amounts))
    def limit_a_person(self, user: int, limit: Any) -> None:
        budgets.set_user_limit(self.users[user % 2], limit, now=self.model.now)
        self.limits_changed()

    @rule(limit=st.one_of(st.none(), st.just(UNLIMITED), amounts))
    def limit_the_group(self, limit: Any) -> None:
        budgets.set_group_limit(self.group, limit, now=self.model.now)
        self.limits_changed()

    def limits_changed(self) -> None:
        for user in self.users:
            limit = limit_of(user)
            for row in self.model.days.get(user.pk, []):
                if row.ends_at is not None and row.ends_at > self.model.now:
                    row.limit = limit

    @rule(user=which, amount=st.integers(1, 3_000))
    def grant(self, user: int, amount: int) -> None:
        person = self.users[user % 2]
        budgets.grant_extra(person, amount, reason="A long day.", by=None, now=self.model.now)
        self.model.day_of(person).extra += amount

    @rule(conversation=which, cap=st.one_of(st.none(), amounts))
    def cap_a_conversation(self, conversation: int, cap: int | None) -> None:
        capped = self.conversations[conversation % 3]
        budgets.set_conversation_cap(capped, cap, now=self.model.now)
        limit = self.default_cap if cap is None else cap
        if limit is not None:
            self.open_cap(capped, limit)
        if row := self.model.caps.get(capped.pk):
            row.limit = limit

    def open_cap(self, conversation: Conversation, limit: int | None) -> None:
        if conversation.pk in self.model.caps:
            return
        row = self.model.caps[conversation.pk] = Row(EVER, None, limit)
        holds = [hold for hold in self.model.holds if hold.conversation is conversation]
        self.model.take_over(row, holds)
        for hold in holds:
            hold.cap = row

    def open_installation(self) -> None:
        model = self.model
        if self.installation_limit is None or model.current(model.installation):
            return
        row = model.open(model.installation, "UTC", self.installation_limit)
        assert row.ends_at is not None
        holds = [
            hold
            for hold in model.holds
            if hold.installation is None and row.starts_at <= hold.made_at < row.ends_at
        ]
        model.take_over(row, holds)
        for hold in holds:
            hold.installation = row

    # --- Holds --------------------------------------------------------------------------------------------

    @rule(conversation=st.integers(0, 4), prompt=tokens, answer=tokens, floor=st.integers(0, 4_000))
    def reserve(self, conversation: int, prompt: int, answer: int, floor: int) -> None:
        model = self.model
        talk = self.conversations[conversation] if conversation < 3 else None
        user = next(u for u in self.users if talk is None or u.pk == talk.user_id)
        wanted = ask(
            user.pk,
            conversation_id=talk and talk.pk,
            input_tokens=prompt,
            max_tokens=answer,
            floor=floor,
        )
        if talk is not None and self.default_cap is not None:
            self.open_cap(talk, self.default_cap if talk.cost_cap is None else talk.cost_cap)
        self.open_installation()
        day = model.day_of(user)
        cap = model.caps.get(talk.pk) if talk else None
        installation = model.current(model.installation)
        rows = [row for row in (cap, day, installation) if row is not None]
        room = min((row.room for row in rows if row.room is not None), default=10**9)
        fitting = min(answer, room - prompt)
        try:
            held = budgets.reserve(self.cursor, wanted, now=model.now)
        except budgets.BudgetRefused as refused:
            assert fitting < min(floor, answer)
            assert refused.left == max(0, room)
            return
        assert held is not None
        assert fitting >= min(floor, answer)
        assert (held.max_tokens, held.amount) == (fitting, prompt + fitting)
        assert held.shrunk == (fitting < answer)
        for row in rows:
            row.held += held.amount
            assert row.whole is None or row.spent + row.held <= row.whole
        model.holds.append(
            ModelHold(held.hold_id, talk, held.amount, prompt, model.now, day, cap, installation)
        )

    def pick(self, number: int) -> ModelHold | None:
        """Mostly a recent hold, resolved or not."""
        holds = self.model.holds[-6:]
        return holds[number % len(holds)] if holds else None

    @rule(hold=which)
    def attach(self, hold: int) -> None:
        if picked := self.pick(hold):
            assert budgets.attach(self.cursor, picked.id, now=self.model.now) is (picked.charged is None)
            picked.was_sent = picked.was_sent or picked.charged is None

    @rule(hold=which, prompt=tokens, answer=tokens)
    def settle(self, hold: int, prompt: int, answer: int) -> None:
        if picked := self.pick(hold):
            charged = budgets.settle(
                self.cursor,
                hold_id=picked.id,
                usage=usage(prompt, answer),
                usage_reported=True,
                now=self.model.now,
            )
            self.resolved(picked, charged, prompt + answer)

    @rule(hold=which)
    def settle_exactly_twice(self, hold: int) -> None:
        if picked := self.pick(hold):
            self.settle(hold, picked.amount, 0)
            self.settle(hold, picked.amount, 0)

    @rule(hold=which)
    def void(self, hold: int) -> None:
        if picked := self.pick(hold):
            self.resolved(picked, budgets.void(self.cursor, hold_id=picked.id, now=self.model.now), 0)

    @rule(hold=which, answer=st.one_of(st.none(), tokens))
    def expire(self, hold: int, answer: int | None) -> None:
        if picked := self.pick(hold):
            known = None if answer is None else usage(picked.input_tokens, answer)
            charged = budgets.expire(self.cursor, hold_id=picked.id, usage=known, now=self.model.now)
            self.resolved(picked, charged, picked.input_tokens + (answer or 0) if picked.was_sent else 0)

    def resolved(self, hold: ModelHold, charged: int | None, expected: int) -> None:
        if hold.charged is not None:
            assert charged is None
            return
        assert charged == expected
        hold.charged = charged
        for row in hold.rows:
            row.held -= hold.amount
            row.spent += charged

    @rule(user=which)
    def record_a_free_call(self, user: int) -> None:
        free = ask(self.users[user % 2].pk, price=FREE)
        assert budgets.reserve(self.cursor, free, now=self.model.now) is None
        budgets.record_free(self.cursor, free, usage=usage(), usage_reported=False, now=self.model.now)
        self.model.day_of(self.users[user % 2])

    # --- What must be true --------------------------------------------------------------------------------

    @invariant()
    def the_sums_are_those_of_the_model(self) -> None:
        if not hasattr(self, "users"):
            return
        type(self).operations += 1
        self.cursor.execute(SUMS)
        found = {}
        for scope, subject, starts_at, spent, held, whole, ends_at, ledger, holds in self.cursor.fetchall():
            assert (spent, held) == (ledger, holds), (scope, subject)
            found[scope, subject, starts_at] = (spent, held, whole, ends_at)
        assert found == {
            key: (row.spent, row.held, row.whole, row.ends_at) for key, row in self.rows_of_the_model()
        }

    def rows_of_the_model(self) -> list[tuple[tuple[str, str, datetime], Row]]:
        days = [("user", str(user), row) for user, rows in self.model.days.items() for row in rows]
        installation = [("installation", "", row) for row in self.model.installation]
        caps = [("conversation", str(pk), row) for pk, row in self.model.caps.items()]
        return [((scope, subject, row.starts_at), row) for scope, subject, row in days + installation + caps]

    @invariant()
    def a_hold_is_resolved_once(self) -> None:
        if not hasattr(self, "users"):
            return
        self.cursor.execute("SELECT hold_id, charged FROM ledger_entries WHERE hold_id IS NOT NULL")
        lines = sorted(self.cursor.fetchall())
        resolved = [(hold.id, hold.charged) for hold in self.model.holds if hold.charged is not None]
        assert lines == sorted(resolved)


@pytest.mark.timeout(600)
@pytest.mark.django_db
def test_ten_thousand_random_movements_leave_the_sums_of_the_model() -> None:
    run_state_machine_as_test(
        Money,
        settings=settings(
            max_examples=220,  # few of them end early: 10,000 movements come together whatever is drawn
            stateful_step_count=60,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Money.operations >= 10_000
