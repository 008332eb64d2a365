"""Sessions in the database, as Django keeps them, asked for by keys alone that it may have made."""

from __future__ import annotations

from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from psycopg.rows import scalar_row

from .database import plain_cursor

#: Every request begins with it.
SESSION = "SELECT session_data FROM django_session WHERE session_key = %s AND expire_date > now()"


class SessionStore(db.SessionStore):
    stored = ""  #: the data as it was read, signed

    def _validate_session_key(self, key: str) -> bool:
        """A cookie may hold anything, also an escaped NUL, which PostgreSQL refuses with an error."""
        is_long = super()._validate_session_key(key)  # type: ignore[misc]  # unknown to the stubs
        return bool(is_long) and key.isascii() and key.isalnum()

    def _get_session_from_db(self) -> Session | None:
        if self.session_key:
            with plain_cursor(scalar_row) as cursor:
                data = cursor.execute(SESSION, [self.session_key]).fetchone()
            if data is not None:
                self.stored = data
                return Session(session_key=self.session_key, session_data=data)
        self._session_key = None
        return None
