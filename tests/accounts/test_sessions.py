"""Sessions and the people they belong to are read without the ORM, and read the same."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth import get_user
from django.contrib.sessions.models import Session
from django.http import HttpRequest
from django.test import TestCase
from django.utils import timezone

from conversations.backends import PersonBackend
from conversations.models import User
from conversations.sessions import SessionStore
from tests import cast


class SessionTests(TestCase):
    def setUp(self) -> None:
        self.alice = cast.alice()

    def test_a_person_is_read_whole_as_the_orm_reads_them(self) -> None:
        read = PersonBackend().get_user(self.alice.pk)
        stored = User.objects.get(pk=self.alice.pk)
        assert read is not None
        self.assertEqual(
            [getattr(read, field.attname) for field in User._meta.concrete_fields],
            [getattr(stored, field.attname) for field in User._meta.concrete_fields],
        )
        self.assertEqual(read.get_deferred_fields(), set())

    def test_a_person_who_was_suspended_or_deleted_is_nobody(self) -> None:
        User.objects.filter(pk=self.alice.pk).update(is_active=False)
        self.assertIsNone(PersonBackend().get_user(self.alice.pk))
        self.alice.delete()
        self.assertIsNone(PersonBackend().get_user(self.alice.pk or 0))

    def test_a_session_holds_until_it_expires(self) -> None:
        store = self.signed_in()
        self.assertEqual(self.person_of(store.session_key), self.alice)
        Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
        self.assertNotEqual(self.person_of(store.session_key), self.alice)

    def test_a_session_that_is_unknown_gets_no_key(self) -> None:
        """Or a stranger could choose the key of the session that somebody signs in with."""
        planted = SessionStore("x" * 32)
        self.assertNotIn("_auth_user_id", planted)
        self.assertIsNone(planted.session_key)

    def test_a_session_made_under_another_password_is_nobodys(self) -> None:
        store = self.signed_in()
        self.alice.set_password("another long password")
        self.alice.save()
        self.assertNotEqual(self.person_of(store.session_key), self.alice)

    def signed_in(self) -> SessionStore:
        self.client.force_login(self.alice)
        return SessionStore(self.client.session.session_key)

    def person_of(self, key: str | None) -> object:
        request = HttpRequest()
        request.session = SessionStore(key)
        return get_user(request)
