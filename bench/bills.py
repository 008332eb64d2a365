"""What long dialogues cost under each policy, in percent of the naive full history, and what evidence they keep.

By replay: no model is called. Input is counted alone, cached tokens at a tenth of the price, as providers bill them at
best; the evidence of each labelled question is looked for, whole, in the request that asks it after the last turn.
"""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from bench.dialogues import Dialogue
from bench.dialogues import Turn as Line
from conversations.context.caching import CacheRules
from conversations.context.policy import Policy, Strategy, policy_for
from conversations.context.simulate import Request, Simulation, Turn, bill, full_history, replay_and_ask
from conversations.context.view import HistoryMessage
from conversations.llm.tokens import count_tokens

COUNTED_AS = "gpt-4o"
TENTH = CacheRules(minimum=0, read_percent=10)
#: Output costs nothing here: it is the same under every policy.
PRICE = TENTH.price(input=1_000_000_000, output=0)
#: A chat of this many tokens has one of the published dialogues; shorter ones are joined to it.
LONG = 100_000


def policies() -> dict[str, Policy]:
    def adaptive(high: int, recalled: int) -> Policy:
        return policy_for(
            window=1_000_000, reply_tokens=2_048, high_water=high, recall_tokens=recalled, message_overhead=4
        )

    named = {
        f"adaptive, H = {high:,}, R = {recalled:,}": adaptive(high, recalled)
        for high, recalled in (
            (16_000, 2_000),
            (16_000, 1_000),
            (8_000, 500),
            (4_000, 500),
            (16_000, 0),
        )
    }
    window = policy_for(
        window=1_000_000, reply_tokens=2_048, strategy=Strategy.SLIDING_WINDOW, last_turns=1_000, token_budget=12_000
    )  # fmt: skip
    return {**named, "sliding window, 8,000": replace(window, budget=8_000 + 2_048, message_overhead=4)}


def bills(dialogues: Sequence[Dialogue], questions: int) -> dict[str, Any]:
    """Percent of the naive input bill, cached share and evidence for each policy, on chats of about 100,000 tokens."""
    from conversations.cost_lab.recollection import Recollection

    chats = [_read(chat, questions) for chat in joined(dialogues)]
    naive = [_input(bill(full_history(turns, overhead=4), price=PRICE, rules=None)) for turns, _ in chats]
    cached = [bill(full_history(turns, overhead=4), price=PRICE, rules=TENTH) for turns, _ in chats]
    figures = {"full history, cached": _row(cached, naive, [1.0])}
    for name, policy in policies().items():
        simulated, shares = [], []
        for turns, asked in chats:
            recall = Recollection(overhead=policy.message_overhead)
            requests, present = replay_and_ask(
                turns,
                asked,
                policy=policy,
                count_tokens=_count,
                recall=recall if policy.recall_tokens else None,
            )
            simulated.append(bill(without_writing(requests), price=PRICE, rules=TENTH))
            shares += present
        figures[name] = _row(simulated, naive, shares)
        print(f"{name}: {figures[name]}", flush=True)
    return {
        "chats": len(chats),
        "turns": sum(len(turns) for turns, _ in chats),
        "tokens": sum(_tokens(turn) for turns, _ in chats for turn in turns),
        "questions": sum(len(asked) for _, asked in chats),
        "policies": figures,
    }


def _tokens(turn: Turn) -> int:
    return turn.question.tokens + (turn.answer.tokens if turn.answer else 0)


def without_writing(requests: Sequence[Request]) -> list[Request]:
    """The summaries are a line of their own: another model may write them."""
    return [replace(request, written_after=None) for request in requests]


def _row(simulated: Sequence[Simulation], naive: Sequence[int], shares: Sequence[float]) -> dict[str, float]:
    return {
        "bill": round(100 * sum(map(_input, simulated)) / sum(naive), 2),
        "cached_share": round(
            100 * sum(one.cached_tokens for one in simulated) / sum(one.input_tokens for one in simulated), 1
        ),
        "evidence": round(100 * statistics.fmean(shares), 1),
    }


def _input(simulated: Simulation) -> int:
    return simulated.cost


def joined(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """Dialogues one after the other until a chat is long; what is left over at the end is left out."""
    chats: list[Dialogue] = []
    lines: list[Line] = []
    asked: list[Any] = []
    tokens = 0
    for dialogue in dialogues:
        mark = dialogue.name
        lines += [replace(line, id=f"{mark}/{line.id}") for line in dialogue.turns]
        asked += [
            replace(one, evidence=frozenset(f"{mark}/{pk}" for pk in one.evidence)) for one in dialogue.questions
        ]  # fmt: skip
        tokens += sum(_count(line.content) for line in dialogue.turns)
        if tokens >= 0.8 * LONG:
            chats.append(Dialogue(set=dialogue.set, name=mark, turns=tuple(lines), questions=tuple(asked)))
            lines, asked, tokens = [], [], 0
    return chats


def _read(chat: Dialogue, questions: int) -> tuple[list[Turn], list[Turn]]:
    """Its turns, and as many of its questions as are asked, evenly taken from all."""
    ids = {line.id: uuid.UUID(int=number) for number, line in enumerate(chat.turns, 1)}
    messages = [
        HistoryMessage(
            id=ids[line.id],
            role="assistant" if line.role == "assistant" else "user",
            content=line.content,
            tokens=_count(line.content),
        )
        for line in chat.turns
    ]
    step = max(len(chat.questions) // questions, 1)
    asked = [
        Turn(
            question=HistoryMessage(
                id=uuid.UUID(int=1_000_000 + number), role="user", content=one.text, tokens=_count(one.text)
            ),
            cites=tuple(ids[pk] for pk in one.evidence),
        )
        for number, one in enumerate(chat.questions[::step])
    ]
    return list(_turns(messages)), asked


def _turns(messages: Sequence[HistoryMessage]) -> Iterator[Turn]:
    """Pairs of a question and its answer; who speaks twice in a row is answered in between by nobody."""
    waiting: HistoryMessage | None = None
    for message in messages:
        if message.role == "user":
            if waiting:
                yield Turn(question=waiting)
            waiting = message
        elif waiting:
            yield Turn(question=waiting, answer=message)
            waiting = None
        else:
            yield Turn(question=replace(message, role="user"))
    if waiting:
        yield Turn(question=waiting)


def _count(text: str) -> int:
    return count_tokens(text, COUNTED_AS)
