"""Which models there are and who serves them: from the environment, the database and this machine."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.utils import timezone

from chatapp.embedded import paths
from chatapp.embedded.address import is_loopback
from chatapp.environment import env_list, env_secret, env_str
from conversations import models
from conversations.llm import known_models
from conversations.llm.client import checked_base_url
from conversations.llm.registry import KNOWN_PROVIDERS, KnownProvider
from conversations.llm.types import Usage
from conversations.money import parse_dollars
from conversations.prices import NoPrice, Price, Rates, free_price, overrides_at, price_of
from conversations.secrets import KeyUnreadable, Secret, decrypt

log = logging.getLogger(__name__)

CACHE_SECONDS = 5.0

LOCAL_PROVIDER = "local"
LOCAL_MODEL = "SmolLM2-135M"
LOCAL_WINDOW = 8_192
LOCAL_REPLY = 512  # so that a reply on two cores ends within half a minute

# Words by which providers name their small models, the smallest first: for models of one price.
SMALL_NAMES = ("nano", "lite", "8b", "mini", "flash", "haiku", "small")


class UnknownModel(LookupError):
    """This model is not available any more. Choose another model."""

    def __init__(self, model_id: str) -> None:
        super().__init__(model_id)
        self.model_id = model_id

    @property
    def sentence(self) -> str:
        name = self.model_id.partition("/")[2] or self.model_id
        return f"{name} is not available any more. Choose another model." if name else self.__doc__ or ""

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a provider answers, in which dialect and for which key."""

    slug: str
    label: str
    dialect: str
    base_url: str
    key: Secret = field(default_factory=Secret, repr=False)


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model that people may choose."""

    id: str  #: provider/model_id, as conversations store it
    provider: str
    provider_label: str
    model_id: str  #: the provider's own name for it
    label: str  #: short name, for the page
    dialect: str
    context_window: int  #: tokens, prompt and reply together
    max_output: int  #: tokens
    is_free: bool = False  #: calls cost nothing: its price says so, too
    is_local: bool = False
    price: Price | None = None  #: of the moment when the catalogue was read; None: it must not be called
    supports_temperature: bool = True
    thinks: bool = False  #: reasons before it writes, out of the same `max_tokens`
    endpoint: Endpoint | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.is_free and self.price is None:
            object.__setattr__(self, "price", free_price(self.id))

    @property
    def price_label(self) -> str:
        """For the list of models: "$2.00 / $8.00 per million tokens"."""
        if self.price is None:
            return "No price"
        return "Free on this machine" if self.is_local and self.price.is_free else self.price.label

    @property
    def price_in_short(self) -> str:
        """For the picker, under a heading that says “per million tokens”: "$2.00 in · $8.00 out"."""
        return "no price" if self.price is None else self.price.in_short

    def known_price(self) -> Price:
        """Raises `NoPrice` with the sentence for who would have used this model."""
        if self.price is None:
            raise NoPrice(self.label)
        return self.price


@dataclass(frozen=True, kw_only=True)
class Source:
    """A provider as it is configured, its models, and what an administrator should know about it."""

    endpoint: Endpoint
    entries: tuple[ModelEntry, ...] = ()
    place: str  #: "environment", "database" or "this machine"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The models that people may choose, the strongest first and the local one last."""

    entries: tuple[ModelEntry, ...] = ()
    sources: tuple[Source, ...] = ()
    problems: tuple[str, ...] = ()  #: sentences for administrators: which provider is left out, and why
    notes: tuple[str, ...] = ()  #: sentences for administrators: what else they should know

    def get(self, model_id: str) -> ModelEntry:
        """The entry with this id. Raises `UnknownModel`."""
        for entry in self.entries:
            if entry.id == model_id:
                return entry
        raise UnknownModel(model_id)

    def default(self) -> ModelEntry | None:
        """What a new conversation begins with: DEFAULT_MODEL, else the first, of those that have a price if any."""
        return self._find(settings.DEFAULT_MODEL) or self._first()

    def background(self) -> ModelEntry | None:
        """What writes titles and memory lines: BACKGROUND_MODEL, else the cheapest."""
        return self._find(settings.BACKGROUND_MODEL) or self.cheapest()

    def summary(self) -> ModelEntry | None:
        """What writes summaries: SUMMARY_MODEL, else what writes in the background."""
        return self._find(settings.SUMMARY_MODEL) or self.background()

    def memory(self) -> ModelEntry | None:
        """What looks for facts to be remembered: MEMORY_MODEL, else what writes summaries."""
        return self._find(settings.MEMORY_MODEL) or self.summary()

    def cheapest(self) -> ModelEntry | None:
        """The cheapest one that is paid for; where there is none, any."""
        paid = [entry for entry in self.entries if entry.price and not entry.is_free and not entry.is_local]
        return min(paid, key=_expense, default=None) or self._first()

    @property
    def without_price(self) -> tuple[ModelEntry, ...]:
        """What people may choose in vain."""
        return tuple(entry for entry in self.entries if entry.price is None)

    def source(self, slug: str) -> Source | None:
        return next((source for source in self.sources if source.endpoint.slug == slug), None)

    def _first(self) -> ModelEntry | None:
        priced = (entry for entry in self.entries if entry.price is not None)
        return next(priced, None) or next(iter(self.entries), None)

    def _find(self, model_id: str) -> ModelEntry | None:
        return next((entry for entry in self.entries if entry.id == model_id), None) if model_id else None


