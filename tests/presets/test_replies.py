"""What a preset says reaches the model: its prompt, its temperature, its length, and how much it is shown."""

from __future__ import annotations

from asgiref.sync import sync_to_async

from conversations import presets
from conversations.context.presets import PRESETS
from conversations.llm.scripted import ScriptedProvider
from conversations.llm.types import CompletionRequest
from conversations.models import Reply
from conversations.replies.sending import start_conversation
from tests.replies.harness import ReplyTestCase, catalog_of, draft, web_process


def said(request: CompletionRequest) -> str:
    return "\n".join(message.content for message in request.messages)


class PresetReplyTests(ReplyTestCase):
    def begin(self, key: str, text: str = "Hello?") -> Reply:
        begun, _ = presets.begin_with(self.alice, presets.find(self.alice, key))
        chosen = {name: getattr(begun, name) for name in ("preset", "temperature", "reply_tokens")}
        return start_conversation(
            user=self.alice, draft=draft(text), system_prompt=begun.system_prompt, **chosen
        )

    async def test_a_conversation_asks_as_its_preset_says(self) -> None:
        provider = ScriptedProvider()
        with catalog_of(provider, context_window=128_000, max_output=16_000):
            async with web_process():
                await self.finished(await sync_to_async(self.begin)("creative"))
        request = provider.requests[0]
        self.assertEqual((request.temperature, request.max_tokens), (1.0, 4_096))
        self.assertIn(PRESETS["creative"].system_prompt, said(request))

    async def test_last_turns_shows_no_more_than_it_says_and_full_history_all(self) -> None:
        for act, first_is_there in (("support", False), ("creative", True)):
            provider = ScriptedProvider()
            with catalog_of(provider, context_window=128_000, max_output=16_000):
                async with web_process():
                    reply = await self.finished(await sync_to_async(self.begin)(act, "Turn 1."))
                    for turn in range(2, 11):
                        again = await self.asend(reply.conversation, f"Turn {turn}.")
                        reply = await self.finished(again)
            self.assertEqual("Turn 1." in said(provider.requests[-1]), first_is_there, act)
            self.assertIn("Turn 10.", said(provider.requests[-1]))

    async def test_a_change_acts_on_the_next_message(self) -> None:
        provider = ScriptedProvider()
        with catalog_of(provider):
            async with web_process():
                reply = await self.finished(await self.astart("Turn 1."))
                await sync_to_async(presets.apply)(reply.conversation, PRESETS["code"])
                await self.finished(await self.asend(reply.conversation, "Turn 2."))
        self.assertEqual([request.temperature for request in provider.requests], [0.7, 0.2])
        self.assertIn(PRESETS["code"].system_prompt, said(provider.requests[1]))
        self.assertNotIn(PRESETS["code"].system_prompt, said(provider.requests[0]))
