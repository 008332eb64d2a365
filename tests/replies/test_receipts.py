"""What the last event of a stream says of a reply's money: the same as the page does, from the ledger."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import sync_to_async

from conversations.budgets import set_user_limit
from conversations.llm.errors import TimedOut
from conversations.llm.scripted import ScriptedProvider
from conversations.llm.types import Finish, FinishReason, Provider, Usage
from conversations.models import LedgerEntry, Reply, ReplyAttempt
from conversations.money import closely
from conversations.replies import sending
from conversations.reports import paid_for
from conversations.views.stream import final_article
from tests.prices.cheap import RATES, a_price

from .harness import MODEL, ReplyTestCase, catalog_of, until, web_process

OUTPUT, CACHE_WRITE = RATES.output // 1_000_000, RATES.cache_write // 1_000_000


def finish(reason: FinishReason = FinishReason.STOP) -> Finish:
    return Finish(reason=reason, usage=Usage(input_tokens=12, output_tokens=7))


class FinalArticleTests(ReplyTestCase):
    def priced(self, provider: Provider, **fields: Any) -> None:
        self.enterContext(catalog_of(provider, is_free=False, price=a_price(MODEL), **fields))

    async def article(self, text: str = "Hello?") -> str:
        async with web_process() as runtime:
            self.reply = await self.finished(await self.astart(text))
            html, _ = await final_article(runtime, self.reply.pk)
        return html

    async def test_it_names_the_amount_and_its_line(self) -> None:
        self.priced(ScriptedProvider(["Hi", finish()]))
        html = await self.article()
        line = await LedgerEntry.objects.aget()
        self.assertIn(f">{closely(line.charged)}</a>", html)
        self.assertIn(f'data-cost="{closely(line.charged)}"', html)
        self.assertIn(f"#line-{line.pk}", html)

    async def test_a_free_reply_is_free(self) -> None:
        with catalog_of(ScriptedProvider(["Hi", finish()])):
            html = await self.article()
        self.assertIn(">free</a>", html)

    async def test_all_tries_are_summed(self) -> None:
        """A try that may have been answered is charged its prompt."""
        self.priced(ScriptedProvider([TimedOut()], ["Hi", finish()]))
        html = await self.article()
        charged = [line.charged async for line in LedgerEntry.objects.order_by("created_at")]
        self.assertEqual(len([amount for amount in charged if amount]), 2)
        self.assertIn(f"about {closely(sum(charged))}", html)
        self.assertIn("The amount includes the prompt of an earlier try.", html)
        paid = (await sync_to_async(paid_for)([self.reply.pk]))[self.reply.pk]
        self.assertEqual((paid.charged, paid.charged_calls), (sum(charged), 2))

    async def test_an_answer_that_was_cut_by_the_budget_says_so(self) -> None:
        self.priced(ScriptedProvider(["Hi", finish(FinishReason.LENGTH)]))
        await sync_to_async(set_user_limit)(self.alice, 300 * OUTPUT + 20 * CACHE_WRITE)
        html = await self.article()
        self.assertTrue(self.reply.is_shortened)
        self.assertIn(f"Answer shortened to {self.reply.max_tokens} tokens to fit the budget.", html)

    async def test_one_that_a_later_try_had_to_shorten_says_so_too(self) -> None:
        provider = ScriptedProvider([TimedOut()], ["Hi", finish(FinishReason.LENGTH)])
        self.priced(provider)
        async with web_process() as runtime:
            reply = await self.astart()
            await until(lambda: ReplyAttempt.objects.filter(reply=reply, state="failed").aexists())
            spent = await LedgerEntry.objects.aget()
            await sync_to_async(set_user_limit)(self.alice, spent.charged + 300 * OUTPUT + 20 * CACHE_WRITE)
            reply = await self.finished(reply)
            html, _ = await final_article(runtime, reply.pk)
        self.assertFalse(reply.is_shortened)
        self.assertIn(f"Answer shortened to {provider.requests[1].max_tokens} tokens", html)

    async def test_a_stopped_reply_before_it_began_gives_all_of_it_back(self) -> None:
        self.priced(ScriptedProvider())
        reply = await self.astart()
        held = reply.held
        assert held
        await sync_to_async(sending.stop_reply)(await Reply.objects.aget(pk=reply.pk))
        async with web_process() as runtime:
            html, _ = await asyncio.wait_for(final_article(runtime, reply.pk), 10)
        self.assertIn(f"nothing charged, {closely(held)} released", html)
