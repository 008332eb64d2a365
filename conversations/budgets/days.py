"""Budget days: from one local midnight to another, at least 20 hours long, whatever clocks and time zones do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

SHORTEST = timedelta(hours=20)


@dataclass(frozen=True, kw_only=True)
class Day:
    label: date  #: the local date of its last moment
    starts_at: datetime
    ends_at: datetime


def day_at(now: datetime, time_zone: str, *, previous_end: datetime | None = None) -> Day:
    """The day that `now` belongs to when none is open: it begins at local midnight, or where the last one ended."""
    zone = ZoneInfo(time_zone)
    starts_at = start_of(now.astimezone(zone).date(), zone)
    if previous_end is not None and starts_at < previous_end <= now:
        starts_at = previous_end
    date_of_end = starts_at.astimezone(zone).date() + timedelta(days=1)
    while (ends_at := start_of(date_of_end, zone)) < starts_at + SHORTEST or ends_at <= now:
        date_of_end += timedelta(days=1)
    label = (ends_at - timedelta(microseconds=1)).astimezone(zone).date()
    return Day(label=label, starts_at=starts_at, ends_at=ends_at)


def start_of(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of a local date, in UTC. Where clocks skip midnight it is the moment of the skip.

    A midnight that comes twice counts when it comes first; a date that a zone has left out begins with the next one.
    """
    midnight = datetime.combine(day, time(), zone)
    moment = midnight.astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return moment
    # By the clock before the skip midnight comes at `moment` or was due earlier; by the one after it, not later.
    before, after = midnight.replace(fold=1).astimezone(UTC) - timedelta(seconds=1), moment
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=int((after - before).total_seconds()) // 2)
        if middle.astimezone(zone).date() >= day:
            after = middle
        else:
            before = middle
    return after
