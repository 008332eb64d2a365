"""The days of a month as bars: where each is drawn, in the units of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from conversations.money import dollars, exact
from conversations.reports import Day

WIDTH, HEIGHT = 1060, 230
LEFT, RIGHT, TOP, BASE = 60, 1052, 36, 204
#: A line for the limit that is further away would flatten the bars: it is named instead.
FARTHEST_LIMIT = 4
#: Days between two dates below the bars.
DATES = 7


@dataclass(frozen=True, kw_only=True)
class Bar:
    day: Day
    is_today: bool
    x: str
    middle: str
    width: str
    y: str  #: of what was charged
    height: str
    held_y: str
    held_height: str
    label: str  #: the amount, at the highest bar and today's
    label_y: str
    date: str  #: below the bar, at some


@dataclass(frozen=True, kw_only=True)
class Tick:
    y: str
    label_y: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    bars: list[Bar]
    ticks: list[Tick]
    limit_line: str  #: a path; empty when there is none, or it is too far away
    limit: int | None  #: the newest one
    limit_label_y: str
    is_limit_far: bool
    highest: Day


def chart_of(days: Sequence[Day], *, today: date, limit: int | None, is_whole: bool) -> Chart | None:
    """None when nothing was charged or held. `limit`: of today; what is less than a whole day has none."""
    highest = max(days, key=lambda day: day.used)
    if not highest.used:
        return None
    limits = _limits(days, limit if today in {day.day for day in days} else None) if is_whole else []
    greatest = max((one for one in limits if one is not None), default=0)
    is_far = greatest > highest.used * FARTHEST_LIMIT
    scale = _Scale(highest.used if is_far else max(greatest, highest.used))
    slot = (RIGHT - LEFT) * 10 // len(days)
    bars = [
        _bar(day, n, slot, scale, is_today=day.day == today, is_highest=day is highest)
        for n, day in enumerate(days)
    ]
    newest = next((one for one in reversed(limits) if one is not None), None)
    return Chart(
        bars=_dated(bars),
        ticks=scale.ticks(),
        limit_line="" if is_far else _path(limits, slot, scale),
        limit=newest,
        limit_label_y=_tenths(scale.y(newest) - 60) if newest is not None and not is_far else "",
        is_limit_far=is_far,
        highest=highest,
    )


class _Scale:
    """Amounts as heights, in tenths of the picture's unit."""

    def __init__(self, greatest: int) -> None:
        self.greatest = greatest

    def y(self, amount: int) -> int:
        return BASE * 10 - self.length(amount)

    def length(self, amount: int) -> int:
        return (BASE - TOP) * 10 * amount // self.greatest

    def ticks(self) -> list[Tick]:
        """About four round amounts from nothing up."""
        power = 10 ** (len(str(self.greatest)) - 1)
        steps = [power // part for part in (5, 2, 1) if power % part == 0] + [power * 2]
        step = next(step for step in steps if self.greatest // step <= 5)
        return [
            Tick(
                y=_tenths(self.y(amount)),
                label_y=_tenths(self.y(amount) + 35),
                label=f"${exact(amount).removesuffix('.00')}",
            )
            for amount in range(0, self.greatest + 1, step)
        ]


def _bar(day: Day, n: int, slot: int, scale: _Scale, *, is_today: bool, is_highest: bool) -> Bar:
    x = LEFT * 10 + n * slot + slot * 16 // 100
    width = slot * 68 // 100
    # What is there is seen, however little.
    charged = max(scale.length(day.total.charged), 10) if day.total.charged else 0
    held = max(scale.length(day.held), 30) if day.held else 0
    top = BASE * 10 - charged - held
    return Bar(
        day=day,
        is_today=is_today,
        x=_tenths(x),
        middle=_tenths(x + width // 2),
        width=_tenths(width),
        y=_tenths(BASE * 10 - charged),
        height=_tenths(charged),
        held_y=_tenths(top),
        held_height=_tenths(held),
        label=dollars(day.used) if day.used and (is_today or is_highest) else "",
        label_y=_tenths(top - 50),
        date="today" if is_today else "",
    )


def _dated(bars: list[Bar]) -> list[Bar]:
    """Every seventh bar with its date, except beside today's."""
    today = next((n for n, bar in enumerate(bars) if bar.is_today), None)
    return [
        replace(bar, date=f"{bar.day.day.day} {bar.day.day:%b}")
        if n % DATES == 0 and not bar.is_today and (today is None or abs(today - n) > 1)
        else bar
        for n, bar in enumerate(bars)
    ]


def _limits(days: Sequence[Day], newest: int | None) -> list[int | None]:
    """A limit for each day: one on which nothing was called has that of the day before, the first days the next one."""
    limits: list[int | None] = []
    known = next((day.limit for day in days if day.has_budget), newest)
    for day in days:
        known = day.limit if day.has_budget else known
        limits.append(known)
    return limits


def _path(limits: list[int | None], slot: int, scale: _Scale) -> str:
    """A line with a step where the limit changes, and a gap where there was none."""
    parts: list[str] = []
    before: int | None = None
    for n, limit in enumerate(limits):
        if limit is not None:
            start = _tenths(LEFT * 10 + n * slot)
            parts.append(f"{'L' if before is not None else 'M'}{start} {_tenths(scale.y(limit))}")
            parts.append(f"H{_tenths(LEFT * 10 + (n + 1) * slot)}")
        before = limit
    return "".join(parts)


def _tenths(value: int) -> str:
    return f"{value // 10}.{value % 10}"
