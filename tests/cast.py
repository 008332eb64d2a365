"""The cast: Alice owns, Bob is a colleague, Charlie is a stranger. Ada administers."""

from __future__ import annotations

from functools import cache

from django.contrib.auth.hashers import make_password

from conversations.models import User

PASSWORD = "correct horse battery staple"


def alice() -> User:
    return _person("alice@example.org", name="Alice Ahlgren", time_zone="Europe/Oslo")


def bob() -> User:
    return _person("bob@example.org", name="Bob Berg")


def charlie() -> User:
    return _person("charlie@example.net", name="Charlie")


def ada() -> User:
    return _person("ada@example.org", name="Ada", is_staff=True, is_superuser=True)


def _person(email: str, **fields: object) -> User:
    found = User.objects.filter(email=email).first()
    return found or User.objects.create(email=email, password=_hash_for(email), **fields)


@cache
def _hash_for(email: str) -> str:
    """Once for each in a test run: a hash is made to take long."""
    return make_password(PASSWORD)
