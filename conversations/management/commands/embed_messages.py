"""`manage.py embed_messages`: vectors for the messages that were written without one."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from conversations import meanings


class Command(BaseCommand):
    help = (
        "Let recall find older messages by their meaning, too. It can be ended and begun again at any time."
    )

    def handle(self, **options: Any) -> None:
        if not meanings.embed_all():
            raise CommandError("The word vectors are not installed. Install the pinned requirements again.")
        self.stdout.write("Each message has its vector.")
