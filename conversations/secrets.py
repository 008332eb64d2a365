"""Encrypts provider keys at rest, under a key derived from SECRET_KEY.

`cryptography` is imported with the first key: it takes 8 MB, and where keys come from the environment none is stored.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from django.conf import settings

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

PURPOSE = b"parley provider keys"  # keeps this key apart from every other use of SECRET_KEY


@dataclass(frozen=True)
class Secret:
    """A text that shows itself only when asked: it stays out of logs, tracebacks and error pages."""

    _value: str = field(default="", repr=False)

    def reveal(self) -> str:
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __str__(self) -> str:
        return "(secret)"


class KeyUnreadable(Exception):
    """Its stored key cannot be read, because SECRET_KEY has changed. Enter the key again."""

    def __str__(self) -> str:
        return self.__doc__ or ""


def encrypt(secret: Secret) -> str:
    """The secret as it may lie in the database; empty for an empty one."""
    return _fernet().encrypt(secret.reveal().encode()).decode("ascii") if secret else ""


def decrypt(token: str) -> Secret:
    """The secret behind `encrypt`'s text, also under one of SECRET_KEY_FALLBACKS. Raises `KeyUnreadable`."""
    if not token:
        return Secret()
    from cryptography.fernet import InvalidToken

    try:
        return Secret(_fernet().decrypt(token.encode()).decode())
    except InvalidToken:
        raise KeyUnreadable from None


def _fernet() -> MultiFernet:
    return _fernet_of(settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)


@lru_cache(maxsize=4)
def _fernet_of(*secret_keys: str) -> MultiFernet:
    """The first key encrypts, each of them decrypts."""
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet([Fernet(_derived(key)) for key in secret_keys])


def _derived(secret_key: str) -> bytes:
    """32 bytes as Fernet wants them. No salt: SECRET_KEY is random, and there is one per site."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(secret_key.encode())
    return base64.urlsafe_b64encode(key)
