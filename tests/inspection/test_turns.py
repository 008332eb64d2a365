"""What is logged and counted of each turn: how its context was used and what that cost, in numbers alone."""

from __future__ import annotations

from typing import Any

from conversations.llm.scripted import ScriptedProvider
from conversations.llm.types import Finish, FinishReason, Usage
from conversations.models import LedgerEntry, ReplyAttempt
from tests.operations.asgi import request
from tests.operations.test_logs import collected, lines
from tests.operations.test_metrics import values
from tests.prices.cheap import RATES, a_price
from tests.replies.harness import MODEL, ReplyTestCase, catalog_of, until, web_process

MARKER = "markerzebra"


def finish(**counts: int) -> Finish:
    return Finish(reason=FinishReason.STOP, usage=Usage(input_tokens=1_000, **counts))


class TurnTests(ReplyTestCase):
    async def turn(self, *script: Any, **fields: Any) -> tuple[dict[str, Any], dict[str, float]]:
        """The line of one reply, and how far each value of the metrics has risen with it."""
        fields = {"is_free": False, "price": a_price(MODEL)} | fields
        with collected() as stream, catalog_of(ScriptedProvider(script), **fields):
            async with web_process() as runtime:
                before = values((await request("/metrics"))[2])
                self.reply = await self.astart(f"Tell me of {MARKER}")
                runtime.wake(self.reply.pk)
                await self.finished(self.reply)

                async def ended() -> list[dict[str, Any]]:
                    return [line for line in lines(stream) if line["message"] == "reply ended"]

                (line,) = await until(ended)
                after = values((await request("/metrics"))[2])
        self.assertNotIn(MARKER, stream.getvalue())
        return line, {name: value - before.get(name, 0) for name, value in after.items()}

    async def test_how_the_context_was_used(self) -> None:
        line, risen = await self.turn("Hi", finish(cached_tokens=750, output_tokens=10))
        manifest = (await ReplyAttempt.objects.aget()).manifest
        self.assertEqual(line["context_tokens"], manifest["input_tokens"])
        for name in ("efficiency", "compression"):
            self.assertEqual(line[name], manifest["figures"][name])
        self.assertEqual(line["cached_share"], 0.75)
        self.assertNotIn("retention", line)  # nothing is remembered
        self.assertEqual(risen[f"parley_context_tokens_count model={MODEL}"], 1)
        self.assertEqual(risen["parley_context_used_share_count"], 1)
        self.assertEqual(risen["parley_context_sent_share_count"], 1)
        self.assertEqual(risen["parley_memory_retained_share_count"], 0)
        self.assertEqual(risen[f"parley_prompt_tokens_total from=cache model={MODEL}"], 750)
        self.assertEqual(risen[f"parley_prompt_tokens_total from=new model={MODEL}"], 250)

    async def test_what_it_cost_and_what_it_was_thought_to_cost(self) -> None:
        line, risen = await self.turn("Hi", finish(cached_tokens=750, output_tokens=10))
        entry = await LedgerEntry.objects.aget()
        self.assertEqual(line["cost_nano"], entry.charged)
        estimated = (line["context_tokens"] * RATES.input + 10 * RATES.output) // 10**6
        self.assertEqual(line["estimated_cost_nano"], estimated)
        self.assertEqual(risen[f"parley_reply_cost_nano_usd_total kind=billed model={MODEL}"], entry.charged)

    async def test_a_provider_that_reports_nothing_has_no_cached_share(self) -> None:
        line, _ = await self.turn("Hi", Finish(reason=FinishReason.STOP, usage=None))
        self.assertNotIn("cached_share", line)
        self.assertIn("cost_nano", line)

    async def test_a_free_turn_has_no_cost(self) -> None:
        line, _ = await self.turn("Hi", finish(output_tokens=10), is_free=True, price=None)
        self.assertNotIn("cost_nano", line)
        self.assertIn("context_tokens", line)
