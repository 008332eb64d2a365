"""A stranger sees nothing: each address of the site has a declared rule, and every rule is tried on it.

The list comes from the URL configuration itself, so that a new address fails here until somebody says who may open it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID, uuid4

from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.test import Client, TestCase
from django.urls import NoReverseMatch, URLPattern, URLResolver, get_resolver, reverse

from chatapp.asgi import IN_FRONT
from conversations.models import Conversation, MemoryItem, Message, Reply, ReplyState, SavedPreset, User
from tests import cast
from tests.operations.asgi import request

PUBLIC = "public"  # anyone may open it; it shows no person's object
LOGIN = "login"  # anyone signed in may open it; it shows their own objects
OWNER = "owner"  # it names an object: 404 for all but its owner
STAFF = "staff"  # administrators alone
TOKEN = "token"  # a program that carries a token, or one on this machine; signing in helps nobody

#: Who may open what. Addresses of the admin site are STAFF by their namespace.
RULES: dict[str, str] = {
    "home": LOGIN,
    "sidebar": LOGIN,
    "archived": LOGIN,
    "search": LOGIN,
    "budget": LOGIN,
    "estimate": LOGIN,  # names a conversation in its form: see tests/pages/test_estimate.py
    "spend": LOGIN,
    "spend_export": LOGIN,
    "conversation_create": LOGIN,
    "conversation": OWNER,
    "conversation_composer": OWNER,
    "conversation_settings": OWNER,
    "conversation_context": OWNER,
    "conversation_summaries": OWNER,
    "cost_lab": OWNER,
    "cost_lab_export": OWNER,
    "conversation_menu": OWNER,
    "conversation_rename": OWNER,
    "conversation_pin": OWNER,
    "conversation_archive": OWNER,
    "conversation_delete": OWNER,
    "conversation_restore": OWNER,
    "message_send": OWNER,
    "messages_earlier": OWNER,
    "message_text": OWNER,
    "message_edit": OWNER,
    "reply": OWNER,
    "reply_stop": OWNER,
    "reply_retry": OWNER,
    "reply_continue": OWNER,
    "reply_keep": OWNER,
    "reply_withdraw": OWNER,
    "reply_request": OWNER,
    "reply_request_download": OWNER,
    "conversation_memory": OWNER,
    "memory": LOGIN,
    "memory_export": LOGIN,
    "memory_switch": LOGIN,
    "memory_restore": LOGIN,  # what it brings back is signed for its owner: see tests/memory/test_forgetting.py
    "memory_edit": OWNER,
    "memory_scope": OWNER,
    "memory_pin": OWNER,
    "memory_answer": OWNER,
    "memory_forget": OWNER,
    "presets": LOGIN,
    "presets_new": LOGIN,
    "presets_import": LOGIN,
    "presets_default": LOGIN,
    "preset_edit": OWNER,
    "preset_delete": OWNER,
    "preset_restore": OWNER,
    "preset_share": OWNER,
    "preset_export": OWNER,
    "notice": LOGIN,
    "notice_put_away": OWNER,
    "setup": PUBLIC,
    "join": PUBLIC,
    "invitations": STAFF,
    "invitation_revoke": STAFF,
    "preferences": LOGIN,
    "account_login": PUBLIC,
    "account_logout": LOGIN,
    "account_inactive": PUBLIC,
    "account_signup": PUBLIC,
    "account_reauthenticate": LOGIN,
    "account_email_verification_sent": PUBLIC,
    "account_confirm_email": PUBLIC,
    "account_change_password": LOGIN,
    "account_set_password": LOGIN,
    "account_reset_password": PUBLIC,
    "account_reset_password_done": PUBLIC,
    "account_reset_password_from_key": PUBLIC,
    "account_reset_password_from_key_done": PUBLIC,
    "socialaccount_connections": LOGIN,
    "openid_connect_login": PUBLIC,
    "openid_connect_callback": PUBLIC,
    "healthz": PUBLIC,
    "readyz": PUBLIC,
}

#: Who may open what is answered in front of Django. Streams: tests/replies/test_stream.py.
RULES_IN_FRONT = {"/replies/<id>/stream/": OWNER, "/static/": PUBLIC, "/metrics": TOKEN}


@dataclass(frozen=True)
class Address:
    name: str
    namespace: str
    converters: dict[str, str]  #: kind of each argument, by name

    @property
    def full_name(self) -> str:
        return f"{self.namespace}:{self.name}" if self.namespace else self.name

    @property
    def rule(self) -> str | None:
        return STAFF if self.namespace == "admin" else RULES.get(self.name)


def addresses() -> list[Address]:
    found = {address.full_name: address for address in _walk(get_resolver(), "", {})}
    return list(found.values())


def _walk(resolver: URLResolver, namespace: str, converters: dict[str, str]) -> Iterator[Address]:
    for pattern in resolver.url_patterns:
        arguments = converters | _arguments(pattern)
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern, pattern.namespace or namespace, arguments)
        else:
            yield Address(pattern.name or str(pattern.pattern), namespace, arguments)


def _arguments(pattern: URLPattern | URLResolver) -> dict[str, str]:
    converters = pattern.pattern.converters
    kinds = {
        name: type(found).__name__.removesuffix("Converter").lower() for name, found in converters.items()
    }
    return kinds or dict.fromkeys(pattern.pattern.regex.groupindex, "text")


class EveryAddressTests(TestCase):
    alice: User
    charlie: User
    ada: User
    conversation: Conversation
    message: Message
    memory: MemoryItem
    preset: SavedPreset
    reply: Reply

    @classmethod
    def setUpTestData(cls) -> None:
        cls.alice, cls.charlie, cls.ada = cast.alice(), cast.charlie(), cast.ada()
        cls.conversation = Conversation.objects.create(user=cls.alice, model="scripted/model")
        question = Message.objects.create(
            conversation=cls.conversation, role="user", content="Alice's secret"
        )
        answer = Message.objects.create(
            conversation=cls.conversation, parent=question, role="assistant", content="Alice's answer"
        )
        cls.message = question
        cls.memory = MemoryItem.objects.create(
            user=cls.alice, scope="person", kind="task", text="Alice's fact"
        )
        cls.preset = SavedPreset.objects.create(owner=cls.alice, name="Alice's preset")
        cls.reply = Reply.objects.create(
            user=cls.alice,
            conversation=cls.conversation,
            question=question,
            answer=answer,
            model="scripted/model",
            max_tokens=10,
            state=ReplyState.COMPLETE,
            idempotency_key=uuid4(),
        )
        Conversation.objects.filter(pk=cls.conversation.pk).update(leaf=answer)

    def test_each_address_has_a_rule(self) -> None:
        without = [address.full_name for address in addresses() if address.rule is None]
        self.assertEqual(without, [], "say who may open these, in RULES")

    def test_each_rule_has_an_address(self) -> None:
        self.assertEqual(set(RULES) - {address.name for address in addresses()}, set())

    def test_what_is_answered_in_front_of_django_has_rules_too(self) -> None:
        paths = {path.replace("<id>", str(self.reply.pk)): path for path in RULES_IN_FRONT}
        found = [[known for path, known in paths.items() if pattern.match(path)] for pattern, _ in IN_FRONT]
        self.assertEqual(sorted(found), sorted([known] for known in RULES_IN_FRONT), "say who may open these")

    async def test_signing_in_does_not_replace_a_token(self) -> None:
        client = await sync_to_async(self._signed_in)(self.ada)
        cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
        for path in (path for path, rule in RULES_IN_FRONT.items() if rule == TOKEN):
            for method in ("GET", "POST"):
                status, _, body = await request(path, client="203.0.113.9", method=method, cookie=cookie)
                with self.subTest(path=path, method=method):
                    self.assertEqual((status, body), (401, ""))

    def test_nobody_opens_anything_without_signing_in(self) -> None:
        for address in self._with_rule(LOGIN, OWNER, STAFF):
            for method in ("get", "post"):
                response = getattr(Client(), method)(self._url(address))
                with self.subTest(address=address.full_name, method=method):
                    self._assert_sent_to_login(response)

    def test_a_stranger_finds_nothing_at_another_persons_object(self) -> None:
        client = self._signed_in(self.charlie)
        for address in self._with_rule(OWNER):
            for method in ("get", "post"):
                response = getattr(client, method)(self._url(address))
                with self.subTest(address=address.full_name, method=method):
                    self.assertIn(response.status_code, {404, 405})
                    self.assertNotIn("Alice's", response.content.decode())
            # 405 alone would prove nothing: one method of the two must have looked for the object.
            statuses = {getattr(client, m)(self._url(address)).status_code for m in ("get", "post")}
            with self.subTest(address=address.full_name):
                self.assertIn(404, statuses)

    def test_an_administrator_is_a_stranger_too_outside_the_admin(self) -> None:
        client = self._signed_in(self.ada)
        for address in self._with_rule(OWNER):
            with self.subTest(address=address.full_name):
                statuses = {getattr(client, m)(self._url(address)).status_code for m in ("get", "post")}
                self.assertLessEqual(statuses, {404, 405})

    def test_the_admin_is_closed_to_people(self) -> None:
        client = self._signed_in(self.charlie)
        for address in self._with_rule(STAFF):
            with self.subTest(address=address.full_name):
                responses = [getattr(client, method)(self._url(address)) for method in ("get", "post")]
                statuses = {response.status_code for response in responses}
                self.assertLessEqual(statuses, {302, 403, 404, 405})
                self.assertNotEqual(statuses, {405})
                self.assertNotIn(b"Alice's", b"".join(response.content for response in responses))

    def test_unsafe_methods_need_the_token(self) -> None:
        for address in self._with_rule(PUBLIC, LOGIN, OWNER, STAFF):
            client = Client(enforce_csrf_checks=True)
            client.force_login(self.ada if address.rule == STAFF else self.alice)
            for method in ("post", "put", "patch", "delete"):
                response = getattr(client, method)(self._url(address))
                with self.subTest(address=address.full_name, method=method):
                    self.assertIn(response.status_code, {403, 405})

    def _with_rule(self, *rules: str) -> list[Address]:
        return [address for address in addresses() if address.rule in rules]

    def _url(self, address: Address) -> str:
        arguments = {name: self._object(address, name) for name in address.converters}
        try:
            return reverse(address.full_name, kwargs=arguments)
        except NoReverseMatch:
            # The catch-all patterns of the admin site have no name.
            assert address.namespace == "admin" and not address.name.isidentifier(), address
            return "/admin/nowhere/"

    def _object(self, address: Address, argument: str) -> UUID | str | int:
        """Alice's object that the address names; for other arguments, something of the right form."""
        objects = {
            "conversation": self.conversation.pk,
            "message": self.message.pk,
            "reply": self.reply.pk,
            "preset": self.preset.pk,
            "memory": self.memory.pk,
        }
        noun = {"message_send": "conversation", "messages_earlier": "conversation"}.get(
            address.name, address.name.split("_")[0]
        )
        if argument == "pk" and noun in objects and not address.namespace:
            return objects[noun]
        if argument == "app_label":
            return "conversations"
        return uuid4() if address.converters[argument] == "uuid" else 1

    def _signed_in(self, user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    def _assert_sent_to_login(self, response: HttpResponse) -> None:
        if response.status_code == 405:
            return
        self.assertIn(response.status_code, {302, 303})
        # Signing out of the admin site leads to its first page, which leads to the login.
        self.assertRegex(response.headers["Location"], r"^/(accounts/login/|admin/login/|admin/$)")
