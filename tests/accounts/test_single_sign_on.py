"""Signing in with an OpenID Connect provider on loopback: the whole way, and every wrong answer."""

from __future__ import annotations

import html
import re
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from allauth.socialaccount.providers import registry
from django.contrib.auth.models import Group
from django.test import Client, TestCase, override_settings

from chatapp.sign_in import IdentityProvider as Settings
from conversations.models import User
from conversations.oidc_flow import Provider

from .identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider, new_key, running_provider
from .people import PASSWORD, make_alice, make_bob, sign_in, signed_in_as

DANA = {"sub": "dana-1", "email": "Dana@Example.org", "email_verified": True, "name": "Dana Diaz"}


class SingleSignOn(TestCase):
    provider: IdentityProvider
    settings_now: Settings

    def setUp(self) -> None:
        self.alice = make_alice()
        stack = ExitStack()
        self.addCleanup(stack.close)
        self.provider = stack.enter_context(running_provider(**DANA))
        self.settings_now = Settings(
            issuer=self.provider.address,
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            name="Example",
            group_claim="groups",
            admin_group="",
            allowed_groups=frozenset(),
        )
        # As when the process was started with a provider: only then its application is installed.
        registry.register(Provider)
        self.addCleanup(registry.provider_map.pop, Provider.id)
        self.configure()

    def configure(self, **changes: Any) -> None:
        """Let Parley know the provider, with these settings changed."""
        self.settings_now = replace(self.settings_now, **changes)
        entry = {"provider_class": "conversations.oidc_flow.Provider", "APPS": [self.settings_now.app()]}
        override = override_settings(
            OIDC=self.settings_now, SOCIALACCOUNT_PROVIDERS={"openid_connect": entry}
        )
        override.enable()
        self.addCleanup(override.disable)

    def begin(self, client: Client | None = None, **form: str) -> str:
        """The address at the provider that the browser is sent to."""
        page = (client or self.client).post("/accounts/oidc/sso/login/", form)
        found = re.search(r'content="0;url=([^"]+)"', page.content.decode())
        assert found, page.content.decode()
        return html.unescape(found[1])

    def answer(self, address: str) -> str:
        """The path that the provider sends the browser back to."""
        response = httpx.get(address)
        self.assertEqual(response.status_code, 302, response.text)
        return response.headers["Location"].removeprefix("http://testserver")

    def go(self, client: Client | None = None, **form: str) -> Any:
        client = client or self.client
        return client.get(self.answer(self.begin(client, **form)))

    def refused(self, page: Any, sentence: str) -> None:
        self.assertContains(page, sentence, status_code=403)
        self.assertFalse(signed_in_as(self.client))
        self.assertFalse(User.objects.filter(email="dana@example.org").exists())


class TheWay(SingleSignOn):
    def test_a_new_person_gets_an_account(self) -> None:
        self.assertContains(self.client.get("/accounts/login/"), "Sign in with Example")
        self.assertRedirects(self.go(), "/", fetch_redirect_response=False)
        dana = User.objects.get(email="dana@example.org")
        self.assertEqual(signed_in_as(self.client), str(dana.pk))
        self.assertEqual(
            (dana.name, dana.is_superuser, dana.has_usable_password()), ("Dana Diaz", False, False)
        )

    def test_the_second_time_is_the_same_account_even_with_a_new_address(self) -> None:
        self.go()
        dana = User.objects.get(email="dana@example.org")
        self.provider.claims["email"] = "dana.diaz@example.org"
        again = Client()
        self.go(again)
        self.assertEqual(signed_in_as(again), str(dana.pk))

    def test_next_is_kept_and_stays_on_this_site(self) -> None:
        self.assertEqual(self.go(next="/preferences/")["Location"], "/preferences/")
        self.assertEqual(self.go(Client(), next="https://evil.example/")["Location"], "/")

    def test_the_request_has_state_nonce_and_pkce_and_no_scope_of_the_visitor(self) -> None:
        page = self.client.post(
            "/accounts/oidc/sso/login/?scope=admin&auth_params=nonce%3Dmine%26prompt%3Dnone"
        )
        found = re.search(r'content="0;url=([^"]+)"', page.content.decode())
        assert found
        asked = parse_qs(urlsplit(html.unescape(found[1])).query)
        self.assertEqual(set(asked["scope"][0].split()), {"openid", "profile", "email"})
        self.assertEqual(asked["code_challenge_method"], ["S256"])
        self.assertGreaterEqual(len(asked["nonce"][0]), 32)
        self.assertTrue(asked["state"][0])
        self.assertNotIn("prompt", asked)

    def test_it_begins_with_a_post_only(self) -> None:
        self.assertEqual(self.client.get("/accounts/oidc/sso/login/").status_code, 405)

    def test_without_a_provider_there_is_nothing(self) -> None:
        with override_settings(OIDC=None):
            self.assertEqual(self.client.post("/accounts/oidc/sso/login/").status_code, 404)
            self.assertEqual(self.client.get("/accounts/oidc/sso/login/callback/").status_code, 404)
            self.assertNotContains(self.client.get("/accounts/login/"), "Sign in with")
        self.assertEqual(self.client.post("/accounts/oidc/other/login/").status_code, 404)

    @override_settings(SIGN_UP="closed")
    def test_closed_lets_in_who_has_an_account_and_nobody_else(self) -> None:
        self.assertContains(self.go(), "New accounts are by invitation")
        self.assertFalse(User.objects.filter(email="dana@example.org").exists())
        self.provider.claims |= {"sub": "alice-1", "email": "alice@example.org"}
        self.go()
        self.assertEqual(signed_in_as(self.client), str(self.alice.pk))

    def test_a_switched_off_person_stays_out(self) -> None:
        self.go()
        User.objects.filter(email="dana@example.org").update(is_active=False)
        again = Client()
        self.assertRedirects(self.go(again), "/accounts/inactive/")
        self.assertFalse(signed_in_as(again))

    def test_the_public_address_is_what_the_provider_is_told(self) -> None:
        with override_settings(PUBLIC_URL="https://chat.example.org"):
            asked = parse_qs(urlsplit(self.begin()).query)
        self.assertEqual(
            asked["redirect_uri"], ["https://chat.example.org/accounts/oidc/sso/login/callback/"]
        )


