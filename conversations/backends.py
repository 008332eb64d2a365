"""Who signs in, by allauth's rules; and who a session belongs to, by one statement that is planned once."""

from __future__ import annotations

from allauth.account.auth_backends import AuthenticationBackend
from psycopg.rows import tuple_row

from .database import plain_cursor
from .models import User

FIELDS = User._meta.concrete_fields
USER = f"SELECT {', '.join(str(field.column) for field in FIELDS)} FROM users WHERE id = %s"


class PersonBackend(AuthenticationBackend):  # type: ignore[misc]  # allauth is untyped
    def get_user(self, user_id: int) -> User | None:
        with plain_cursor(tuple_row) as cursor:
            row = cursor.execute(USER, [user_id]).fetchone()
        if row is None:
            return None
        user = User.from_db("default", [field.attname for field in FIELDS], row)
        return user if self.user_can_authenticate(user) else None
