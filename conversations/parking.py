"""Whose work in the background waits: it is paid from its owner's day, and there is no use in it when nothing is left.

A question asked beforehand, which saves a call for nothing; the hold decides. Free models need not ask.
"""

from __future__ import annotations

from django.db.models import F
from django.utils import timezone

from conversations.models import Budget, Scope


def parked() -> list[int] | None:
    """The people who have nothing left today; None: the installation has not, so everybody's work waits."""
    full = Budget.objects.filter(
        ends_at__gt=timezone.now(), limit__isnull=False, spent__gte=F("limit") + F("extra") - F("held")
    ).exclude(scope=Scope.CONVERSATION)
    days = list(full.values_list("scope", "subject"))
    if any(scope == Scope.INSTALLATION for scope, _ in days):
        return None
    return [int(subject) for _, subject in days]