class WrongAnswers(SingleSignOn):
    UNTRUSTED = "gave an answer that cannot be trusted or read"
    ELSEWHERE = "begun in another browser, or too long ago"

    def logged(self) -> Any:
        return self.assertLogs("conversations.adapters", "WARNING")

    def test_state_of_another_browser(self) -> None:
        self.refused(self.client.get(self.answer(self.begin(Client()))), self.ELSEWHERE)

    def test_no_state_or_a_made_up_one(self) -> None:
        for asked in ("?code=x", "?code=x&state=made-up", ""):
            with self.subTest(asked):
                self.refused(self.client.get(f"/accounts/oidc/sso/login/callback/{asked}"), self.ELSEWHERE)

    def test_an_answer_used_twice(self) -> None:
        path = self.answer(self.begin())
        self.client.get(path)
        self.client.post("/accounts/logout/")
        self.assertContains(self.client.get(path), self.ELSEWHERE, status_code=403)
        self.assertFalse(signed_in_as(self.client))

    def test_a_wrong_or_missing_nonce(self) -> None:
        for nonce in ("replayed", None, 7):
            with self.subTest(nonce):
                self.provider.token_overrides = {"nonce": nonce}
                self.refused(self.go(), self.ELSEWHERE)

    def test_a_token_that_is_not_for_us_or_not_by_them_or_over(self) -> None:
        for lie in (
            {"iss": "https://evil.example"},
            {"aud": "another app"},
            {"exp": 1},
            {"sub": "someone else"},
        ):
            with self.subTest(lie), self.logged():
                self.provider.token_overrides = lie
                self.refused(self.go(), self.UNTRUSTED)

    def test_a_token_signed_by_another_key(self) -> None:
        self.provider.published_key = new_key()
        with self.logged():
            self.refused(self.go(), self.UNTRUSTED)

    def test_no_token(self) -> None:
        self.provider.without_id_token = True
        with self.logged():
            self.refused(self.go(), self.UNTRUSTED)

    def test_a_userinfo_page_about_another_person(self) -> None:
        self.provider.userinfo_overrides = {"sub": "mallory", "email": "alice@example.org"}
        with self.logged():
            self.refused(self.go(), self.UNTRUSTED)

    def test_pages_that_are_not_json(self) -> None:
        for path in ("/token", "/keys", "/userinfo"):
            with self.subTest(path), self.logged():
                self.provider.broken_path = path
                self.refused(self.go(), self.UNTRUSTED)

    def test_a_description_that_is_not_json_or_not_there(self) -> None:
        self.provider.broken_path = "/.well-known/openid-configuration"
        with self.logged():
            self.refused(self.client.post("/accounts/oidc/sso/login/"), self.UNTRUSTED)
        self.configure(issuer="http://127.0.0.1:1")
        with self.logged():
            self.refused(self.client.post("/accounts/oidc/sso/login/"), self.UNTRUSTED)

    def test_a_wrong_client_secret(self) -> None:
        self.configure(client_secret="wrong")
        with self.logged() as logs:
            self.refused(self.go(), self.UNTRUSTED)
        self.assertNotIn("wrong", logs.output[0])

    def test_cancelled(self) -> None:
        state = parse_qs(urlsplit(self.begin()).query)["state"][0]
        page = self.client.get(f"/accounts/oidc/sso/login/callback/?error=access_denied&state={state}")
        self.refused(page, "You cancelled at Example")

    def test_no_address(self) -> None:
        for email in ({"email": None}, {"email": "not an address"}):
            with self.subTest(email):
                self.provider.claims |= email
                self.refused(self.go(), "did not say your e-mail address")


