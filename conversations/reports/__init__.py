"""What was spent, and what is left: read-only aggregates for one person and for everybody. Amounts are nano-USD."""

from .ledger import Line, OpenHold, Page, conversations_named, lines_of, lines_of_page, open_holds
from .meter import NEAR, Meter, meter_of
from .months import Month
from .receipts import Paid, cost_of, paid_for
from .spend import (
    Cell,
    Day,
    Forecast,
    Selection,
    Share,
    Spend,
    Total,
    days_of,
    forecast,
    read_spend,
    shares_of_conversations,
    shares_of_people,
)

__all__ = [
    "NEAR",
    "Cell",
    "Day",
    "Forecast",
    "Line",
    "Meter",
    "Month",
    "OpenHold",
    "Page",
    "Paid",
    "Selection",
    "Share",
    "Spend",
    "Total",
    "conversations_named",
    "cost_of",
    "days_of",
    "forecast",
    "lines_of",
    "lines_of_page",
    "meter_of",
    "open_holds",
    "paid_for",
    "read_spend",
    "shares_of_conversations",
    "shares_of_people",
]
