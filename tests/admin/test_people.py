"""Administrators make accounts, deactivate them, and make links for lost passwords."""

from __future__ import annotations

from typing import Any
from unittest import mock
from uuid import uuid4

from allauth.account.models import EmailAddress
from django.contrib import admin
from django.test import Client, TestCase
from django.urls import reverse

from conversations import accounts
from conversations.admin.people import UserForm
from conversations.models import Conversation, Invitation, Message, Reply, ReplyState, User
from tests import cast

NEW = "a long and new password"
PERSON = {"email": "Dora@Example.org ", "name": "Dora", "time_zone": "Europe/Oslo"}


class PeopleTests(TestCase):
    def setUp(self) -> None:
        self.ada, self.alice = cast.ada(), cast.alice()
        self.client.force_login(self.ada)

    def change(self, user: User, **fields: str) -> None:
        given = {"email": user.email, "name": user.name, "time_zone": user.time_zone, **fields}
        given = {name: value for name, value in given.items() if value}
        self.client.post(reverse("admin:conversations_user_change", args=[user.pk]), given)
        user.refresh_from_db()

    def test_a_new_account_has_no_password_and_its_link_sets_one(self) -> None:
        response = self.client.post(reverse("admin:conversations_user_add"), PERSON, follow=True)
        self.assertContains(response, "Make a password link")
        dora = User.objects.get(email="dora@example.org")
        self.assertFalse(dora.has_usable_password())
        self.assertFalse(dora.is_staff)
        self.assertTrue(EmailAddress.objects.get(user=dora).verified)

        page = self.client.post(reverse("admin:conversations_user_password_link", args=[dora.pk]))
        link = page.context["link"]
        stranger = Client()
        form = stranger.get(link, follow=True)
        stranger.post(
            form.request["PATH_INFO"],
            {"password1": NEW, "password2": NEW},
        )
        dora.refresh_from_db()
        self.assertTrue(dora.check_password(NEW))

    def test_an_address_is_used_once(self) -> None:
        response = self.client.post(
            reverse("admin:conversations_user_add"), PERSON | {"email": "ALICE@example.org"}
        )
        self.assertContains(response, "There is an account with this e-mail address already.")

    def test_looking_at_the_password_link_makes_none(self) -> None:
        response = self.client.get(reverse("admin:conversations_user_password_link", args=[self.alice.pk]))
        self.assertEqual(response.status_code, 405)

    def test_a_deactivated_person_gets_no_link(self) -> None:
        self.change(self.alice, is_active="")
        page = self.client.post(reverse("admin:conversations_user_password_link", args=[self.alice.pk]))
        self.assertContains(page, "This account is not active.")

    def test_a_deactivated_person_is_signed_out_and_their_replies_stop(self) -> None:
        alice = Client()
        alice.force_login(self.alice)
        reply = queued_reply(self.alice)
        self.change(self.alice, is_active="")
        self.assertFalse(self.alice.is_active)
        self.assertEqual(alice.get("/").status_code, 302)
        reply.refresh_from_db()
        self.assertEqual(reply.state, ReplyState.STOPPED)

    def test_a_deactivated_persons_waiting_reply_never_begins(self) -> None:
        reply = queued_reply(self.alice)
        Reply.objects.filter(pk=reply.pk).update(state=ReplyState.WAITING)
        self.change(self.alice, is_active="")
        reply.refresh_from_db()
        self.assertEqual(reply.state, ReplyState.STOPPED)

    def test_the_action_spares_whoever_uses_it(self) -> None:
        self.client.post(
            reverse("admin:conversations_user_changelist"),
            {"action": "deactivate", "_selected_action": [self.ada.pk, self.alice.pk]},
        )
        self.ada.refresh_from_db()
        self.alice.refresh_from_db()
        self.assertEqual((self.ada.is_active, self.alice.is_active), (True, False))

    def test_an_administrator_is_made_and_unmade_with_one_tick(self) -> None:
        self.change(self.alice, is_superuser="on", is_active="on")
        self.assertTrue(self.alice.is_staff and self.alice.is_superuser)
        self.change(self.alice, is_active="on")
        self.assertFalse(self.alice.is_staff or self.alice.is_superuser)

    def test_a_password_that_is_changed_at_this_moment_stays_changed(self) -> None:
        clean = UserForm.clean

        def meanwhile(form: UserForm) -> dict[str, Any]:
            User.objects.filter(pk=self.alice.pk).update(password="changed")
            return clean(form)

        with mock.patch.object(UserForm, "clean", meanwhile):
            self.change(self.alice, name="Ally")
        self.alice.refresh_from_db()
        self.assertEqual((self.alice.name, self.alice.password), ("Ally", "changed"))

    def test_the_last_administrator_stays(self) -> None:
        for fields in ({"is_active": "on"}, {"is_superuser": "on"}):
            self.change(self.ada, **fields)
            self.assertTrue(self.ada.is_active and self.ada.is_superuser)

    def test_nobody_is_deleted_here(self) -> None:
        response = self.client.post(
            reverse("admin:conversations_user_delete", args=[self.alice.pk]), {"post": "yes"}
        )
        self.assertEqual(response.status_code, 403)

    def test_an_invitation_is_revoked_and_its_code_is_not_shown(self) -> None:
        invitation, code = accounts.invite(self.ada, email="eve@example.org")
        page = self.client.get(reverse("admin:conversations_invitation_change", args=[invitation.pk]))
        self.assertNotContains(page, invitation.code_hash)
        self.client.post(
            reverse("admin:conversations_invitation_changelist"),
            {"action": "revoke", "_selected_action": [invitation.pk]},
        )
        self.assertFalse(Invitation.objects.usable().exists())
        with self.assertRaises(accounts.InvitationGone):
            accounts.find_invitation(code)

    def test_only_what_belongs_to_parley_is_in_the_admin(self) -> None:
        shown = {model.__name__ for model in admin.site._registry}
        self.assertEqual(
            shown,
            {
                "Budget",
                "Conversation",
                "Group",
                "Hold",
                "Invitation",
                "LedgerEntry",
                "PriceOverride",
                "Provider",
                "Reply",
                "SavedPreset",
                "User",
            },
        )


def queued_reply(user: User) -> Reply:
    conversation = Conversation.objects.create(user=user, model="scripted/model")
    question = Message.objects.create(conversation=conversation, role="user", content="Hello")
    return Reply.objects.create(
        user=user,
        conversation=conversation,
        question=question,
        model="scripted/model",
        max_tokens=10,
        idempotency_key=uuid4(),
    )
