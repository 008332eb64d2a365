"""The empty page, errors, health, and what no page may contain."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

from csp.decorators import csp_exempt, csp_update
from csp.middleware import CSPMiddleware
from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, SimpleTestCase, TestCase, override_settings

from conversations.middleware import PolicyMiddleware
from tests import cast

from .base import LARGE, LOCAL, PageTests, conversation_of, signed_in

TEMPLATES = sorted(Path(settings.BASE_DIR, "templates").rglob("*.html"))


class EmptyPageTests(PageTests):
    models = (LOCAL,)

    def test_it_says_which_model_answers_and_how_to_get_a_stronger_one(self) -> None:
        self.assertIn("You are talking to SmolLM2-135M running on this machine.", self.page("home"))
        self.assertIn("An administrator can add a stronger model.", self.page("home"))

    def test_an_administrator_gets_the_link(self) -> None:
        page = signed_in(cast.ada()).get("/").content.decode()
        self.assertRegex(
            page, r'<a class="link" href="/admin/[^"]*">Add a provider key</a> for a stronger model\.'
        )

    def test_the_composer_says_that_it_is_free(self) -> None:
        self.assertIn("Free on this machine", self.page("home"))


class LocalModelBesideOthersTests(PageTests):
    models = (LOCAL, LARGE)

    def test_nobody_is_asked_for_a_key_that_is_there(self) -> None:
        page = signed_in(cast.ada()).get("/").content.decode()
        self.assertIn("running on this machine. A stronger model can be chosen below.", page)
        self.assertNotIn("Add a provider key", page)


class PaidModelTests(PageTests):
    models = (LARGE,)

    def test_no_cost_is_claimed_for_a_paid_model(self) -> None:
        self.assertNotIn("Free", self.page("home"))


class NoModelTests(PageTests):
    models = ()

    def test_without_any_model_the_page_says_so_and_cannot_send(self) -> None:
        page = self.page("home")
        self.assertIn("No model is set up.", page)
        self.assertRegex(page, r'<button class="send"[^>]* disabled>')

    def test_a_conversation_whose_model_is_gone_can_still_be_read(self) -> None:
        self.assertIn("Harbour fees", self.page("conversation", conversation_of(self.alice).pk))


class FrameTests(PageTests):
    def test_the_theme_is_rendered_by_the_server(self) -> None:
        self.assertNotIn("data-theme", self.page("home"))
        self.alice.theme = "dark"
        self.alice.save()
        self.assertIn('data-theme="dark"', self.page("home"))

    def test_pages_forbid_inline_script_and_style(self) -> None:
        policy = self.client.get("/")["Content-Security-Policy"]
        self.assertNotIn("unsafe", policy)
        self.assertIn("script-src 'self'", policy)

    def test_the_policy_is_what_django_csp_makes_of_the_settings_and_of_a_view(self) -> None:
        def usual(request: HttpRequest) -> HttpResponse:
            return HttpResponse()

        request = RequestFactory().get("/")
        for view in (usual, csp_update({"img-src": "https:"})(usual), csp_exempt()(usual)):
            ours = PolicyMiddleware(usual).process_response(request, view(request))
            theirs = CSPMiddleware(usual).process_response(request, view(request))
            self.assertEqual(ours.headers, theirs.headers)

    def test_a_hidden_sidebar_stays_hidden(self) -> None:
        self.client.cookies["sidebar"] = "hidden"
        self.assertIn('data-sidebar="hidden"', self.page("home"))

    def test_a_name_is_text(self) -> None:
        self.alice.name = "<img src=x>"
        self.alice.save()
        self.assertNotIn("<img", self.page("home"))


class TemplateTests(SimpleTestCase):
    """What a strict content security policy would block must not be written at all."""

    def test_no_template_has_inline_script_style_or_handlers(self) -> None:
        forbidden = re.compile(
            r"<script(?![^>]*\bsrc=)|\sstyle=|<style|\son[a-z]+=|javascript:|https?://", re.IGNORECASE
        )
        for template in TEMPLATES:
            if "email" in template.parts or template.parent.name == "messages":
                continue
            with self.subTest(template=template.name):
                self.assertIsNone(forbidden.search(template.read_text()))

    def test_the_stylesheet_and_the_scripts_fetch_nothing(self) -> None:
        for file in Path(settings.BASE_DIR, "static").rglob("*.[cj]s*"):
            text = file.read_text()
            with self.subTest(file=file.name):
                self.assertNotRegex(text, r"https?://|@import|url\(")

    def test_every_icon_that_is_used_is_in_the_sprite(self) -> None:
        sprite = Path(settings.BASE_DIR, "templates/partials/sprite.html").read_text()
        drawn = set(re.findall(r'id="i-([a-z]+)"', sprite))
        used = {
            name
            for template in TEMPLATES
            for name in re.findall(r'{% icon "([a-z]+)" %}', template.read_text())
        }
        self.assertEqual(used - drawn, set())


class ErrorPageTests(TestCase):
    def test_what_is_not_there_is_one_sentence(self) -> None:
        response = signed_in(cast.alice()).get("/nowhere/")
        self.assertContains(response, "There is nothing here.", status_code=404)

    def test_a_failure_shows_a_sentence_and_no_traceback(self) -> None:
        client = Client(raise_request_exception=False)
        client.force_login(cast.alice())
        with (
            mock.patch(
                "conversations.views.conversations.composer_for_new", side_effect=ValueError("secret")
            ),
            self.assertLogs("django.request", "ERROR"),
        ):
            response = client.get("/")
        self.assertContains(response, "Something failed here.", status_code=500)
        self.assertNotContains(response, "secret", status_code=500)

    def test_a_form_without_its_token_is_refused_with_advice(self) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(cast.alice())
        response = client.post("/conversations/", {"text": "x"})
        self.assertContains(response, "This page is out of date.", status_code=403)
        self.assertNotIn("X-Signed-Out", response)
        client.logout()
        self.assertIn("X-Signed-Out", client.post("/conversations/", {"text": "x"}))


class HealthTests(TestCase):
    def test_alive_needs_nothing(self) -> None:
        self.assertEqual(Client().get("/healthz").content, b"ok\n")

    def test_ready_has_a_line_for_each_thing(self) -> None:
        response = Client().get("/readyz")
        self.assertEqual(response.content.decode(), "database: ok\nredis: ok\nmigrations: ok\n")

    @override_settings(REDIS_URL="redis://127.0.0.1:1/0")
    def test_a_missing_redis_is_named(self) -> None:
        response = Client().get("/readyz")
        self.assertEqual(response.status_code, 503)
        self.assertIn("redis: does not answer", response.content.decode())

    def test_missing_migrations_and_a_missing_database_are_named(self) -> None:
        with mock.patch(
            "conversations.views.health.MigrationExecutor.migration_plan", return_value=[("one", False)]
        ):
            self.assertIn("migrations: 1 not applied", Client().get("/readyz").content.decode())
        with mock.patch("conversations.views.health.connection") as connection:
            connection.cursor.side_effect = DatabaseError
            self.assertIn("database: does not answer", Client().get("/readyz").content.decode())
