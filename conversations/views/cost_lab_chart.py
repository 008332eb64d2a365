"""Lines over the turns of a conversation: where each is drawn, in the units of the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conversations.money import exact

LEFT, RIGHT, TOP, BASE = 58, 420, 12, 224
#: Points of a line: more are not seen.
MOST_POINTS = 120
#: Between two names at the end of the lines.
APART = 15
#: Each has a colour and a pattern; the others have the last ones.
STYLES = 8


@dataclass(frozen=True, kw_only=True)
class Line:
    name: str
    values: Sequence[int]
    label: str  #: of the last value
    is_current: bool = False


@dataclass(frozen=True, kw_only=True)
class Drawn:
    name: str
    label: str
    style: int  #: of its colour and its pattern, from 1
    is_current: bool
    path: str
    end_y: str  #: of its name
    label_y: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    at: str
    label_at: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    lines: list[Drawn]
    rows: list[Tick]
    turns: list[Tick]


def tokens_chart(lines: Sequence[Line]) -> Chart:
    return _chart(lines, thousands)


def cost_chart(lines: Sequence[Line]) -> Chart:
    return _chart(lines, _exactly)


def _chart(lines: Sequence[Line], label: Callable[[int], str]) -> Chart:
    turns = max(len(line.values) for line in lines)
    step = _step(max(max(line.values, default=0) for line in lines))
    highest = step * 4

    def y(value: int) -> float:
        return BASE - (BASE - TOP) * value / highest

    def x(turn: int) -> float:
        return LEFT + (RIGHT - LEFT) * turn / max(turns - 1, 1)

    ends = _apart([y(line.values[-1]) for line in lines])
    drawn = [
        Drawn(
            name=line.name,
            label=line.label,
            style=min(number, STYLES),
            is_current=line.is_current,
            path=_path([(x(turn), y(value)) for turn, value in enumerate(line.values)]),
            end_y=_number(end),
            label_y=_number(end + 3.8),
        )
        for number, (line, end) in enumerate(zip(lines, ends, strict=True), 1)
    ]
    return Chart(
        lines=sorted(drawn, key=lambda one: one.is_current),
        rows=[
            Tick(at=_number(y(value)), label_at=_number(y(value) + 3.5), label=label(value))
            for value in range(0, highest + 1, step)
        ],
        turns=[
            Tick(at=_number(x(turn)), label_at="", label=f"turn {turn + 1}" if turn == 0 else str(turn + 1))
            for turn in sorted({0, *(turns * part // 4 for part in (1, 2, 3)), turns - 1})
            if turn < turns
        ],
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    every = max(len(points) // MOST_POINTS, 1)
    shown = [*points[:-1:every], points[-1]]
    return "M" + " ".join(f"{_number(x)} {_number(y)}" for x, y in shown)


def _step(most: int) -> int:
    """A quarter of the picture's height: a round number, four of which hold the highest value."""
    power = 1
    while power * 40 < most:
        power *= 10
    return next(step for step in (power, power * 2, power * 3, power * 5, power * 10) if step * 4 >= most)


def _apart(ends: Sequence[float]) -> list[float]:
    """The same places, moved so that no two names overlap and the last one stays in the picture."""
    order = sorted(range(len(ends)), key=lambda at: ends[at])
    placed = list(ends)
    lowest: float = BASE - APART * (len(ends) - 1)
    above: float = TOP - APART
    for at in order:
        placed[at] = above = max(min(placed[at], lowest), above + APART)
        lowest += APART
    return placed


def _exactly(amount: int) -> str:
    return f"${exact(amount).removesuffix('.00')}"


def thousands(tokens: int) -> str:
    return f"{tokens / 1000:.3g}k" if tokens >= 1_000 else str(tokens)


def _number(value: float) -> str:
    return f"{value:.1f}"