class SameAddress(SingleSignOn):
    def setUp(self) -> None:
        super().setUp()
        self.bob = make_bob()

    def claim(self, email: str, verified: object) -> None:
        self.provider.claims |= {"sub": "someone", "email": email, "email_verified": verified}

    def test_a_verified_address_opens_the_account_that_has_it(self) -> None:
        self.claim("ALICE@example.org", True)
        self.go()
        self.assertEqual(signed_in_as(self.client), str(self.alice.pk))
        self.assertEqual(User.objects.count(), 2)
        self.alice.refresh_from_db()
        self.assertTrue(self.alice.check_password(PASSWORD))

    def test_an_unverified_one_does_not(self) -> None:
        for verified in (False, None, "false", "", 0, "no"):
            with self.subTest(verified):
                self.claim("alice@example.org", verified)
                self.assertContains(self.go(), "Sign in with your password", status_code=403)
                self.assertFalse(signed_in_as(self.client))
        self.assertEqual(User.objects.count(), 2)

    def test_who_took_an_address_before_its_owner_came_is_locked_out(self) -> None:
        thief = Client()
        sign_in(thief, "bob@example.org")
        self.claim("bob@example.org", True)
        self.go()
        self.assertEqual(signed_in_as(self.client), str(self.bob.pk))
        self.assertEqual(thief.get("/preferences/").status_code, 302)
        self.bob.refresh_from_db()
        self.assertFalse(self.bob.check_password(PASSWORD))

    def test_an_account_can_be_connected_and_disconnected_by_its_owner(self) -> None:
        sign_in(self.client, "bob@example.org")
        self.assertContains(self.client.get("/accounts/sso/"), "Connect Example")
        self.claim("bob@elsewhere.example", False)
        self.assertRedirects(self.go(process="connect"), "/accounts/sso/")
        again = Client()
        self.go(again)
        self.assertEqual(signed_in_as(again), str(self.bob.pk))
        connected = self.bob.socialaccount_set.get()  # type: ignore[attr-defined]
        self.client.force_login(self.alice)
        self.client.post("/accounts/sso/", {"account": connected.pk})
        self.assertEqual(self.bob.socialaccount_set.count(), 1)  # type: ignore[attr-defined]
        again.post("/accounts/sso/", {"account": connected.pk})
        self.assertEqual(self.bob.socialaccount_set.count(), 0)  # type: ignore[attr-defined]


class Groups(SingleSignOn):
    def groups(self, groups: object) -> User:
        self.provider.claims["groups"] = groups
        self.go(Client())
        return User.objects.get(email="dana@example.org")

    def names(self, user: User) -> set[str]:
        return set(user.groups.values_list("name", flat=True))

    def test_they_follow_the_provider_at_each_sign_in(self) -> None:
        Group.objects.create(name="design")
        self.assertEqual(self.names(self.groups(["engineering", "design"])), {"engineering", "design"})
        self.assertEqual(self.names(self.groups(["design"])), {"design"})
        self.assertEqual(self.names(self.groups("support")), {"support"})

    def test_nonsense_is_no_group(self) -> None:
        for nonsense in ({"a": 1}, 7, None, [None, 3, "", "x" * 151]):
            with self.subTest(nonsense):
                self.assertEqual(self.names(self.groups(nonsense)), set())

    def test_the_administrators_group_gives_and_takes_the_right(self) -> None:
        self.configure(admin_group="admins")
        self.assertTrue(self.groups(["admins"]).is_superuser)
        self.assertFalse(self.groups(["design"]).is_superuser)
        self.assertFalse(self.groups(["Admins", "admins "]).is_superuser)

    def test_the_last_administrator_stays_one(self) -> None:
        self.configure(admin_group="admins")
        self.provider.claims |= {"sub": "alice-1", "email": "alice@example.org", "groups": []}
        with self.assertLogs("conversations.adapters", "WARNING"):
            self.go()
        self.alice.refresh_from_db()
        self.assertTrue(self.alice.is_superuser)

    def test_without_an_administrators_group_the_right_is_left_alone(self) -> None:
        self.groups(["design"])
        User.objects.filter(email="dana@example.org").update(is_superuser=True)
        self.assertTrue(self.groups([]).is_superuser)

    def test_who_is_in_no_allowed_group_stays_out(self) -> None:
        self.configure(allowed_groups=frozenset({"staff", "guests"}))
        for groups in ([], ["Staff"], None):
            with self.subTest(groups):
                self.provider.claims["groups"] = groups
                self.refused(self.go(), "you are in none of the groups")
        self.assertTrue(self.groups(["guests"]))

    def test_who_has_left_the_group_stays_out_from_then_on(self) -> None:
        self.configure(allowed_groups=frozenset({"staff"}))
        self.groups(["staff"])
        self.provider.claims["groups"] = []
        again = Client()
        self.assertEqual(self.go(again).status_code, 403)
        self.assertFalse(signed_in_as(again))
