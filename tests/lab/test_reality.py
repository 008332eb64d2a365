"""What is simulated of a real conversation is what its attempts used and its ledger charged, within 1 %."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asgiref.sync import sync_to_async

from conversations.catalog import load_catalog
from conversations.context.caching import CacheRules, rules_for
from conversations.cost_lab import lab
from conversations.cost_lab.lab import lab_of, reality_of
from conversations.llm.scripted import ScriptedProvider
from conversations.llm.tokens import count_tokens
from conversations.llm.types import ChatMessage, CompletionRequest, Finish, FinishReason, Usage
from conversations.models import Conversation, ReplyAttempt
from tests.prices.cheap import a_price
from tests.replies.harness import MODEL, catalog_of, web_process
from tests.replies.turns import TurnsTestCase

OVERHEAD = 4
ANSWER = "It is as it was said before, and nothing new has come of it for case {n}. " * 25
SMALL = {"slug": "small", "name": "Small", "high_water": 4_000, "recall_tokens": 400}


class CachingProvider:
    """A script that reports usage as a provider does: tokens as it counts them, cached by the rules of its family."""

    def __init__(self, model_id: str, rules: CacheRules) -> None:
        self.model_id, self.rules = model_id, rules
        self.before: Sequence[ChatMessage] = ()
        self.calls = 0

    def __call__(self, request: CompletionRequest) -> list[Any]:
        self.calls += 1
        text = ANSWER.format(n=self.calls)
        usage = Usage(
            input_tokens=self.tokens(request.messages),
            cached_tokens=self._cached(request.messages),
            output_tokens=count_tokens(text, self.model_id),
        )
        self.before = request.messages
        return [text, Finish(reason=FinishReason.STOP, usage=usage)]

    def tokens(self, messages: Sequence[ChatMessage]) -> int:
        return sum(count_tokens(one.content, self.model_id) + OVERHEAD for one in messages)

    def _cached(self, now: Sequence[ChatMessage]) -> int:
        """Whole messages that the request before began with, and what the last one of those begins with, in steps."""
        known = 0
        for a, b in zip(self.before, now, strict=False):
            if a == b:
                known += self.tokens([b])
                continue
            if a.role == b.role and b.content.startswith(a.content):
                known += self.tokens([a])
            break
        return known // self.rules.step * self.rules.step if known >= self.rules.minimum else 0


class RealityTests(TurnsTestCase):
    async def test_simulated_tokens_and_cost_are_the_ledgers_within_a_percent(self) -> None:
        for preset in ({}, SMALL):
            with self.subTest(preset.get("name", "Chat")):
                await self.compare(preset)

    async def compare(self, preset: dict[str, Any]) -> None:
        lab._kept.clear()
        model_id = "gpt-5-mini"
        rules = rules_for(model_id)
        assert rules is not None
        provider = CachingProvider(model_id, rules)
        conversation = await sync_to_async(self.conversation)(preset, system_prompt="Be brief. " * 30)
        fields: dict[str, Any] = {
            "is_free": False,
            "price": a_price(MODEL),
            "context_window": 128_000,
            "model_id": model_id,
        }
        with catalog_of(ScriptedProvider(provider), **fields):
            async with web_process():
                for number in range(25):
                    text = f"What about case {number}, and what of case {number // 2}? " + "Say more. " * 20
                    await self.finished(await self.asend(conversation, text))
            conversation = await Conversation.objects.aget(pk=conversation.pk)
            catalog = load_catalog()
            entry = catalog.entries[0]
            found = await sync_to_async(lab_of)(conversation, catalog, entry)
            reality = await sync_to_async(reality_of)(conversation)
        assert found is not None
        simulated = found.current.simulation
        attempts = [one async for one in ReplyAttempt.objects.filter(reply__conversation=conversation)]
        used = sum(one.input_tokens or 0 for one in attempts)
        self.assertEqual(len(attempts), 25)
        self.assertEqual(reality.input_tokens, used)
        cost = sum(turn.cost for turn in simulated.turns)
        self.within(simulated.input_tokens, used, "input tokens")
        self.within(simulated.cached_tokens, reality.cached_tokens, "cached tokens", percent=2)
        self.within(cost, reality.charged, "cost")
        self.assertGreater(simulated.cache_share, 0.4)

    def within(self, simulated: int, real: int, what: str, *, percent: float = 1) -> None:
        off = 100 * abs(simulated - real) / real
        self.assertLess(off, percent, f"{what}: {simulated:,} simulated, {real:,} real, {off:.2f} % apart")
