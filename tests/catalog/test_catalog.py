"""Which models there are: from the environment, from the database, from this machine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries, Settings

from conversations import catalog, providers
from conversations.catalog import Catalog, ModelEntry, UnknownModel, load_catalog, read_catalog
from conversations.llm.scripted import ScriptedProvider
from conversations.models import PriceOverride, Provider, ProviderModel
from conversations.money import DOLLAR
from conversations.prices import NoPrice
from conversations.providers import provider_for
from conversations.secrets import Secret, encrypt

pytestmark = pytest.mark.django_db

Start = Callable[[int], None]


def add_provider(slug: str = "relay", *model_ids: str, **fields: object) -> Provider:
    values: dict[str, object] = {"name": slug.title(), "base_url": "https://relay.example.org/v1"}
    provider = Provider.objects.create(slug=slug, **{**values, **fields})
    for model_id in model_ids:
        ProviderModel.objects.create(provider=provider, model_id=model_id)
    return provider


def ids(found: Catalog) -> list[str]:
    return [entry.id for entry in found.entries]


class TestEnvironment:
    def test_without_a_key_there_is_no_model(self) -> None:
        assert read_catalog().entries == ()
        assert read_catalog().default() is None
        assert read_catalog().background() is None

    def test_a_key_gives_the_usual_models_of_its_provider(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-123")
        found = read_catalog()
        assert {entry.provider for entry in found.entries} == {"anthropic"}
        assert {entry.dialect for entry in found.entries} == {"anthropic"}
        assert all(entry.model_id.startswith("claude") for entry in found.entries)

    def test_the_models_are_those_that_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-123")
        monkeypatch.setenv("OPENAI_MODELS", "gpt-4.1, meta/llama-9 ,")
        found = read_catalog()
        assert ids(found) == ["openai/gpt-4.1", "openai/meta/llama-9"]
        assert [entry.label for entry in found.entries] == ["gpt-4.1", "llama-9"]

    def test_a_key_may_lie_in_a_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("sk-from-file\n")
        monkeypatch.setenv("DEEPSEEK_API_KEY_FILE", str(tmp_path / "key"))
        endpoint = read_catalog().sources[0].endpoint
        assert endpoint.key.reveal() == "sk-from-file"

    def test_an_own_server_needs_no_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1/")
        monkeypatch.setenv("OPENAI_MODELS", "mine")
        found = read_catalog()
        assert ids(found) == ["openai/mine"]
        assert found.sources[0].endpoint.base_url == "http://127.0.0.1:9000/v1"
        assert found.notes == ()

    @pytest.mark.parametrize(
        ("text", "label"),
        [("free", "Free"), ("2.00/8.00", "$2.00 / $8.00 per million tokens"), ("", "No price")],
    )
    def test_the_environment_may_say_what_an_own_server_costs(
        self, text: str, label: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1/")
        monkeypatch.setenv("OPENAI_MODELS", "mine")
        monkeypatch.setenv("OPENAI_PRICE", text)
        (entry,) = read_catalog().entries
        assert entry.price_label == label
        assert entry.price is None or entry.price.model == "openai/mine"

    def test_what_the_price_list_knows_costs_what_it_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-123")
        monkeypatch.setenv("OPENAI_MODELS", "gpt-4.1")
        monkeypatch.setenv("OPENAI_PRICE", "free")
        assert read_catalog().entries[0].price_label == "$2.00 / $8.00 per million tokens"

    @pytest.mark.parametrize("text", ["2.00", "2/8/1", "-1/2", "much/more", "nan/1"])
    def test_a_price_that_is_none_leaves_out_that_provider_with_a_sentence(
        self, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-123")
        monkeypatch.setenv("OPENAI_PRICE", text)
        found = read_catalog()
        assert found.entries == ()
        assert "OPENAI_PRICE is" in found.problems[0]

    def test_plain_http_to_another_machine_is_used_and_noted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://ollama:11434/v1")
        monkeypatch.setenv("OPENAI_MODELS", "mine")
        found = read_catalog()
        assert ids(found) == ["openai/mine"]
        assert found.notes == (
            "OpenAI is reached by plain http: its key and every message travel unencrypted.",
        )

    @pytest.mark.parametrize("address", ["api.openai.com/v1", "ftp://files.example.org", "http://"])
    def test_a_wrong_address_leaves_out_that_provider_alone(
        self, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-123")
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-123")
        found = read_catalog()
        assert {entry.provider for entry in found.entries} == {"anthropic"}
        assert len(found.problems) == 1
        assert found.problems[0].startswith("OpenAI is left out. The base URL must")

    def test_a_key_file_that_is_missing_leaves_out_that_provider(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY_FILE", "/nowhere/key")
        assert read_catalog().problems == (
            "OpenAI is left out. OPENAI_API_KEY_FILE points to /nowhere/key, which cannot be read: "
            "No such file or directory.",
        )


class TestDatabase:
    def test_enabled_models_of_enabled_providers_are_offered(self) -> None:
        add_provider("relay", "one", "two")
        add_provider("off", "three", is_enabled=False)
        ProviderModel.objects.filter(model_id="two").update(is_enabled=False)
        assert ids(read_catalog()) == ["relay/one"]

    def test_a_window_that_nobody_knows_is_32000(self) -> None:
        add_provider("relay", "one")
        assert read_catalog().get("relay/one").context_window == 32_000

    def test_a_window_that_is_entered_counts(self) -> None:
        provider = add_provider("relay")
        ProviderModel.objects.create(provider=provider, model_id="one", context_window=4_096)
        entry = read_catalog().get("relay/one")
        assert entry.context_window == 4_096
        assert entry.max_output <= 2_048

    def test_the_database_wins_over_the_environment_and_says_so(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
        add_provider("openai", "mine", encrypted_key=encrypt(Secret("sk-database")))
        found = read_catalog()
        assert ids(found) == ["openai/mine"]
        assert found.sources[0].endpoint.key.reveal() == "sk-database"
        assert found.notes == ("OpenAI is set up in the environment and in the admin: the admin's is used.",)

    def test_switching_a_provider_off_in_the_admin_switches_off_the_environments(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
        add_provider("openai", is_enabled=False)
        assert read_catalog().entries == ()

    def test_a_key_under_another_secret_key_leaves_out_its_provider_with_a_sentence(
        self, settings: Settings
    ) -> None:
        add_provider("relay", "one", encrypted_key=encrypt(Secret("sk-relay")))
        add_provider("open", "two")
        settings.SECRET_KEY = "another"
        found = read_catalog()
        assert ids(found) == ["open/two"]
        assert found.problems == (
            "Relay is left out. Its stored key cannot be read, because SECRET_KEY has changed. "
            "Enter the key again.",
        )

    def test_no_key_shows_in_what_the_catalogue_prints(self) -> None:
        add_provider("relay", "one", encrypted_key=encrypt(Secret("sk-relay-0123")))
        found = read_catalog()
        assert found.sources[0].endpoint.key.reveal() == "sk-relay-0123"
        assert "sk-relay" not in f"{found!r} {found} {found.entries[0].endpoint}"


class TestLocalModel:
    def test_it_is_free_local_and_has_a_small_window(self, start_local_model: Start) -> None:
        start_local_model(9001)
        entry = read_catalog().get("local/SmolLM2-135M")
        assert (entry.label, entry.is_free, entry.is_local) == ("SmolLM2-135M", True, True)
        assert (entry.context_window, entry.max_output) == (8_192, 512)

    def test_it_is_not_offered_while_it_is_down(self) -> None:
        with pytest.raises(UnknownModel):
            read_catalog().get("local/SmolLM2-135M")

    def test_it_comes_last(self, start_local_model: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        start_local_model(9001)
        provider = add_provider("relay", "paid")
        ProviderModel.objects.create(provider=provider, model_id="free", is_free=True)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-123")
        monkeypatch.setenv("OPENAI_MODELS", "gpt-4.1")
        assert ids(read_catalog()) == ["relay/paid", "openai/gpt-4.1", "relay/free", "local/SmolLM2-135M"]

    async def test_after_a_restart_it_is_called_at_its_new_address(self, start_local_model: Start) -> None:
        start_local_model(9001)
        first = provider_for(await asyncio.to_thread(local_entry))
        assert provider_for(await asyncio.to_thread(local_entry)) is first
        start_local_model(9002)
        second = provider_for(await asyncio.to_thread(local_entry))
        assert second is not first
        await first.aclose()
        await providers.close_providers()


def local_entry() -> ModelEntry:
    return next(entry for source in catalog._local_source() for entry in source.entries)


def set_price(model: str, input_dollars: int, output_dollars: int, **fields: Any) -> PriceOverride:
    rates = {"input_rate": input_dollars * DOLLAR, "output_rate": output_dollars * DOLLAR}
    return PriceOverride.objects.create(model=model, **{**rates, **fields})


def background_id() -> str | None:
    found = read_catalog().background()
    return found.id if found else None


class TestPrices:
    def test_an_entry_knows_its_price_and_says_it(self, start_local_model: Start) -> None:
        start_local_model(9001)
        add_provider("openai", "gpt-4.1", base_url="https://api.openai.com/v1")
        provider = add_provider("relay", "gpt-4.1")
        ProviderModel.objects.create(provider=provider, model_id="ours", is_free=True)
        labels = {entry.id: entry.price_label for entry in read_catalog().entries}
        assert labels == {
            "openai/gpt-4.1": "$2.00 / $8.00 per million tokens",
            "relay/gpt-4.1": "No price",
            "relay/ours": "Free",
            "local/SmolLM2-135M": "Free on this machine",
        }
        assert [entry.price_in_short for entry in read_catalog().entries] == [
            "$2.00 in · $8.00 out",
            "no price",
            "free",
            "free",
        ]
        assert [entry.id for entry in read_catalog().without_price] == ["relay/gpt-4.1"]

    def test_a_model_without_a_price_is_refused_with_a_sentence_that_helps(self) -> None:
        add_provider("relay", "gpt-4.1")
        with pytest.raises(NoPrice) as caught:
            read_catalog().get("relay/gpt-4.1").known_price()
        assert caught.value.sentence == ("gpt-4.1 has no price. An administrator can set one under Prices.")

    def test_an_override_decides_whether_a_model_is_free(self) -> None:
        provider = add_provider("relay", "one")
        ProviderModel.objects.create(provider=provider, model_id="two", is_free=True)
        set_price("relay/one", 0, 0, is_free=True)
        set_price("relay/two", 1, 2)
        assert {entry.id: entry.is_free for entry in read_catalog().entries} == {
            "relay/one": True,
            "relay/two": False,
        }

    def test_a_new_price_counts_at_once(self, django_capture_on_commit_callbacks: Any) -> None:
        add_provider("relay", "one")
        assert load_catalog().get("relay/one").price is None
        with django_capture_on_commit_callbacks(execute=True):
            set_price("relay/one", 1, 2)
        assert load_catalog().get("relay/one").price_label == "$1.00 / $2.00 per million tokens"

    def test_a_new_conversation_begins_with_a_model_that_has_a_price(self) -> None:
        add_provider("relay", "one", "two")
        set_price("relay/two", 1, 2)
        assert read_catalog().default() == read_catalog().get("relay/two")


class TestChoice:
    def test_the_default_is_the_setting_and_else_the_first(self, settings: Settings) -> None:
        add_provider("relay", "one", "two")
        assert read_catalog().default() == read_catalog().get("relay/one")
        settings.DEFAULT_MODEL = "relay/two"
        assert read_catalog().default() == read_catalog().get("relay/two")

    def test_a_default_that_is_gone_gives_way_to_the_first(self, settings: Settings) -> None:
        add_provider("relay", "one")
        settings.DEFAULT_MODEL = "relay/gone"
        assert read_catalog().default() == read_catalog().get("relay/one")

    def test_background_work_goes_to_the_cheapest_paid_model(self, start_local_model: Start) -> None:
        start_local_model(9001)
        add_provider("openai", "gpt-4.1", "gpt-4.1-mini", base_url="https://api.openai.com/v1")
        add_provider("claude", "claude-haiku-4-5", base_url="https://api.anthropic.com", dialect="anthropic")
        assert background_id() == "openai/gpt-4.1-mini"
        set_price("openai/gpt-4.1-mini", 40, 160)
        assert background_id() == "claude/claude-haiku-4-5"

    def test_among_models_of_one_price_background_work_goes_to_a_small_one(self) -> None:
        add_provider("relay", "gemini-3-pro", "claude-haiku-4-5")
        for model in ("relay/gemini-3-pro", "relay/claude-haiku-4-5"):
            set_price(model, 1, 5)
        assert background_id() == "relay/claude-haiku-4-5"

    def test_background_work_goes_to_no_model_without_a_price(self, start_local_model: Start) -> None:
        add_provider("relay", "gpt-4.1-nano", "large")
        set_price("relay/large", 50, 200)
        assert background_id() == "relay/large"
        PriceOverride.objects.all().delete()
        start_local_model(9001)
        assert background_id() == "local/SmolLM2-135M"

    def test_background_work_goes_to_the_local_model_when_it_is_the_only_one(
        self, start_local_model: Start
    ) -> None:
        start_local_model(9001)
        background = read_catalog().background()
        assert background is not None
        assert background.is_local

    def test_background_work_goes_where_the_setting_says(self, settings: Settings) -> None:
        add_provider("relay", "gpt-4.1", "gpt-4.1-mini")
        settings.BACKGROUND_MODEL = "relay/gpt-4.1"
        background = read_catalog().background()
        assert background is not None
        assert background.id == "relay/gpt-4.1"

    def test_a_model_that_is_gone_is_named_in_a_sentence(self) -> None:
        with pytest.raises(UnknownModel) as caught:
            read_catalog().get("openai/gpt-9")
        assert caught.value.sentence == "gpt-9 is not available any more. Choose another model."


class TestCache:
    def test_a_second_look_asks_nobody(self, django_assert_num_queries: DjangoAssertNumQueries) -> None:
        add_provider("relay", "one")
        first = load_catalog()
        with django_assert_num_queries(0):
            assert load_catalog() is first

    def test_what_was_changed_here_is_seen_at_once(self) -> None:
        assert load_catalog().entries == ()
        add_provider("relay", "one")
        catalog.forget_catalog()
        assert ids(load_catalog()) == ["relay/one"]

    def test_what_was_changed_elsewhere_is_seen_after_five_seconds(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert load_catalog().entries == ()
        add_provider("relay", "one")
        assert load_catalog().entries == ()
        monkeypatch.setattr(catalog, "CACHE_SECONDS", 0.0)
        assert ids(load_catalog()) == ["relay/one"]

    def test_a_load_that_began_before_a_change_is_not_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reading, changed = threading.Event(), threading.Event()

        def slow_read() -> Catalog:
            reading.set()
            assert changed.wait(5)
            return Catalog(notes=("stale",))

        monkeypatch.setattr(catalog, "read_catalog", slow_read)
        thread = threading.Thread(target=load_catalog)
        thread.start()
        assert reading.wait(5)
        catalog.forget_catalog()
        changed.set()
        thread.join(5)
        monkeypatch.undo()
        assert load_catalog().notes == ()

    def test_a_problem_is_logged_once(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "ftp://files.example.org")
        load_catalog()
        catalog.forget_catalog()
        load_catalog()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "OpenAI is left out" in caplog.text


class TestClients:
    async def test_calls_of_one_loop_share_a_client(self) -> None:
        try:
            assert provider_for(entry_at("https://a.example.org")) is provider_for(
                entry_at("https://a.example.org")
            )
        finally:
            await providers.close_providers()

    async def test_a_new_key_gives_a_new_client(self) -> None:
        try:
            first = provider_for(entry_at("https://a.example.org", "one"))
            assert provider_for(entry_at("https://a.example.org", "two")) is not first
            await first.aclose()
        finally:
            await providers.close_providers()

    async def test_a_replaced_client_is_closed_when_its_replies_have_ended(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = asyncio.Event()

        class Client(ScriptedProvider):
            async def aclose(self) -> None:
                closed.set()

        monkeypatch.setattr(providers, "REPLACED_CLIENT_GRACE", 0.0)
        monkeypatch.setattr(providers, "build_provider", lambda *args, **kwargs: Client())
        provider_for(entry_at("https://a.example.org"))
        assert not closed.is_set()
        provider_for(entry_at("https://b.example.org"))
        await asyncio.wait_for(closed.wait(), 5)
        await providers.close_providers()

    def test_each_loop_has_its_own_client(self) -> None:
        async def client() -> int:
            provider = provider_for(entry_at("https://a.example.org"))
            await providers.close_providers()
            return id(provider)

        async def two() -> bool:
            here = provider_for(entry_at("https://a.example.org"))
            there = await asyncio.to_thread(lambda: asyncio.run(client()))
            await providers.close_providers()
            return id(here) != there

        assert asyncio.run(two())

    async def test_a_client_for_one_job_is_closed_after_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        closed = []

        class Client(ScriptedProvider):
            async def aclose(self) -> None:
                closed.append(self)

        monkeypatch.setattr(providers, "build_provider", lambda *args, **kwargs: Client())
        with pytest.raises(RuntimeError):
            async with providers.open_provider(entry_at("https://a.example.org")) as provider:
                raise RuntimeError
        assert closed == [provider]

    async def test_tests_may_put_a_script_in_a_providers_place(self) -> None:
        scripted, entry = ScriptedProvider(), entry_at("https://a.example.org")
        with providers.replaced(Catalog(entries=(entry,)), {"relay": scripted}) as shown:
            assert load_catalog() is shown
            assert provider_for(entry) is scripted
        assert catalog._cache.replacement is None


def entry_at(base_url: str, key: str = "") -> ModelEntry:
    endpoint = catalog.Endpoint(
        slug="relay", label="Relay", dialect="openai", base_url=base_url, key=Secret(key)
    )
    return catalog._entry(endpoint, "one")


def test_a_setting_that_names_a_model_which_is_not_there_is_said(settings: Settings) -> None:
    add_provider("relay", "one")
    settings.DEFAULT_MODEL, settings.BACKGROUND_MODEL = "relay/gone", "relay/one"
    notes = read_catalog().notes
    assert [note for note in notes if "relay/gone" in note and note.startswith("DEFAULT_MODEL")]
    assert not [note for note in notes if note.startswith("BACKGROUND_MODEL")]
