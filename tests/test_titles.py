"""A conversation gets a short title after its first exchange, and never loses one that a person typed."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from conversations import titles
from conversations.catalog import Catalog, Endpoint, ModelEntry
from conversations.llm.errors import Overloaded
from conversations.llm.scripted import Cut, Pause, Script, ScriptedProvider
from conversations.llm.types import CompletionRequest, Finish, FinishReason, ReasoningDelta
from conversations.models import Conversation, Message, User
from conversations.providers import replaced
from conversations.titles import LONGEST_TITLE, clean_title, first_words, title_due, write_title
from tests.fake_provider import FakeProvider, serving
from tests.prices.cheap import a_price

pytestmark = pytest.mark.django_db

ENTRY = ModelEntry(
    id="scripted/small",
    provider="scripted",
    provider_label="Scripted",
    model_id="small",
    label="small",
    dialect="openai",
    context_window=8_192,
    max_output=512,
    price=a_price("scripted/small"),
)


@contextmanager
def model(*script: object, entry: ModelEntry = ENTRY) -> Iterator[ScriptedProvider]:
    """The background model plays this script."""
    provider = ScriptedProvider(script)  # type: ignore[arg-type]
    with replaced(Catalog(entries=(entry,)), {entry.provider: provider}):
        yield provider


@pytest.fixture
def conversation() -> Conversation:
    alice = User.objects.create_user("alice@example.org")
    return Conversation.objects.create(user=alice, model="scripted/small")


def exchange(conversation: Conversation, question: str, answer: str | None = "It is Oslo.") -> Message:
    asked = Message.objects.create(conversation=conversation, role="user", content=question)
    if answer is not None:
        Message.objects.create(conversation=conversation, role="assistant", content=answer, parent=asked)
    return asked


class TestDue:
    def test_it_is_due_after_the_first_answer(self, conversation: Conversation) -> None:
        assert not title_due(conversation)
        exchange(conversation, "What is the capital of Norway?")
        assert title_due(conversation)

    def test_a_question_without_an_answer_has_no_title_yet(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?", answer=None)
        assert not title_due(conversation)

    def test_an_empty_answer_is_none(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?", answer="")
        assert not title_due(conversation)

    def test_an_answer_that_was_cut_off_is_none(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        Message.objects.filter(role="assistant").update(is_set_aside=True)
        assert not title_due(conversation)

    @pytest.mark.parametrize("source", ["model", "person"])
    def test_a_named_conversation_needs_none(self, source: str, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        conversation.title_source = source
        assert not title_due(conversation)

    def test_a_deleted_conversation_needs_none(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        conversation.deleted_at = timezone.now()
        assert not title_due(conversation)


class TestWriting:
    def test_the_models_words_become_the_title(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        with model("Capital ", "of Norway") as provider:
            assert write_title(conversation.pk) == "Capital of Norway"
        conversation.refresh_from_db()
        assert (conversation.title, conversation.title_source) == ("Capital of Norway", "model")
        assert provider.open_streams == 0

    def test_the_prompt_is_bounded_and_its_own(self, conversation: Conversation) -> None:
        conversation.system_prompt = "You are a pirate."
        conversation.save()
        exchange(conversation, "q" * 5_000, "a" * 5_000)
        with model("Letters") as provider:
            write_title(conversation.pk)
        (request,) = provider.requests
        (message,) = request.messages
        assert message.content.count("q") <= titles.EXCERPT + 10
        assert len(message.content) < 1_400
        assert "pirate" not in message.content
        assert (request.max_tokens, request.temperature) == (24, 0.3)

    def test_a_model_that_thinks_has_room_for_its_thoughts(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        thinker = replace(ENTRY, thinks=True, supports_temperature=False)
        with model(ReasoningDelta(text="The user asks ..."), "Norway", entry=thinker) as provider:
            assert write_title(conversation.pk) == "Norway"
        assert provider.requests[0].max_tokens == 1_024
        assert provider.requests[0].temperature is None

    def test_a_second_run_changes_nothing_and_asks_nobody(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        with model("Capital of Norway"):
            write_title(conversation.pk)
        with model("Something else") as provider:
            assert write_title(conversation.pk) is None
        assert provider.requests == []
        conversation.refresh_from_db()
        assert conversation.title == "Capital of Norway"

    @pytest.mark.django_db(transaction=True)
    def test_a_title_typed_while_the_model_thinks_stays(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")

        def rename_meanwhile(request: CompletionRequest) -> Script:
            rename = Conversation.objects.filter(pk=conversation.pk).update
            run_in_thread(lambda: rename(title="My trip", title_source="person"))
            return ("Capital of Norway",)

        provider = ScriptedProvider(rename_meanwhile)
        with replaced(Catalog(entries=(ENTRY,)), {"scripted": provider}):
            assert write_title(conversation.pk) is None
        conversation.refresh_from_db()
        assert (conversation.title, conversation.title_source) == ("My trip", "person")

    def test_a_conversation_that_is_gone_gets_none(self, conversation: Conversation) -> None:
        gone = conversation.pk
        conversation.delete()
        assert write_title(gone) is None

    def test_the_title_does_not_move_the_conversation_to_the_top(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        before = conversation.last_updated
        with model("Capital of Norway"):
            write_title(conversation.pk)
        conversation.refresh_from_db()
        assert conversation.last_updated == before

    def test_a_real_server_is_asked_once_and_its_connection_closed(self, conversation: Conversation) -> None:
        exchange(conversation, "[[reply=Capital of Norway]]")
        with served(FakeProvider()) as (app, base_url):
            endpoint = Endpoint(slug="scripted", label="Scripted", dialect="openai", base_url=base_url)
            entry = replace(ENTRY, endpoint=endpoint)
            with replaced(Catalog(entries=(entry,)), {}):
                assert write_title(conversation.pk) == "Capital of Norway"
            assert (app.stats.calls, app.stats.open) == (1, 0)


class TestFallback:
    @pytest.mark.parametrize(
        "script",
        [
            [],
            [Overloaded()],
            ["Capital", Cut()],
            ["  \n\n"],
            ["The capital of Norway is Oslo, a city of 700,000 people at the end of the Oslofjord."],
            [titles.TASK],
            ["Question: What is the capital of Norway?"],
            ["<think>The user asks about Norway"],
            ["\u200b\u202e"],
            ["It is Oslo, of course."],
            ["Capital of Norway and", Finish(reason=FinishReason.LENGTH, usage=None)],
        ],
        ids=[
            "nothing",
            "error",
            "cut",
            "blank",
            "long",
            "prompt",
            "echo",
            "thought",
            "invisible",
            "answer",
            "unfinished",
        ],
    )
    def test_the_first_words_of_the_question_serve(
        self, script: list[object], conversation: Conversation
    ) -> None:
        exchange(conversation, "What is the capital of Norway?", "It is Oslo, of course. It has a fjord.")
        with model(*script):
            assert write_title(conversation.pk) == "What is the capital of Norway?"

    def test_a_first_line_counts_when_the_rest_is_cut(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        with model("Oslo\nThe city of", Finish(reason=FinishReason.LENGTH, usage=None)):
            assert write_title(conversation.pk) == "Oslo"

    def test_a_model_that_takes_too_long_is_left(
        self, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exchange(conversation, "What is the capital of Norway?")
        monkeypatch.setattr(titles, "TIME_OUT", 0.05)
        with model(Pause(seconds=30), "Too late") as provider:
            assert write_title(conversation.pk) == "What is the capital of Norway?"
        assert provider.closed_early == 1

    def test_without_any_model_the_question_serves(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        with replaced(Catalog(), {}):
            assert write_title(conversation.pk) == "What is the capital of Norway?"

    def test_a_question_that_nobody_can_read_is_named_after_its_answer(
        self, conversation: Conversation
    ) -> None:
        exchange(conversation, " \u202e \n", "I see nothing there.")
        with model():
            assert write_title(conversation.pk) == "I see nothing there."

    def test_where_nobody_can_read_anything_the_title_stays(self, conversation: Conversation) -> None:
        exchange(conversation, " \u202e \n", "\u200b")
        with model():
            assert write_title(conversation.pk) is None
        conversation.refresh_from_db()
        assert (conversation.title, conversation.title_source) == ("New Conversation", "default")

    def test_no_log_holds_the_question(
        self, conversation: Conversation, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        exchange(conversation, "My secret plan")
        with model(Overloaded("your prompt was: My secret plan")):
            write_title(conversation.pk)
        assert "no title from the model: Overloaded" in caplog.text
        assert "secret plan" not in "\n".join(
            record.getMessage() for record in caplog.records if record.name.startswith("conversations")
        )


class TestCleaning:
    @pytest.mark.parametrize(
        ("said", "title"),
        [
            ("Capital of Norway", "Capital of Norway"),
            ('"Capital of Norway"', "Capital of Norway"),
            ("“Capital of Norway.”", "Capital of Norway"),
            ("«Столица Норвегии»", "Столица Норвегии"),
            ("「ノルウェーの首都」", "ノルウェーの首都"),
            ("Title: Capital of Norway", "Capital of Norway"),
            ("**Title:** Capital of Norway", "Capital of Norway"),
            ("The conversation title: 'Capital of Norway'", "Capital of Norway"),
            ("# Capital of Norway\n\nIt is about Oslo.", "Capital of Norway"),
            ("\n\n  Capital\tof   Norway \n", "Capital of Norway"),
            ("<think>Norway? Oslo.</think>\nCapital of Norway", "Capital of Norway"),
            ("Learning C#", "Learning C#"),
            ("What is __init__", "What is __init__"),
            ("Why is it so cold?", "Why is it so cold?"),
            ("Titles of nobility", "Titles of nobility"),
            ("Capital\x00 of\u202e Norway\u2069", "Capital of Norway"),
            ("Capital \ud800of Norway", "Capital of Norway"),
            ("👩\u200d🔬 at work", "👩\u200d🔬 at work"),
            ("\u0645\u06cc\u200c\u062e\u0648", "\u0645\u06cc\u200c\u062e\u0648"),  # Persian, with its joiner
            ("عاصمة النرويج", "عاصمة النرويج"),
            ("", ""),
            ("…", ""),
            ("one two three four five six seven eight nine ten eleven twelve thirteen", ""),
        ],
    )
    def test_what_the_model_says_becomes_one_plain_line(self, said: str, title: str) -> None:
        assert clean_title(said) == title

    @pytest.mark.parametrize("shorten", [clean_title, first_words])
    @pytest.mark.parametrize(
        "long", ["internationalisation " * 6, "x" * 200, "長" * 200, "Donaudampfschiff, " * 9]
    )
    def test_it_has_at_most_60_characters(self, shorten: Callable[[str], str], long: str) -> None:
        title = shorten(long)
        assert 0 < len(title) <= LONGEST_TITLE
        assert title.endswith("…")

    def test_it_is_cut_behind_a_word(self) -> None:
        assert first_words("How do I " + "really " * 20) == (
            "How do I really really really really really really really…"
        )

    def test_exactly_60_characters_stay(self) -> None:
        assert first_words("x" * 60) == "x" * 60

    def test_a_question_of_many_lines_becomes_one(self) -> None:
        assert first_words("Fix this:\n\n```\nprint(1)\n```") == "Fix this: ``` print(1) ```"


def run_in_thread(work: Callable[[], object]) -> None:
    """The database is closed to code that runs in an event loop."""

    def run() -> None:
        work()
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(5)


@contextmanager
def served(app: FakeProvider) -> Iterator[tuple[FakeProvider, str]]:
    """The fake provider on loopback, in a thread with a loop of its own."""
    found: queue.Queue[str] = queue.Queue()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving(app) as base_url:
            found.put(base_url)
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        yield app, found.get(timeout=5)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()


class TestClaims:
    def test_of_two_workers_one_asks(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        assert titles.claim(conversation)
        with model("Norway") as provider:
            assert write_title(conversation.pk) is None
        assert provider.requests == []

    def test_after_its_lease_another_worker_takes_over(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        titles.claim(conversation)
        expire_lease(conversation)
        with model("Norway"):
            assert write_title(conversation.pk) == "Norway"

    def test_after_three_calls_no_model_is_asked(self, conversation: Conversation) -> None:
        exchange(conversation, "What is the capital of Norway?")
        Conversation.objects.filter(pk=conversation.pk).update(title_attempts=titles.MOST_CALLS)
        with model("Norway") as provider:
            assert write_title(conversation.pk) == "What is the capital of Norway?"
        assert provider.requests == []

    def test_what_cannot_be_named_is_left_in_the_end(self, conversation: Conversation) -> None:
        exchange(conversation, " \u202e \n", "\u200b")
        for _ in range(10):
            with model():
                write_title(conversation.pk)
            expire_lease(conversation)
        conversation.refresh_from_db()
        assert conversation.title_attempts == titles.MOST_CALLS + 1
        assert titles.missing(limit=20) == []

    def test_the_search_finds_what_is_due_alone(self, conversation: Conversation) -> None:
        assert titles.missing(limit=20) == []  # no answer yet
        exchange(conversation, "What is the capital of Norway?")
        assert titles.missing(limit=20) == [conversation.pk]
        titles.claim(conversation)
        assert titles.missing(limit=20) == []  # somebody is on it
        expire_lease(conversation)
        assert titles.missing(limit=20) == [conversation.pk]
        Conversation.objects.filter(pk=conversation.pk).update(
            last_updated=timezone.now() - timedelta(days=2)
        )
        assert titles.missing(limit=20) == []


def expire_lease(conversation: Conversation) -> None:
    Conversation.objects.filter(pk=conversation.pk).update(
        title_lease_expires_at=timezone.now() - timedelta(1)
    )