class _Cache:
    """The catalogue of the last few seconds. Nobody waits for another thread's database query."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generation = 0
        self._kept: tuple[float, Catalog] | None = None
        self._logged: tuple[str, ...] = ()
        self.replacement: Catalog | None = None

    def kept(self) -> Catalog | None:
        if self.replacement is not None:
            return self.replacement
        kept = self._kept
        return kept[1] if kept is not None and time.monotonic() - kept[0] < CACHE_SECONDS else None

    def load(self) -> Catalog:
        if (kept := self.kept()) is not None:
            return kept
        with self._lock:
            generation = self._generation
        catalog = read_catalog()
        with self._lock:
            if generation == self._generation:  # nobody has changed a provider meanwhile
                self._kept = time.monotonic(), catalog
            said = (*catalog.problems, *catalog.notes)
            news = [sentence for sentence in said if sentence not in self._logged]
            self._logged = said
        for sentence in news:
            log.warning("%s", sentence)
        return catalog

    def forget(self) -> None:
        with self._lock:
            self._generation += 1
            self._kept = None


_cache = _Cache()


def load_catalog() -> Catalog:
    """The models of now, at most `CACHE_SECONDS` old. Reads the database: not for the event loop."""
    return _cache.load()


def kept_catalog() -> Catalog | None:
    """What `load_catalog` would give at once, without reading anything: for the event loop."""
    return _cache.kept()


def forget_catalog() -> None:
    """Make the next `load_catalog` of this process read anew, after a provider has changed."""
    _cache.forget()


@contextmanager
def replaced_by(catalog: Catalog) -> Iterator[None]:
    """For tests: the whole process has this catalogue."""
    before, _cache.replacement = _cache.replacement, catalog
    try:
        yield
    finally:
        _cache.replacement = before


@receiver([post_save, post_delete], sender=models.Provider)
@receiver([post_save, post_delete], sender=models.ProviderModel)
@receiver([post_save, post_delete], sender=models.PriceOverride)
def forget_after_change(**signal: object) -> None:
    """This process sees a changed provider or price at once, the others after `CACHE_SECONDS`."""
    transaction.on_commit(forget_catalog)


def read_catalog() -> Catalog:
    """The models of now. When a slug is both in the database and in the environment, the database wins."""
    sources: list[Source] = []
    problems: list[str] = []
    notes: list[str] = []
    providers = list(models.Provider.objects.order_by("name").prefetch_related("models"))
    for provider in providers:
        if not provider.is_enabled:
            continue
        try:
            sources.append(_stored_source(provider))
        except (KeyUnreadable, ValueError) as error:
            problems.append(f"{provider.name} is left out. {error}")
    taken = {provider.slug for provider in providers}
    for slug, known in KNOWN_PROVIDERS.items():
        try:
            source = _environment_source(slug, known)
        except (ImproperlyConfigured, ValueError) as error:
            problems.append(f"{known.label} is left out. {error}")
            continue
        if source is None:
            continue
        if slug in taken:
            notes.append(f"{known.label} is set up in the environment and in the admin: the admin's is used.")
        else:
            sources.append(source)
    sources.extend(_local_source())
    notes.extend(chain.from_iterable(source.notes for source in sources))
    sources = _priced(sources)
    entries = list(chain.from_iterable(source.entries for source in sources))
    notes.extend(_unknown_choices({entry.id for entry in entries}))
    return Catalog(
        entries=tuple(sorted(entries, key=lambda entry: (entry.is_local, entry.is_free))),
        sources=tuple(sources),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _priced(sources: Iterable[Source]) -> list[Source]:
    """Each entry with its price of now. An override may make free what is not, and the other way round."""
    now = timezone.now()
    overrides = overrides_at(now)

    def with_price(entry: ModelEntry) -> ModelEntry:
        price = price_of(entry, now, overrides=overrides) or entry.price
        return replace(entry, price=price, is_free=price is not None and price.is_free)

    return [replace(source, entries=tuple(map(with_price, source.entries))) for source in sources]


def _unknown_choices(known: set[str]) -> Iterator[str]:
    """A sentence for each setting that names a model which is not there. The local one comes and goes."""
    for name, chosen in (
        ("DEFAULT_MODEL", settings.DEFAULT_MODEL),
        ("BACKGROUND_MODEL", settings.BACKGROUND_MODEL),
        ("SUMMARY_MODEL", settings.SUMMARY_MODEL),
        ("MEMORY_MODEL", settings.MEMORY_MODEL),
    ):
        if chosen and chosen not in known and not chosen.startswith(f"{LOCAL_PROVIDER}/"):
            yield f"{name} is {chosen}, which no provider here offers: another model is used in its place."


def _stored_source(provider: models.Provider) -> Source:
    endpoint = stored_endpoint(provider)
    rows = sorted((row for row in provider.models.all() if row.is_enabled), key=lambda row: row.pk)
    entries = [_entry(endpoint, row.model_id, window=row.context_window, is_free=row.is_free) for row in rows]
    return _source(endpoint, entries, "database")


def stored_endpoint(provider: models.Provider) -> Endpoint:
    """Raises `KeyUnreadable`, or ValueError with a sentence about the address."""
    return Endpoint(
        slug=provider.slug,
        label=provider.name,
        dialect=provider.dialect,
        base_url=checked_base_url(provider.base_url),
        key=decrypt(provider.encrypted_key),
    )


def _environment_source(slug: str, known: KnownProvider) -> Source | None:
    """The provider as OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_MODELS set it up; None while none is set.

    Raises ImproperlyConfigured or ValueError with a sentence.
    """
    prefix = known.env_prefix
    key, address = env_secret(f"{prefix}_API_KEY", ""), env_str(f"{prefix}_BASE_URL", "")
    if not key and not address:
        return None
    endpoint = Endpoint(
        slug=slug,
        label=known.label,
        dialect=known.dialect,
        base_url=checked_base_url(address or known.base_url),
        key=Secret(key),
    )
    model_ids = env_list(f"{prefix}_MODELS", known.default_models)
    price = _environment_price(f"{prefix}_PRICE")
    entries = [_entry(endpoint, model_id) for model_id in model_ids]
    if price is not None:
        entries = [replace(entry, price=replace(price, model=entry.id)) for entry in entries]
    return _source(endpoint, entries, "environment")


def _environment_price(name: str) -> Price | None:
    """What models cost that no list knows: "free", or dollars per million tokens in and out, such as "2.00/8.00"."""
    text = env_str(name, "")
    if not text:
        return None
    if text.lower() == "free":
        return free_price("")
    try:
        rate_in, rate_out = map(parse_dollars, text.split("/"))
    except ValueError:
        raise ImproperlyConfigured(
            f"{name} is “{text}”. Write “free”, or dollars per million tokens in and out, such as 2.00/8.00."
        ) from None
    rates = Rates(input=rate_in, cached=rate_in, cache_write=rate_in, output=rate_out)
    return Price(model="", rates=rates, source="environment")


def _local_source() -> Iterator[Source]:
    """The model server of this machine while it runs; after a restart it has another port and key."""
    try:
        found = paths.local_model(settings.DATA_DIR)
    except paths.EmbeddedError:
        return
    if found is None:
        return
    endpoint = Endpoint(
        slug=LOCAL_PROVIDER,
        label="This machine",
        dialect="openai",
        base_url=found.base_url,
        key=Secret(found.api_key),
    )
    entry = _entry(endpoint, LOCAL_MODEL, window=LOCAL_WINDOW, is_free=True)
    entry = replace(entry, is_local=True, max_output=LOCAL_REPLY)
    yield _source(endpoint, [entry], "this machine")


def _source(endpoint: Endpoint, entries: Iterable[ModelEntry], place: str) -> Source:
    notes = []
    address = urlsplit(endpoint.base_url)
    host = address.hostname or ""
    if address.scheme == "http" and not (is_loopback(host) or host.endswith(".localhost")):
        notes.append(
            f"{endpoint.label} is reached by plain http: its key and every message travel unencrypted."
        )
    return Source(endpoint=endpoint, entries=tuple(entries), place=place, notes=tuple(notes))


def _entry(
    endpoint: Endpoint, model_id: str, *, window: int | None = None, is_free: bool = False
) -> ModelEntry:
    known = known_models.lookup(model_id)
    window = window or known.context_window
    return ModelEntry(
        id=f"{endpoint.slug}/{model_id}",
        provider=endpoint.slug,
        provider_label=endpoint.label,
        model_id=model_id,
        label=model_id.rpartition("/")[2] or model_id,
        dialect=endpoint.dialect,
        context_window=window,
        max_output=min(known.max_output, max(window // 2, 1)),
        is_free=is_free,
        supports_temperature=known.supports_temperature,
        thinks=known.thinks,
        endpoint=endpoint,
    )


def _expense(entry: ModelEntry) -> tuple[int, bool, int]:
    """What a summary costs, thoughts included; then small ones first, as far as the name tells."""
    usage = Usage(input_tokens=2_000, output_tokens=1_400 if entry.thinks else 400)
    words = re.split(r"[^a-z0-9]+", entry.model_id.lower())
    rank = next((rank for rank, name in enumerate(SMALL_NAMES) if name in words), len(SMALL_NAMES))
    return entry.known_price().cost(usage), entry.thinks, rank
