"""The story of one answer: claim, plan, call, write, finish."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import connections

from conversations import meanings
from conversations.budgets import Ask, BudgetRefused
from conversations.catalog import Catalog, ModelEntry, UnknownModel, kept_catalog, load_catalog
from conversations.context.plan import ContextPlan, DoesNotFit, NothingToAnswer
from conversations.crash_points import crash_point
from conversations.database import DATABASE_AWAY
from conversations.gate import Passage, retry_delay
from conversations.journal import Kind
from conversations.llm.errors import ContextLengthExceeded, InvalidResponse, LLMError, has_refused
from conversations.llm.tokens import USUAL_MODEL, count_tokens_aside, is_scaled, scaled
from conversations.llm.types import (
    CompletionRequest,
    Finish,
    PromptCounted,
    Provider,
    ReasoningDelta,
    TextDelta,
    Usage,
)
from conversations.models import ReplyState
from conversations.models.fields import new_id
from conversations.prices import NoPrice, Price
from conversations.providers import provider_for
from conversations.text import utf16_length

from .bounds import Allowance
from .context import Requests, Sent
from .payment import purpose_of
from .running import Ending, RunningReply, joined
from .signals import reply_finished
from .status import asking_another, trying_again, trying_with_less
from .store import Ended, LeaseLost, Outcome, discarded
from .telemetry import provider_failed, reply_ended

if TYPE_CHECKING:
    from .runtime import ReplyRuntime

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Tokens a second: as fast as models think. Their providers bill thoughts that they do not show, also when they are
#: stopped, and then say nothing of how many.
THINKING_PACE = 200


async def run_reply(
    runtime: ReplyRuntime,
    reply_id: UUID,
    requests: Requests | None = None,
    begun: threading.Event | None = None,
) -> None:
    """Answer a reply that is claimed, or queued unless another process has it.

    Returns when it has ended or is no longer ours.
    """
    if requests is None:
        claimed = await runtime.store.claim(reply_id, runtime.name)
        if claimed is None:
            return
        requests = Requests(claimed.claim, claimed.known, runtime.recall_pool, runtime.kept_places)
        del claimed  # what was said is not kept for as long as its answer takes
    claim = requests.claim
    requests.look_back()
    crash_point("between_claim_and_plan")
    running = RunningReply(claim)
    if claim.stop_requested:
        running.end(Ending.STOP)
    live = runtime.live.open(reply_id)
    live.epoch, live.runner = claim.epoch, runtime.name
    runtime.running[reply_id] = running
    ended: Ended | None = None
    try:
        answer = Answer(runtime, running, requests, begun)
        del begun
        outcome = await answer.run()
        ended = await answer.finish(outcome)
        if ended is not None:
            crash_point("between_finish_and_publish")
            reply_ended(
                reply_id=reply_id,
                model=answer.entry.id if answer.entry else claim.model,
                outcome=outcome,
                taken_up_at=running.taken_up_at,
                attempts=answer.attempts,
                sent=answer.sent,
                price=answer.entry.price if answer.entry else None,
            )
            runtime.writer.append(running.entry("", Kind.END), at_once=True)
            if requests.known.path_tokens >= meanings.SOON_ASKED:
                runtime.expect_recall(claim.conversation_id)
            reply_finished.send_robust(
                sender=None,
                conversation_id=claim.conversation_id,
                state=outcome.state,
                is_unnamed=claim.is_unnamed,
                compaction_due=answer.compaction_is_due(outcome),
                vectors_due=answer.vectors_are_due(outcome),
            )
            if ended.has_waiting:
                await runtime.release_waiting(claim.user_id)
    except LeaseLost:
        logger.warning("reply %s was taken over by another process", reply_id)
    finally:
        runtime.running.pop(reply_id, None)
        if ended is None:
            live.runner = ""  # somebody else's, or nobody's: the database knows
        runtime.release(reply_id)


class Answer:
    """A running reply from its first attempt to its end."""

    def __init__(
        self,
        runtime: ReplyRuntime,
        running: RunningReply,
        requests: Requests,
        begun: threading.Event | None = None,
    ) -> None:
        self.runtime = runtime
        self.begun = begun  #: to be set when the call is about to be made
        self.running = running
        self.requests = requests
        self.claim = running.claim
        self.entry: ModelEntry | None = None
        self.sent: Sent | None = None  #: the last request
        self.attempt_id: UUID | None = None
        self.attempts = running.claim.attempts
        self.called_at: datetime | None = None  #: when the last attempt was begun
        self.max_tokens = 0  #: that it was begun with
        self.price: Price | None = None  #: by which it is held; None: it may not have been begun
        self.failure: LLMError | None = None  #: of the last attempt
        self.window_share = 1.0  # less once a provider said that the request was too long

    async def run(self) -> Outcome:
        """Try until there is an answer or no more sense in trying. Raises LeaseLost; all else is an outcome."""
        error_code = error_detail = ""
        try:
            self._begin_with(self.claim.continued_text)
            self.entry = (await self._catalog()).get(self.claim.model)
            while (failure := await self._attempt(self.entry)) is not None:
                self.failure, error_code, error_detail = failure, failure.code(), failure.detail
                if not await self._try_again(failure):
                    break
                self.failure, error_code, error_detail = None, "", ""
        except LeaseLost:
            raise
        except BudgetRefused as refused:
            error_code, error_detail = "OverBudget", refused.sentence
        except NoPrice as error:
            error_code, error_detail = "NoPrice", error.sentence
        except UnknownModel as error:
            error_code, error_detail = "UnknownModel", str(error)
        except (NothingToAnswer, DoesNotFit) as error:
            error_code = type(error).__name__
        except Exception as error:
            # The message of an unexpected error may hold a prompt: its kind and place must do.
            error_code = "InternalError"
            logger.error("reply %s failed: %s", self.claim.reply_id, _where(error))
        if self.running.ending is Ending.FENCED:
            raise LeaseLost
        return await self._outcome(error_code, error_detail)

    async def _attempt(self, entry: ModelEntry) -> LLMError | None:
        """Plan, put the call on record, call. None: it ended well, or was ended from our side."""
        try:
            await self._until_ended(self._call(entry))
        except LLMError as error:
            provider_failed(entry.id, error.code())
            return error
        return None

    async def _call(self, entry: ModelEntry) -> None:
        plan: ContextPlan | None = None

        async def make_plan() -> None:
            nonlocal plan
            plan = await self.requests.plan(entry, share=self.window_share)

        async with self.runtime.gate.pass_(entry, meanwhile=make_plan) as passage:
            assert plan is not None
            request = await self._request(entry, plan)
            plan = None  # the request has its texts; the rest would be kept for as long as the answer takes
            await self._consume(provider_for(entry), request, passage)

    async def _request(self, entry: ModelEntry, plan: ContextPlan) -> CompletionRequest:
        """Put the call on record, with the hold that pays for it."""
        self.sent = Sent.of(plan)
        self.attempts += 1
        self.attempt_id = new_id()
        self.running.prompt = None
        self.called_at = self.price = None
        ask = self._ask(entry, plan, self.attempt_id)
        if self.begun is not None:
            asyncio.get_running_loop().call_soon(self.begun.set)
            self.begun = None
        call = await self._patiently(
            partial(
                self.runtime.store.begin_attempt,
                self.claim,
                self.attempt_id,
                number=self.attempts,
                manifest=self.requests.manifest(entry, plan, ask.max_tokens),
                ask=ask,
            )
        )
        self.max_tokens, self.price = call.max_tokens, call.price
        self.called_at = datetime.now(UTC)
        return self.requests.request(entry, plan, self.max_tokens)

    def _ask(self, entry: ModelEntry, plan: ContextPlan, attempt_id: UUID) -> Ask:
        """What this attempt costs at most. Raises NoPrice."""
        claim = self.claim
        return Ask(
            user_id=claim.user_id,
            conversation_id=claim.conversation_id,
            reply_id=claim.reply_id,
            attempt_id=attempt_id,
            purpose=purpose_of(self.attempts),
            caused_by=claim.user_id,
            model=entry.id,
            price=entry.known_price(),
            input_tokens=plan.input_tokens,
            max_tokens=min(claim.max_tokens, plan.policy.reply_tokens),
        )

    async def _until_ended(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what `RunningReply.end` may cut short."""
        if self.running.ending:
            work.close()
            return
        self.running.task = asyncio.create_task(work)
        try:
            await self.running.task
        except asyncio.CancelledError:
            if self.running.ending is None:
                raise
        finally:
            self.running.task = None

    async def _try_again(self, failure: LLMError) -> bool:
        """Whether to make another attempt, after waiting as long as the failure asks for."""
        assert self.entry is not None
        if self.running.ending or self.running.has_output:
            return False
        wait = 0.0
        if isinstance(failure, ContextLengthExceeded):
            if self.window_share < 1.0:
                return False
            self.window_share = 0.5
            status = trying_with_less(failure, self.entry)
        elif (
            self.attempts < settings.REPLY_TRIES
            and (delay := retry_delay(failure, self.attempts)) is not None
        ):
            wait = delay
            trying = partial(trying_again, failure, self.entry, number=self.attempts + 1)
            self._say(trying(seconds=wait))
            status = trying(seconds=0)
        else:
            fallback = await self._fallback(failure)
            if fallback is None:
                return False
            status = asking_another(failure, self.entry, fallback)
            self.entry = fallback
        await self._end_attempt(failure)
        await self._pause(wait)
        self._say(status)
        return not self.running.ending

    async def _fallback(self, failure: LLMError) -> ModelEntry | None:
        """The model that this person lets answer when the chosen one is not available."""
        assert self.entry is not None
        wanted = self.claim.fallback_model
        may_work_elsewhere = failure.retryable or failure.falls_back
        if not may_work_elsewhere or not wanted or self.entry.id != self.claim.model:
            return None
        try:
            found = (await self._catalog()).get(wanted)
        except UnknownModel:
            return None
        return found if found.id != self.entry.id and found.price is not None else None

    async def _end_attempt(self, failure: LLMError) -> None:
        if self.attempt_id is not None:
            await self._patiently(
                partial(
                    self.runtime.store.end_attempt,
                    self.claim,
                    self.attempt_id,
                    error_code=failure.code(),
                    error_detail=failure.detail,
                    billed=self._unreported(0) if failure.billable else None,
                    price=self.price,
                )
            )
            self.attempt_id = self.price = None

    async def _pause(self, seconds: float) -> None:
        """Wait before the next try; a stop ends the wait."""
        if seconds > 0:
            await self._until_ended(asyncio.sleep(seconds))

    async def _catalog(self) -> Catalog:
        catalog = kept_catalog()
        if catalog is not None:
            return catalog
        return await self._patiently(partial(asyncio.to_thread, _load_catalog))

    def _begin_with(self, text: str) -> None:
        """A reply that goes on from a text begins with it, for its viewers and in the end."""
        if text:
            self._append(text)

    async def _consume(self, provider: Provider, request: CompletionRequest, passage: Passage) -> None:
        running, allowance = self.running, Allowance(request.max_tokens, request.model_id)
        async with aclosing(provider.stream(request, pause=self._pause_reading)) as events:  # type: ignore[type-var]
            crash_point("after_request_sent", after=0.05)
            async for event in events:
                passage.answered()
                match event:
                    case PromptCounted(usage=usage):
                        running.prompt = usage
                    case TextDelta(text=text) if text:
                        self._write(text)
                    case ReasoningDelta(text=text):
                        running.thoughts.append(text)
                        self._say("")
                        self.runtime.live.open(self.claim.reply_id).think()
                    case Finish():
                        running.finish = event
                is_long = isinstance(event, TextDelta | ReasoningDelta) and allowance.add(event.text)
                if is_long and await allowance.is_passed(running.last(allowance.uncounted)):
                    raise InvalidResponse("an answer far longer than its bound")

    async def _pause_reading(self) -> None:
        """The first words are not waited for; after them, one read a tick is enough for what is written once a tick."""
        if self.running.first_token_at is not None:
            await self.runtime.writer.tick()

    def _write(self, text: str) -> None:
        running = self.running
        is_first = running.first_token_at is None
        if is_first:
            crash_point("before_first_delta")
            running.first_token_at = datetime.now(UTC)
            running.status = ""
            self.requests.forget()
        self._append(text, at_once=is_first)
        crash_point("mid_stream")

    def _append(self, text: str, *, at_once: bool = False) -> None:
        running = self.running
        self.runtime.writer.append(running.entry(text), at_once=at_once)
        running.parts.append(text)
        running.at += utf16_length(text)

    def _say(self, status: str) -> None:
        """Tell the viewers what is done about a failure; the first text replaces it."""
        if status != self.running.status:
            self.running.status = status
            self.runtime.writer.append(self.running.entry(status, Kind.STATUS), at_once=True)

    async def _outcome(self, error_code: str, error_detail: str) -> Outcome:
        running, finish = self.running, self.running.finish
        # Without a word more, a continued text is what it was before.
        text = running.text if running.first_token_at else ""
        written = text[len(self.claim.continued_text) :]
        if finish is not None and not error_code:
            state = ReplyState.COMPLETE if text else ReplyState.FAILED
            error_code = "" if text else "EmptyReply"
        elif running.ending is Ending.STOP:
            state, error_code = ReplyState.STOPPED, ""
        elif running.ending is Ending.DRAIN:
            state, error_code = ReplyState.INTERRUPTED, "ProcessStopped"
        else:
            state = ReplyState.INTERRUPTED if text else ReplyState.FAILED
        counted = await count_tokens_aside(text, USUAL_MODEL)
        output_tokens = (
            scaled(counted, self._model_id)
            if written == text and is_scaled(self._model_id)
            else await count_tokens_aside(written, self._model_id)
        )
        usage = finish.usage if finish else None
        outcome = Outcome(
            state=state,
            text=text,
            reasoning=joined(running.thoughts),
            token_count=counted,
            finish_reason=finish.reason if finish else "",
            input_tokens=usage.input_tokens if usage else self.sent.input_tokens if self.sent else None,
            cached_tokens=usage.cached_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else output_tokens,
            reasoning_tokens=usage.reasoning_tokens if usage else None,
            usage_reported=usage is not None,
            billed=usage or await self._billed(output_tokens),
            error_code=error_code,
            error_detail=error_detail,
            first_token_at=running.first_token_at,
        )
        return discarded(outcome) if self.claim.preset.on_stream_failure == "discard" else outcome

    async def _billed(self, output_tokens: int) -> Usage | None:
        """What the provider is taken to bill although it has not said so. None: it has refused, or was not called."""
        if self.attempt_id is None or self.sent is None:
            return None
        if has_refused(self.failure, has_output=self.running.has_output):
            return None
        thoughts = await count_tokens_aside(joined(self.running.thoughts), self._model_id)
        return self._unreported(output_tokens + thoughts)

    @property
    def _model_id(self) -> str:
        """Of the model that answered, which may be another one than was asked."""
        return self.entry.model_id if self.entry else self.claim.model

    def _unreported(self, output_tokens: int) -> Usage:
        """The whole prompt, by our own count if the provider has not said it; what has come, and what it kept back."""
        assert self.sent is not None
        prompt = self.running.prompt or Usage(input_tokens=self.sent.input_tokens)
        unseen = min(self._unseen_thoughts(), max(self.max_tokens - output_tokens, 0))
        return replace(prompt, output_tokens=output_tokens + unseen, reasoning_tokens=unseen)

    def _unseen_thoughts(self) -> int:
        """Tokens that a model may have thought before its first word, where its provider shows no thoughts."""
        running, entry = self.running, self.entry
        if entry is None or not entry.thinks or running.thoughts or self.called_at is None:
            return 0
        until = running.first_token_at or datetime.now(UTC)
        return int((until - self.called_at).total_seconds() * THINKING_PACE)

    async def finish(self, outcome: Outcome) -> Ended | None:
        """Commit the end, waiting out a database that is away. None: the reply is no longer ours."""
        crash_point("before_finish")
        return await self._patiently(
            partial(
                self.runtime.store.finish,
                reply_id=self.claim.reply_id,
                epoch=self.claim.epoch,
                outcome=outcome,
                model=self.entry.id if self.entry else self.claim.model,
                attempt_id=self.attempt_id,
                price=self.price,
                cut=self.sent.cut if self.sent else None,
                preset_digest=self.claim.preset_digest,
                compaction_due=self.compaction_is_due(outcome),
                vectors_due=self.vectors_are_due(outcome),
            )
        )

    def compaction_is_due(self, outcome: Outcome) -> bool:
        """Whether the next summary should be written now: the last request was long, and something came of it."""
        return self.sent is not None and self.sent.compaction_due and bool(outcome.text)

    def vectors_are_due(self, outcome: Outcome) -> bool:
        """Whether the path has grown so far with this turn that a worker should see to its vectors."""
        known, earlier_tokens = self.requests.known, self.requests.earlier_tokens
        return meanings.are_due(before=earlier_tokens, after=known.path_tokens + outcome.token_count)

    async def _patiently(self, statement: Callable[[], Awaitable[T]]) -> T:
        """Run a statement that may run twice, as often as it takes while the database is away or has no place."""
        delay = 0.25
        while True:
            try:
                return await statement()
            except DATABASE_AWAY as error:
                logger.warning(
                    "reply %s waits for the database: %s", self.claim.reply_id, type(error).__name__
                )
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)


def _load_catalog() -> Catalog:
    try:
        return load_catalog()
    finally:
        connections.close_all()


def _where(error: BaseException) -> str:
    """The kind of an error and the innermost line of ours, without its message."""
    place = "?"
    trace = error.__traceback__
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}"
