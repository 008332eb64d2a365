"""What people change of their own account is that alone: what others decide of it meanwhile stands."""

from __future__ import annotations

from django.test import TestCase

from conversations.account_forms import PreferencesForm
from conversations.adapters import AccountAdapter
from conversations.budgets import set_user_limit
from conversations.models import User
from conversations.money import DOLLAR
from tests import cast


class OwnAccountTests(TestCase):
    """Bob's request has read his row; then Ada suspends him, limits him and takes his administration away."""

    def setUp(self) -> None:
        self.bob = cast.bob()
        User.objects.filter(pk=self.bob.pk).update(is_superuser=True, is_staff=True)
        self.read_before = User.objects.get(pk=self.bob.pk)
        set_user_limit(User.objects.get(pk=self.bob.pk), DOLLAR)
        User.objects.filter(pk=self.bob.pk).update(is_active=False, is_superuser=False, is_staff=False)

    def assert_decided(self) -> None:
        self.bob.refresh_from_db()
        self.assertEqual(self.bob.daily_limit, DOLLAR)
        self.assertFalse(self.bob.is_active or self.bob.is_superuser or self.bob.is_staff)

    def test_preferences_undo_no_decision(self) -> None:
        chosen = {"name": "Bob", "time_zone": "Asia/Tokyo", "theme": "", "fallback_model": ""}
        form = PreferencesForm(chosen, instance=self.read_before)
        self.assertTrue(form.is_valid(), form.errors)
        form.save()
        self.assert_decided()
        self.assertEqual(self.bob.time_zone, "Asia/Tokyo")

    def test_a_new_password_undoes_no_decision(self) -> None:
        AccountAdapter().set_password(self.read_before, "another horse battery staple")
        self.assert_decided()
        self.assertTrue(self.bob.check_password("another horse battery staple"))
